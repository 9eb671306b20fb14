//! `[bootstrap]`: what a new cluster is made from. A restore is a program with its arguments and a place where recovery ends; pgBackRest is
//! such a program whose words are known here.

use std::time::Duration;

use decision::site::Remote;
use pg_control::{Backup, Origin};

use super::pgbackrest::PgBackRest;
use super::problem::Problem;
use super::raw::{BootstrapFrom, RawBootstrap};

const USUAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The finished section.
pub fn resolve(raw: RawBootstrap, found: &mut Vec<Problem>) -> (Origin, Option<Remote>) {
    check(&raw, found);
    let site = raw.site.as_deref().filter(|_| raw.from == Some(BootstrapFrom::Site)).and_then(|hosts| {
        let wrong = |why| Problem::at("E12", "bootstrap.site", why).help("site = \"db1.east:5432,db2.east:5432\"");
        Remote::parse(hosts, 5432).map_err(|why| found.push(wrong(why))).ok()
    });
    (origin(raw), site)
}

fn origin(raw: RawBootstrap) -> Origin {
    let target = targets(&raw).into_iter().flatten().next();
    let target = target.map(|(key, value)| (format!("recovery_{key}"), value));
    let backup = match raw.from.unwrap_or_default() {
        BootstrapFrom::Initdb | BootstrapFrom::Site => None,
        BootstrapFrom::Command => Some((raw.command.0, raw.restore_command)),
        BootstrapFrom::PgBackRest => {
            let ours = PgBackRest { stanza: raw.stanza.unwrap_or_default(), config: raw.config };
            let fetch = raw.restore_command.unwrap_or_else(|| ours.fetch());
            Some((ours.restore(&words_of(target.as_ref())), Some(fetch)))
        }
    };
    Origin {
        backup: backup.map(|(command, restore_command)| Backup {
            command,
            restore_command,
            target,
            timeline: raw.target_timeline,
        }),
        post_sql: raw.post_sql,
        post_command: raw.post_command.0,
        within: raw.timeout.map_or(USUAL_TIMEOUT, |timeout| timeout.0),
    }
}

fn targets(raw: &RawBootstrap) -> [Option<(&'static str, String)>; 3] {
    [
        raw.target_time.clone().map(|time| ("target_time", time)),
        raw.target_lsn.clone().map(|lsn| ("target_lsn", lsn)),
        raw.target_name.clone().map(|name| ("target_name", name)),
    ]
}

/// The target is told to pgBackRest as well: it restores the last backup that ended before.
fn words_of(target: Option<&(String, String)>) -> Vec<String> {
    let Some((setting, value)) = target else { return Vec::new() };
    let kind = setting.trim_start_matches("recovery_target_");
    vec![format!("--type={kind}"), format!("--target={value}"), "--target-action=promote".to_owned()]
}

fn check(raw: &RawBootstrap, found: &mut Vec<Problem>) {
    let from = raw.from.unwrap_or_default();
    let given: Vec<&str> = targets(raw).into_iter().flatten().map(|(key, _)| key).collect();
    if given.len() > 1 {
        let message = format!("recovery cannot end at two places: {}", given.join(" and "));
        found.push(
            Problem::about("E11", &["bootstrap.target_time", "bootstrap.target_lsn", "bootstrap.target_name"], message)
                .help("keep one of them"),
        );
    }
    let needs = |key: &str, example: &str| {
        let message = format!("`bootstrap.from` needs `bootstrap.{key}`");
        Problem::at("E11", "bootstrap.from", message).help(format!("write {key} = {example} beside it"))
    };
    if from == BootstrapFrom::Command && raw.command.0.is_empty() {
        found.push(needs("command", "[\"/usr/local/bin/restore\", \"{data_dir}\"]"));
    }
    if from == BootstrapFrom::PgBackRest && raw.stanza.is_none() {
        found.push(needs("stanza", "\"main\""));
    }
    if from == BootstrapFrom::Site && raw.site.is_none() {
        found.push(needs("site", "\"db1.east:5432,db2.east:5432\""));
    }
    let restored = matches!(from, BootstrapFrom::Command | BootstrapFrom::PgBackRest);
    let only_for = [
        ("site", raw.site.is_some(), from == BootstrapFrom::Site),
        ("post_sql", raw.post_sql.is_some(), from != BootstrapFrom::Site),
        ("post_command", !raw.post_command.0.is_empty(), from != BootstrapFrom::Site),
        ("command", !raw.command.0.is_empty(), from == BootstrapFrom::Command),
        ("stanza", raw.stanza.is_some(), from == BootstrapFrom::PgBackRest),
        ("config", raw.config.is_some(), from == BootstrapFrom::PgBackRest),
        ("restore_command", raw.restore_command.is_some(), restored),
        ("target_timeline", raw.target_timeline.is_some(), restored),
    ];
    let only_for = only_for.into_iter().chain(given.iter().map(|key| (*key, true, restored)));
    for (key, ..) in only_for.filter(|(_, is_given, fits)| *is_given && !fits) {
        let path = format!("bootstrap.{key}");
        let message = format!("`{path}` says nothing for a cluster that is made otherwise");
        found.push(Problem::at("E11", &path, message).help("set `bootstrap.from`, or remove it"));
    }
}
