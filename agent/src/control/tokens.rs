//! Tokens from files. Of each only a digest is kept, and what is shown is compared with all of them in constant time; a file that changes counts
//! from the next second on, and one that others can read does not count any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::access::Stranger;
use super::credentials::Presented;
use crate::config::{Role, Token};
use crate::secret::Secret;

/// A file is not read more often.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Whoever guesses does it slowly.
const WRONG_COSTS: Duration = Duration::from_millis(200);

/// What is known of the files.
#[derive(Default)]
struct Known {
    read_at: Option<Instant>,
    /// Name, role, digest.
    tokens: Vec<(String, Role, [u8; 32])>,
    /// What was wrong with a file when it was last told.
    wrong: BTreeMap<String, String>,
}

/// Those who have a token.
pub struct Tokens {
    files: Vec<Token>,
    known: Arc<Mutex<Known>>,
}

impl Tokens {
    /// By these files, none of which has been read.
    pub fn new(files: Vec<Token>) -> Self {
        Self { files, known: Arc::default() }
    }

    /// Whose token it is, and what they may do.
    ///
    /// # Errors
    /// Nobody's.
    pub async fn find(&self, presented: Presented) -> Result<(String, Role), Stranger> {
        let (files, known) = (self.files.clone(), Arc::clone(&self.known));
        let Presented { name, token } = presented;
        let shown = digest(&token);
        let by = name.clone();
        // The disk may take its time.
        let looked = tokio::task::spawn_blocking(move || {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.read_again(&files);
            known.find(by.as_deref(), &shown)
        });
        match looked.await.ok().flatten() {
            Some(found) => Ok(found),
            None => {
                tokio::time::sleep(WRONG_COSTS).await;
                // What a stranger says of itself does not go into the log.
                let known = name.filter(|name| self.files.iter().any(|file| file.name == *name));
                let name = known.unwrap_or_else(|| "nobody".to_owned());
                Err(Stranger { name, why: "that is nobody's token here".to_owned() })
            }
        }
    }
}

impl Known {
    fn read_again(&mut self, files: &[Token]) {
        if self.read_at.is_some_and(|at| at.elapsed() < READ_EVERY) {
            return;
        }
        self.read_at = Some(Instant::now());
        self.tokens.clear();
        for token in files {
            let name = &token.name;
            match token.read() {
                Ok(text) => {
                    self.wrong.remove(name);
                    self.tokens.push((name.clone(), token.role, digest(&text)));
                }
                Err((_, why, _)) if self.wrong.get(name) == Some(&why) => {}
                Err((_, why, mend)) => {
                    tracing::error!(token = name, mend, "a token for the control API does not count any more: {why}");
                    self.wrong.insert(name.clone(), why);
                }
            }
        }
    }

    /// Looks at all of them, so that the time it takes says nothing. A token that two have is nobody's unless a name comes with it.
    fn find(&self, name: Option<&str>, shown: &[u8; 32]) -> Option<(String, Role)> {
        let (mut found, mut times) = (None, 0);
        for (of, role, digest) in &self.tokens {
            if mac(shown).is_some_and(|mac| mac.verify_slice(&tag(digest)).is_ok())
                && name.is_none_or(|name| name == of)
            {
                found = Some((of.clone(), *role));
                times += 1;
            }
        }
        found.filter(|_| times == 1)
    }
}

fn digest(token: &Secret) -> [u8; 32] {
    tag(token.expose().as_bytes())
}

fn mac(text: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"pgvigil control token").ok()?;
    mac.update(text);
    Some(mac)
}

fn tag(text: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length, so there always is one.
    mac(text).map_or([0; 32], |mac| mac.finalize().into_bytes().into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    const FIRST: &str = "0123456789abcdef-first";
    const SECOND: &str = "0123456789abcdef-second";

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_token_counts_as_its_file_says_at_the_moment() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        write(&a, &format!("{FIRST}\n"), 0o600);
        write(&b, SECOND, 0o600);
        let token = |name: &str, role, file: &Path| Token { name: name.to_owned(), role, file: file.to_owned() };
        let files = [token("ansible", Role::Operate, &a), token("anna", Role::Admin, &b)];
        let mut known = Known::default();
        let mut find = |name: Option<&str>, text: &str| {
            known.read_at = None;
            known.read_again(&files);
            known.find(name, &digest(&Secret::new(text)))
        };
        assert_eq!(find(None, FIRST), Some(("ansible".to_owned(), Role::Operate)));
        assert_eq!(find(Some("anna"), SECOND), Some(("anna".to_owned(), Role::Admin)));
        assert_eq!(find(Some("anna"), FIRST), None, "the token of another");
        assert_eq!(find(None, ""), None);
        assert_eq!(find(None, &FIRST[..FIRST.len() - 1]), None);
        write(&a, "0123456789abcdef-new", 0o600);
        assert_eq!((find(None, FIRST), find(None, "0123456789abcdef-new").is_some()), (None, true));
        write(&b, SECOND, 0o640);
        assert_eq!(find(None, SECOND), None, "others can read it");
        write(&b, "0123456789abcdef-new", 0o600);
        assert_eq!(find(None, "0123456789abcdef-new"), None, "two have it");
        assert_eq!(find(Some("anna"), "0123456789abcdef-new"), Some(("anna".to_owned(), Role::Admin)));
        write(&b, "short", 0o600);
        assert_eq!(find(None, "short"), None, "it can be guessed");
    }
}
