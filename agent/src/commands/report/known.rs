//! The secrets that this node knows, read for one purpose only: to strike them.

use std::path::PathBuf;

use crate::config::Webhook;
use crate::operate::world::Reach;

/// All that can be read.
pub async fn secrets(reach: &Reach) -> Vec<String> {
    let config = &reach.config;
    let postgres = &config.postgres;
    let tokens = config.control.tokens.iter().map(|token| Some(token.file.clone()));
    let tokens = tokens.chain(config.webhooks.iter().map(|webhook| webhook.token_file.clone()));
    let files: Vec<PathBuf> = [
        config.etcd.password_file.clone(),
        postgres.replication_password_file.clone(),
        postgres.rewind_password_file.clone(),
        config.pgbouncer.password_file.clone(),
    ]
    .into_iter()
    .chain(tokens)
    .flatten()
    .collect();
    // Whether others may read the file as well is no matter here: what is in it is not to be told.
    let mut secrets: Vec<String> = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
        .collect();
    secrets.extend(config.webhooks.iter().filter_map(Webhook::path_and_query));
    if let Ok(Some(stored)) = reach.store.secrets().await {
        secrets.extend([stored.replication_password, stored.rewind_password]);
    }
    let pgpass = std::fs::read_to_string(config.state_dir.join("pgpass")).unwrap_or_default();
    secrets.extend(pgpass.lines().filter_map(password_of));
    secrets
}

/// The last field of a line of `pgpass`, in which `\` stands before `:` and `\`.
fn password_of(line: &str) -> Option<String> {
    let (mut fields, mut escaped) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ':' if !escaped => fields.push(String::new()),
            c => fields.last_mut()?.push(c),
        }
        escaped = false;
    }
    fields.into_iter().nth(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_last_field() {
        assert_eq!(password_of(r"*:5432:*:pgvigil_rewind:a\:b\\c").as_deref(), Some(r"a:b\c"));
        assert_eq!(password_of("# nothing"), None);
    }
}
