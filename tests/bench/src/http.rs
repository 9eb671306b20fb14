//! The few words of HTTP that peers and etcd need: one request a connection, the whole answer as text.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status and body of an answer.
pub type Answer = (u16, String);

/// Asks for a page.
///
/// # Errors
/// No answer within the deadline, or none that is HTTP.
pub async fn get(address: &str, path: &str, within: Duration) -> Result<Answer> {
    ask(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"), within).await
}

/// Posts JSON.
///
/// # Errors
/// As [`get`].
pub async fn post(address: &str, path: &str, json: &str, within: Duration) -> Result<Answer> {
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n");
    ask(address, &format!("{head}Content-Length: {}\r\n\r\n{json}", json.len()), within).await
}

async fn ask(address: &str, request: &str, within: Duration) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(within, exchange).await.map_err(|_| anyhow!("no answer within {within:?}"));
    let answer = answer.and_then(|answer| answer).with_context(|| format!("asking {address}"))?;
    split(&answer).with_context(|| format!("{address} does not answer in HTTP"))
}

fn split(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        assert_eq!(split("HTTP/1.0 412 No\r\nA: b\r\n\r\nno\r\n\r\nway"), Some((412, "no\r\n\r\nway".to_owned())));
        assert_eq!(split("garbage"), None);
    }
}
