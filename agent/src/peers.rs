//! Asking other agents over their health API: one small HTTP client, every question under a deadline, connections kept.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::HOST;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::http::health::BELIEVED;
use crate::promises::SEAL;

/// No honest answer is longer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Peers {
    client: Client<HttpConnector, Full<Bytes>>,
    turned_away: Arc<AtomicBool>,
}

impl Default for Peers {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        Self { client: Client::builder(TokioExecutor::new()).build(connector), turned_away: Arc::default() }
    }
}

impl Peers {
    /// The JSON at `<base><path>`, whatever the status, unless it says that we may not ask.
    ///
    /// # Errors
    /// No answer within the deadline, or none that is JSON; or whoever answers does not know us (a proxy before the agent, for instance).
    pub async fn get(&self, base: &str, path: &str, within: Duration) -> Result<Value> {
        let uri = uri_at(base, path)?;
        let ask = async {
            let request = Request::get(uri.clone()).body(Full::default()).context("building the request")?;
            let answer = self.client.request(request).await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
                self.turned_away.store(true, Ordering::Relaxed);
                bail!("it turns this away: {status}");
            }
            let body = whole(answer.into_body()).await?;
            serde_json::from_slice(&body).context("the answer is no JSON")
        };
        answered(&uri, within, ask).await
    }

    /// Whether a health path answers 200. What the asker believes is told, so that the answer can be held back while it is no news.
    ///
    /// # Errors
    /// No answer within the deadline.
    pub async fn is_healthy(&self, base: &str, path: &str, believed: bool, within: Duration) -> Result<bool> {
        let uri = uri_at(base, path)?;
        let ask = async {
            let state = if believed { "UP" } else { "DOWN" };
            let request = Request::options(uri.clone()).header(BELIEVED, state).body(Full::default());
            let answer = self.client.request(request.context("building the request")?).await?;
            let status = answer.status();
            whole(answer.into_body()).await?;
            Ok(status == StatusCode::OK)
        };
        answered(&uri, within, ask).await
    }

    /// Whether anybody has answered that we may not ask.
    pub fn turned_away(&self) -> bool {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Posts a sealed question; the answer with its seal, if it was looked at.
    ///
    /// # Errors
    /// No answer within the deadline, or it was turned away.
    pub async fn post_sealed(
        &self,
        base: &str,
        path: &str,
        body: String,
        seal: &str,
        within: Duration,
    ) -> Result<(String, String)> {
        let uri = uri_at(base, path)?;
        let ask = async {
            let request = Request::post(uri.clone()).header(SEAL, seal).body(Full::from(body));
            let answer = self.client.request(request.context("building the request")?).await?;
            let (status, seal) = (answer.status(), answer.headers().get(SEAL).and_then(|seal| seal.to_str().ok()));
            let seal = seal.unwrap_or_default().to_owned();
            let body = whole(answer.into_body()).await?;
            let text = String::from_utf8_lossy(&body).into_owned();
            anyhow::ensure!(status.is_success(), "{status}: {text}");
            Ok((text, seal))
        };
        answered(&uri, within, ask).await
    }
}

/// The path under the base URL of an agent's health API.
pub(crate) fn uri_at(base: &str, path: &str) -> Result<Uri> {
    format!("{}{path}", base.trim_end_matches('/')).parse().with_context(|| format!("bad URL {base}{path}"))
}

/// The answer of `uri`, if it comes in time.
async fn answered<T>(uri: &Uri, within: Duration, ask: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(within, ask).await {
        Ok(answer) => answer.with_context(|| format!("asking {uri}")),
        Err(_) => bail!("no answer from {uri} within {within:?}"),
    }
}

async fn whole(body: Incoming) -> Result<Bytes> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes())
}

/// One kept connection to one agent, for a question that is asked often. It is driven by whoever asks, so that an answer wakes that task
/// and no other.
#[derive(Default)]
pub struct Line {
    open: Option<Open>,
}

/// The wire under a kept connection; `None`: it has ended.
pub(crate) type Running<B> = Option<Pin<Box<Connection<TokioIo<TcpStream>, B>>>>;

