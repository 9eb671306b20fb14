//! The roles and the leadership table of a new cluster. A restored one may have them already, with the passwords and the terms of its source.

use std::time::Duration;

use postgres_protocol::password::scram_sha_256;

use crate::equip::belongings;
use crate::error::{Error, Result};
use crate::instance::{Instance, InstanceConfig, Secrets};

const WITHIN: Duration = Duration::from_secs(10);

impl Instance {
    pub(super) async fn create_roles(&self, secrets: &Secrets) -> Result<()> {
        // Terms begin anew: those of a cluster from which this one was restored mean nothing here.
        self.make_roles(secrets, "TRUNCATE pgvigil.leadership;").await
    }

    /// The same in a database that goes on being what it is, with the terms that it knows.
    pub(crate) async fn add_roles(&self, secrets: &Secrets) -> Result<()> {
        self.make_roles(secrets, "").await
    }

    async fn make_roles(&self, secrets: &Secrets, further: &str) -> Result<()> {
        let session = self.open_superuser().await?;
        let statements = roles(self.config(), secrets, further);
        let created = tokio::time::timeout(WITHIN, session.client.batch_execute(&statements)).await;
        Ok(created.map_err(|_| Error::timeout("creating the roles", WITHIN))??)
    }
}

/// Least privilege: the agent observes, writes checkpoints and its own table; the others do one thing each. Passwords go in as verifiers,
/// so that no log of statements ever shows one.
fn roles(config: &InstanceConfig, secrets: &Secrets, further: &str) -> String {
    let password = |secret: &str| format!(" PASSWORD '{}'", scram_sha_256(secret.as_bytes()));
    statements(config, &password(&secrets.replication_password), &password(&secrets.rewind_password), further)
}

/// The same for people to read, or to run before the agent does: without passwords, which the agent makes and sets.
pub fn shown_roles(config: &InstanceConfig) -> String {
    let shown = statements(config, "", "", "");
    let lines: Vec<&str> = shown.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!(
        "-- Made by `pgvigil show sql-roles`: what the agent does by itself when it makes or adopts a cluster. Safe to repeat.\n\
         -- The passwords of the last two are made by the agents and set then; the first comes over the unix socket alone and has none.\n{};\n",
        lines.join("\n")
    )
}

fn statements(config: &InstanceConfig, replication: &str, rewind: &str, further: &str) -> String {
    let InstanceConfig { control_user, replication_user, rewind_user, .. } = config;
    let there: String = [control_user, replication_user, rewind_user]
        .map(|user| {
            format!(
                "IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') THEN CREATE ROLE \"{user}\"; END IF;"
            )
        })
        .join("\n             ");
    format!(
        "BEGIN; SET LOCAL synchronous_commit = local; SET LOCAL client_min_messages = error;
         DO $$ BEGIN
             {there}
         END $$;
         ALTER ROLE \"{control_user}\" LOGIN;
         ALTER ROLE \"{replication_user}\" LOGIN REPLICATION{replication};
         ALTER ROLE \"{rewind_user}\" LOGIN{rewind};
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO \"{rewind_user}\";
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO \"{rewind_user}\";
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO \"{rewind_user}\";
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO \"{rewind_user}\";
         {}
         {further}
         COMMIT",
        belongings(config)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_in_the_statements() {
        let config = InstanceConfig::new("pg1".parse().expect("good"), "c", "/d".into(), "/s".into());
        let secrets = Secrets { replication_password: "hunter2".to_owned(), rewind_password: "hunter3".to_owned() };
        let statements = roles(&config, &secrets, "");
        assert!(!statements.contains("hunter"), "{statements}");
        assert!(statements.contains("SCRAM-SHA-256$"));
        assert!(!shown_roles(&config).contains("PASSWORD"), "{}", shown_roles(&config));
    }
}
