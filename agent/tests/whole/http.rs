//! HTTP as the simplest health check speaks it: version 1.0, no header at all, one connection a question.

use std::time::Duration;

use agent::demo::node::Node;
use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What follows the empty line.
    pub body: String,
}

/// Asks the agent of a node.
pub async fn ask(node: &Node, method: &str, path: &str) -> Result<Answer> {
    let address = node.api_url().replace("http://", "");
    let asking = async {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(format!("{method} {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await.context("no answer").and_then(|answer| answer);
    let text = asked.with_context(|| format!("{method} {path} of {}", node.name()))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {text}"))?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.with_context(|| format!("no status: {head}"))?, body: body.to_owned() })
}
