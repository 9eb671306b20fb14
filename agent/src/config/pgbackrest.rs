//! The words of pgBackRest: how a backup is restored, and how WAL is fetched from its archive. Checked with 2.45.

use std::path::PathBuf;

/// Where a backup lies.
pub struct PgBackRest {
    /// The stanza.
    pub stanza: String,
    /// pgBackRest's configuration file, where it is not in its usual place.
    pub config: Option<PathBuf>,
}

impl PgBackRest {
    fn words(&self) -> Vec<String> {
        let config = self.config.as_ref().map(|config| format!("--config={}", config.display()));
        let place = [format!("--stanza={}", self.stanza), "--pg1-path={data_dir}".to_owned()];
        ["pgbackrest".to_owned()].into_iter().chain(config).chain(place).collect()
    }

    /// The command that restores into `{data_dir}`, with more options.
    pub fn restore(&self, options: &[String]) -> Vec<String> {
        let last = ["restore".to_owned()];
        self.words().into_iter().chain(options.iter().cloned()).chain(last).collect()
    }

    /// A `restore_command`; Postgres hands it to a shell.
    pub fn fetch(&self) -> String {
        let quoted = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
        let words: Vec<String> = self.words().iter().map(quoted).collect();
        format!("{} archive-get %f \"%p\"", words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        let place = PgBackRest { stanza: "it's".to_owned(), config: Some("/a b/c".into()) };
        let fetch = "'pgbackrest' '--config=/a b/c' '--stanza=it'\\''s' '--pg1-path={data_dir}' archive-get %f \"%p\"";
        assert_eq!(place.fetch(), fetch);
        assert_eq!(place.restore(&["--type=none".to_owned()]).last().map(String::as_str), Some("restore"));
    }
}
