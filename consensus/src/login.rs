//! What is shown to etcd at each new connection: a name and a password, and certificates. The files are read again each time, so that a password or a
//! certificate is changed without a restart. A password file that others can read, or that cannot be read, does not count: the last good password stays.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::endpoints::{EtcdOptions, TlsFiles};
use crate::error::Error;

/// HTTP/2 pings closer than 5 s are punished by etcd. They only tidy up dead connections: no deadline of ours depends on them.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The password of one user of etcd.
#[derive(Default)]
pub(crate) struct Login {
    /// The last that was good; none: that with which the agent has started.
    known: Mutex<Option<String>>,
    /// What was wrong with its file when it was last told.
    told: Mutex<String>,
}

impl Login {
    /// How to connect, by the files as they are now.
    pub(crate) fn options(&self, options: &EtcdOptions) -> Result<ConnectOptions, Error> {
        let mut connect = ConnectOptions::new()
            // Shorter than the request's own deadline, so that a host that is off the net is known not to have been sent anything.
            .with_connect_timeout(options.request_timeout * 2 / 3)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &options.username {
            connect = connect.with_user(user, self.password(options));
        }
        if let Some(files) = &options.tls {
            connect = connect.with_tls(tls_options(files)?);
        }
        Ok(connect)
    }

    /// As the file has it now; as it was, where the file does not count.
    fn password(&self, options: &EtcdOptions) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &options.password_file {
            match read(file) {
                Ok(password) => {
                    *known = Some(password);
                    self.told().clear();
                }
                Err(why) => self.tell(&why),
            }
        }
        known.clone().or_else(|| options.password.clone()).unwrap_or_default()
    }

    fn told(&self) -> MutexGuard<'_, String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, why: &str) {
        let mut told = self.told();
        if *told != why {
            tracing::error!("the password file for etcd does not count, and the password before stays: {why}");
            why.clone_into(&mut told);
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let name = path.display();
    let unreadable = |error: std::io::Error| format!("cannot read {name}: {error}");
    let mut file = File::open(path).map_err(unreadable)?;
    // The mode is asked of the open file, so that nobody can swap the file between the question and the reading.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!("{name} is open to others than its owner (mode {mode:04o}): chmod 600 {name}"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{name} is empty: put the password on its first line")),
        password => Ok(password.to_owned()),
    }
}

fn tls_options(files: &TlsFiles) -> Result<TlsOptions, Error> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| Error::Misconfigured(format!("cannot read {}: {error}", path.display())))
    };
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(read(cert)?, read(key)?))),
        (None, None) => Ok(tls),
        _ => Err(Error::Misconfigured("a TLS certificate needs its key, and a key its certificate".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_password_file_counts_while_its_owner_alone_can_read_it_and_the_last_good_one_stays() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("password");
        let options = EtcdOptions {
            endpoints: Vec::new(),
            tls: None,
            username: Some("pgvigil".to_owned()),
            password: Some("as-it-began".to_owned()),
            password_file: Some(file.clone()),
            request_timeout: Duration::from_secs(1),
        };
        let login = Login::default();
        let told = || login.told.lock().expect("nobody has panicked").clone();
        let put = |text: &str, mode: u32| {
            std::fs::write(&file, text).expect("it can be written");
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
        };
        assert_eq!(login.password(&options), "as-it-began");
        assert!(told().contains("cannot read"), "{}", told());
        put("second\n", 0o600);
        assert_eq!(login.password(&options), "second");
        put("planted\n", 0o644);
        assert_eq!(login.password(&options), "second", "anybody may have written it");
        assert!(told().contains("(mode 0644): chmod 600 ") && !told().contains("planted"), "{}", told());
        put("\n", 0o600);
        assert_eq!(login.password(&options), "second");
        put(" third ", 0o400);
        assert_eq!(login.password(&options), " third ");
    }
}
