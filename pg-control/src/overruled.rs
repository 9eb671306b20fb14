//! Settings by which an operator undoes, in SQL, what this system promises: commits that wait for nobody, or a server that forbids writes.
//! The agent's own writes bring their settings along and notice nothing of it, so the server is asked on a connection that does not.

use tokio_postgres::Row;

use crate::error::Result;
use crate::instance::Instance;

/// What the server goes by, and what databases and roles have of their own. What this very session has from either says nothing of the server.
const SETTINGS: &str = "
SELECT name, setting AS value, sourcefile AS file, NULL::text AS database, NULL::text AS role, true AS server
FROM pg_settings
WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes', 'default_transaction_read_only')
  AND source NOT IN ('database', 'user', 'database user', 'client', 'session', 'override')
UNION ALL
SELECT split_part(pair, '=', 1), substr(pair, strpos(pair, '=') + 1), NULL, d.datname::text, r.rolname::text, false
FROM pg_db_role_setting AS s
CROSS JOIN unnest(s.setconfig) AS pair
LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
WHERE split_part(pair, '=', 1) = 'synchronous_commit' AND r.rolname IS DISTINCT FROM $1";

/// What a setting undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undoes {
    /// Commits are acknowledged that no voter need have.
    Waiting,
    /// What is on this disk may not outlive a crash of its host.
    Disk,
    /// Every session's writes fail.
    Writes,
}

/// One such setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overruled {
    /// What it undoes.
    pub undoes: Undoes,
    /// What is set, and for whom: `synchronous_commit = local for the whole server`.
    pub what: String,
    /// The statement that mends it, or the line that must go.
    pub mend: String,
}

impl Instance {
    /// What is set against our promises, as the server says.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn overruled(&self) -> Result<Vec<Overruled>> {
        let rows = self.ask(SETTINGS, &[&self.config().control_user]).await?;
        let mut found = Vec::new();
        for row in &rows {
            found.extend(read(row)?);
        }
        found.sort();
        Ok(found)
    }
}

fn read(row: &Row) -> Result<Option<Overruled>> {
    let (name, value): (String, String) = (row.try_get("name")?, row.try_get("value")?);
    let Some(undoes) = undoes(&name, &value.to_lowercase()) else { return Ok(None) };
    let (database, role): (Option<String>, Option<String>) = (row.try_get("database")?, row.try_get("role")?);
    let file: Option<String> = row.try_get("file")?;
    let server: bool = row.try_get("server")?;
    let (whom, mend) = match (server, role, database) {
        (true, ..) => ("the whole server".to_owned(), mend_of_server(&name, file.as_deref())),
        (_, Some(role), Some(database)) => (
            format!("role {role} in database {database}"),
            format!("ALTER ROLE {} IN DATABASE {} RESET {name}", quoted(&role), quoted(&database)),
        ),
        (_, Some(role), None) => (format!("role {role}"), format!("ALTER ROLE {} RESET {name}", quoted(&role))),
        (_, None, Some(database)) => {
            (format!("database {database}"), format!("ALTER DATABASE {} RESET {name}", quoted(&database)))
        }
        (_, None, None) => ("all roles".to_owned(), format!("ALTER ROLE ALL RESET {name}")),
    };
    let open = if server { "" } else { "; open sessions keep it until they end" };
    Ok(Some(Overruled { undoes, what: format!("{name} = {value} for {whom}"), mend: format!("{mend}{open}") }))
}

fn mend_of_server(name: &str, file: Option<&str>) -> String {
    match file.filter(|file| !file.ends_with("postgresql.auto.conf")) {
        Some(file) => format!("take {name} out of {file}, then SELECT pg_reload_conf()"),
        None => format!("ALTER SYSTEM RESET {name}; SELECT pg_reload_conf()"),
    }
}

/// A voter votes with what it has flushed, so `remote_write` is not enough either.
fn undoes(name: &str, value: &str) -> Option<Undoes> {
    let is = |words: &[&str]| words.contains(&value);
    let off = is(&["off", "of", "false", "fals", "fal", "fa", "f", "no", "n", "0"]);
    let on = is(&["on", "true", "tru", "tr", "t", "yes", "ye", "y", "1"]);
    match name {
        "synchronous_commit" if off || is(&["local", "remote_write"]) => Some(Undoes::Waiting),
        "fsync" | "full_page_writes" if off => Some(Undoes::Disk),
        "default_transaction_read_only" if on => Some(Undoes::Writes),
        _ => None,
    }
}

/// A name as SQL takes it, whatever it is made of.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_undoes_a_promise_is_told() {
        for (name, value, expected) in [
            ("synchronous_commit", "on", None),
            ("synchronous_commit", "remote_apply", None),
            ("synchronous_commit", "remote_write", Some(Undoes::Waiting)),
            ("synchronous_commit", "local", Some(Undoes::Waiting)),
            ("synchronous_commit", "false", Some(Undoes::Waiting)),
            ("fsync", "off", Some(Undoes::Disk)),
            ("full_page_writes", "on", None),
            ("default_transaction_read_only", "on", Some(Undoes::Writes)),
            ("default_transaction_read_only", "off", None),
        ] {
            assert_eq!(undoes(name, value), expected, "{name} = {value}");
        }
    }

    #[test]
    fn a_line_in_a_file_is_not_mended_by_alter_system() {
        let told = mend_of_server("fsync", Some("/d/postgresql.conf"));
        assert_eq!(told, "take fsync out of /d/postgresql.conf, then SELECT pg_reload_conf()");
        let told = mend_of_server("fsync", Some("/d/postgresql.auto.conf"));
        assert_eq!(told, "ALTER SYSTEM RESET fsync; SELECT pg_reload_conf()");
    }
}
