//! The rules of the house: timings, limits and durability that a decision obeys, checked once against each other, so that an
//! impossible relation (a renewal slower than the lease) never reaches a running agent.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::MemberName;

/// Settings of one agent: cluster-wide ones from etcd, and those of its own node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Timings.
    pub timing: Timing,
    /// What an acknowledged commit is promised.
    pub durability: Durability,
    /// In `async` mode: how many bytes a candidate may be behind the last leader's published position.
    pub max_lag_on_failover_bytes: u64,
    /// Never take over from a leader whose lease has not ended.
    pub wait_for_lease: bool,
    /// No automatic action is taken while set.
    pub paused: bool,
    /// Planned actions wait while set: somebody changes the schema, say.
    #[serde(default)]
    pub held: bool,
}

/// Timings. Everything is checked by [`Timing::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Time to live of the leader's lease.
    pub ttl: Duration,
    /// How often the lease is renewed, and how often the loop looks again when nothing wakes it.
    pub heartbeat: Duration,
    /// Deadline of one request to etcd.
    pub request_timeout: Duration,
    /// How long before the lease ends Postgres must be dead.
    pub safety_margin: Duration,
    /// How long a primary may take to start before another may lead.
    pub primary_start_timeout: Duration,
    /// How long a voter must have been away before it is no voter any more.
    pub voter_drop_after: Duration,
    /// How long all voters must have been away before `quorum` mode degrades.
    pub degrade_after: Duration,
    /// In `async` mode: how long candidates wait for each other's ballots.
    pub ballot_window: Duration,
    /// How long a leader that let go of the lock leaves it to others before it takes it again.
    pub reclaim_after: Duration,
    /// How long a primary may be silent before it counts as hung, where its voters can take over; four times that elsewhere.
    pub hang_after: Duration,
    /// How long a write to the disk of a primary may take before the disk counts as frozen.
    pub disk_frozen_after: Duration,
    /// How long the leader's agent must have been silent before a voter suspects the leader; a closed door is evidence at once.
    pub suspect_after: Duration,
    /// How long to wait before a failed long action (clone, rewind, start) is tried again.
    pub retry_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            request_timeout: Duration::from_millis(700),
            safety_margin: Duration::from_millis(500),
            primary_start_timeout: Duration::from_secs(30),
            voter_drop_after: Duration::from_secs(1),
            degrade_after: Duration::from_secs(3),
            ballot_window: Duration::from_secs(1),
            reclaim_after: Duration::from_secs(2),
            hang_after: Duration::from_millis(500),
            disk_frozen_after: Duration::from_secs(3),
            suspect_after: Duration::from_millis(500),
            retry_after: Duration::from_secs(3),
        }
    }
}

impl Timing {
    /// Every impossible relation, as a sentence that names the mend; empty when all is well.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let needed = self.heartbeat + self.request_timeout * 2 + self.safety_margin;
        if self.ttl < needed {
            wrong.push(format!(
                "ttl {:?} < heartbeat {:?} + 2 x request_timeout {:?} + safety_margin {:?} = {needed:?}: one lost renewal would end the leadership; raise ttl or lower the others",
                self.ttl, self.heartbeat, self.request_timeout, self.safety_margin
            ));
        }
        if self.ttl < Duration::from_secs(2) {
            wrong.push(format!(
                "ttl {:?} is below 2 s, which etcd with its default election timeout does not grant",
                self.ttl
            ));
        }
        if self.ttl > Duration::from_secs(300) {
            wrong.push(format!("ttl {:?} is above 300 s: a lost host would stay unnoticed for that long", self.ttl));
        }
        if self.ttl.subsec_nanos() != 0 {
            wrong.push(format!("ttl {:?} is not in whole seconds, as etcd counts leases", self.ttl));
        }
        if self.heartbeat < Duration::from_millis(100) {
            wrong.push(format!("heartbeat {:?} is below 100 ms: it would only load etcd", self.heartbeat));
        }
        if self.request_timeout < Duration::from_millis(100) {
            wrong.push(format!(
                "request_timeout {:?} is below 100 ms: a healthy etcd sometimes takes longer",
                self.request_timeout
            ));
        }
        if self.suspect_after < Duration::from_millis(300) {
            wrong.push(format!(
                "suspect_after {:?} is below 300 ms: three beats, fewer would be lost in ordinary noise",
                self.suspect_after
            ));
        }
        if self.hang_after < Duration::from_millis(300) {
            wrong.push(format!(
                "hang_after {:?} is below 300 ms: a busy machine would look like a hanging Postgres",
                self.hang_after
            ));
        }
        if self.safety_margin < Duration::from_millis(200) {
            wrong.push(format!(
                "safety_margin {:?} is below 200 ms: Postgres with many connections takes 80 ms to kill",
                self.safety_margin
            ));
        }
        wrong
    }
}

