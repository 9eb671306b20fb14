//! Where the control API listens: its unix socket, always, and TCP where that is configured. A place that cannot be had is told and tried again,
//! and a socket that somebody deletes is put back: the agent's real work never waits for any of it.

use std::fs::Permissions;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use nix::unistd::{Group, chown};
use tokio::net::UnixListener;
use tokio::sync::mpsc::Receiver;

use super::answer::Told;
use super::audit::Attempt;
use super::encryption::Disagreed;
use super::impatient::Impatient;
use super::{Encryption, Peer};
use crate::config::{self, HostPort};
use crate::http::{Arrived, Places, Whose, arrivals, bind, registered, serve};
use crate::metrics::Metrics;

/// Whoever controls a cluster is not a crowd.
pub const CONNECTIONS_MAX: usize = 64;
/// How often a place is tried again, and the socket looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How soon is looked whether those who are to leave have.
const CROWDED_FOR: Duration = Duration::from_millis(50);
const MODE: u32 = 0o660;
/// Where it cannot be given to its group.
const MODE_ALONE: u32 = 0o600;

/// Where control is served: each listener with places of its own, so that whoever crowds the one does not shut root out of the other.
#[derive(Clone)]
pub struct Doors {
    socket: Arc<Places>,
    tcp: Arc<Places>,
    metrics: Arc<Metrics>,
}

impl Doors {
    /// With nobody at them.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        let places = |listener| Places::new(listener, CONNECTIONS_MAX, CONNECTIONS_MAX, metrics.listener(listener));
        Self { socket: places("socket"), tcp: places("control"), metrics: Arc::clone(metrics) }
    }

    /// Serves `router` on the socket and, where it is configured, over TCP, for ever.
    pub async fn open(self, control: config::Control, router: Router, encryption: Option<Arc<Encryption>>) {
        tokio::join!(on_socket(control.socket, control.group, Arc::clone(&self.socket), router.clone()), async {
            if let Some(listen) = control.listen {
                self.on_tcp(listen, router, encryption).await;
            }
        });
    }

    /// Serves `router` to those who have come to another listener and begin with TLS.
    pub async fn take_over(self, mut from: Receiver<Arrived>, router: Router, encryption: Arc<Encryption>) {
        while let Some(arrived) = from.recv().await {
            // It gives up the place that it had there.
            if let Some(seat) = self.tcp.take(Whose::of(arrived.address)) {
                let Arrived { stream, address, .. } = arrived;
                let encryption = Some(Arc::clone(&encryption));
                welcome(Arrived { stream, address, seat }, router.clone(), encryption, Arc::clone(&self.metrics));
            }
        }
    }

    async fn on_tcp(&self, listen: HostPort, router: Router, encryption: Option<Arc<Encryption>>) {
        let mut told = String::new();
        loop {
            let (address, places) = (listen.to_string(), Arc::clone(&self.tcp));
            // A name may have to be asked for.
            let bound = tokio::task::spawn_blocking(move || arrivals(bind(&address)?, "control-accept", places)).await;
            match bound.unwrap_or_else(|error| Err(Error::other(error))) {
                Ok(mut arrivals) => {
                    tracing::info!(%listen, "the control API listens");
                    while let Some(arrived) = arrivals.recv().await {
                        welcome(arrived, router.clone(), encryption.clone(), Arc::clone(&self.metrics));
                    }
                }
                Err(error) => tell_once(&mut told, &listen.to_string(), &error),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn on_socket(path: PathBuf, group: Option<String>, places: Arc<Places>, router: Router) {
    let mut told = String::new();
    loop {
        match bind_socket(&path, group.as_deref()) {
            Ok((listener, inode)) => {
                tracing::info!(socket = %path.display(), "the control API listens");
                told.clear();
                accept_on_socket(&listener, || inode_of(&path) == Some(inode), &places, &router).await;
            }
            Err(error) => tell_once(&mut told, &path.display().to_string(), &error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Until the socket is not there any more.
async fn accept_on_socket(listener: &UnixListener, is_there: impl Fn() -> bool, places: &Arc<Places>, router: &Router) {
    while is_there() {
        if places.is_crowded() {
            tokio::time::sleep(CROWDED_FOR).await;
            continue;
        }
        match tokio::time::timeout(LOOK_EVERY, listener.accept()).await {
            Ok(Ok((stream, _))) => {
                if let Ok(found) = stream.peer_cred()
                    && let Some(seat) = places.take(Whose::User(found.uid()))
                {
                    let peer = Peer::Socket { uid: found.uid(), gid: found.gid() };
                    tokio::spawn(serve(Impatient::new(stream), router.clone(), peer, seat));
                }
            }
            Ok(Err(_)) => tokio::time::sleep(CROWDED_FOR).await,
            Err(_) => {}
        }
    }
}

fn welcome(arrived: Arrived, router: Router, encryption: Option<Arc<Encryption>>, metrics: Arc<Metrics>) {
    let Arrived { stream, address, seat } = arrived;
    let Ok(stream) = registered(stream) else { return };
    tokio::spawn(async move {
        let Some(encryption) = encryption else { return serve(stream, router, Peer::Address(address), seat).await };
        let agreed = tokio::select! {
            agreed = encryption.agree(stream) => agreed,
            () = seat.told_to_leave() => return,
        };
        match agreed {
            Ok((stream, shown)) => serve(stream, router, Peer::Encrypted { address, shown }, seat).await,
            Err(Disagreed::Certificate(why)) => {
                seat.is_invalid();
                Attempt::handshake(Peer::Address(address)).ended(&Told::refused_certificate(&why), 0, &metrics);
            }
            Err(Disagreed::Otherwise(error)) => {
                seat.is_invalid();
                tracing::debug!(from = %address.ip(), "no TLS with the control API: {error:#}");
            }
        }
    });
}

fn tell_once(told: &mut String, place: &str, error: &Error) {
    let why = error.to_string();
    if *told != why {
        tracing::error!("the control API cannot listen on {place}, and tries again: {why}");
        *told = why;
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|found| found.ino())
}

fn give_to(path: &Path, group: &str) -> io::Result<()> {
    let gid = Group::from_name(group)?.ok_or_else(|| Error::other(format!("there is no group {group}")))?.gid;
    chown(path, None, Some(gid)).map_err(|error| {
        Error::other(format!(
            "the socket cannot be given to the group {group} ({error}): usermod -aG {group} for the agent's user"
        ))
    })
}

/// The socket, for its owner and its group alone. What an earlier agent has left there is replaced.
fn bind_socket(path: &Path, group: Option<&str>) -> io::Result<(UnixListener, u64)> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(Error::new(ErrorKind::AlreadyExists, "something that is no socket is there"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::new(
                ErrorKind::AddrInUse,
                "another program answers there: is another agent running here?",
            ));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // For root and the owner in any case. What a umask lets in before that is turned away by its credentials.
    let given = group.map(|name| give_to(path, name)).transpose();
    if let Err(error) = &given {
        tracing::error!(socket = %path.display(), "the control API is for root and the agent's user alone: {error}");
    }
    let mode = if given.is_ok() { MODE } else { MODE_ALONE };
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    let inode = inode_of(path).ok_or_else(|| Error::other("somebody has deleted it"))?;
    Ok((listener, inode))
}
