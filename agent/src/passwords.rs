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

/// What the leader may put in etcd in the place of passwords that nobody can read; `None`: nothing. What an operator has given by file is never
/// told to etcd; whoever has that file does not read the one that was made up beside it.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn to_publish(postgres: &Postgres, known: &Secrets) -> Result<Option<StoredSecrets>> {
    let given = [postgres.replication_password_file.is_some(), postgres.rewind_password_file.is_some()];
    if given == [true, true] {
        return Ok(None);
    }
    let of = |given: bool, known: &str| if given { random_password() } else { Ok(known.to_owned()) };
    Ok(Some(StoredSecrets {
        replication_password: of(given[0], &known.replication_password)?,
        rewind_password: of(given[1], &known.rewind_password)?,
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config() -> Config {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("pgvigil.toml");
        let text = "cluster = \"orders\"\nname = \"pg1\"\netcd.endpoints = [\"http://127.0.0.1:2379\"]\npostgres.version = 15\n\
                    postgres.advertise = \"10.0.0.1:5432\"\n";
        std::fs::write(&file, text).expect("writable");
        crate::config::load(&file, std::iter::empty()).expect("a good file")
    }

    #[test]
    fn what_was_given_by_file_is_never_published() {
        let known = Secrets { replication_password: "from file".to_owned(), rewind_password: "made up".to_owned() };
        let given = |replication: bool, rewind: bool| {
            let file = |given: bool| given.then(|| PathBuf::from("/etc/pgvigil/password"));
            let mut postgres = config().postgres;
            postgres.replication_password_file = file(replication);
            postgres.rewind_password_file = file(rewind);
            to_publish(&postgres, &known).expect("random numbers")
        };
        assert!(given(true, true).is_none());
        let all = given(false, false).expect("to publish");
        assert_eq!((all.replication_password.as_str(), all.rewind_password.as_str()), ("from file", "made up"));
        let one = given(true, false).expect("to publish");
        assert_eq!(one.rewind_password, "made up");
        assert!(one.replication_password != "from file" && one.replication_password.len() == 32);
    }
}
