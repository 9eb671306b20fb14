//! How long things have been so. A decision has no clock, so the loop counts for it, on the monotonic clock of this host.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use decision::names::{Lsn, MemberName, Term};
use decision::view::{Ages, Cluster, Lock, Primary, Server};

/// Remembers since when.
#[derive(Debug, Default)]
pub struct AgeKeeper {
    vacancy: Option<Instant>,
    reign: Option<(Term, Instant)>,
    voters_missing: BTreeMap<MemberName, Instant>,
    request: Option<(i64, Instant)>,
    not_streaming: Option<Instant>,
    last_failure: Option<(&'static str, Instant)>,
    stopping: Option<Instant>,
    wal: Option<(Lsn, Instant)>,
    asked_switchover: Option<Instant>,
}

/// `since` while the condition holds, restarted when it begins anew.
fn hold(since: &mut Option<Instant>, condition: bool) {
    *since = condition.then(|| since.unwrap_or_else(Instant::now));
}

/// As [`hold`], for a condition with an identity.
fn hold_for<T: PartialEq + Copy>(since: &mut Option<(T, Instant)>, of: Option<T>) {
    *since = of.map(|of| match *since {
        Some((before, at)) if before == of => (of, at),
        _ => (of, Instant::now()),
    });
}

impl AgeKeeper {
    /// A long action has failed just now.
    pub fn failed(&mut self, action: &'static str) {
        self.last_failure = Some((action, Instant::now()));
    }

    /// A long action has succeeded.
    pub fn succeeded(&mut self) {
        self.last_failure = None;
    }

    /// A switchover is being asked for by this node itself.
    pub fn asked_switchover(&mut self) {
        self.asked_switchover = Some(Instant::now());
    }

    /// Takes in what is seen now, and tells all ages.
    pub fn look(&mut self, cluster: Option<&Cluster>, server: Option<&Server>, lock: Lock) -> Ages {
        if let Some(cluster) = cluster {
            hold(&mut self.vacancy, cluster.leader.is_none());
            hold_for(&mut self.request, cluster.request.as_ref().map(|request| request.revision));
        }
        let term = match lock {
            Lock::Held { term, .. } => Some(term),
            Lock::NotHeld => None,
        };
        hold_for(&mut self.reign, term);
        let away = matches!(server, Some(Server::Standby(standby)) if standby.follows.is_some() && !standby.streaming);
        hold(&mut self.not_streaming, away);
        hold(&mut self.stopping, matches!(server, Some(Server::Stopping)));
        match server {
            Some(Server::Primary(primary)) => hold_for(&mut self.wal, Some(primary.flushed)),
            Some(Server::Hung { .. }) => {}
            _ => self.wal = None,
        }
        match (server, cluster, term) {
            (Some(Server::Primary(primary)), Some(cluster), Some(term)) => self.look_at_voters(cluster, primary, term),
            _ => self.voters_missing.clear(),
        }
        self.tell()
    }

    fn look_at_voters(&mut self, cluster: &Cluster, primary: &Primary, term: Term) {
        let voters = cluster.sync.iter().flat_map(|sync| &sync.policies).flat_map(|quorum| &quorum.voters);
        let streams = |voter: &MemberName| {
            primary.standbys.iter().any(|standby| standby.member == *voter && standby.term == term && standby.caught_up)
        };
        let missing: Vec<MemberName> = voters.filter(|voter| !streams(voter)).cloned().collect();
        self.voters_missing.retain(|voter, _| missing.contains(voter));
        for voter in missing {
            self.voters_missing.entry(voter).or_insert_with(Instant::now);
        }
    }

    fn tell(&self) -> Ages {
        let age = |since: &Option<Instant>| since.map(|since| since.elapsed());
        Ages {
            vacancy: age(&self.vacancy),
            reign: self.reign.map(|(_, since)| since.elapsed()),
            voters_missing: self.voters_missing.iter().map(|(voter, since)| (voter.clone(), since.elapsed())).collect(),
            not_streaming: age(&self.not_streaming),
            request: self.request.map(|(_, since)| since.elapsed()),
            last_failure: self.last_failure.map(|(_, since)| since.elapsed()),
            stopping: age(&self.stopping),
            wal_still: self.wal.map(|(_, since)| since.elapsed()),
            asked_switchover: age(&self.asked_switchover),
            failed_action: self.last_failure.map(|(action, _)| action.to_owned()),
        }
    }

    /// The shortest time until one of the ages may make a difference: the loop looks again then.
    pub fn soonest(&self, limits: &[Duration]) -> Option<Duration> {
        let failure = self.last_failure.map(|(_, since)| since);
        let running = [self.vacancy, self.not_streaming, failure].into_iter().flatten();
        let voters = self.voters_missing.values().copied();
        running
            .chain(voters)
            .flat_map(|since| limits.iter().map(move |limit| limit.saturating_sub(since.elapsed())))
            .filter(|left| !left.is_zero())
            .min()
    }
}
