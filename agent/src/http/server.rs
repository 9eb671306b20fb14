//! The listener. Each connection is a task of its own with a limit on how long it may stay silent, and their number is bounded, so
//! that a thousand clients that say nothing cannot fail a load balancer's check.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::control::{Encryption, Peer};

const TLS_HANDSHAKE: u8 = 0x16;
const CONNECTIONS_MAX: usize = 1024;
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Whoever has not confirmed what was sent for so long is gone: answers that never end would wait for it for a quarter of an hour.
const UNCONFIRMED_MAX_MS: u32 = 10_000;

/// Binds `address` and serves `router` there, over TLS as well to whoever begins with it where there is `encryption`, on a thread with a runtime of its own that nothing else can block. Returns where it
/// listens.
///
/// # Errors
/// The address cannot be bound: taken, not ours, or not permitted.
pub fn listen(address: &str, router: Router, encryption: Option<Arc<Encryption>>) -> std::io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("health-api".into()).spawn(move || {
        runtime.block_on(async move {
            match TcpListener::from_std(socket) {
                Ok(listener) => accept(listener, router, encryption).await,
                Err(error) => tracing::error!(%error, "health API cannot listen"),
            }
        });
    })?;
    Ok(address)
}

async fn accept(listener: TcpListener, router: Router, encryption: Option<Arc<Encryption>>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let (router, encryption) = (router.clone(), encryption.clone());
                prepare(&stream);
                tokio::spawn(async move {
                    let encrypted = encryption.is_some() && begins_with_tls(&stream).await;
                    match encryption.filter(|_| encrypted) {
                        Some(encryption) => serve_encrypted(stream, router, address, &encryption).await,
                        None => serve(stream, router, Peer::Address(address)).await,
                    }
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: the others go on, and this one waits for some to come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Answers go out at once, and a connection ends whose other end takes nothing any more.
pub fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, TcpUserTimeout, &UNCONFIRMED_MAX_MS);
}

/// Serves one connection; handlers find the peer among the extensions of a request. What a client does wrong is its own matter, so errors end here.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, router: Router, peer: Peer) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request)
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Whether the first byte is that of a handshake, which no method of HTTP begins with.
async fn begins_with_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    let peeked = tokio::time::timeout(SILENCE_MAX, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first[0] == TLS_HANDSHAKE
}

/// Serves one connection over TLS.
pub async fn serve_encrypted(stream: TcpStream, router: Router, address: SocketAddr, encryption: &Arc<Encryption>) {
    match encryption.agree(stream).await {
        Ok((stream, names)) => serve(stream, router, Peer::Encrypted { address, names }).await,
        Err(error) => tracing::debug!(from = %address.ip(), "no TLS with the control API: {error:#}"),
    }
}
