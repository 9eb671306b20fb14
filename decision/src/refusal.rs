//! Did a rule keep a cluster without a primary? Nobody leads, and what was decided is to wait, for a reason that an operator would want to read
//! tomorrow. Whoever records it asks here at every look: the answer is a value, and nothing is decided by it.

use std::time::Duration;

use crate::Decision;
use crate::action::Action;
use crate::names::{MemberName, Term};
use crate::reason::{Reason, Standing};
use crate::settings::Timing;
use crate::view::{Cluster, Initialize, Lock, MemberRole, Server, View};

/// Whether somebody should have been promoted, and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody leads, and a rule forbids that anybody does.
    Lasts(Refused),
    /// There is a primary again: this one.
    Over(MemberName),
    /// Neither can be said from here, now: what was so is taken to be so still.
    Unclear,
}

/// What keeps everybody from leading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The term of whoever led last.
    pub term: Term,
    /// Who that was, where it is on record.
    pub last_leader: Option<MemberName>,
    /// The rule, as `why` tells it.
    pub reason: Reason,
    /// For how long nobody has led, as far as this node has seen it.
    pub since: Duration,
    /// Whether that is long enough for a refusal, and no mere pause for breath.
    pub is_worth_telling: bool,
    /// What each candidate has, and what bars it.
    pub evidence: Vec<String>,
}

/// Whether a rule keeps the cluster of this view without a primary, as this node has decided it.
pub fn refusal(view: &View, decision: &Decision) -> Refusal {
    let Some(cluster) = view.cluster.now().filter(|cluster| matches!(cluster.initialize, Initialize::Done(_))) else {
        return Refusal::Unclear;
    };
    if let Some(leader) = leads_and_writes(view, cluster) {
        return Refusal::Over(leader.clone());
    }
    let stands_still = cluster.leader.is_none() || is_down_in_a_pause(view, cluster);
    // A site that follows another has no primary of its own to miss.
    if !stands_still || cluster.follows() || decision.action != Action::Wait {
        return Refusal::Unclear;
    }
    let since = if cluster.leader.is_none() { view.ages.vacancy } else { view.ages.down };
    let since = since.unwrap_or_default();
    let Some(patience) = patience(&decision.reason, &view.settings.timing) else { return Refusal::Unclear };
    Refusal::Lasts(Refused {
        term: cluster.term,
        last_leader: cluster.sync.as_ref().map(|sync| sync.leader.clone()),
        reason: decision.reason.clone(),
        since,
        is_worth_telling: since >= patience,
        evidence: evidence(cluster, &decision.standings),
    })
}

fn leads_and_writes<'a>(view: &View, cluster: &'a Cluster) -> Option<&'a MemberName> {
    let leader = cluster.leader.as_ref()?;
    let writes = if *leader == view.me {
        matches!(view.postgres.now().map(|postgres| &postgres.server), Some(Server::Primary(_)))
    } else {
        cluster.members.get(leader).is_some_and(|member| member.role == MemberRole::Primary)
    };
    writes.then_some(leader)
}

/// The leader keeps its lock in a pause while its Postgres is down: nobody takes over, and nothing is started.
fn is_down_in_a_pause(view: &View, cluster: &Cluster) -> bool {
    let mine = cluster.leader.as_ref() == Some(&view.me) && matches!(view.lock, Lock::Held { .. });
    let down = view.postgres.now().is_some_and(|postgres| postgres.server == Server::Stopped);
    mine && down && view.settings.paused
}

/// For how long nobody must have led before a reason to wait is a refusal; `None`: it is none. A rule stands from the first count of ballots on; what only
/// waits for somebody may be a matter of milliseconds, and the end of the lease of whoever is waited for settles it.
fn patience(reason: &Reason, timing: &Timing) -> Option<Duration> {
    match reason {
        Reason::NotProven { .. }
        | Reason::BarredIsAhead { .. }
        | Reason::TooFarBehind { .. }
        | Reason::NotListed { .. }
        | Reason::NoCandidate {}
        | Reason::LastLeaderAnswers { .. }
        | Reason::RecordMissing { .. }
        | Reason::KeysUnreadable { .. }
        | Reason::EtcdWentBack { .. }
        | Reason::Unfenced { .. }
        | Reason::DiskUnfit { .. }
        | Reason::Paused {} => Some(timing.ballot_window),
        Reason::AwaitingBallots { .. } | Reason::AwaitingHandover { .. } | Reason::NothingToCopy {} => Some(timing.ttl),
        _ => None,
    }
}

/// One line a member: what it has reported, and what bars it. Then what commits had waited for.
fn evidence(cluster: &Cluster, standings: &[Standing]) -> Vec<String> {
    let one = |standing: &Standing| {
        let has = match cluster.current_ballots().get(&standing.member) {
            Some(ballot) => {
                format!(
                    "had received {} on timeline {}, marker of term {}",
                    ballot.received, ballot.timeline, ballot.wal_term
                )
            }
            None => "has reported nothing".to_owned(),
        };
        let bars: Vec<String> = standing.bars.iter().map(ToString::to_string).collect();
        let bars = if bars.is_empty() { "nothing bars it".to_owned() } else { format!("barred: {}", bars.join("; ")) };
        format!("{} {has}; {bars}", standing.member)
    };
    let policies = cluster.sync.iter().flat_map(|sync| &sync.policies);
    let last = cluster.leader_lsn.map(|lsn| format!("the last leader had published {lsn}"));
    let waited = policies.map(|quorum| format!("commits had waited for {quorum}"));
    standings.iter().map(one).chain(waited).chain(last).collect()
}
