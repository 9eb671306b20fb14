//! What an operator wants done to a new cluster before anybody sees it: a file of SQL, a program. Whatever fails ends the bootstrap.

use std::ffi::OsString;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::Origin;
use crate::conf::conninfo_of;
use crate::error::Result;
use crate::instance::Instance;
use crate::tool;

impl Instance {
    /// Runs them, each once, as the superuser. No commit waits for a standby: there is none yet.
    pub(super) async fn run_post_steps(&self, origin: &Origin, cancel: &CancellationToken) -> Result<()> {
        if let Some(file) = &origin.post_sql {
            // By psql, statement by statement: CREATE DATABASE runs in no transaction, and files of SQL are written for psql.
            let mut arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"].map(OsString::from).to_vec();
            arguments.extend([self.superuser_conninfo().into(), "-f".into(), file.into()]);
            let said = self.run("psql", &arguments, cancel).await?;
            if !said.ok {
                return Err(tool::failed("psql", &said));
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
