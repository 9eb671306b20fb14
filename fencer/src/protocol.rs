//! The words between agent and fencer: one line of text each, over a unix socket that the agent keeps open. A line is understood whole
//! or not at all. The name of the socket carries the version of these words, so that an agent never talks to a fencer that would
//! misunderstand it; only `leave` means the same in every version.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The version of the words in this file.
pub const VERSION: u32 = 1;
/// No line is longer: two paths in hexadecimal digits, and some numbers.
pub const LONGEST_LINE: usize = 20 * 1024;

/// The name of the socket of a fencer that speaks a version.
pub fn socket_name(version: u32) -> String {
    format!("fencer-{version}.sock")
}

/// The version that a socket's name tells; `None`: it is not a fencer's.
pub fn version_of(name: &str) -> Option<u32> {
    name.strip_prefix("fencer-")?.strip_suffix(".sock")?.parse().ok()
}

/// What the agent asks for. Each line carries a number that the answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// I am the agent now; use this watchdog device, or none. The answer tells what is.
    Hello(Option<WatchdogOrder>),
    /// Whatever happens, nothing of Postgres in this directory lives on at `until_ns`. Sent again, it moves the deadline.
    Arm(Arm),
    /// Postgres is known not to accept writes.
    Disarm,
    /// Nothing: are you there?
    Ping,
    /// End. For one that has been replaced.
    Leave,
}

/// Until when Postgres may live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// The deadline, in nanoseconds since boot.
    pub until_ns: u64,
    /// When somebody else may lead: the kill must be over, or the watchdog has struck.
    pub lease_end_ns: u64,
    /// The data directory: the whole path, without links.
    pub data_dir: PathBuf,
}

/// A watchdog device, and what it is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogOrder {
    /// It resets the host so many seconds after it was last written to.
    pub timeout_s: u64,
    /// The device.
    pub device: PathBuf,
}

/// What the fencer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has nothing to kill.
    #[default]
    Idle,
    /// It will kill at the deadline.
    Armed {
        /// The deadline, in nanoseconds since boot.
        until_ns: u64,
    },
    /// The deadline has passed, and so many processes were there at the last look.
    Killing {
        /// How many.
        left: usize,
    },
}

/// The state of the watchdog device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// None is asked for.
    #[default]
    Off,
    /// It can be used, or is in use.
    Ready,
    /// It cannot be used.
    Unusable(String),
}

/// The fencer's answer, also sent unasked when it begins and ends to kill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of the last order that was carried out.
    pub seq: u64,
    /// What it is doing.
    pub state: State,
    /// How often it has killed.
    pub kills: u64,
    /// At the last kill: how long after the deadline the first strike was over, in nanoseconds. Whoever was there executes nothing of its
    /// own any more, however long the kernel takes to clear it away.
    pub last_strike_ns: u64,
    /// At the last kill: how long after the deadline the last process was gone, in nanoseconds.
    pub last_kill_ns: u64,
    /// Its watchdog.
    pub device: Device,
    /// The version of the program.
    pub build: String,
}

/// What the fencer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// How it stands.
    Report(Report),
    /// A later agent gives the orders now: this one must end.
    Superseded,
}

impl Order {
    /// The line, with its number.
    pub fn line(&self, seq: u64) -> String {
        match self {
            Order::Hello(None) => format!("hello {seq}\n"),
            Order::Hello(Some(WatchdogOrder { timeout_s, device })) => {
                format!("hello {seq} {timeout_s} {}\n", hex(device))
            }
            Order::Arm(Arm { until_ns, lease_end_ns, data_dir }) => {
                format!("arm {seq} {until_ns} {lease_end_ns} {}\n", hex(data_dir))
            }
            Order::Disarm => format!("disarm {seq}\n"),
            Order::Ping => format!("ping {seq}\n"),
            Order::Leave => format!("leave {seq}\n"),
        }
    }

    /// Reads a line without its end.
    pub fn parse(line: &str) -> Option<(u64, Self)> {
        let words: Vec<&str> = line.split(' ').collect();
        let seq = words.get(1)?.parse().ok()?;
        let order = match (words[0], &words[2..]) {
            ("hello", []) => Order::Hello(None),
            ("hello", [timeout_s, device]) => {
                Order::Hello(Some(WatchdogOrder { timeout_s: timeout_s.parse().ok()?, device: path(device)? }))
            }
            ("arm", [until_ns, lease_end_ns, data_dir]) => Order::Arm(Arm {
                until_ns: until_ns.parse().ok()?,
                lease_end_ns: lease_end_ns.parse().ok()?,
                data_dir: path(data_dir).filter(|data_dir| data_dir.is_absolute())?,
            }),
            ("disarm", []) => Order::Disarm,
            ("ping", []) => Order::Ping,
            ("leave", []) => Order::Leave,
            _ => return None,
        };
        Some((seq, order))
    }
}

