//! The listener. Each connection is a task of its own with a limit on how long it may stay silent, and their number is bounded, so
//! that a thousand clients that say nothing cannot fail a load balancer's check.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const CONNECTIONS_MAX: usize = 1024;
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Whoever has not confirmed what was sent for so long is gone: answers that never end would wait for it for a quarter of an hour.
const UNCONFIRMED_MAX_MS: u32 = 10_000;

/// Binds `address` and serves `router` there, on a thread with a runtime of its own that nothing else can block. Returns where it
/// listens.
///
/// # Errors
/// The address cannot be bound: taken, not ours, or not permitted.
pub fn listen(address: &str, router: Router) -> std::io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("health-api".into()).spawn(move || {
        runtime.block_on(async move {
            match TcpListener::from_std(socket) {
                Ok(listener) => accept(listener, router).await,
                Err(error) => tracing::error!(%error, "health API cannot listen"),
            }
        });
    })?;
    Ok(address)
}

async fn accept(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: the others go on, and this one waits for some to come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection. What a client does wrong is its own matter, so errors end here.
async fn serve(stream: TcpStream, router: Router) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, TcpUserTimeout, &UNCONFIRMED_MAX_MS);
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}
