//! A receiver on the network gets each record by POST, again and again with longer pauses until it takes it: at least once in the life of this agent, under
//! the record's id as its idempotency key. What it never takes goes into the log, whole.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Told;
use crate::config::Webhook;
use crate::hands::Hands;
use crate::secret::Secret;

/// The pause after the first failure; each is twice as long as the one before.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// And no longer than this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// Delivers the records, one after the other.
pub(super) async fn tell(hands: Arc<Hands>, webhook: Webhook, mut queue: Receiver<Arc<Told>>) {
    let to = webhook.label();
    while let Some(told) = queue.recv().await {
        let id = &told.record.id;
        let outcome = match deliver(&webhook, &hands.config.cluster, &told).await {
            Ok(()) => {
                tracing::info!(to, id, "told");
                "done"
            }
            Err(why) => {
                tracing::error!(to, id, why = format!("{why:#}"), "never told, and not tried any more: {}", told.json);
                "failed"
            }
        };
        hands.metrics.told(&to, outcome);
    }
}

/// Tries until it is taken, or turned away for good.
async fn deliver(webhook: &Webhook, cluster: &str, told: &Told) -> Result<()> {
    let mut pause = AGAIN_AFTER;
    let mut tries = 0;
    loop {
        let answer = tokio::time::timeout(webhook.timeout, post(webhook, cluster, told)).await;
        let why = match answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {:?}", webhook.timeout))) {
            Ok(status) if status.is_success() => return Ok(()),
            Ok(status) if is_for_good(status) => return Err(anyhow::anyhow!("it answers {status}")),
            Ok(status) => anyhow::anyhow!("it answers {status}"),
            Err(why) => why,
        };
        if tries == webhook.retries {
            return Err(why.context(format!("tried {} times", tries + 1)));
        }
        tries += 1;
        tracing::warn!(to = webhook.label(), id = told.record.id, again_in = ?pause, "not told yet: {why:#}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_AFTER_MAX);
    }
}

/// Whether asking again would bring the same answer.
fn is_for_good(status: StatusCode) -> bool {
    status.is_client_error()
        && ![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS, StatusCode::UNAUTHORIZED].contains(&status)
}

async fn post(webhook: &Webhook, cluster: &str, told: &Told) -> Result<StatusCode> {
    let request = request(webhook, cluster, told).await?;
    let host = webhook.url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let encrypted = webhook.url.scheme_str() == Some("https");
    let port = webhook.url.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await.with_context(|| format!("reaching {host}:{port}"))?;
    if !encrypted {
        return send(stream, request).await;
    }
    let file = webhook.trusts().context("nobody is trusted here: write ca = \"...\" beside the url")?;
    let trusted = tokio::task::spawn_blocking(move || trust(&file)).await??;
    let name = ServerName::try_from(host).context("no name that a certificate could have")?;
    send(TlsConnector::from(Arc::new(trusted)).connect(name, stream).await.context("agreeing on keys")?, request).await
}

async fn request(webhook: &Webhook, cluster: &str, told: &Told) -> Result<Request<Full<Bytes>>> {
    let path = webhook.url.path_and_query().map_or("/", PathAndQuery::as_str);
    let host = webhook.url.authority().context("the URL names no host")?.as_str();
    let mut request = Request::post(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("pgvigil/", env!("CARGO_PKG_VERSION")))
        .header("idempotency-key", header(&told.record.id)?)
        .header("pgvigil-cluster", header(cluster)?);
    if let Some(file) = webhook.token_file.clone() {
        let token = tokio::task::spawn_blocking(move || Secret::read(&file)).await??;
        let mut value = header(format!("Bearer {}", token.expose()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    Ok(request.body(Full::from(told.json.clone()))?)
}

fn header(text: impl Display) -> Result<HeaderValue> {
    HeaderValue::from_str(&text.to_string()).context("no text that a header could have")
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        // Whatever it says beside that is not read to its end.
        let _ = answer.into_body().frame().await;
        anyhow::Ok(status)
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = connection => {}
    }
    answer.await
}

/// A client that trusts whom this file names.
///
/// # Errors
/// It names nobody.
pub fn trust(file: &Path) -> Result<ClientConfig> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("{} holds no certificate", file.display()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found);
    ensure!(added > 0, "{} holds no certificate", file.display());
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again() {
        for (status, for_good) in
            [(400, true), (404, true), (401, false), (408, false), (429, false), (500, false), (302, false)]
        {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(is_for_good(status), for_good, "{status}");
        }
    }
}
