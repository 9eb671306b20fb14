//! `pgvigil status` for people: one line on the cluster, one row a member, one line a problem, and the verdict last, where the eye ends.

use std::time::Duration;

use consensus::records::PendingChange;
use decision::parameters::CAPACITIES;
use decision::reason::bytes;

use super::super::screen::{self, Tone, paint};
use super::super::words;
use crate::operate::status::facts::Status;
use crate::operate::status::member::MemberStatus;
use crate::operate::status::verdict::Word;

/// Over the columns of [`row`].
pub const HEADINGS: [&str; 9] =
    ["MEMBER", "ROLE", "STATE", "TL", "RECEIVE LAG", "REPLAY LAG", "SYNC", "CANDIDATE", "SEEN"];

/// The whole text, without the last end of line.
pub fn render(status: &Status, colours: bool) -> String {
    let rows: Vec<Vec<String>> = status.members.iter().map(|member| row(member, status.leader.as_deref())).collect();
    let table = if rows.is_empty() { String::new() } else { screen::table(&HEADINGS, &rows) };
    let mut lines = vec![header(status)];
    lines.extend(table.lines().enumerate().map(|(number, line)| match number {
        0 => paint(line, Tone::Strong, colours),
        _ => line.to_owned(),
    }));
    for member in status.members.iter().filter(|member| !member.pending_restart.is_empty()) {
        let change = |(name, change): (&String, &PendingChange)| {
            let after = after_whom(status, member, name, change).unwrap_or_default();
            format!("{name} {} -> {}{after}", change.old_value, change.new_value)
        };
        let changes: Vec<String> = member.pending_restart.iter().map(change).collect();
        lines.push(format!("  {} waits for a restart: {}", member.name, changes.join(", ")));
    }
    lines.extend(status.scheduled.iter().map(|planned| format!("  scheduled {}", planned.in_words())));
    for trouble in &status.problems {
        let told = paint(&format!("! {}", trouble.problem), Tone::Doubtful, colours);
        lines.push(format!("{told}   HINT: {}", trouble.hint));
    }
    let tone = match status.verdict.word {
        Word::Ok => Tone::Good,
        Word::Degraded => Tone::Doubtful,
        Word::NoPrimary => Tone::Bad,
    };
    lines.push(format!("{} - {}", paint(status.verdict.word.text(), tone, colours), status.verdict.sentence));
    lines.join("\n")
}

/// Whether it comes once others have been restarted: what a standby must not have less of than its primary is raised on the standbys first, and
/// lowered on the leader first.
fn after_whom(status: &Status, member: &MemberStatus, name: &str, change: &PendingChange) -> Option<&'static str> {
    CAPACITIES.iter().find(|(capacity, _)| *capacity == name)?;
    let (now, then): (u64, u64) = (change.old_value.parse().ok()?, change.new_value.parse().ok()?);
    let leads = |member: &MemberStatus| member.role == "leader";
    let waits = |other: &&MemberStatus| leads(other) != leads(member) && other.pending_restart.contains_key(name);
    status.members.iter().find(waits)?;
    match (leads(member), then > now) {
        (true, true) => Some(" (after the standbys)"),
        (false, false) => Some(" (after the leader)"),
        _ => None,
    }
}

/// One line on the cluster.
pub fn header(status: &Status) -> String {
    let mut parts = vec![format!("Cluster {}", status.cluster)];
    parts.extend(status.system_id.as_ref().map(|id| format!("system {id}")));
    parts.extend(status.term.filter(|term| *term > 0).map(|term| format!("term {term}")));
    match (&status.leader, status.lease_left_ms) {
        (Some(leader), Some(left)) => parts.push(format!("lease {leader}, {} left", seconds(left))),
        (Some(leader), None) => parts.push(format!("lease {leader}")),
        (None, _) => parts.push("no leader".to_owned()),
    }
    parts.extend(status.durability.as_ref().map(|durability| durability.text.clone()));
    if !status.etcd_reachable {
        parts.push("etcd unreachable".to_owned());
    }
    if let Some(pause) = &status.pause {
        parts.push(format!("PAUSED {}", pause.in_words()));
    }
    if let Some(hold) = &status.hold {
        parts.push(format!("HELD {}", hold.in_words()));
    }
    parts.join("  ")
}

fn seconds(milliseconds: u64) -> String {
    words::age(Duration::from_millis(milliseconds))
}

/// With the member from which it streams, where that is not the leader, and its zone.
fn state(member: &MemberStatus, leader: Option<&str>) -> String {
    let other = member.streams_from.as_deref().filter(|from| Some(*from) != leader);
    let from = other.map(|from| format!(" from {from}")).unwrap_or_default();
    let zone = member.zone.as_ref().map(|zone| format!(" in {zone}")).unwrap_or_default();
    format!("{}{from}{zone}", member.state)
}

