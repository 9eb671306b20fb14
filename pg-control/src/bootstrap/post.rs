//! What an operator wants done to a new cluster before anybody sees it: a file of SQL, a program. Whatever fails ends the bootstrap.

use std::ffi::OsString;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::Origin;
use crate::conf::conninfo_of;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::tool;

/// The agent's own sessions see nothing but the catalogue.
const AS_AN_OPERATOR: &str = "SET search_path = \"$user\", public; SET synchronous_commit = local";

impl Instance {
    /// Runs them, each once, as the superuser. No commit waits for a standby: there is none yet.
    pub(super) async fn run_post_steps(&self, origin: &Origin, cancel: &CancellationToken) -> Result<()> {
        if let Some(file) = &origin.post_sql {
            let sql = std::fs::read_to_string(file).map_err(|error| Error::io("read", file, error))?;
            let session = self.open_superuser().await?;
            let run = async {
                session.client.batch_execute(AS_AN_OPERATOR).await?;
                session.client.batch_execute(&sql).await
            };
            tokio::select! {
                ran = run => ran.map_err(|error| Error::Sql(format!("{}: {}", file.display(), Error::from(error))))?,
                () = cancel.cancelled() => return Err(Error::Cancelled("running the SQL of a new cluster")),
            }
        }
        let mut words = origin.post_command.iter().map(|word| self.filled_in(word));
        let Some(program) = words.next() else { return Ok(()) };
        let mut arguments: Vec<OsString> = words.map(OsString::from).collect();
        arguments.push(self.superuser_conninfo().into());
        let said = self.run_at(Path::new(&program), &arguments, cancel).await?;
        if said.ok { Ok(()) } else { Err(tool::failed(&program, &said)) }
    }

    fn superuser_conninfo(&self) -> String {
        let config = self.config();
        conninfo_of(&[
            ("host", config.socket_dir.to_string_lossy().into_owned()),
            ("port", config.port.to_string()),
            ("user", config.superuser.clone()),
            ("dbname", config.database.clone()),
            ("options", "-c synchronous_commit=local".to_owned()),
        ])
    }
}
