//! The fencer against a real Postgres with a hundred sessions: whatever becomes of the agent, nobody of that Postgres is left after the
//! deadline, orphans included. Times are told, and asserted only where they are a promise.

mod scene;

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use fencer::protocol::{Arm, Device, Order, State, WatchdogOrder};
use nix::sys::signal::Signal;

use crate::scene::{Fencer, Scene, now_ns, signal};

/// A busy machine may take longer than the margin of a lease; what must hold is that they die, and that nothing has to help.
const SOON: Duration = Duration::from_secs(20);
const SESSIONS: usize = 100;

/// Arms for so long from now.
fn arm(scene: &Scene, from_now: Duration) -> Order {
    let until_ns = now_ns() + u64::try_from(from_now.as_nanos()).expect("soon");
    Order::Arm(Arm { until_ns, lease_end_ns: until_ns + 500_000_000, data_dir: scene.data_dir().to_owned() })
}

#[test]
fn whoever_finds_it_in_a_list_of_processes_can_ask_what_it_is() {
    let says = |word: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_pgvigil-fencer")).arg(word).output().expect("the fencer");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, told) = says("--help");
    assert!(code == Some(0) && told.contains("STATE_DIR") && told.contains("deadline"), "{told}");
    assert_eq!(says("--version").0, Some(0));
    assert_eq!(says("--nonsense").0, Some(2), "it is no directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_left_after_the_deadline_when_the_agent_is_dead() {
    let scene = Scene::start().await;
    let sessions = scene.sessions(SESSIONS).await;
    let mut fencer = Fencer::start(&scene);
    fencer.ask(&Order::Hello(None));
    let armed = fencer.ask(&arm(&scene, Duration::from_secs(2)));
    assert!(matches!(armed.state, State::Armed { .. }), "{armed:?}");
    assert!(scene.alive() > SESSIONS, "{} processes", scene.alive());
    // The agent dies: its connection closes, and nobody says anything any more.
    fencer.hang_up();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(scene.alive() > SESSIONS, "killed long before the deadline");
    scene.is_dead_within(SOON).await;
    drop(sessions);
    // The next agent finds out.
    fencer.call_again();
    let report = fencer.rests_within(SOON);
    assert_eq!(report.kills, 1);
    eprintln!("{SESSIONS} sessions dead {:?} after the deadline", Duration::from_nanos(report.last_kill_ns));
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_dead_postmaster_die_as_well_and_an_agent_that_is_only_silent_changes_nothing() {
    let scene = Scene::start().await;
    let sessions = scene.sessions(10).await;
    let busy = scene.busy_sessions(2).await;
    let mut fencer = Fencer::start(&scene);
    fencer.ask(&Order::Hello(None));
    fencer.ask(&arm(&scene, Duration::from_secs(2)));
    signal(scene.postmaster(), Signal::SIGKILL);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(scene.alive() >= 2, "a backend in a computation does not notice that its postmaster is dead");
    // The connection stays open: an agent that is stopped looks like this.
    scene.is_dead_within(SOON).await;
    assert_eq!(fencer.rests_within(SOON).kills, 1);
    drop((sessions, busy));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_moves_on_and_a_disarmed_fencer_kill_nobody() {
    let scene = Scene::start().await;
    let mut fencer = Fencer::start(&scene);
    fencer.ask(&Order::Hello(None));
    for _ in 0..20 {
        fencer.ask(&arm(&scene, Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fencer.ask(&Order::Disarm);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let report = fencer.ask(&Order::Ping);
    assert_eq!((report.state, report.kills), (State::Idle, 0));
    assert!(scene.alive() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_armed_fencer_is_not_ended_by_what_ends_an_agent_and_there_is_no_second_one() {
    let scene = Scene::start().await;
    let mut fencer = Fencer::start(&scene);
    fencer.ask(&Order::Hello(None));
    fencer.ask(&arm(&scene, Duration::from_secs(3)));
    for ends in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        signal(fencer.pid(), ends);
    }
    assert_eq!(Fencer::run(&scene).wait().expect("it ends").code(), Some(3), "a second fencer");
    let (mine, its) = (nix::unistd::getsid(None), nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(fencer.pid()))));
    assert_ne!(mine, its, "it would end with the session of whoever started it");
    assert!(matches!(fencer.ask(&Order::Ping).state, State::Armed { .. }));
    scene.is_dead_within(SOON).await;
    // It was asked to end, and now nothing is at stake any more.
    assert!(fencer.ended_within(SOON), "it stays although it was told to end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_fencer_leaves_the_host_to_the_watchdog() {
    let scene = Scene::start().await;
    let device = scene.directory().join("watchdog");
    nix::unistd::mkfifo(&device, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a pipe");
    std::fs::set_permissions(&device, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("mine");
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut hardware =
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&device).expect("the other end of the pipe");
    let mut heard = || {
        let mut bytes = [0_u8; 4096];
        let length = hardware.read(&mut bytes).unwrap_or(0);
        bytes[..length].to_vec()
    };
    let mut fencer = Fencer::start(&scene);
    let report = fencer.ask(&Order::Hello(Some(WatchdogOrder { timeout_s: 1, device })));
    assert_eq!(report.device, Device::Ready);
    fencer.ask(&arm(&scene, Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(heard().len() >= 3, "it is kept alive three times in its timeout");
    fencer.ask(&Order::Disarm);
    assert_eq!(heard().last(), Some(&b'V'), "stopped in good order");
    fencer.ask(&arm(&scene, Duration::from_secs(60)));
    signal(fencer.pid(), Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_millis(200)).await;
    heard();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(heard(), b"", "a frozen fencer keeps nothing alive: a real device has reset the host");
    signal(fencer.pid(), Signal::SIGCONT);
}

/// `cargo test -p agent --test fence -- --ignored --nocapture`, with RUNS, BUSY (loops that take the processors away) and FENCER (a
/// release build of the program).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn how_late_is_the_last_process_dead() {
    let number =
        |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (runs, busy) = (number("RUNS", 10), number("BUSY", 8));
    let load: Vec<scene::Load> = (0..busy).map(|_| scene::Load::start()).collect();
    let mut late = Vec::new();
    for _ in 0..runs {
        let scene = Scene::start().await;
        let sessions = scene.sessions(SESSIONS).await;
        let mut fencer = Fencer::start(&scene);
        fencer.ask(&Order::Hello(None));
        let deadline = Duration::from_millis(1500);
        let begin = Instant::now();
        fencer.ask(&arm(&scene, deadline));
        eprint!("{} ", scene::memory(fencer.pid()));
        scene.is_dead_within(SOON).await;
        let outside = begin.elapsed().saturating_sub(deadline);
        let report = fencer.rests_within(SOON);
        let [struck, gone] = [report.last_strike_ns, report.last_kill_ns].map(|ns| ns / 1000);
        eprintln!("struck {struck} us and gone {gone} us after the deadline, seen from outside after {outside:?}");
        late.push((struck, gone));
        drop(sessions);
    }
    drop(load);
    for (what, mut of) in
        [("struck", late.iter().map(|it| it.0).collect::<Vec<_>>()), ("gone", late.iter().map(|it| it.1).collect())]
    {
        of.sort_unstable();
        let (median, most) = (of[runs / 2], of[runs - 1]);
        eprintln!("{what}: median {median} us, most {most} us ({runs} runs, {busy} busy loops, {SESSIONS} sessions)");
        assert!(most < 500_000 || what == "gone", "struck later than the safety margin");
    }
}
