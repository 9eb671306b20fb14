//! What each check makes of what `status` sees. Pure.

use decision::reason::bytes;

use super::super::status::{MemberStatus, Status, Word};
use super::super::words;
use super::finding::{Finding, Level};
use crate::cli::What;
use crate::http::health::parse_bytes;

/// From where on a lag is told.
const LAG_BYTES: (u64, u64) = (16 << 20, 256 << 20);
/// From where on an answer of etcd is slow.
const ETCD_MS: (u64, u64) = (250, 1000);

/// How a limit is read in the unit of its check.
type Reading = fn(&str) -> Option<u64>;

fn milliseconds(text: &str) -> Option<u64> {
    let time = humantime::parse_duration(text).ok()?;
    u64::try_from(time.as_millis()).ok()
}

/// From where on numbers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far a standby may be behind: a warning, and critical.
    pub lag_bytes: (u64, u64),
    /// How long etcd may take to answer: a warning, and critical.
    pub etcd_ms: (u64, u64),
}

impl Limits {
    /// As the two options say, where the check has limits at all.
    pub fn of(what: What, warning: Option<&str>, critical: Option<&str>) -> Result<Self, String> {
        let mut limits = Self { lag_bytes: LAG_BYTES, etcd_ms: ETCD_MS };
        let (pair, read): (&mut (u64, u64), Reading) = match what {
            What::Replication => (&mut limits.lag_bytes, parse_bytes),
            What::Etcd => (&mut limits.etcd_ms, milliseconds),
            What::Leader | What::Config | What::All if warning.or(critical).is_some() => {
                return Err("limits (-w, -c) are for replication and etcd alone".to_owned());
            }
            What::Leader | What::Config | What::All => return Ok(limits),
        };
        let given = |text: Option<&str>, usual: u64| match text {
            Some(text) => {
                read(text).ok_or_else(|| format!("{text} is no limit here: 16MB for replication, 200ms for etcd"))
            }
            None => Ok(usual),
        };
        *pair = (given(warning, pair.0)?, given(critical, pair.1)?);
        // One that is given alone pulls the other along.
        match (warning, critical) {
            (None, Some(_)) => pair.0 = pair.0.min(pair.1),
            (Some(_), None) => pair.1 = pair.1.max(pair.0),
            _ if pair.0 > pair.1 => return Err("the warning (-w) is above the critical limit (-c)".to_owned()),
            _ => {}
        }
        Ok(limits)
    }
}

/// Whether somebody leads and takes writes.
pub fn leader(status: &Status, _: &Limits) -> Finding {
    let told = |code: &str| status.problems.iter().find(|problem| problem.code == code);
    let leader = status.leader.as_deref().unwrap_or("nobody");
    let (level, text) = match status.writable {
        _ if told("primary_without_lock").is_some() => {
            (Level::Critical, told("primary_without_lock").map(|one| one.problem.clone()).unwrap_or_default())
        }
        Some(true) => match told("writes_forbidden") {
            Some(one) => (Level::Critical, one.problem.clone()),
            None => (Level::Ok, format!("writes work on {leader}, term {}", status.term.unwrap_or_default())),
        },
        Some(false) => match status.verdict.word {
            Word::NoPrimary => (Level::Critical, status.verdict.sentence.clone()),
            Word::Degraded => (Level::Warning, status.verdict.sentence.clone()),
            Word::Ok => (Level::Ok, status.verdict.sentence.clone()),
        },
        None => (Level::Unknown, status.verdict.sentence.clone()),
    };
    let mut finding = Finding::new("leader", level, text);
    if let Some(left) = status.lease_left_ms {
        finding = finding.with(format!("lease_left={:.3}s;;;0", seconds(left)));
    }
    match status.term {
        Some(term) => finding.with(format!("term={term}")),
        None => finding,
    }
}

