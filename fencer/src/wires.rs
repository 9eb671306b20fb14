//! The connections of agents, and which of them gives the orders: the one that was started last. An older one that wakes up after its
//! successor has come is told that it is superseded, and moves no deadline.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::protocol::{Answer, LONGEST_LINE, Order};

/// More connections than agents could ever have.
const MOST: usize = 8;

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    pid: i32,
    /// When its process was started, in clock ticks since boot.
    started: u64,
    unread: Vec<u8>,
    open: bool,
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    all: Vec<Wire>,
    /// The process id of the one who gives the orders, and when it was started: the latest there ever was.
    owner: Option<(i32, u64)>,
}

impl Wires {
    /// A new connection; it gives no orders before it has said hello.
    pub(crate) fn add(&mut self, stream: UnixStream) {
        let peer = rustix::net::sockopt::socket_peercred(&stream);
        let Ok(pid) = peer.map(|peer| peer.pid.as_raw_nonzero().get()) else { return };
        if self.all.len() < MOST && stream.set_nonblocking(true).is_ok() {
            self.all.push(Wire { stream, pid, started: started(pid), unread: Vec::new(), open: true });
        }
    }

    pub(crate) fn all(&self) -> &[Wire] {
        &self.all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Reads what connection `at` has sent, and returns the orders that count: those of the owner, and those that anybody may give.
    pub(crate) fn orders(&mut self, at: usize) -> Vec<(u64, Order)> {
        let Some(wire) = self.all.get_mut(at) else { return Vec::new() };
        let mut counted = Vec::new();
        for (seq, order) in wire.read() {
            if matches!(order, Order::Hello(_)) && self.owner.is_none_or(|(_, newest)| newest <= wire.started) {
                self.owner = Some((wire.pid, wire.started));
            }
            let owns = self.owner == Some((wire.pid, wire.started));
            if owns || matches!(order, Order::Leave) {
                counted.push((seq, order));
            } else {
                wire.say(&Answer::Superseded);
                wire.open = false;
            }
        }
        counted
    }

    /// Tells the owner, tells the others that there is one, and forgets closed connections.
    pub(crate) fn tell(&mut self, answer: &Answer) {
        let Some(owner) = self.owner else { return };
        for wire in &mut self.all {
            if (wire.pid, wire.started) == owner {
                wire.say(answer);
            } else if wire.started < owner.1 {
                wire.say(&Answer::Superseded);
                wire.open = false;
            }
        }
    }

    pub(crate) fn forget_closed(&mut self) {
        self.all.retain(|wire| wire.open);
    }
}

impl Wire {
    fn read(&mut self) -> Vec<(u64, Order)> {
        let mut chunk = [0_u8; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.open = false,
                Ok(length) => {
                    self.unread.extend_from_slice(&chunk[..length]);
                    if self.unread.len() < LONGEST_LINE {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.open = false,
            }
            break;
        }
        let mut orders = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            match std::str::from_utf8(&line[..end]).ok().and_then(Order::parse) {
                Some(order) => orders.push(order),
                None => self.open = false,
            }
        }
        if self.unread.len() >= LONGEST_LINE {
            self.open = false;
        }
        orders
    }

    /// An agent that does not read is stopped, or gone: nobody waits for it.
    fn say(&mut self, answer: &Answer) {
        let line = answer.line();
        match self.stream.write(line.as_bytes()) {
            Ok(length) if length == line.len() => {}
            Ok(_) => self.open = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
    }
}

/// When a process was started (`proc(5)`, field 22 of `stat`, 20 behind the name in brackets); 0: it is gone.
fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    behind_name.split(' ').nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::time::Duration;

    use super::*;
    use crate::protocol::Report;

    #[test]
    fn this_process_was_started_after_the_boot() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(started(me) > 0);
        assert_eq!(started(-1), 0);
    }

    /// An agent that was started at some time, and its connection's place among the others.
    fn agent(wires: &mut Wires, pid: i32, started: u64) -> (UnixStream, usize) {
        let (mine, theirs) = UnixStream::pair().unwrap();
        mine.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        wires.add(theirs);
        let wire = wires.all.last_mut().unwrap();
        (wire.pid, wire.started) = (pid, started);
        (mine, wires.all.len() - 1)
    }

    fn say(stream: &mut UnixStream, order: &Order) {
        stream.write_all(order.line(1).as_bytes()).unwrap();
    }

    fn hears(stream: &UnixStream) -> String {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn the_agent_that_was_started_last_gives_the_orders_and_an_older_one_that_wakes_up_gives_none() {
        let mut wires = Wires::default();
        let (mut old, at_old) = agent(&mut wires, 10, 100);
        say(&mut old, &Order::Hello(None));
        assert_eq!(wires.orders(at_old).len(), 1);
        let (mut new, at_new) = agent(&mut wires, 20, 200);
        say(&mut new, &Order::Hello(None));
        say(&mut new, &Order::Disarm);
        assert_eq!(wires.orders(at_new).len(), 2);
        // The old one has been frozen all the while, and moves the deadline first thing.
        say(&mut old, &Order::Disarm);
        assert!(wires.orders(at_old).is_empty());
        assert_eq!(hears(&old), "superseded\n");
        wires.forget_closed();
        // Connected anew it gives none either, also after the new one has gone.
        drop(new);
        let (mut again, at) = agent(&mut wires, 10, 100);
        say(&mut again, &Order::Hello(None));
        assert!(wires.orders(at).is_empty());
        assert_eq!(hears(&again), "superseded\n");
    }

    #[test]
    fn a_new_agent_is_heard_of_by_the_old_one_without_being_asked() {
        let mut wires = Wires::default();
        let (mut old, at_old) = agent(&mut wires, 10, 100);
        say(&mut old, &Order::Hello(None));
        wires.orders(at_old);
        let (mut new, at_new) = agent(&mut wires, 20, 200);
        say(&mut new, &Order::Hello(None));
        wires.orders(at_new);
        wires.tell(&Answer::Report(Report::default()));
        assert_eq!(hears(&old), "superseded\n");
        assert!(hears(&new).starts_with("report"));
    }

    #[test]
    fn orders_before_a_hello_and_nonsense_close_the_connection() {
        let mut wires = Wires::default();
        let (mut rude, at) = agent(&mut wires, 10, 100);
        say(&mut rude, &Order::Disarm);
        assert!(wires.orders(at).is_empty());
        wires.forget_closed();
        let (mut odd, at) = agent(&mut wires, 11, 110);
        odd.write_all(b"fire at will\n").unwrap();
        assert!(wires.orders(at).is_empty());
        wires.forget_closed();
        assert!(wires.is_empty());
        let (mut short, at) = agent(&mut wires, 12, 120);
        short.write_all(b"hello").unwrap();
        assert!(wires.orders(at).is_empty());
        short.write_all(b" 1\n").unwrap();
        assert_eq!(wires.orders(at), [(1, Order::Hello(None))]);
    }
}
