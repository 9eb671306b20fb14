//! A program of the operator's, run when something has happened: with a bare environment, in a process group of its own that never outlives it, and not for
//! long. What it prints goes into the log. It decides nothing, and nobody waits for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Receiver;

use super::Told;
use crate::config::unfit;
use crate::hands::Hands;

/// So much of what it prints goes into the log.
const PRINTED_BYTES_MAX: usize = 8 << 10;
/// What it has printed is waited for so long after its end: a grandchild that has fled its group may hold the pipe.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// The process groups of the programs that run: none of them outlives the agent, whose next life begins its own.
#[derive(Clone, Debug, Default)]
pub struct Living(Arc<Mutex<BTreeSet<i32>>>);

impl Living {
    /// Ends them all.
    pub fn end(&self) {
        for id in std::mem::take(&mut *self.now()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }

    fn now(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be run.
pub(super) struct Run<'a> {
    /// The program and its arguments.
    pub(super) words: &'a [String],
    /// What it reads.
    pub(super) input: &'a str,
    /// What it finds in its environment, beside where programs are.
    pub(super) environment: Vec<(&'static str, String)>,
    /// How long it may run.
    pub(super) timeout: Duration,
    /// Where it is listed while it runs.
    pub(super) living: &'a Living,
}

/// Tells the program of each record, one after the other.
pub(super) async fn tell(hands: Arc<Hands>, mut queue: Receiver<Arc<Told>>) {
    let hooks = &hands.config.hooks;
    while let Some(told) = queue.recv().await {
        let record = &told.record;
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let environment = vec![
            ("PGVIGIL_CLUSTER", hands.config.cluster.clone()),
            ("PGVIGIL_MEMBER", hands.me().to_string()),
            ("PGVIGIL_ID", record.id.clone()),
            ("PGVIGIL_KIND", record.kind.clone()),
            ("PGVIGIL_FROM", name(&record.from)),
            ("PGVIGIL_TO", name(&record.to)),
            ("PGVIGIL_OUTCOME", record.outcome.clone()),
        ];
        let (words, input, timeout, living) = (&hooks.on_transition, &told.json, hooks.timeout, &hands.programs);
        let run = Run { words, input, environment, timeout, living };
        hands.metrics.told("on_transition", run.to_its_end(&record.id).await);
    }
}

impl Run<'_> {
    /// Runs it; how that ended: `done`, `failed`, `timeout` or `refused`.
    pub(super) async fn to_its_end(&self, about: &str) -> &'static str {
        let Some(program) = self.words.first() else { return "refused" };
        let path = program.clone();
        let unfit = tokio::task::spawn_blocking(move || unfit(Path::new(&path), Uid::effective())).await;
        if let Ok(Some(why)) = unfit {
            tracing::error!(program, about, "hook not run: {why}");
            return "refused";
        }
        match self.attempt().await {
            Ok((outcome, printed)) if outcome == "done" => {
                tracing::info!(program, about, printed = printed.trim(), "hook done");
                outcome
            }
            Ok((outcome, printed)) => {
                tracing::warn!(program, about, outcome, printed = printed.trim(), "hook has not ended well");
                outcome
            }
            Err(error) => {
                tracing::error!(program, about, %error, "hook cannot be run");
                "failed"
            }
        }
    }

    async fn attempt(&self) -> std::io::Result<(&'static str, String)> {
        let mut command = StdCommand::new(&self.words[0]);
        command.args(&self.words[1..]).current_dir("/").env_clear().envs(self.environment.iter().cloned());
        for name in ["PATH", "HOME", "TZ", "LANG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = Command::from(command);
        command.process_group(0).kill_on_drop(true);
        // It returns when the program is read from its disk, which may hang: on a thread of its own.
        let runtime = tokio::runtime::Handle::current();
        let spawned = tokio::task::spawn_blocking(move || {
            let _within = runtime.enter();
            command.spawn()
        });
        let mut child = spawned.await.map_err(std::io::Error::other)??;
        let group = Group::of(&child, self.living);
        let printed = tokio::spawn(printed(child.stdout.take(), child.stderr.take()));
        let input = child.stdin.take();
        let ended = tokio::time::timeout(self.timeout, async {
            let give = async {
                if let Some(mut pipe) = input {
                    // A program need not read what it is given.
                    let _ = pipe.write_all(self.input.as_bytes()).await;
                }
            };
            tokio::join!(child.wait(), give).0
        })
        .await;
        let outcome = match &ended {
            Ok(Ok(status)) if status.success() => "done",
            Ok(_) => "failed",
            Err(_) => "timeout",
        };
        group.kill();
        let status = match ended {
            Ok(status) => status.map(|status| status.to_string()),
            Err(_) => {
                // What hangs with its disk does not end even so.
                let gone = tokio::time::timeout(LAST_WORDS_WITHIN, child.wait()).await;
                let killed = format!("killed after {:?}", self.timeout);
                Ok(if gone.is_ok() { killed } else { format!("{killed}, and it has not ended yet") })
            }
        };
        drop(group);
        let abort = printed.abort_handle();
        let printed = tokio::time::timeout(LAST_WORDS_WITHIN, printed).await;
        abort.abort();
        let printed = printed.ok().and_then(Result::ok).unwrap_or_default();
        Ok((outcome, if outcome == "done" { printed } else { format!("{}: {printed}", status?) }))
    }
}

/// The process group of a program, with whatever it has left running.
struct Group(Option<i32>, Living);

impl Group {
    fn of(child: &Child, living: &Living) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        living.now().extend(id);
        Self(id, living.clone())
    }

    fn kill(&self) {
        if let Some(id) = self.0.filter(|id| self.1.now().remove(id)) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        // Orphans come to the agent, which takes leave of those of this group once they have ended.
        let (Some(id), Ok(runtime)) = (self.0, tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(async move {
            for _ in 0..10 {
                while waitpid(Pid::from_raw(-id), Some(WaitPidFlag::WNOHANG)).is_ok_and(|seen| seen.pid().is_some()) {}
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
}

/// What it prints, all of it read and the beginning kept.
async fn printed(out: Option<impl AsyncRead + Unpin>, err: Option<impl AsyncRead + Unpin>) -> String {
    let (out, err) = tokio::join!(beginning(out), beginning(err));
    out + &err
}

async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    if let Some(mut pipe) = pipe {
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            let room = PRINTED_BYTES_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..count.min(room)]);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn run(script: &str, input: &str, timeout: Duration) -> (&'static str, String) {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("hook");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let words = [program.display().to_string(), "argument".to_owned()];
        let environment = vec![("PGVIGIL_KIND", "failover".to_owned())];
        let living = Living::default();
        let run = Run { words: &words, input, environment, timeout, living: &living };
        // A file that was just written may still be open for writing in a child that another test has forked.
        for _ in 0..50 {
            match run.attempt().await {
                Err(error) if error.raw_os_error() == Some(nix::libc::ETXTBSY) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                ended => return ended.unwrap(),
            }
        }
        panic!("the program stays busy")
    }

    const SOON: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_program_reads_the_record_and_finds_little_else() {
        let (outcome, printed) =
            run("cat; echo \" $1 $PGVIGIL_KIND\"; env | grep -c CARGO >&2", "{\"id\":1}", SOON).await;
        assert_eq!(
            (outcome, printed.as_str()),
            ("failed", "exit status: 1: {\"id\":1} argument failover\n0\n"),
            "grep finds none"
        );
        assert_eq!(run("exit 0", &"x".repeat(1 << 20), SOON).await.0, "done", "what it does not read holds nothing up");
        let (_, noisy) = run("yes | head -c 1000000", "", SOON).await;
        assert_eq!(noisy.len(), PRINTED_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_program_that_hangs_ends_with_all_that_it_has_started() {
        let home = tempfile::tempdir().unwrap();
        let pid = home.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let (outcome, printed) = run(&script, "", Duration::from_millis(800)).await;
        assert!(outcome == "timeout" && printed.starts_with("killed after 800ms"), "{outcome}: {printed}");
        let script = format!("sleep 600 >/dev/null 2>&1 & echo $! > {}", pid.display());
        assert_eq!(run(&script, "", SOON).await.0, "done");
        let left: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let is_gone =
            || std::fs::read_to_string(format!("/proc/{left}/stat")).map_or(true, |stat| stat.contains(") Z"));
        for _ in 0..200 {
            if is_gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{left} lives on");
    }
}