/// Whether every standby streams, and how far it is behind.
pub fn replication(status: &Status, limits: &Limits) -> Finding {
    let (warning, critical) = limits.lag_bytes;
    let standbys: Vec<&MemberStatus> =
        status.members.iter().filter(|member| Some(&member.name) != status.leader.as_ref()).collect();
    let streams = |member: &&&MemberStatus| member.state == "streaming" || member.state == "from the archive";
    let streaming = standbys.iter().filter(streams).count();
    let away: Vec<&str> =
        standbys.iter().filter(|member| !streams(member)).map(|member| member.name.as_str()).collect();
    let mut wrong = Vec::new();
    if !away.is_empty() {
        let level = if streaming == 0 { Level::Critical } else { Level::Warning };
        wrong.push((level, format!("{streaming} of {} standbys stream, not {}", standbys.len(), words::list(&away))));
    }
    let mut perf = vec![format!("streaming={streaming};;;0;{}", standbys.len())];
    for member in &standbys {
        let Some(lag) = member.receive_lag_bytes.max(member.replay_lag_bytes) else { continue };
        perf.push(format!("'{}_lag'={lag}B;{warning};{critical};0", member.name));
        let level = if lag >= critical { Level::Critical } else { Level::Warning };
        if lag >= warning {
            wrong.push((level, format!("{} is {} behind", member.name, bytes(lag))));
        }
    }
    const TOLD: [&str; 4] = ["durability_degraded", "acknowledges_nothing", "other_timeline", "slot_lost"];
    for problem in status.problems.iter().filter(|problem| TOLD.contains(&problem.code)) {
        wrong.push((Level::Warning, problem.problem.clone()));
    }
    let lags_known = standbys.iter().all(|member| member.receive_lag_bytes.is_some());
    let well = match standbys.len() {
        0 => "there is no standby, and none is expected".to_owned(),
        count => format!("{streaming} of {count} standbys stream"),
    };
    if wrong.is_empty() && !lags_known {
        let why = "the leader's agent does not say how far they are behind";
        wrong.push((Level::Unknown, format!("{well}, but {why}")));
    }
    Finding { perf, ..Finding::of_all("replication", wrong, well) }
}

/// Whether the settings are in force as they are asked for.
pub fn config(status: &Status, _: &Limits) -> Finding {
    const CRITICAL: [&str; 3] = ["corrupt_key", "writes_forbidden", "durability_overruled"];
    const WARNING: [&str; 4] = ["parameters_rejected", "parameter_ignored", "access_rejected", "slot_failed"];
    let mut wrong: Vec<(Level, String)> = Vec::new();
    for problem in &status.problems {
        match problem.code {
            code if CRITICAL.contains(&code) => wrong.push((Level::Critical, problem.problem.clone())),
            code if WARNING.contains(&code) => wrong.push((Level::Warning, problem.problem.clone())),
            _ => {}
        }
    }
    let pending: Vec<&str> = status
        .members
        .iter()
        .filter(|member| !member.pending_restart.is_empty())
        .map(|member| member.name.as_str())
        .collect();
    if !pending.is_empty() {
        wrong.push((Level::Warning, format!("parameters wait for a restart of {}", words::list(&pending))));
    }
    if let Some(pause) = &status.pause {
        wrong.push((Level::Warning, format!("automatic actions are paused {}", pause.in_words())));
    }
    if !status.etcd_reachable {
        wrong.push((Level::Unknown, "the settings are in etcd, and it does not answer".to_owned()));
    }
    Finding::of_all("config", wrong, "the settings are in force".to_owned())
        .with(format!("pending_restart={};;;0", pending.len()))
        .with(format!("paused={};;;0;1", u8::from(status.pause.is_some())))
}

/// As these programs write times.
pub fn seconds(milliseconds: u64) -> f64 {
    std::time::Duration::from_millis(milliseconds).as_secs_f64()
}

#[cfg(test)]
#[path = "judged_tests.rs"]
mod tests;
