//! TLS for the control API. The files are looked at again while it runs: a new certificate counts for the next connection, and one that will not do
//! leaves the last good one in force. Certificates of clients are asked for and not insisted on, for a token does as well.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::certificate::names;
use crate::config::ControlTls;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever takes longer to agree on keys is let go of.
const AGREED_WITHIN: Duration = Duration::from_secs(5);

/// When each file was changed, as far as that can be seen.
type Stamps = Vec<Option<(SystemTime, u64)>>;

struct Current {
    looked_at: Instant,
    stamps: Stamps,
    server: Arc<ServerConfig>,
}

/// The TLS side of a listener.
pub struct Encryption {
    files: ControlTls,
    current: Mutex<Current>,
}

impl Encryption {
    /// From these files.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn open(files: ControlTls) -> Result<Self> {
        let (stamps, server) = (stamps(&files), server(&files)?);
        let current = Current { looked_at: Instant::now(), stamps, server: Arc::new(server) };
        Ok(Self { files, current: Mutex::new(current) })
    }

    /// Agrees on keys with a client, and says by which names its certificate knows it.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn agree<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
    ) -> Result<(TlsStream<S>, Arc<[String]>)> {
        let encryption = Arc::clone(self);
        let server = tokio::task::spawn_blocking(move || encryption.current()).await?;
        let agreed = tokio::time::timeout(AGREED_WITHIN, TlsAcceptor::from(server).accept(stream));
        let stream = agreed.await.context("it took too long")??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let names = certificate.map(names).unwrap_or_default().into();
        Ok((stream, names))
    }

    /// What is in force, after a look at the files.
    fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked_at.elapsed() >= LOOK_EVERY {
            current.looked_at = Instant::now();
            let found = stamps(&self.files);
            if found != current.stamps {
                current.stamps = found;
                match server(&self.files) {
                    Ok(server) => {
                        current.server = Arc::new(server);
                        tracing::info!(cert = %self.files.cert.display(), "the control API has a new certificate");
                    }
                    Err(error) => {
                        tracing::error!("the certificate of the control API stays as it was: {error:#}");
                    }
                }
            }
        }
        Arc::clone(&current.server)
    }
}

fn stamps(files: &ControlTls) -> Stamps {
    let stamp = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&found)))
    };
    [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|file| stamp(file))
        .collect()
}

/// What these files amount to.
///
/// # Errors
/// What is wrong with them.
pub fn server(files: &ControlTls) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).with_context(|| file.display().to_string())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.with_context(|| format!("{} holds no private key", files.key.display()))?;
    let chain = certificates(&files.cert)?;
    builder
        .with_single_cert(chain, key)
        .with_context(|| format!("{} and {} do not go together", files.cert.display(), files.key.display()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("{} holds no certificate", file.display()))?;
    ensure!(!found.is_empty(), "{} holds no certificate", file.display());
    Ok(found)
}
