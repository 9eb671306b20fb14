//! What is the agent's own inside the database: its role, its schema and the leadership table. Dropped or revoked by somebody, it is missed
//! only at the next change of leader, when it is needed at once; so a primary looks after it, and puts it back as the superuser.

use decision::names::{MemberName, Term};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::instance::{Instance, InstanceConfig};

/// The roles may log in, and the agent's role may do its work.
const EQUIPPED: &str = "
SELECT NOT EXISTS (SELECT FROM unnest($1::text[]) AS own (name) JOIN pg_roles AS r ON r.rolname = own.name
                   WHERE NOT r.rolcanlogin)
   AND coalesce((SELECT r.rolreplication AND pg_has_role(r.oid, 'pg_monitor', 'USAGE') AND pg_has_role(r.oid, 'pg_checkpoint', 'USAGE')
                    AND pg_has_role(r.oid, 'pg_signal_backend', 'USAGE')
                    AND CASE WHEN has_schema_privilege(current_user, to_regnamespace('pgvigil')::oid, 'USAGE')
                                  AND has_schema_privilege(r.oid, to_regnamespace('pgvigil')::oid, 'USAGE')
                             THEN has_table_privilege(r.oid, to_regclass('pgvigil.leadership')::oid, 'SELECT')
                              AND has_table_privilege(r.oid, to_regclass('pgvigil.leadership')::oid, 'INSERT')
                              AND has_table_privilege(r.oid, to_regclass('pgvigil.leadership')::oid, 'UPDATE') END
                 FROM pg_roles AS r WHERE r.rolname = $2), false)";

/// The leadership table, without its owner.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgvigil.leadership (
    term bigint PRIMARY KEY,
    leader text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    proofs bigint NOT NULL DEFAULT 0,
    acknowledged boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE pgvigil.leadership IS
    'pgvigil: one row a reign. Its commit proves that writes are durable; it tells a candidate which reign its WAL has seen.';";

impl Instance {
    /// Whether everything is there that the agent has of its own in this database.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn is_equipped(&self) -> Result<bool> {
        let InstanceConfig { control_user, replication_user, rewind_user, .. } = self.config();
        let own = vec![control_user, replication_user, rewind_user];
        let rows = self.ask(EQUIPPED, &[&own, control_user]).await?;
        Ok(rows.first().is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true)))
    }

    /// Puts back what is missing of that on a primary, and the row of this reign; waits for no voter, as the marker that follows does. Safe to
    /// repeat.
    ///
    /// # Errors
    /// The superuser is not let in either, a lock is in the way, or it takes too long.
    pub async fn equip(&self, term: Term, leader: &MemberName) -> Result<()> {
        let within = self.config().answer_within * 4;
        let session = self.open_superuser().await?;
        let statements = mending(self.config(), term, leader);
        let mended = timeout(within, session.client.batch_execute(&statements)).await;
        Ok(mended.map_err(|_| Error::timeout("putting back what is the agent's own", within))??)
    }
}

/// What the agent's role owns and may do. It exists. Slots are made and dropped only with the attribute of those who replicate.
pub(crate) fn belongings(config: &InstanceConfig) -> String {
    let InstanceConfig { control_user, .. } = config;
    format!(
        "ALTER ROLE \"{control_user}\" REPLICATION;
         GRANT pg_monitor, pg_checkpoint, pg_signal_backend TO \"{control_user}\";
         CREATE SCHEMA IF NOT EXISTS pgvigil AUTHORIZATION \"{control_user}\";
         {TABLE}
         ALTER TABLE pgvigil.leadership OWNER TO \"{control_user}\";"
    )
}

fn mending(config: &InstanceConfig, term: Term, leader: &MemberName) -> String {
    let InstanceConfig { control_user, replication_user, rewind_user, .. } = config;
    let login = [control_user, replication_user, rewind_user].map(|user| {
        format!(
            "IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}' AND NOT rolcanlogin) THEN ALTER ROLE \"{user}\" LOGIN; END IF;"
        )
    });
    format!(
        "BEGIN; SET LOCAL synchronous_commit = local; SET LOCAL client_min_messages = error;
         DO $$ BEGIN
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{control_user}') THEN CREATE ROLE \"{control_user}\" LOGIN; END IF;
             {}
         END $$;
         {}
         ALTER SCHEMA pgvigil OWNER TO \"{control_user}\";
         GRANT ALL ON SCHEMA pgvigil TO \"{control_user}\";
         GRANT ALL ON TABLE pgvigil.leadership TO \"{control_user}\";
         INSERT INTO pgvigil.leadership (term, leader) VALUES ({term}, '{leader}') ON CONFLICT DO NOTHING;
         COMMIT",
        login.join("\n             "),
        belongings(config)
    )
}
