//! `pgvigil report`: one file with what somebody needs who was not there, and no secret. Whatever does not answer is left out and named; nothing is
//! waited for longer than a few seconds.

mod bundle;
mod host;
mod known;
mod pieces;

use std::path::PathBuf;

use jiff::Timestamp;

use self::bundle::Bundle;
use super::screen::{answer, tell};
use crate::cli::{Exit, ReportArgs};
use crate::config;
use crate::operate::world::Reach;
use crate::strike::Strike;

/// Gathers it and writes it.
pub async fn run(arguments: &ReportArgs) -> Exit {
    let file = &arguments.config.config;
    let (reach, why) = match config::load(file, std::env::vars()) {
        Ok(config) => match Reach::of(config) {
            Ok(reach) => (Some(reach), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        },
        Err(errors) => (None, Some(errors.to_string())),
    };
    let secrets = match &reach {
        Some(reach) => known::secrets(reach).await,
        None => Vec::new(),
    };
    let mut bundle = Bundle::new(Strike::new(secrets));
    bundle.text("config/pgvigil.toml", read(file));
    host::facts(&mut bundle).await;
    // Of whatever cluster, where the file does not say which one it is.
    let cluster = reach.as_ref().map_or("*", |reach| reach.config.cluster.as_str());
    let unit = arguments.unit.clone().unwrap_or_else(|| format!("pgvigil@{cluster}"));
    match &arguments.log {
        Some(file) => host::log_file(&mut bundle, file, arguments.lines),
        None => host::journal(&mut bundle, &unit, arguments.lines).await,
    }
    match &reach {
        Some(reach) => pieces::of_cluster(&mut bundle, reach).await,
        None => bundle.text("config/resolved.txt", Err::<String, _>(why.unwrap_or_default())),
    }
    let name = name(reach.as_ref());
    let path = arguments.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tgz")));
    for (piece, why) in bundle.missing() {
        tell(&format!("missing: {piece}: {}", why.lines().next().unwrap_or_default()));
    }
    match bundle.write(&path, &name) {
        Ok(()) => {
            answer(&path.display().to_string());
            tell("look through it before you pass it on: CONTENTS.txt says what is in it");
            Exit::Done
        }
        Err(error) => {
            tell(&format!("error: {} cannot be written: {error}", path.display()));
            Exit::Failed
        }
    }
}

fn name(reach: Option<&Reach>) -> String {
    let at = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    match reach {
        Some(Reach { config, .. }) => format!("pgvigil-report-{}-{}-{at}", config.cluster, config.name),
        None => format!("pgvigil-report-{at}"),
    }
}

/// A text file, whatever is in it.
fn read(path: &std::path::Path) -> Result<String, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