struct Open {
    authority: Authority,
    sender: SendRequest<Empty<Bytes>>,
    connection: Running<Empty<Bytes>>,
}

impl Line {
    /// The JSON at `<base><path>`, whatever the status. A connection that did not answer in time is not used again.
    ///
    /// # Errors
    /// As [`Peers::get`].
    pub async fn get(&mut self, base: &str, path: &str, within: Duration) -> Result<Value> {
        let uri = uri_at(base, path)?;
        let kept = self.open.take();
        let (open, answer) = answered(&uri, within, ask(kept, &uri)).await?;
        self.open = Some(open);
        serde_json::from_slice(&answer).context("the answer is no JSON")
    }
}

/// Asks on a kept connection, or else, or where that has ended meanwhile, on a new one.
async fn ask(kept: Option<Open>, uri: &Uri) -> Result<(Open, Bytes)> {
    let authority = uri.authority().context("the URL names no host")?;
    if let Some(mut open) = kept.filter(|open| open.authority == *authority && !open.sender.is_closed())
        && let Ok(answer) = open.ask(uri).await
    {
        return Ok((open, answer));
    }
    let mut open = Open::dial(authority).await?;
    let answer = open.ask(uri).await?;
    Ok((open, answer))
}

impl Open {
    async fn dial(authority: &Authority) -> Result<Self> {
        let (sender, connection) = dial(authority).await?;
        Ok(Self { authority: authority.clone(), sender, connection })
    }

    async fn ask(&mut self, uri: &Uri) -> Result<Bytes> {
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let request = Request::get(path).header(HOST, self.authority.as_str()).body(Empty::new())?;
        let sender = &mut self.sender;
        let answer = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            whole(answer.into_body()).await
        };
        driven(&mut self.connection, answer).await
    }
}

/// A new connection, on which requests have bodies of the kind `B`.
pub(crate) async fn dial<B>(authority: &Authority) -> Result<(SendRequest<B>, Running<B>)>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80)));
    let stream = stream.await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    Ok((sender, Some(Box::pin(connection))))
}

/// Waits for something that comes over this wire, and drives it meanwhile.
pub(crate) async fn driven<B, T>(connection: &mut Running<B>, answer: impl Future<Output = T>) -> T
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    tokio::pin!(answer);
    if let Some(running) = connection.as_mut() {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = running => {}
        }
    }
    // It has ended, perhaps with the answer. Dropped, it lets whoever waits for another know that there will be none.
    *connection = None;
    answer.await
}

/// Whether nobody is there: the connection was refused.
pub(crate) fn is_refusal(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    /// Answers so many requests on each connection, with the number of the connection.
    async fn serve(listener: tokio::net::TcpListener, requests: usize) {
        for number in 1.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            for _ in 0..requests {
                let mut request = [0; 1024];
                if stream.read(&mut request).await.unwrap_or_default() == 0 {
                    break;
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    }

    #[tokio::test]
    async fn whoever_may_not_ask_knows_it() {
        for (status, turned_away) in
            [("503 Service Unavailable", false), ("401 Unauthorized", true), ("403 Forbidden", true)]
        {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let base = format!("http://{}", listener.local_addr().expect("bound"));
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a question");
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
            let peers = Peers::default();
            let told = peers.get(&base, "/why", WITHIN).await;
            assert_eq!((told.is_err(), peers.turned_away()), (turned_away, turned_away), "{status}: {told:?}");
            server.await.expect("it has answered");
        }
    }

    #[tokio::test]
    async fn a_line_is_kept_and_dialled_anew_when_it_has_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tokio::spawn(serve(listener, 2));
        let mut line = Line::default();
        for connection in [1, 1, 2, 2] {
            assert_eq!(line.get(&base, "/beat", WITHIN).await.expect("an answer"), connection);
        }
        server.abort();
        let _ = server.await;
        let refused = line.get(&base, "/beat", WITHIN).await.expect_err("nobody is there");
        assert!(is_refusal(&refused), "{refused:#}");
    }
}
