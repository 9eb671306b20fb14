//! Why: one stable code, its evidence in fields, and one sentence for a tired person, all on one line of one table. A reason exists
//! where an operator would respond differently; everything else is a field. Codes are metric labels and headings in docs/reasons.md.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
use crate::slots::SlotName;
use crate::view::Stuck;

/// One line a reason: name, evidence, code, sentence.
macro_rules! reasons {
    ($(#[$outer:meta])* $kind:ident: $($name:ident { $($field:ident: $type:ty),* } $code:literal $sentence:tt;)*) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "code")]
        #[allow(missing_docs, reason = "the sentence beside each says what it is")]
        pub enum $kind { $( #[serde(rename = $code)] $name { $($field: $type),* }, )* }

        impl $kind {
            /// Every code there is, for documentation and metrics.
            pub const CODES: &'static [&'static str] = &[$($code),*];

            /// The stable code.
            pub fn code(&self) -> &'static str {
                match self { $( Self::$name { .. } => $code, )* }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $( Self::$name { $($field),* } => reasons!(@write f $sentence), )* }
            }
        }
    };
    (@write $f:ident ($($arguments:tt)*)) => { write!($f, $($arguments)*) };
}

reasons! {
/// Why an action was chosen.
Reason:
    Leading { term: Term } "leading" ("leads term {term}, writes work");
    Following { leader: MemberName, term: Term } "following" ("follows {leader}, term {term}");
    Busy { action: String, age: Duration } "busy" ("{action} under way for {}", span(*age));
    Paused {} "paused" ("automatic actions are paused by an operator");
    EtcdNeverSeen { tried_for: Duration } "etcd_never_seen" ("etcd has not answered since this agent started {} ago", span(*tried_for));
    EtcdSilent { age: Duration, lease_left: Option<Duration> } "etcd_silent"
        ("etcd has been silent for {}{}", span(*age), lease_left.map(|left| format!("; the lease still covers this primary for {}", span(left))).unwrap_or_default());
    LeadingOnPromises { silent_for: Duration, promised_by: Vec<MemberName>, left: Duration } "leading_on_promises"
        ("etcd has been silent for {}; this primary goes on by the promises of {}, for {} more unless they are renewed", span(*silent_for), list(promised_by), span(*left));
    Unheard { since: Duration, voters: Vec<MemberName> } "unheard"
        ("etcd cannot be read from here, and too few of {} have acknowledged anything for {}, though they are there: let them lead", list(voters), span(*since));
    Promised { leader: MemberName, term: Term, left: Duration } "promised"
        ("{leader} still leads term {term} without etcd: this node has promised to let it, for {} more", span(*left));
    Resume { term: Term } "resume" ("this node still leads term {term} and nobody has led since: bind the lock to its lease again");
    EtcdWentBack { mine: Term, etcd: Term } "etcd_went_back"
        ("the WAL here is of term {mine}, but the highest term in etcd is {etcd}: etcd has been restored from an old backup");
    TermRaised { mine: Term, etcd: Term } "term_raised"
        ("the key `term` in etcd says {etcd}, but the record of this reign is of term {mine}: somebody has changed it by hand; go on under a term above both");
    KeysUnreadable { keys: Vec<String> } "keys_unreadable"
        ("somebody has put what nobody can read in the place of {} in etcd: nothing is changed here until it is put right", keys.join(", "));
    LockLost {} "lock_lost" ("the leader lock is not held by this node any more, and its Postgres still accepts writes");
    LockOfEarlierLife {} "lock_of_earlier_life"
        ("the lock names this node, under a lease that it does not hold (an earlier life's): wait until it ends");
    PostgresUnseen {} "postgres_unseen" ("the local Postgres has not been seen just now: nothing is changed unseen");
    ForeignSystem { mine: SystemId, cluster: SystemId } "foreign_system"
        ("the data directory belongs to system {mine}, the cluster in etcd is system {cluster}: this node stays out; point it at its own cluster or an empty data directory");
    NameNotMine {} "name_not_mine"
        ("this node is about to register under its name; where that lasts, another living agent has it: nothing is done under it");
    NotInitialized { in_progress: bool } "not_initialized"
        ("{}", if *in_progress { "another node is creating the cluster" } else { "there is a database here or on another member but no cluster in etcd: it is left alone; start with an empty data directory, or restore the etcd keys" });
    NotOurs {} "not_ours"
        ("the cluster of this name in etcd was not made by pgvigil, and may be kept by another system: nothing is touched; stop that system and take another `cluster` or `etcd.namespace`");
    DataUnreadable { why: String } "data_unreadable" ("the data directory cannot be used: {why}");
    HalfMade { by: String } "half_made" ("an earlier {by} was cut off; the directory is replaced, never started");
    CreateCluster {} "create_cluster" ("no cluster in etcd and no data here: create it");
    Unfenced { why: String } "unfenced" ("this node must not become primary, for its fence cannot be armed: {why}");
    NeverLeads {} "never_leads" ("the tags of this node bar it from leading");
    DeposedPrimary { leader: MemberName, term: Term } "deposed_primary" ("{leader} leads term {term}, and Postgres here still accepts writes: stop it");
    LeaderUnreachable { leader: MemberName } "leader_unreachable" ("{leader} holds the lock but its member record is gone (its agent is down): keep what is");
    LeaderNotPrimary { leader: MemberName } "leader_not_primary" ("{leader} holds the lock but its Postgres is not primary yet");
    EmptyDirectory { leader: MemberName } "empty_directory" ("no data here: copy it from {leader}");
    CleanRejoin { leader: MemberName, end: Lsn } "clean_rejoin" ("all WAL here (to {end}) is in {leader}'s history: start and stream, no rewind");
    Diverged { timeline: Timeline, end: Lsn, forked_at: Lsn } "diverged"
        ("WAL here reaches {end} on timeline {timeline}, {} past the fork at {forked_at}: it must be rewound", bytes(forked_at.bytes_behind(*end)));
    EndOfWalUnknown {} "end_of_wal_unknown" ("where the WAL ends decides between start and rewind: read it");
    AwaitingHistory { timeline: Timeline } "awaiting_history" ("the leader has not published where timeline {timeline} ended");
    AwaitingLeaderCheckpoint { leader: MemberName } "awaiting_leader_checkpoint"
        ("{leader} has not finished its first checkpoint; a rewind from it would see nothing to do");
    Twin { timeline: Timeline } "twin" ("this node has been primary on a timeline {timeline} that is not the leader's: only a fresh copy is safe");
    Retrying { after: Duration } "retrying" ("the last attempt failed; the next one follows in {}", span(*after));
    Starting { since: Duration } "starting" ("Postgres has been starting for {}", span(*since));
    Stopping {} "stopping" ("Postgres is stopping");
    Hung { since: Duration, stuck: Stuck } "hung" ("Postgres {} for {}", stuck.words(), span(*since));
    Repoint { leader: MemberName, term: Term } "repoint" ("follow {leader} under term {term}");
    TakeSlot { leader: MemberName, slot: SlotName } "take_slot" ("{leader} keeps WAL for this standby in slot {slot} now: stream by it");
    LeaderIsBack { leader: MemberName, term: Term } "leader_is_back" ("{leader} still leads term {term}: take the pledge against it back");
    Candidate {} "candidate" ("a switchover may need this node: stand ready to hold the lock");
    Regained { floor: Lsn } "regained" ("this node has the WAL up to {floor} again that a copy or a rewind had left out: it counts again");
    NotCandidate {} "not_candidate" ("no switchover needs this node: give the spare lease back");
    NothingToCopy {} "nothing_to_copy" ("nobody leads, and there is nothing here to start from");
    Suspect { leader: MemberName, evidence: String } "suspect" ("{leader} is not heard any more ({evidence}): stop following it and report what is here");
    Vacant { term: Term } "vacant" ("nobody holds the lock of term {term}: stop following it and report what is here");
    AwaitingBallots { have: usize, missing: Vec<MemberName> } "awaiting_ballots"
        ("nobody leads; {have} ballots are in, waiting for {}", list(missing));
    NotProven { have: Vec<MemberName>, needed: String, missing: Vec<MemberName> } "not_proven"
        ("nobody is promoted: acknowledged writes may be only on {}, which cannot be asked; needed {needed}, heard {}", list(missing), list(have));
    BarredIsAhead { member: MemberName } "barred_is_ahead"
        ("nobody is promoted: {member} has more than anybody who may lead, and is barred from leading (why {member} says by what)");
    TooFarBehind { best: MemberName, behind_bytes: u64, limit_bytes: u64 } "too_far_behind"
        ("nobody is promoted: the best candidate {best} is {} behind the last leader, the limit is {}", bytes(*behind_bytes), bytes(*limit_bytes));
    NotListed { best: MemberName } "not_listed"
        ("nobody is promoted: {best} is not on the leader's list of who may lead without proof (it was away, or has only just joined)");
    LastLeaderAnswers { leader: MemberName } "last_leader_answers"
        ("nobody is promoted: the agent of {leader}, which led last, is away, and its Postgres still answers: nothing has fenced it, and it may go on accepting writes");
    NoCandidate {} "no_candidate" ("nobody is promoted: no live member may lead");
    Outranked { by: MemberName } "outranked" ("{by} is the better candidate");
    Elected { ballots: Vec<MemberName>, lost_bytes_bound: Option<u64> } "elected"
        ("best of the ballots of {}; {}", list(ballots), loss(*lost_bytes_bound));
    Forced { lost_bytes_bound: Option<u64> } "forced" ("an operator accepts the loss of data and wants this node to lead; {}", loss(*lost_bytes_bound));
    LastLeader { term: Term } "last_leader" ("this node led term {term} and nobody has led since: everything acknowledged is here");
    LeavingItToOthers { for_another: Duration } "leaving_it_to_others" ("let go of the lock so that a standby may lead; it has {} more", span(*for_another));
    Promote { term: Term } "promote" ("holds the lock of term {term}: promote Postgres");
    AwaitingHandover { replayed: Lsn, needed: Lsn } "awaiting_handover"
        ("the lock was handed over; replayed {replayed}, the old leader ended at {needed}");
    ProveWrites { term: Term } "prove_writes" ("commit the marker of term {term}: its acknowledgement proves that writes are durable");
    RecordMissing { term: Term } "record_missing" ("the durability record of term {term} is missing or foreign: nothing is changed until it is restored");
    ChangeDurability { step: String } "change_durability" ("{step}");
    PrimaryDied { standbys_ready: Vec<MemberName>, restart: Duration, handover: Duration } "primary_died"
        ("Postgres died; {} can take over in about {}, a restart here would take about {}: let go of the lock", list(standbys_ready), span(*handover), span(*restart));
    SlowRecovery { since: Duration, restart: Duration, handover: Duration } "slow_recovery"
        ("Postgres has been recovering for {} of about {}; a standby can take over in about {}: let go of the lock", span(*since), span(*restart), span(*handover));
    StopOverdue { since: Duration } "stop_overdue" ("Postgres has been stopping for {}: cut it short", span(*since));
    DiskFailed { what: String } "disk_failed" ("the disk of this primary {what}: let a standby lead");
    WalRemoved { leader: MemberName, at: Lsn } "wal_removed" ("{leader} has removed the WAL that this standby needs next (from {at} on): copy it anew");
    NotStreaming { leader: MemberName, since: Duration } "not_streaming"
        ("is to follow {leader}, and has received nothing for {}: see postgres.log here", span(*since));
    ReplayPaused { leader: MemberName, term: Term } "replay_paused"
        ("follows {leader}, term {term}, and somebody has paused replay (pg_wal_replay_pause): readers see old data; it goes on by itself only for a failover");
    DiskUnfit { what: String } "disk_unfit" ("the disk here {what}: Postgres is not started on it before that is over");
    DiskFilling { to: MemberName, free_bytes: u64 } "disk_filling" ("the disk here is about to fill ({} free): ask {to} to lead", bytes(*free_bytes));
    DiskLow { free_bytes: u64 } "disk_low" ("leads, but its disk is about to fill ({} free) and no standby has more room: free space", bytes(*free_bytes));
    RestartInPlace { because: String } "restart_in_place" ("Postgres is down: start it again here, for {because}");
    CannotStart { why: String } "cannot_start" ("this primary cannot be started ({why}): let another try");
    Switchover { to: MemberName } "switchover" ("an operator asked {to} to lead: hand over");
    AwaitingCandidate { to: MemberName } "awaiting_candidate" ("{to} is getting ready to hold the lock");
    FollowingSite { remote: String, term: Term } "following_site" ("this site follows the one at {remote}; this node leads it as its standby leader, term {term}");
    FollowSite { remote: String } "follow_site" ("this node leads a site that follows another: stream from {remote}");
    SiteUnclear {} "site_unclear"
        ("the record says that this site follows another, but the settings name none and nobody has said that this site is to lead: nothing is promoted; pgvigil site promote, or pgvigil site demote --host");
    AwaitingSite { replayed: Lsn, on: Timeline, needed: Lsn, timeline: Timeline } "awaiting_site"
        ("this site is to lead once it has everything of the other: that ended on timeline {timeline} behind {needed}, here is {replayed} on timeline {on}");
    PromoteSite { term: Term } "promote_site" ("an operator wants this site to lead by itself: leave the other, and lead term {term}");
    DemoteSite { remote: String } "demote_site" ("an operator wants this site to follow {remote}: stop the primary here, and follow");
    SiteUnseen { remote: String } "site_unseen"
        ("leads, and is to follow {remote}, which has not answered the rewind role from here: the primary is not stopped before that");
    ForeignSite { mine: SystemId, theirs: SystemId } "foreign_site"
        ("this site has database system {mine}, the other one is {theirs}: neither can follow the other");
    PrimaryWhileFollowing {} "primary_while_following" ("this site follows another, and Postgres here accepts writes, which nobody here has ordered: stop it");
    Ordered { what: String } "ordered" ("an operator wants it: {what}");
    Cascades { upstream: MemberName, leader: MemberName, term: Term } "cascades"
        ("follows {upstream}, as its tags say, and so {leader}, term {term}");
    FallenBack { upstream: MemberName, leader: MemberName, term: Term } "fallen_back"
        ("follows {leader}, term {term}; its tags name {upstream}, to which it goes once that has streamed from there for 10 s");
    FromArchive { leader: MemberName, term: Term } "from_archive"
        ("takes WAL from the archive alone, as its tags say, behind {leader}, term {term}");
    OrderRefused { why: String } "order_refused" ("refused: {why}");
    RequestRefused { why: String } "request_refused" ("refused: {why}");
}

