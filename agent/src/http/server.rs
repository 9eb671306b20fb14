//! Serving what `accept` takes in. Each connection is a task of its own with a limit on how long it may stay silent and on how much of it is kept, and
//! it goes when its place is wanted (`places`); so ten thousand clients that say nothing cannot fail a load balancer's check.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use hyper::Request;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use super::accept::{Arrived, arrivals, bind};
use super::places::{Busy, Places, Seat};
use crate::control::Peer;
use crate::descriptors;
use crate::metrics::ListenerNumbers;

const TLS_HANDSHAKE: u8 = 0x16;
const CONNECTIONS_MAX: usize = 1024;
/// So many of those who make room may be on their way out before newcomers wait for them in the kernel's queue, which must not overflow.
const LEAVING_MAX: usize = 4096;
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// No honest request has a longer head; and so much of each connection is kept.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Whoever has not confirmed what was sent for so long is gone: answers that never end would wait for it for a quarter of an hour.
const UNCONFIRMED_MAX_MS: u32 = 10_000;

/// Binds `address` and serves `router` there, on a thread with a runtime of its own that nothing else can block. Whoever begins with TLS is handed
/// over where there is somebody to take `encrypted` ones: shaking hands costs more than a health check. Returns where it listens.
///
/// # Errors
/// The address cannot be bound: taken, not ours, or not permitted.
pub fn listen(
    address: &str,
    router: Router,
    encrypted: Option<Sender<Arrived>>,
    numbers: ListenerNumbers,
) -> std::io::Result<SocketAddr> {
    let socket = bind(address)?;
    let address = socket.local_addr()?;
    let places = Places::new(
        "health",
        descriptors::for_clients(CONNECTIONS_MAX),
        descriptors::for_leavers(LEAVING_MAX),
        numbers,
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arrivals = arrivals(socket, "health-accept", places)?;
    thread::Builder::new()
        .name("health-api".into())
        .spawn(move || runtime.block_on(take_in(arrivals, router, encrypted)))?;
    Ok(address)
}

async fn take_in(mut arrivals: UnboundedReceiver<Arrived>, router: Router, encrypted: Option<Sender<Arrived>>) {
    while let Some(arrived) = arrivals.recv().await {
        tokio::spawn(welcome(arrived, router.clone(), encrypted.clone()));
    }
}

async fn welcome(arrived: Arrived, router: Router, encrypted: Option<Sender<Arrived>>) {
    let Arrived { stream, address, seat } = arrived;
    let Ok(stream) = registered(stream) else { return };
    let first = tokio::select! {
        first = first_byte(&stream) => first,
        () = seat.told_to_leave() => None,
    };
    match (first, encrypted) {
        (None, _) => {}
        (Some(TLS_HANDSHAKE), Some(encrypted)) => {
            if let Ok(stream) = stream.into_std() {
                // Where so many wait already it is closed.
                let _ = encrypted.try_send(Arrived { stream, address, seat });
            }
        }
        (Some(_), _) => serve(stream, router, Peer::Address(address), seat).await,
    }
}

/// A connection, known to the runtime that this runs in. Answers go out at once, and it ends when its other end takes nothing any more.
///
/// # Errors
/// It cannot be.
pub fn registered(stream: std::net::TcpStream) -> std::io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, TcpUserTimeout, &UNCONFIRMED_MAX_MS);
    Ok(stream)
}

/// What a client begins with, if it does in time. Until then nothing is kept for it.
async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    let peeked = tokio::time::timeout(SILENCE_MAX, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))).then_some(first[0])
}

/// Serves one connection until it ends or its place is wanted; handlers find the peer among the extensions of a request. What a client does wrong is
/// its own matter, so errors end here.
pub async fn serve<S>(stream: S, router: Router, peer: Peer, seat: Seat)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = Arc::new(seat);
    let at_work = Arc::clone(&seat);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = at_work.busy();
        request.extensions_mut().insert(peer.clone());
        let (answer, seat) = (router.call(request), Arc::clone(&at_work));
        async move {
            let answer = answer.await?;
            if answer.status().is_client_error() {
                seat.is_invalid();
            }
            Ok::<_, Infallible>(answer.map(|body| Held { body, _busy: busy }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if ended.is_err_and(|error| error.is_parse()) {
            seat.is_invalid();
        },
        () = seat.told_to_leave() => {}
    }
}

/// The body of an answer: as long as it is not all told the request is under way.
struct Held {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