impl Answer {
    /// The line.
    pub fn line(&self) -> String {
        let Answer::Report(report) = self else { return "superseded\n".to_owned() };
        let (state, detail) = match report.state {
            State::Idle => ("idle", 0),
            State::Armed { until_ns } => ("armed", until_ns),
            State::Killing { left } => ("killing", left as u64),
        };
        let (device, why) = match &report.device {
            Device::Off => ("off", ""),
            Device::Ready => ("ready", ""),
            Device::Unusable(why) => ("unusable", why.as_str()),
        };
        let Report { seq, kills, last_strike_ns, last_kill_ns, build, .. } = report;
        let why = hex(Path::new(why));
        format!("report {seq} {state} {detail} {kills} {last_strike_ns} {last_kill_ns} {build} {device} {why}\n")
    }

    /// Reads a line without its end.
    pub fn parse(line: &str) -> Option<Self> {
        if line == "superseded" {
            return Some(Answer::Superseded);
        }
        let words: Vec<&str> = line.split(' ').collect();
        let ["report", seq, state, detail, kills, last_strike_ns, last_kill_ns, build, device, why] = words[..] else {
            return None;
        };
        let state = match state {
            "idle" => State::Idle,
            "armed" => State::Armed { until_ns: detail.parse().ok()? },
            "killing" => State::Killing { left: detail.parse().ok()? },
            _ => return None,
        };
        let device = match device {
            "off" => Device::Off,
            "ready" => Device::Ready,
            "unusable" => Device::Unusable(path(why)?.to_string_lossy().into_owned()),
            _ => return None,
        };
        Some(Answer::Report(Report {
            seq: seq.parse().ok()?,
            state,
            kills: kills.parse().ok()?,
            last_strike_ns: last_strike_ns.parse().ok()?,
            last_kill_ns: last_kill_ns.parse().ok()?,
            device,
            build: build.to_owned(),
        }))
    }
}

impl FromStr for Answer {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        Self::parse(line).ok_or_else(|| format!("the fencer says \"{line}\", which means nothing here"))
    }
}

/// A path as hexadecimal digits: it may contain anything.
fn hex(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path(hex: &str) -> Option<PathBuf> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    Some(PathBuf::from(OsString::from_vec(bytes?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn orders() -> Vec<Order> {
        let odd = PathBuf::from(OsString::from_vec(b"/var/lib/a b\n\xff".to_vec()));
        vec![
            Order::Hello(None),
            Order::Hello(Some(WatchdogOrder { timeout_s: 4, device: "/dev/watchdog".into() })),
            Order::Arm(Arm { until_ns: 1, lease_end_ns: u64::MAX, data_dir: odd }),
            Order::Disarm,
            Order::Ping,
            Order::Leave,
        ]
    }

    #[test]
    fn every_order_is_read_as_it_was_written() {
        for order in orders() {
            let line = order.line(7);
            assert_eq!(Order::parse(line.strip_suffix('\n').unwrap()), Some((7, order)), "{line}");
        }
    }

    #[test]
    fn every_answer_is_read_as_it_was_written() {
        let report = |state, device| {
            Answer::Report(Report {
                seq: 9,
                state,
                kills: 2,
                last_strike_ns: 8,
                last_kill_ns: 3,
                device,
                build: "0.1.0".into(),
            })
        };
        for answer in [
            Answer::Superseded,
            report(State::Idle, Device::Off),
            report(State::Armed { until_ns: 5 }, Device::Ready),
            report(State::Killing { left: 100 }, Device::Unusable("no such device: /dev/w".into())),
        ] {
            let line = answer.line();
            assert_eq!(Answer::parse(line.strip_suffix('\n').unwrap()), Some(answer), "{line}");
        }
    }

    #[test]
    fn what_is_no_order_is_not_taken_for_one() {
        for line in [
            "",
            "arm",
            "arm 1",
            "arm x 1 2 2f",
            "arm 1 1 2",
            "arm 1 1 2 2",
            "arm 1 1 2 zz",
            "arm 1 1 2 ",
            "arm 1 1 2 61",
            "disarm 1 2",
            "fire 1",
        ] {
            assert_eq!(Order::parse(line), None, "{line}");
        }
    }

    #[test]
    fn sockets_tell_their_version() {
        assert_eq!(version_of(&socket_name(12)), Some(12));
        assert_eq!(version_of("fencer-1.lock"), None);
        assert_eq!(version_of("fencer-x.sock"), None);
    }
}