reasons! {
/// What forbids a node to lead, now. All bars of a candidate are listed, not only the first.
Bar:
    AgentDown {} "agent_down" ("its agent is not registered in etcd");
    NoFailover {} "nofailover" ("its tags bar it from leading");
    NoFence { why: String } "no_fence" ("its fence cannot be armed: {why}");
    NotRunning {} "not_running" ("its Postgres is not a running standby");
    NoBallot {} "no_ballot" ("it has not pledged and reported what it has");
    BelowFloor { floor: Lsn, has: Lsn } "below_floor" ("it was rewound or copied and must first regain {floor}, it has {has}");
    Behind { member: MemberName, bytes_behind: u64 } "behind" ("{} behind {member}", bytes(*bytes_behind));
    OlderTimeline { mine: Timeline, best: Timeline } "older_timeline" ("it is on timeline {mine}, another has {best}");
    TooFarBehind { behind_bytes: u64, limit_bytes: u64 } "too_far_behind" ("{} behind the last leader, limit {}", bytes(*behind_bytes), bytes(*limit_bytes));
    StrayTimeline { timeline: Timeline } "stray_timeline" ("timeline {timeline} was begun there by a promotion that nobody ordered");
    NotStreaming {} "not_streaming" ("it does not stream from the leader");
    Cascaded { upstream: MemberName } "cascaded" ("it streams from {upstream}, not from the leader");
    FromArchive {} "from_archive" ("it takes WAL from the archive alone");
    IsLeader {} "is_leader" ("it is the leader");
}

