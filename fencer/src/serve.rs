//! The loop of the process: it waits for the deadline, for orders and for being told to end, and does one thing at a time. Everything
//! that it will need is made ready first: a session of its own, its socket, its memory locked, its priority raised where that is allowed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::clock::{now_ns, ns};
use crate::family::Processes;
use crate::guard::Guard;
use crate::protocol::{Answer, Order, VERSION, WatchdogOrder, socket_name};
use crate::voice::Voice;
use crate::watchdog::{Device, Watchdog};
use crate::wires::Wires;

/// An idle fencer without an agent ends after this long.
const LONELY_AFTER: Duration = Duration::from_secs(10);
/// The exit code where another fencer is there already.
pub const ANOTHER_IS_THERE: u8 = 3;

/// What it says of itself to whoever has found it in a list of processes.
const HELP: &str = "\
pgvigil-fencer STATE_DIR

Kills every process of the Postgres beside its agent when the agent's deadline passes, so that nobody accepts writes who may not lead any more.
The agent starts it, one for each node, and it outlives the agent; nobody else needs to.

  STATE_DIR  the directory of the agent (`state_dir` in its configuration file)
  --help     this text
  --version  the version";

/// Runs the fencer for the state directory that is its only argument.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (first, more) = (arguments.next(), arguments.next());
    let state_dir = match (first, more) {
        (Some(word), None) if word == "--help" || word == "-h" => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        (Some(word), None) if word == "--version" || word == "-V" => {
            println!("pgvigil-fencer {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        (Some(word), None) if !word.as_encoded_bytes().starts_with(b"-") => word,
        _ => {
            eprintln!("usage: pgvigil-fencer STATE_DIR (the agent starts it; --help says what it does)");
            return ExitCode::from(2);
        }
    };
    match Serve::prepare(Path::new(&state_dir)) {
        Ok(Some(mut serve)) => match serve.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("pgvigil-fencer: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(None) => ExitCode::from(ANOTHER_IS_THERE),
        Err(error) => {
            eprintln!("pgvigil-fencer: cannot stand guard in {}: {error}", state_dir.display());
            ExitCode::FAILURE
        }
    }
}

struct Serve {
    guard: Guard<Processes>,
    wires: Wires,
    listener: UnixListener,
    timer: OwnedFd,
    signals: SignalFd,
    lonely_since_ns: Option<u64>,
    leaving: bool,
    /// Held as long as this process lives: there is no second one.
    _lock: File,
}

fn make_watchdog(order: &WatchdogOrder) -> Box<dyn Watchdog> {
    Box::new(Device::new(&order.device))
}

impl Serve {
    /// Everything that can fail, before anybody relies on this process. `None`: another one is there.
    fn prepare(state_dir: &Path) -> io::Result<Option<Self>> {
        // Nobody ends it by the signals of an agent's terminal, group or unit while it is armed: it hears them when it may go.
        let mask = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // Fails where it leads a session already.
        let _ = rustix::process::setsid();
        std::env::set_current_dir(state_dir)?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(format!("fencer-{VERSION}.lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // A relative name is never too long for a socket, and what lies there is a dead one's.
        let name = socket_name(VERSION);
        let _ = std::fs::remove_file(&name);
        let listener = UnixListener::bind(&name)?;
        listener.set_nonblocking(true)?;
        std::env::set_current_dir("/")?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let voice = Voice::start();
        raise(&voice);
        Ok(Some(Self {
            guard: Guard::new(Processes::default(), make_watchdog, voice),
            wires: Wires::default(),
            listener,
            timer,
            signals,
            lonely_since_ns: Some(now_ns()),
            leaving: false,
            _lock: lock,
        }))
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let now = now_ns();
            if self.guard.tick(now) {
                self.wires.tell(&Answer::Report(self.guard.report()));
            }
            self.wires.forget_closed();
            let lonely = self.lonely_until();
            if self.guard.is_idle() && (self.leaving || lonely.is_some_and(|until| until <= now)) {
                return Ok(());
            }
            self.wait(lonely)?;
        }
    }

    /// When this process ends unless somebody comes.
    fn lonely_until(&mut self) -> Option<u64> {
        if self.wires.is_empty() && self.guard.is_idle() {
            let since = *self.lonely_since_ns.get_or_insert_with(now_ns);
            return Some(since.saturating_add(ns(LONELY_AFTER)));
        }
        self.lonely_since_ns = None;
        None
    }

    fn wait(&mut self, lonely: Option<u64>) -> io::Result<()> {
        set_timer(&self.timer, [self.guard.wake_at(), lonely].into_iter().flatten().min())?;
        let fixed: [BorrowedFd<'_>; 3] = [self.timer.as_fd(), self.signals.as_fd(), self.listener.as_fd()];
        let wires = self.wires.all().iter().map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> =
            fixed.into_iter().chain(wires).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[1] && matches!(self.signals.read_signal(), Ok(Some(_))) {
            self.leaving = true;
        }
        let wired = ready.len() - 3;
        (0..wired).filter(|at| ready[at + 3]).for_each(|at| self.listen_to(at));
        if ready[2]
            && let Ok((stream, _)) = self.listener.accept()
        {
            self.wires.add(stream);
        }
        Ok(())
    }

    fn listen_to(&mut self, at: usize) {
        let orders = self.wires.orders(at);
        let ordered = !orders.is_empty();
        for (seq, order) in orders {
            if order == Order::Leave {
                // Whoever sends this has put another one in this place.
                self.guard.leave();
                std::process::exit(0);
            }
            self.guard.order(seq, order, now_ns());
        }
        if ordered {
            self.wires.tell(&Answer::Report(self.guard.report()));
        }
    }
}

/// Sets the timer to an instant since boot; one that has passed rings at once. `None`: never.
fn set_timer(timer: &OwnedFd, at_ns: Option<u64>) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Nought would switch it off.
    let at = at_ns.map_or(zero, |at| Timespec {
        tv_sec: i64::try_from(at.max(1) / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(at.max(1) % 1_000_000_000).unwrap_or(0),
    });
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value: at })?;
    Ok(())
}

/// What makes it likely that this process runs when it must. Whatever is not allowed here is left, and told.
fn raise(voice: &Voice) {
    // Nobody kills it for want of memory. Lowering this needs a privilege; what the agent has been given is inherited.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let pid = std::process::id().to_string();
    // The first thread's id is the process id, and it is the one that kills.
    let asked =
        Command::new("chrt").args(["--fifo", "--pid", "1", &pid]).stderr(Stdio::null()).stdout(Stdio::null()).status();
    if !asked.is_ok_and(|status| status.success()) {
        voice.say(
            "runs with ordinary priority: real-time priority is not allowed here (LimitRTPRIO=1 in the unit allows it)",
        );
    }
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        voice.say(format!("its memory cannot be locked and could be swapped out: {error} (LimitMEMLOCK in the unit)"));
    }
}
