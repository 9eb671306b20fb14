//! TLS for the control API. The files are looked at again while it runs: a new certificate counts for the next connection, and one that will not do
//! leaves the last good one in force. Certificates of clients are asked for and not insisted on, for a token does as well.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Error, Result, anyhow, ensure};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::config::ControlTls;
use crate::secret::Secret;
use crate::x509::{names, validity};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever takes longer to agree on keys is let go of.
const AGREED_WITHIN: Duration = Duration::from_secs(5);

/// What a client has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The names in its certificate; none: it has shown none.
    pub names: Arc<[String]>,
    /// When the first certificate of its chain runs out.
    pub until: Option<Timestamp>,
}

/// Why it did not come to a connection.
#[derive(Debug)]
pub enum Disagreed {
    /// The client has shown a certificate that does not count, and why.
    Certificate(String),
    /// Anything else: no TLS, no common version, nobody there any more.
    Otherwise(Error),
}

/// When each file was changed, as far as that can be seen.
type Stamps = Vec<Option<(SystemTime, u64)>>;

#[derive(Default)]
struct Looked {
    at: Option<Instant>,
    /// Of the files that are in force.
    stamps: Stamps,
    /// What was wrong when it was last told.
    told: String,
}

/// The TLS side of a listener.
pub struct Encryption {
    files: ControlTls,
    looked: Mutex<Looked>,
    /// `None`: the files have never been good, and nobody is let in.
    in_force: Mutex<Option<Arc<ServerConfig>>>,
}

impl Encryption {
    /// From these files. While they cannot be used nobody comes in by them, and the log says why.
    pub fn open(files: ControlTls) -> Self {
        let encryption = Self { files, looked: Mutex::default(), in_force: Mutex::default() };
        encryption.look();
        encryption
    }

    /// Agrees on keys with a client, and says by which names its certificate knows it.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn agree<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
    ) -> Result<(TlsStream<S>, Shown), Disagreed> {
        let encryption = Arc::clone(self);
        let agreed = async {
            let server = tokio::task::spawn_blocking(move || encryption.current()).await.ok().flatten();
            let server = server.ok_or_else(|| anyhow!("there is no certificate that can be used"));
            TlsAcceptor::from(server.map_err(Disagreed::Otherwise)?).accept(stream).await.map_err(Disagreed::of)
        };
        let in_time = tokio::time::timeout(AGREED_WITHIN, agreed).await;
        let stream = in_time.map_err(|_| Disagreed::Otherwise(anyhow!("it took too long")))??;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let names = chain.first().map(names).unwrap_or_default().into();
        let ends = |one: &CertificateDer<'_>| validity(one).map(|validity| validity.until);
        // Of the others only those were needed that had not ended: a client may show more than its chain.
        let now = Timestamp::now();
        let others = chain.iter().skip(1).filter_map(ends).filter(|until| *until > now);
        let until = others.chain(chain.first().and_then(ends)).min();
        Ok((stream, Shown { names, until }))
    }

    /// What is in force, after a look at the files, unless somebody else is looking: their disk may hang.
    fn current(&self) -> Option<Arc<ServerConfig>> {
        self.look();
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self) {
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if looked.at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        looked.at = Some(Instant::now());
        let found = stamps(&self.files);
        if found == looked.stamps {
            return;
        }
        match server(&self.files) {
            Ok(server) => {
                // What is wrong with them may be mended without a change of theirs, so only what is good is remembered.
                (looked.stamps, looked.told) = (found, String::new());
                let before = self.in_force.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(server));
                if before.is_some() {
                    tracing::info!(cert = %self.files.cert.display(), "the control API has a new certificate");
                }
            }
            Err(error) => {
                let why = format!("{error:#}");
                if looked.told != why {
                    tracing::error!(
                        "the certificate of the control API cannot be used, and one that could stays in force: {why}"
                    );
                    looked.told = why;
                }
            }
        }
    }
}

impl Disagreed {
    fn of(error: std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Certificate(why.to_string()),
            _ => Self::Otherwise(error.into()),
        }
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
    let key = Secret::read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
    let key = key.with_context(|| format!("{} holds no private key", files.key.display()))?;
    let chain = certificates(&files.cert)?;
    let mut server = builder
        .with_single_cert(chain, key)
        .with_context(|| format!("{} and {} do not go together", files.cert.display(), files.key.display()))?;
    // A session that is taken up again is not verified again, and its certificate may have run out meanwhile.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(server)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("{} holds no certificate", file.display()))?;
    ensure!(!found.is_empty(), "{} holds no certificate", file.display());
    Ok(found)
}
