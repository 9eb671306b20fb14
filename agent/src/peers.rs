//! Asking other agents over their health API: one small HTTP client, every question under a deadline, connections kept.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// No honest answer is longer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Peers {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for Peers {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }
}

impl Peers {
    /// The JSON at `<base><path>`, whatever the status.
    ///
    /// # Errors
    /// No answer within the deadline, or none that is JSON.
    pub async fn get(&self, base: &str, path: &str, within: Duration) -> Result<Value> {
        let uri: Uri =
            format!("{}{path}", base.trim_end_matches('/')).parse().with_context(|| format!("bad URL {base}{path}"))?;
        let ask = async {
            let request = Request::get(uri.clone()).body(Empty::new()).context("building the request")?;
            let answer = self.client.request(request).await?;
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
            serde_json::from_slice(&body).context("the answer is no JSON")
        };
        match tokio::time::timeout(within, ask).await {
            Ok(answer) => answer.with_context(|| format!("asking {uri}")),
            Err(_) => bail!("no answer from {uri} within {within:?}"),
        }
    }
}