/// A candidate and everything that bars it; no bars: it may lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Who.
    pub member: MemberName,
    /// What forbids it, all of it.
    pub bars: Vec<Bar>,
}

/// A duration as a person reads it.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}

/// An amount of bytes as a person reads it.
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} bytes"),
    }
}

fn list(members: &[MemberName]) -> String {
    if members.is_empty() {
        return "nobody".to_owned();
    }
    members.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

fn loss(bound: Option<u64>) -> String {
    match bound {
        Some(0) => "nothing acknowledged is lost, proven".to_owned(),
        Some(count) => format!("{} or more of acknowledged writes may be lost", bytes(count)),
        None => "how much may be lost is unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_carries_its_numbers() {
        let pg2 = MemberName::new("pg2").expect("good name");
        let reason = Reason::TooFarBehind { best: pg2, behind_bytes: 48 << 20, limit_bytes: 16 << 20 };
        assert_eq!(
            reason.to_string(),
            "nobody is promoted: the best candidate pg2 is 48.0 MB behind the last leader, the limit is 16.0 MB"
        );
        assert_eq!(reason.code(), "too_far_behind");
    }

    #[test]
    fn json_carries_the_same_code() {
        let json = serde_json::to_value(Reason::Leading { term: Term(7) }).expect("serializable");
        assert_eq!(json, serde_json::json!({"code": "leading", "term": 7}));
    }

    #[test]
    fn no_two_reasons_share_a_code() {
        let mut codes = Reason::CODES.to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::CODES.len());
    }
}
