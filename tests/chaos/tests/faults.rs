//! A short selection of `make chaos`, as ordinary tests; and what must hold for its verdicts to be worth something: that it misses a row,
//! sees a second primary, and leaves nothing behind when it is killed.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chaos::world::{PREFIX, ends_with_parent, run_of};

/// One cluster at a time: the others' outages would be its own.
static STAGE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn chaos(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let report = std::env::temp_dir().join(format!("chaos-report-{}", std::process::id()));
    command.args(arguments).args(["--repeats", "1", "--report"]).arg(report);
    ends_with_parent(&mut command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> (Output, String) {
    let output = chaos(arguments).output().expect("the program is built");
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    (output, String::from_utf8_lossy(&said).into_owned())
}

fn survives(arguments: &[&str]) {
    let _turn = turn();
    let (output, said) = run(arguments);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

#[test]
fn three_nodes_lose_nothing_with_etcd_apart() {
    survives(&[
        "--fault",
        "switchover,postmaster-killed,agent-restarted,power-lost,isolated,cut-from-etcd,host-frozen",
    ]);
}

#[test]
fn three_nodes_lose_nothing_with_etcd_beside_them_in_strict_mode_under_load() {
    let faults = "power-lost,replica-lost,primary-and-replica";
    survives(&["--layout", "together", "--mode", "strict", "--load", "pgbench", "--fault", faults]);
}

#[test]
fn a_row_that_is_missing_is_missed() {
    let _turn = turn();
    let (output, said) = run(&["--fault", "row-deleted"]);
    assert!(!output.status.success() && said.contains("1 acknowledged rows are lost"), "{said}");
    forget_logs(&said);
}

#[test]
fn a_second_primary_is_seen() {
    let _turn = turn();
    let (output, said) = run(&["--fault", "promoted-by-hand", "--mode", "async"]);
    assert!(!output.status.success() && said.contains("split brain"), "{said}");
    forget_logs(&said);
}

#[test]
fn a_killed_run_leaves_nothing_behind() {
    let _turn = turn();
    let mut child = chaos(&["--fault", "agent-dead"]).spawn().expect("the program is built");
    let directory = directory_of(&mut child);
    child.kill().expect("it runs");
    child.wait().expect("it was ours");
    let begin = Instant::now();
    while !runs_in(&directory).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "still there: {:?}", runs_in(&directory));
        std::thread::sleep(Duration::from_millis(20));
    }
    // The next one removes what lies on disk.
    let (_, said) = run(&["--list"]);
    assert!(!directory.exists(), "{said}");
}

/// Waits until the run has made its directory, and something runs in it.
fn directory_of(child: &mut Child) -> PathBuf {
    let run = child.id();
    let mine = |directory: &PathBuf| {
        let of_run = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        of_run
            && run_of(directory) == Some(run)
            && runs_in(directory).iter().any(|line| line.contains("pgvigil\0agent"))
    };
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(120) {
        assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "it has ended by itself");
        let entries = std::fs::read_dir(std::env::temp_dir()).expect("there is a temporary directory");
        if let Some(found) = entries.filter_map(|entry| Some(entry.ok()?.path())).find(mine) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no agent was started");
}

/// The command lines of what runs there.
fn runs_in(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("there is /proc").filter_map(|entry| Some(entry.ok()?.path()));
    let lines = entries.filter_map(|process| std::fs::read(process.join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines.filter(|line| line.contains(&*directory.to_string_lossy())).collect()
}

/// The logs of a run that was meant to fail are nobody's.
fn forget_logs(said: &str) {
    for line in said.lines() {
        if let Some((_, directory)) = line.split_once("the logs are in ") {
            std::fs::remove_dir_all(directory).expect("the logs were kept");
        }
    }
}
