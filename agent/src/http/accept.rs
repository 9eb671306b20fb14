//! Taking connections in, on a thread that does nothing else: whatever the rest is at, the kernel's queue of new ones stays short. A queue that is
//! full would have the kernel drop what a load balancer sends, which then tries again after a second.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{Backlog, listen};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::places::{Places, Seat, Whose};

/// How long somebody who is to leave is waited for.
const LEAVES_WITHIN: Duration = Duration::from_millis(50);

/// A connection that has come.
pub struct Arrived {
    /// What is not used before it is registered with a runtime.
    pub stream: TcpStream,
    /// Where from.
    pub address: SocketAddr,
    /// Its place.
    pub seat: Seat,
}

/// Binds an address, with as long a queue as the kernel allows (`net.core.somaxconn`).
///
/// # Errors
/// The address cannot be bound: taken, not ours, or not permitted.
pub fn bind(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Of a socket that listens this changes the length of the queue and nothing else.
    listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener)
}

/// Hands over what comes, for as long as there is somebody to hand it to.
///
/// # Errors
/// The thread cannot be started.
pub fn arrivals(listener: TcpListener, name: &str, places: Arc<Places>) -> io::Result<UnboundedReceiver<Arrived>> {
    let (sender, receiver) = unbounded_channel();
    thread::Builder::new().name(name.into()).spawn(move || accept(&listener, &places, &sender))?;
    Ok(receiver)
}

fn accept(listener: &TcpListener, places: &Arc<Places>, hand_over: &UnboundedSender<Arrived>) {
    let mut spare = Spare::new();
    while !hand_over.is_closed() {
        if places.is_crowded() {
            places.wait_for_leavers(LEAVES_WITHIN);
            continue;
        }
        match listener.accept() {
            Ok((stream, address)) => {
                let ready = stream.set_nonblocking(true).is_ok();
                if let Some(seat) = ready.then(|| places.take(Whose::of(address))).flatten()
                    && hand_over.send(Arrived { stream, address, seat }).is_err()
                {
                    return;
                }
            }
            Err(error) if is_want(&error) => spare.makes_do(listener, places),
            // The other end has gone before it was let in, for instance.
            Err(_) => {}
        }
    }
}

/// Whether something has run out here that somebody who leaves gives back.
fn is_want(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// A descriptor for the day on which there is none: given up for a moment, it lets a newcomer be turned away, who would otherwise wait in the
/// kernel's queue and wake this thread for nothing.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Has somebody silent leave for the newcomer, or turns the newcomer away.
    fn makes_do(&mut self, listener: &TcpListener, places: &Places) {
        if places.make_room() {
            places.wait_for_leavers(LEAVES_WITHIN);
            return;
        }
        if self.0.take().is_some() && listener.accept().is_ok() {
            places.refused();
        }
        *self = Self::new();
        if self.0.is_none() {
            thread::sleep(LEAVES_WITHIN);
        }
    }
}
