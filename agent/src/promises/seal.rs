//! The seal on what agents say to each other about promises: an HMAC under a key that only members of the cluster have, made from the
//! password of the replication role. A stranger can neither ask for a promise nor answer in another's name.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The key, once it is known. It is kept beside the agent's notes, so that an agent that starts while etcd is gone has it.
pub struct Seal {
    path: PathBuf,
    key: Mutex<Option<[u8; 32]>>,
}

impl Seal {
    /// The key of an earlier life, if there was one.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("promise.key");
        let key = std::fs::read(&path).ok().and_then(|bytes| bytes.try_into().ok());
        Self { path, key: Mutex::new(key) }
    }

    /// Makes the key from the password between the members of `cluster`.
    ///
    /// # Errors
    /// It cannot be kept on disk; it serves for this life all the same.
    pub fn make(&self, cluster: &str, password: &str) -> std::io::Result<()> {
        let key = tag(password.as_bytes(), &["pgvigil promise v1", cluster]);
        let known = *self.key.lock().unwrap_or_else(PoisonError::into_inner) == Some(key);
        // On disk first: whoever looks whether it is still there knows it only then.
        let kept = if known { Ok(()) } else { super::durably(&self.path, &key) };
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        kept
    }

    /// Writes the key again where somebody has deleted it. Says whether it was missing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self) -> std::io::Result<bool> {
        let key = *self.key.lock().unwrap_or_else(PoisonError::into_inner);
        match key.filter(|_| !self.path.exists()) {
            Some(key) => super::durably(&self.path, &key).map(|()| true),
            None => Ok(false),
        }
    }

    /// The seal on `text`, spoken as `role` (a question is never taken for an answer); `None`: the key is not known yet.
    pub fn sign(&self, role: &str, text: &str) -> Option<String> {
        let key = *self.key.lock().unwrap_or_else(PoisonError::into_inner);
        key.map(|key| hex(&tag(&key, &[role, text])))
    }

    /// Whether `seal` is the seal on `text`, compared in constant time.
    pub fn fits(&self, role: &str, text: &str, seal: &str) -> bool {
        let key = *self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(key), Some(seal)) = (key, unhex(seal)) else { return false };
        mac(&key, &[role, text]).is_some_and(|mac| mac.verify_slice(&seal).is_ok())
    }
}

fn mac(key: &[u8], parts: &[&str]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Some(mac)
}

fn tag(key: &[u8], parts: &[&str]) -> [u8; 32] {
    // HMAC takes keys of every length, so there always is one.
    mac(key, parts).map_or([0; 32], |mac| mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_password_seals_and_nothing_can_be_changed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let seal = Seal::open(dir.path());
        assert_eq!(seal.sign("question", "text"), None);
        seal.make("demo", "secret").expect("writable");
        let signed = seal.sign("question", "text").expect("a key");
        assert!(seal.fits("question", "text", &signed));
        for (role, text, tag) in [
            ("answer", "text", signed.as_str()),
            ("question", "texts", &signed),
            ("question", "text", "00"),
            ("question", "text", "zz"),
        ] {
            assert!(!seal.fits(role, text, tag), "{role} {text} {tag}");
        }
        assert!(Seal::open(dir.path()).fits("question", "text", &signed), "the next life has the key");
        std::fs::remove_file(dir.path().join("promise.key")).expect("it is there");
        assert!(seal.keep().expect("writable") && Seal::open(dir.path()).fits("question", "text", &signed));
        for (cluster, password) in [("other", "secret"), ("demo", "other")] {
            let stranger = Seal::open(tempfile::tempdir().expect("a directory").path());
            let _ = stranger.make(cluster, password);
            assert!(!stranger.fits("question", "text", &signed));
        }
    }
}
