//! A TCP proxy before an etcd member, that can lose answers, lose requests, delay or refuse: the faults between client and server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

#[derive(Default)]
pub struct Faults {
    pub lose_answers: AtomicBool,
    pub lose_requests: AtomicBool,
    /// New connections are closed at once, and old ones at their next byte.
    pub refuse: AtomicBool,
    pub delay_requests_ms: AtomicU64,
}

pub struct Proxy {
    pub faults: Arc<Faults>,
    pub url: String,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy before the member at `url`.
    pub async fn before(url: &str) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if shared.refuse.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pump(from_client, to_server, Arc::clone(&shared), true));
                tokio::spawn(pump(from_server, to_client, Arc::clone(&shared), false));
            }
        });
        Self { faults, url, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Arc<Faults>, requests: bool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        if read == 0 || faults.refuse.load(Ordering::SeqCst) {
            return;
        }
        let lost = if requests { &faults.lose_requests } else { &faults.lose_answers };
        if lost.load(Ordering::SeqCst) {
            continue;
        }
        if requests {
            sleep(Duration::from_millis(faults.delay_requests_ms.load(Ordering::SeqCst))).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
