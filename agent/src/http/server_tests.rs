//! Crowds of real connections at a listener: whatever they do, or do not do, somebody else's question is answered meanwhile and afterwards.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream as Blocking;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::routing::{get, post};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::sleep;

use super::*;

/// A load balancer asks again so soon.
const ASKS_EVERY: Duration = Duration::from_millis(50);
/// What is asserted; on a machine that does nothing else it takes a millisecond.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// The places, and those who have been told to leave theirs.
const OPEN_MAX: i64 = 1024 + 4096;

fn listener() -> (SocketAddr, ListenerNumbers) {
    descriptors::raise();
    let never_ends = || async { Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>()) };
    let router = Router::new()
        .route("/primary", get(|| async { "yes" }))
        .route("/large", get(|| async { "large".repeat(100_000) }))
        .route("/beats", post(never_ends))
        .route("/body", post(|body: Bytes| async move { body.len().to_string() }));
    let numbers = ListenerNumbers::default();
    (listen("127.0.0.1:0", router, None, numbers.clone()).unwrap(), numbers)
}

/// One connection a question, as load balancers have it. Returns how long the answer took.
fn ask(address: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut stream = Blocking::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET /primary HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK") && text.ends_with("yes"), "{text}");
    began.elapsed()
}

/// Asks while `crowd` is at it, and holds every answer against the clock.
fn is_answered_while(address: SocketAddr, crowd: impl Future<Output = ()>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let mut worst = (Duration::ZERO, 0);
            while !over.load(Ordering::Relaxed) {
                worst = (worst.0.max(ask(address)), worst.1 + 1);
                thread::sleep(ASKS_EVERY);
            }
            worst
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(crowd)));
        over.store(true, Ordering::Relaxed);
        let (worst, times) = asks.join().unwrap();
        if let Err(panic) = went {
            std::panic::resume_unwind(panic);
        }
        eprintln!("{times} answers, the slowest after {worst:?}");
        assert!(times > 3 && worst < ANSWERED_WITHIN, "of {times} answers one took {worst:?}");
    });
}

/// A connection from one of a few hosts; who asks comes from another.
async fn connected(address: SocketAddr, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2 + u8::try_from(number % 5).unwrap()], 0))).unwrap();
    socket.connect(address).await.unwrap()
}

#[test]
fn ten_thousand_clients_that_say_nothing_keep_nobody_waiting() {
    let (address, numbers) = listener();
    is_answered_while(address, async {
        let mut crowd = Vec::new();
        for number in 0..10_000 {
            crowd.push(connected(address, number).await);
        }
        sleep(Duration::from_millis(500)).await;
        assert!(numbers.connections.get() <= OPEN_MAX, "{}", numbers.connections.get());
        assert!(numbers.evicted.get() > 10_000 - 1200, "{}", numbers.evicted.get());
        assert_eq!(numbers.refused.get(), 0);
    });
    let began = Instant::now();
    while numbers.connections.get() > 0 {
        assert!(began.elapsed() < SILENCE_MAX * 2, "{} are kept", numbers.connections.get());
        thread::sleep(ASKS_EVERY);
    }
    assert!(ask(address) < ANSWERED_WITHIN);
}

#[test]
fn neither_half_a_question_nor_one_without_an_end_nor_an_answer_that_nobody_reads_keeps_others_waiting() {
    let (address, numbers) = listener();
    let begins: [&[u8]; 4] = [
        b"GET /primary HTTP/1.1\r\nHost: x\r\nX-",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx",
        b"POST /beats HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /large HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    is_answered_while(address, async {
        let mut crowd = Vec::new();
        for number in 0..3000 {
            let mut stream = connected(address, number).await;
            // It may have been closed by now.
            let begin = if number % 16 == 0 { 3 } else { number % 3 };
            let _ = stream.write_all(begins[begin]).await;
            crowd.push(stream);
        }
        for _ in 0..20 {
            for stream in &mut crowd {
                let _ = stream.try_write(b"x");
            }
            sleep(ASKS_EVERY).await;
        }
        assert!(numbers.connections.get() <= OPEN_MAX, "{}", numbers.connections.get());
    });
}

/// What comes back for these bytes, if anything does before the connection ends.
fn told(address: SocketAddr, head: &str, rest: &[u8]) -> String {
    let mut stream = Blocking::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(rest));
    let mut text = Vec::new();
    let ended = stream.read_to_end(&mut text);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_long_head_is_refused_and_a_long_body_is_not() {
    let (address, _) = listener();
    let refused = told(address, "GET /primary HTTP/1.1\r\nHost: x\r\nX-Long: ", &[b'x'; 100 << 10]);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431 "), "{refused}");
    let head = "POST /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 102400\r\n\r\n";
    let answer = told(address, head, &[b'x'; 100 << 10]);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("102400"), "{answer}");
    assert!(ask(address) < ANSWERED_WITHIN);
}