/// What an acknowledged commit is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durability {
    /// The mode.
    pub mode: Mode,
    /// How many voters besides the leader must have a commit before it is acknowledged (k).
    pub acknowledgers: u32,
    /// Voters are those of other zones than the leader's, as long as there are enough of them.
    #[serde(default)]
    pub other_zone: bool,
}

impl Default for Durability {
    fn default() -> Self {
        Self { mode: Mode::Auto, acknowledgers: 1, other_zone: false }
    }
}

/// The durability modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `quorum` from the moment two standbys have been seen, `async` before.
    #[default]
    Auto,
    /// Replicas may lag; a failover may lose up to `max_lag_on_failover`, and says how much.
    Async,
    /// An acknowledged commit is on the leader and on k voters; degrades to async, on record, when no voter is left.
    Quorum,
    /// As `quorum`, and commits wait rather than degrade.
    Strict,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Auto => "auto",
            Mode::Async => "async",
            Mode::Quorum => "quorum",
            Mode::Strict => "strict",
        })
    }
}

/// What a node says about its own part in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tags {
    /// Never leads, and so never votes.
    pub nofailover: bool,
    /// Among equals the higher number leads; 0 is the same as `nofailover`.
    pub failover_priority: u32,
    /// Answers 503 on `/replica`.
    pub noloadbalance: bool,
    /// Never a voter.
    pub nosync: bool,
    /// Copies of the data are made from here rather than from the leader.
    pub clonefrom: bool,
    /// Streams from this member rather than from the leader, and so never votes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicatefrom: Option<MemberName>,
    /// Takes WAL from the archive alone, and so never leads.
    pub nostream: bool,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            nofailover: false,
            failover_priority: 1,
            noloadbalance: false,
            nosync: false,
            clonefrom: false,
            replicatefrom: None,
            nostream: false,
        }
    }
}

impl Tags {
    /// Whether the node is barred from leading.
    pub fn never_leads(&self) -> bool {
        self.nofailover || self.failover_priority == 0 || self.nostream
    }

    /// Whether it is not to stream from the leader. **Invariant: such a node is in no quorum**: a commit, or a takeover, would wait for what never
    /// reaches the leader.
    pub fn streams_elsewhere(&self) -> bool {
        self.nostream || self.replicatefrom.is_some()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            durability: Durability::default(),
            max_lag_on_failover_bytes: 1024 * 1024,
            wait_for_lease: false,
            paused: false,
            held: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_possible() {
        assert_eq!(Timing::default().check(), Vec::<String>::new());
    }

    #[test]
    fn a_lease_that_one_lost_renewal_would_end_is_refused() {
        let timing = Timing { ttl: Duration::from_secs(2), ..Timing::default() };
        let wrong = timing.check();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("raise ttl"), "{}", wrong[0]);
    }

    #[test]
    fn each_impossible_timing_has_a_sentence_of_its_own() {
        let timing = Timing {
            ttl: Duration::from_millis(1500),
            heartbeat: Duration::from_millis(10),
            request_timeout: Duration::from_millis(10),
            safety_margin: Duration::from_millis(10),
            ..Timing::default()
        };
        assert_eq!(timing.check().len(), 5);
    }
}
