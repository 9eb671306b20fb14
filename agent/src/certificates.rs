//! When certificates end: those that the control API shows and trusts, and those towards etcd. Their files are looked at once a minute, away from the
//! loop, for a disk may hang; a metric counts down, and the log and `status` warn in time for somebody to renew one by daylight.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::Config;
use crate::hands::Hands;
use crate::x509::{Validity, validity};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// It is told before its last so many days, or the last third of its life where that is shorter: some live for a day, and are renewed each hour.
const WARNED_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);
const LAST_PART: i32 = 3;
/// The log says it again so often.
const TOLD_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The control API shows it.
    Control,
    /// It signs the certificates of those who come in.
    ControlClients,
    /// The agent shows it to etcd.
    Etcd,
    /// It signed those of etcd.
    EtcdAuthority,
}

impl Use {
    /// Its word, as a label of the metric.
    pub fn word(self) -> &'static str {
        match self {
            Use::Control => "control",
            Use::ControlClients => "control_clients",
            Use::Etcd => "etcd",
            Use::EtcdAuthority => "etcd_authority",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Use::Control => "control.tls.cert",
            Use::ControlClients => "control.tls.client_ca",
            Use::Etcd => "etcd.tls.cert",
            Use::EtcdAuthority => "etcd.tls.ca",
        }
    }

    /// A chain is worth as much as its weakest part; of several authorities the one that lasts longest will do.
    fn of_several(self, found: impl Iterator<Item = Validity>) -> Option<Validity> {
        match self {
            Use::Control | Use::Etcd => found.min_by_key(|validity| validity.until),
            Use::ControlClients | Use::EtcdAuthority => found.max_by_key(|validity| validity.until),
        }
    }
}

/// A file with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is for.
    pub of: Use,
    /// The file.
    pub file: PathBuf,
    /// How long the certificate in it is good.
    pub validity: Validity,
}

/// All that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(Vec<Found>);

impl Found {
    /// How long it is still good; negative: it has ended.
    pub fn left(&self, now: Timestamp) -> SignedDuration {
        self.validity.until.duration_since(now)
    }

    /// From its first to its last instant.
    pub fn lifetime(&self) -> SignedDuration {
        self.validity.until.duration_since(self.validity.from)
    }

    /// What is wrong, if it ends soon or has.
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        let left = self.left(now);
        if left >= WARNED_BEFORE.min(self.lifetime() / LAST_PART) {
            return None;
        }
        let (key, file, until) = (self.of.key(), self.file.display(), self.validity.until);
        Some(match left {
            left if left.is_negative() => format!("the certificate of `{key}` ({file}) has ended: {until}"),
            left => format!("the certificate of `{key}` ({file}) ends in {}: {until}", length(left)),
        })
    }
}

fn length(left: SignedDuration) -> String {
    match left.as_hours() {
        0 => format!("{} min", left.as_mins()),
        hours if hours < 48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    }
}

impl Known {
    /// Each file.
    pub fn all(&self) -> &[Found] {
        &self.0
    }

    /// What is wrong with them, for `status`.
    pub fn problems(&self, now: Timestamp) -> Vec<Value> {
        let problem = |found: &Found| {
            let hint = format!("put a new one into {}: it counts without a restart", found.file.display());
            Some(json!({"problem": found.problem(now)?, "hint": hint}))
        };
        self.0.iter().filter_map(problem).collect()
    }

    fn look(files: &[(Use, PathBuf)]) -> Self {
        let read = |(of, file): &(Use, PathBuf)| {
            let validity = of.of_several(in_file(file).into_iter())?;
            Some(Found { of: *of, file: file.clone(), validity })
        };
        Self(files.iter().filter_map(read).collect())
    }
}

/// What cannot be read is told by whoever needs it.
fn in_file(file: &Path) -> Vec<Validity> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.unwrap_or_default().iter().filter_map(|certificate| validity(certificate)).collect()
}

fn files(config: &Config) -> Vec<(Use, PathBuf)> {
    let control = config
        .control
        .tls
        .iter()
        .flat_map(|tls| [(Use::Control, Some(tls.cert.clone())), (Use::ControlClients, tls.client_ca.clone())]);
    let etcd = config.etcd.tls.iter().flat_map(|tls| {
        let cert = tls.identity.as_ref().map(|identity| identity.cert.clone());
        [(Use::Etcd, cert), (Use::EtcdAuthority, Some(tls.ca.clone()))]
    });
    control.chain(etcd).filter_map(|(of, file)| Some((of, file?))).collect()
}

/// Looks at them for ever.
pub async fn watch(hands: Arc<Hands>) {
    let files = files(&hands.config);
    let mut told = BTreeMap::new();
    while !files.is_empty() {
        let of_now = files.clone();
        if let Ok(known) = tokio::task::spawn_blocking(move || Known::look(&of_now)).await {
            tell(&known, Timestamp::now(), &mut told);
            hands.certificates.store(Arc::new(known));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell(known: &Known, now: Timestamp, told: &mut BTreeMap<Use, Timestamp>) {
    for found in known.all() {
        let is_due = told.get(&found.of).is_none_or(|at| now.duration_since(*at) >= TOLD_EVERY);
        if let Some(problem) = found.problem(now).filter(|_| is_due) {
            tracing::warn!(file = %found.file.display(), "{problem}; put a new one there, it counts without a restart");
            told.insert(found.of, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn found(from: &str, until: &str) -> Found {
        let validity = Validity { from: at(from), until: at(until) };
        Found { of: Use::Control, file: "/etc/pgvigil/tls/pg1.crt".into(), validity }
    }

    #[test]
    fn it_is_told_two_weeks_before_or_in_the_last_third_of_a_shorter_life() {
        let year = found("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let day = found("2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z");
        let told = |found: &Found, now: &str| found.problem(at(now));
        assert_eq!(told(&year, "2026-12-17T00:00:00Z"), None);
        let soon = told(&year, "2026-12-20T00:00:00Z").expect("twelve days");
        assert!(soon.contains("`control.tls.cert` (/etc/pgvigil/tls/pg1.crt) ends in 12 days: 2027-01-01T"), "{soon}");
        assert_eq!(told(&day, "2026-11-29T15:00:00Z"), None);
        let soon = told(&day, "2026-11-29T17:00:00Z").expect("seven hours");
        assert!(soon.contains("ends in 7 h"), "{soon}");
        let over = told(&day, "2026-11-30T00:00:01Z").expect("it is over");
        assert!(over.contains("has ended"), "{over}");
    }

    #[test]
    fn a_chain_ends_with_its_first_part_and_authorities_with_their_last() {
        let year = found("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z").validity;
        let day = found("2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z").validity;
        assert_eq!(Use::Control.of_several([year, day].into_iter()), Some(day));
        assert_eq!(Use::ControlClients.of_several([day, year].into_iter()), Some(year));
        assert!(Known::look(&[(Use::Etcd, "/nowhere".into())]).all().is_empty());
    }
}
