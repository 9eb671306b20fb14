//! Where the control API listens: its unix socket, always, and TCP where that is configured. A place that cannot be had is told and tried again,
//! and a socket that somebody deletes is put back: the agent's real work never waits for any of it.

use std::fs::Permissions;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use nix::unistd::{Group, chown};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::impatient::Impatient;
use super::{Encryption, Peer};
use crate::config::{self, HostPort};
use crate::http::{prepare, serve, serve_encrypted};

/// Whoever controls a cluster is not a crowd.
const CONNECTIONS_MAX: usize = 64;
/// How often a place is tried again, and the socket looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const MODE: u32 = 0o660;
/// Where it cannot be given to its group.
const MODE_ALONE: u32 = 0o600;

/// Serves `router` everywhere, on a thread with a runtime of its own.
///
/// # Errors
/// The thread cannot be started.
pub fn start(control: &config::Control, router: Router, encryption: Option<Arc<Encryption>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (socket, group, listen) = (control.socket.clone(), control.group.clone(), control.listen.clone());
    thread::Builder::new().name("control-api".into()).spawn(move || {
        runtime.block_on(async move {
            // Each with room of its own: whoever crowds the one does not shut root out of the other.
            let door = || Door { room: Arc::new(Semaphore::new(CONNECTIONS_MAX)), router: router.clone() };
            tokio::join!(on_socket(socket, group, door()), async {
                if let Some(listen) = listen {
                    on_tcp(listen, door(), encryption).await;
                }
            });
        });
    })?;
    Ok(())
}

struct Door {
    room: Arc<Semaphore>,
    router: Router,
}

impl Door {
    /// Serves one connection, if there is room for it.
    fn opens<F: Future<Output = ()> + Send + 'static>(&self, peer: &Peer, serve: impl FnOnce(Router) -> F) {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            tracing::warn!(from = %peer, "too many connections to the control API: this one is closed");
            return;
        };
        let serving = serve(self.router.clone());
        tokio::spawn(async move {
            serving.await;
            drop(permit);
        });
    }
}

async fn on_socket(path: PathBuf, group: Option<String>, door: Door) {
    let mut told = String::new();
    loop {
        match bind(&path, group.as_deref()) {
            Ok((listener, inode)) => {
                tracing::info!(socket = %path.display(), "the control API listens");
                told.clear();
                accept_on_socket(&listener, || inode_of(&path) == Some(inode), &door).await;
            }
            Err(error) => tell_once(&mut told, &path.display().to_string(), &error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Until the socket is not there any more.
async fn accept_on_socket(listener: &UnixListener, is_there: impl Fn() -> bool, door: &Door) {
    while is_there() {
        match tokio::time::timeout(LOOK_EVERY, listener.accept()).await {
            Ok(Ok((stream, _))) => {
                if let Ok(found) = stream.peer_cred() {
                    let peer = Peer::Socket { uid: found.uid(), gid: found.gid() };
                    door.opens(&peer.clone(), |router| serve(Impatient::new(stream), router, peer));
                }
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => {}
        }
    }
}

async fn on_tcp(listen: HostPort, door: Door, encryption: Option<Arc<Encryption>>) {
    let mut told = String::new();
    loop {
        match TcpListener::bind((listen.host.as_str(), listen.port)).await {
            Ok(listener) => {
                tracing::info!(%listen, "the control API listens");
                loop {
                    match listener.accept().await {
                        Ok((stream, address)) => {
                            prepare(&stream);
                            let (peer, encryption) = (Peer::Address(address), encryption.clone());
                            door.opens(&peer.clone(), |router| async move {
                                match encryption {
                                    Some(encryption) => serve_encrypted(stream, router, address, &encryption).await,
                                    None => serve(stream, router, peer).await,
                                }
                            });
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
            Err(error) => tell_once(&mut told, &listen.to_string(), &error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
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
fn bind(path: &Path, group: Option<&str>) -> io::Result<(UnixListener, u64)> {
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
