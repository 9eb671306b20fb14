//! `pgvigil check`: one line for Nagios and its kin, from what `status` sees. Their exit codes: 0 well, 1 a warning, 2 critical, 3 not known.

mod etcd;
mod finding;
mod judged;

use jiff::Timestamp;

use self::finding::{Finding, Level, line};
use self::judged::Limits;
use super::screen::answer;
use super::status::Status;
use crate::cli::{CheckArgs, ConfigArg, Exit, What};
use crate::operate::world::Reach;

/// Prints the line.
pub async fn run(arguments: &CheckArgs) -> Exit {
    let findings = match looked_at(arguments).await {
        Ok(findings) => findings,
        Err(why) => vec![Finding::new("", Level::Unknown, why)],
    };
    answer(&line(label(arguments.what), &findings));
    exit(findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Unknown))
}

/// The numbers are those of Nagios; their names here mean other things.
fn exit(level: Level) -> Exit {
    match level {
        Level::Ok => Exit::Done,
        Level::Warning => Exit::Failed,
        Level::Critical => Exit::Usage,
        Level::Unknown => Exit::Refused,
    }
}

fn label(what: What) -> &'static str {
    match what {
        What::Leader => "LEADER",
        What::Replication => "REPLICATION",
        What::Etcd => "ETCD",
        What::Config => "CONFIG",
        What::All => "ALL",
    }
}

async fn looked_at(arguments: &CheckArgs) -> Result<Vec<Finding>, String> {
    let limits = Limits::of(arguments.what, arguments.warning.as_deref(), arguments.critical.as_deref())?;
    let argument = ConfigArg { config: arguments.config.clone() };
    let reach = Reach::new(&argument).map_err(|_| format!("{} cannot be used", arguments.config.display()))?;
    if arguments.what == What::Etcd {
        return Ok(vec![etcd::members(&reach, &limits).await]);
    }
    let world = reach.look().await;
    let dark = world.is_dark();
    let status = Status::of(&world, &reach.config, Timestamp::now());
    let why = || {
        let told = status.etcd_error.as_deref().unwrap_or("nobody answers");
        format!("neither etcd nor an agent answers: {told}")
    };
    let or_unknown = |what: &'static str, finding: fn(&Status, &Limits) -> Finding| match dark {
        true => Finding::new(what, Level::Unknown, why()),
        false => finding(&status, &limits),
    };
    let leader = || or_unknown("leader", judged::leader);
    let replication = || or_unknown("replication", judged::replication);
    let config = || or_unknown("config", judged::config);
    Ok(match arguments.what {
        What::Leader => vec![leader()],
        What::Replication => vec![replication()],
        What::Config => vec![config()],
        What::Etcd | What::All => vec![leader(), replication(), etcd::members(&reach, &limits).await, config()],
    })
}
