//! An answer that never ends: another agent tells one JSON value a line, and each line is confirmed before the next one comes. So whoever is
//! heard hears as well, as with a question and its answer, at a fraction of the cost. Driven by whoever listens, as a [`crate::peers::Line`] is.

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::HOST;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};
use serde_json::Value;

use crate::peers::{Running, dial, driven, uri_at};

/// No honest line is longer.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The listening to one agent at a time.
#[derive(Default)]
pub struct Feed {
    open: Option<Open>,
}

struct Open {
    uri: Uri,
    connection: Running<Channel<Bytes>>,
    /// Kept: without it the connection would end itself.
    _sender: SendRequest<Channel<Bytes>>,
    confirmed: Sender<Bytes>,
    body: Incoming,
    unread: Vec<u8>,
}

impl Feed {
    /// The next line of the answer at `<base><path>`. Where that answer has ended it is asked for anew, once. May be dropped at any time:
    /// a line that was not returned is returned by the next call.
    ///
    /// # Errors
    /// Nobody answers there, the answer has ended again, or a line is no JSON.
    pub async fn next(&mut self, base: &str, path: &str) -> Result<Value> {
        let uri = uri_at(base, path)?;
        if self.open.as_ref().is_some_and(|open| open.uri != uri) {
            self.close();
        }
        if let Some(open) = &mut self.open
            && let Ok(line) = open.line().await
        {
            return parsed(&line);
        }
        self.close();
        let line = self.open.insert(Open::listen_at(uri).await?).line().await;
        if line.is_err() {
            self.close();
        }
        parsed(&line?)
    }

    /// Hangs up: the next call dials anew.
    pub fn close(&mut self) {
        self.open = None;
    }
}

fn parsed(line: &[u8]) -> Result<Value> {
    serde_json::from_slice(line).context("the line is no JSON")
}

impl Open {
    async fn listen_at(uri: Uri) -> Result<Self> {
        let authority = uri.authority().context("the URL names no host")?;
        let (mut sender, mut connection) = dial(authority).await?;
        let (confirmed, confirmations) = Channel::new(2);
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let request = Request::post(path).header(HOST, authority.as_str()).body(confirmations)?;
        let answer = driven(&mut connection, sender.send_request(request)).await?;
        ensure!(answer.status().is_success(), "{uri} answers {}", answer.status());
        Ok(Self { uri, connection, _sender: sender, confirmed, body: answer.into_body(), unread: Vec::new() })
    }

    async fn line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.drain(..=end).collect();
                // It leaves when the connection is driven next. If it cannot leave, the other side falls silent, and that is noticed.
                let _ = self.confirmed.try_send(Frame::data(Bytes::from_static(b".")));
                return Ok(line);
            }
            let frame = driven(&mut self.connection, self.body.frame()).await;
            let frame = frame.context("the answer has ended")?.context("reading the answer")?;
            self.unread.extend(frame.into_data().unwrap_or_default());
            ensure!(self.unread.len() <= LINE_BYTES_MAX, "a line never ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::peers::is_refusal;

    /// Whether something comes that contains `what`.
    async fn hears(stream: &mut TcpStream, what: &str) -> bool {
        let mut heard = String::new();
        while !heard.contains(what) {
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer).await {
                Ok(length) if length > 0 => heard.push_str(&String::from_utf8_lossy(&buffer[..length])),
                _ => return false,
            }
        }
        true
    }

    #[tokio::test]
    async fn a_feed_confirms_each_line_and_is_dialled_anew_when_it_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            for parts in [vec!["1\n", "2", "2\n"], vec!["3\n"], vec![]] {
                let (mut stream, _) = listener.accept().await.expect("a listener");
                assert!(hears(&mut stream, "\r\n\r\n").await);
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.expect("it listens");
                for part in parts {
                    stream.write_all(part.as_bytes()).await.expect("it listens");
                    assert!(!part.ends_with('\n') || hears(&mut stream, "1\r\n.\r\n").await, "no confirmation");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        let mut feed = Feed::default();
        for line in [1, 22, 3] {
            assert_eq!(feed.next(&base, "/beats").await.expect("a line"), line);
        }
        assert!(feed.next(&base, "/beats").await.is_err(), "an answer without a line");
        server.await.expect("it ends");
        assert!(is_refusal(&feed.next(&base, "/beats").await.expect_err("nobody is there")));
    }
}