/// One member, a cell for each of [`HEADINGS`].
pub fn row(member: &MemberStatus, leader: Option<&str>) -> Vec<String> {
    let dash = || "-".to_owned();
    let lag = |lag: Option<u64>| lag.map_or_else(dash, bytes);
    vec![
        member.name.clone(),
        if member.role == "none" { dash() } else { member.role.clone() },
        state(member, leader),
        member.timeline.map_or_else(dash, |timeline| timeline.to_string()),
        lag(member.receive_lag_bytes),
        lag(member.replay_lag_bytes),
        if member.sync == "none" { dash() } else { member.sync.clone() },
        candidate(member),
        member.seen_ms.map_or_else(dash, seconds),
    ]
}

/// Whether it may lead, and if not, everything that is in the way.
fn candidate(member: &MemberStatus) -> String {
    match member.may_lead {
        None => "-".to_owned(),
        // A dead leader holds its lock until the lease ends.
        Some(true) if member.role == "leader" && !member.reachable => "has the lock".to_owned(),
        Some(true) if member.role == "leader" => "leads".to_owned(),
        Some(true) => "yes".to_owned(),
        Some(false) => format!("no: {}", words::list(member.bars.iter().map(|bar| &bar.sentence))),
    }
}

#[cfg(test)]
mod tests {
    use crate::operate::status::facts::DurabilityStatus;
    use crate::operate::status::member::BarStatus;
    use crate::operate::status::problems::Trouble;
    use crate::operate::status::verdict::Verdict;

    use super::*;

    fn status() -> Status {
        let leader = MemberStatus {
            name: "pg1".to_owned(),
            role: "leader".to_owned(),
            state: "writable".to_owned(),
            timeline: Some(8),
            sync: "leader".to_owned(),
            may_lead: Some(true),
            reachable: true,
            seen_ms: Some(200),
            ..MemberStatus::default()
        };
        let laggard = MemberStatus {
            name: "pg3".to_owned(),
            role: "standby".to_owned(),
            state: "streaming".to_owned(),
            timeline: Some(8),
            receive_lag_bytes: Some(0),
            replay_lag_bytes: Some(18 << 20),
            sync: "none".to_owned(),
            pending_restart: [(
                "max_connections".to_owned(),
                PendingChange { old_value: "100".into(), new_value: "200".into() },
            )]
            .into(),
            may_lead: Some(false),
            bars: vec![BarStatus {
                code: "nofailover".to_owned(),
                sentence: "its tags bar it from leading".to_owned(),
            }],
            seen_ms: Some(300),
            ..MemberStatus::default()
        };
        Status {
            schema: "pgvigil.status/v1",
            cluster: "orders".to_owned(),
            system_id: Some("7277694203142172922".to_owned()),
            term: Some(12),
            leader: Some("pg1".to_owned()),
            writable: Some(true),
            lease_left_ms: Some(4200),
            etcd_reachable: true,
            etcd_error: None,
            durability: Some(DurabilityStatus {
                mode: decision::settings::Mode::Quorum,
                policies: Vec::new(),
                text: "quorum: any 1 of pg2, pg3".to_owned(),
            }),
            pause: None,
            hold: None,
            scheduled: Vec::new(),
            request: None,
            members: vec![leader, laggard],
            problems: vec![Trouble::new("replay_behind", "pg3 is slow", "pgvigil why pg3")],
            verdict: Verdict { word: Word::Degraded, sentence: "writes work on pg1".to_owned(), ..Verdict::default() },
        }
    }

    #[test]
    fn one_screen_tells_it_all() {
        let expected = "\
Cluster orders  system 7277694203142172922  term 12  lease pg1, 4.2 s left  quorum: any 1 of pg2, pg3
MEMBER  ROLE     STATE      TL  RECEIVE LAG  REPLAY LAG  SYNC    CANDIDATE                         SEEN
pg1     leader   writable   8   -            -           leader  leads                             0.2 s
pg3     standby  streaming  8   0 bytes      18.0 MB     -       no: its tags bar it from leading  0.3 s
  pg3 waits for a restart: max_connections 100 -> 200
! pg3 is slow   HINT: pgvigil why pg3
DEGRADED - writes work on pg1";
        assert_eq!(render(&status(), false), expected);
        let mut silent = status();
        silent.members[0].reachable = false;
        assert!(render(&silent, false).contains("leader  has the lock "), "{}", render(&silent, false));
        assert!(render(&status(), true).contains("\x1b[33mDEGRADED\x1b[0m - writes"));
    }
}
