//! Rules for connections of a running server: put where they belong, judged by Postgres itself, and taken back if it finds a mistake. A file with a
//! mistake would lock everybody out at the next start.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;

use crate::adopt::files::OwnFile;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::text::{self, read};

/// How long Postgres may take to judge them.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// What a file was called before anything of ours was in it.
const BEFORE: &str = ".before-pgvigil";

const PLACES: &str = "SELECT current_setting('ident_file'), current_setting('hba_file')";
const MISTAKES: &str = "SELECT format('pg_hba.conf, line %s: %s', line_number, error) FROM pg_hba_file_rules WHERE error IS NOT NULL
     UNION ALL SELECT format('pg_ident.conf, line %s: %s', line_number, error) FROM pg_ident_file_mappings WHERE error IS NOT NULL";

impl Instance {
    /// Sees to it that the rules of this server are ours and behind them exactly these; what was there is kept beside them as a copy. Safe to
    /// repeat.
    ///
    /// # Errors
    /// Files cannot be written; `Setting` where Postgres finds a mistake: then they are as they were.
    pub async fn keep_access_rules(&self, ident: &[String], hba: &[String]) -> Result<()> {
        let rows = self.ask(PLACES, &[]).await?;
        let row = rows.first().ok_or_else(|| Error::Sql("no row".to_owned()))?;
        let place = |at: usize| Ok::<_, Error>(PathBuf::from(row.try_get::<_, String>(at)?));
        let home = |name: &str| self.data_dir().join(name);
        let files = [
            OwnFile { read_from: place(0)?, home: home("pg_ident.conf") },
            OwnFile { read_from: place(1)?, home: home("pg_hba.conf") },
        ];
        let before = [read(&files[0].read_from)?, read(&files[1].read_from)?];
        let after = self.rules_of_the_cluster(ident, hba)?;
        if before == after {
            return Ok(());
        }
        tracing::info!(rules = hba.len(), "the rules for connections are those of the cluster's settings");
        self.put_rules(&files, &before, &after).await
    }

    /// Writes rules, those for names first, and lets the server read them.
    pub(crate) async fn put_rules(
        &self,
        files: &[OwnFile; 2],
        before: &[String; 2],
        after: &[String; 2],
    ) -> Result<()> {
        for (file, text) in files.iter().zip(before) {
            let copy = durable::beside(&file.read_from, BEFORE);
            if !copy.exists() {
                text::write(&copy, text, 0o600)?;
            }
        }
        // The session is there before the rules change: whatever they are, it can say what is wrong with them.
        let session = self.open_superuser().await?;
        let write = |texts: &[String; 2]| files.iter().zip(texts).try_for_each(|(file, text)| file.write(text));
        write(after)?;
        let judged = timeout(JUDGED_WITHIN, session.client.query(MISTAKES, &[])).await;
        let judged = judged.map_err(|_| Error::timeout("judging rules for connections", JUDGED_WITHIN));
        let mistakes = judged.and_then(|rows| Ok(rows?)).map(|rows| {
            let told: Vec<String> = rows.iter().filter_map(|row| row.try_get::<_, String>(0).ok()).collect();
            told.join("; ")
        });
        match mistakes {
            Ok(none) if none.is_empty() => self.reload().map(drop),
            Ok(mistakes) => {
                write(before)?;
                Err(Error::Setting(format!("{mistakes}; the rules are as they were")))
            }
            Err(error) => {
                write(before)?;
                Err(error)
            }
        }
    }
}
