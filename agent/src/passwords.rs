//! The passwords that members use among each other: the operator's, from files, or made up once for the whole cluster and kept in etcd.

use std::path::PathBuf;

use anyhow::{Context, Result};
use consensus::records::Secrets as StoredSecrets;
use consensus::{Outcome, Store};
use pg_control::Secrets;

use crate::config::Postgres;
use crate::secret::Secret;

/// What they are.
///
/// # Errors
/// A file cannot be read; or etcd is silent, or has none, where not all files are given.
pub async fn read(store: &Store, postgres: &Postgres) -> Result<Secrets> {
    let given = [&postgres.replication_password_file, &postgres.rewind_password_file];
    let stored = if given.iter().any(|file| file.is_none()) {
        let stored = store.secrets().await.context("reading the passwords between members from etcd")?;
        Some(stored.context("etcd holds no passwords between members, and not all password files are configured")?)
    } else {
        None
    };
    let choose = |file: &Option<PathBuf>, stored: Option<&str>| match file {
        Some(file) => Ok(Secret::read(file)?.expose().to_owned()),
        None => stored.map(str::to_owned).context("a password between members is missing"),
    };
    Ok(Secrets {
        replication_password: choose(given[0], stored.as_ref().map(|stored| stored.replication_password.as_str()))?,
        rewind_password: choose(given[1], stored.as_ref().map(|stored| stored.rewind_password.as_str()))?,
    })
}

/// Makes them up for a new cluster, unless the operator has given them or another node was first.
///
/// # Errors
/// etcd is silent, or the kernel gives no random numbers.
pub async fn make_up(store: &Store, postgres: &Postgres) -> Result<()> {
    if postgres.replication_password_file.is_some() && postgres.rewind_password_file.is_some() {
        return Ok(());
    }
    let made_up = StoredSecrets { replication_password: random_password()?, rewind_password: random_password()? };
    match store.create_secrets(&made_up).await? {
        Outcome::Applied { .. } | Outcome::Refused => Ok(()),
    }
}

/// 32 hexadecimal digits from the kernel.
fn random_password() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
