//! How long things have been so. A decision has no clock, so the loop counts for it, on the monotonic clock of this host.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use decision::names::{Lsn, MemberName, Term};
use decision::view::{Ages, Cluster, Lock, Primary, Seen, Server, Streaming};

/// Remembers since when.
#[derive(Debug, Default)]
pub struct AgeKeeper {
    vacancy: Option<Instant>,
    reign: Option<(Term, Instant)>,
    voters_missing: BTreeMap<MemberName, Instant>,
    resting: BTreeMap<MemberName, (Lsn, Duration)>,
    answered: Option<Instant>,
    request: Option<(i64, Instant)>,
    not_streaming: Option<Instant>,
    last_failure: Option<(&'static str, Instant)>,
    hand_over_undone: bool,
    stopping: Option<Instant>,
    down: Option<Instant>,
    wal: Option<(Lsn, Instant)>,
    asked_switchover: Option<Instant>,
    upstream_good: Option<Instant>,
    upstream_bad: Option<Instant>,
}

/// A look that comes later after the one before than this counts no more: nobody looked meanwhile, and on a host that was paused everybody rested.
const LOOKS_APART: Duration = Duration::from_secs(1);

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
        self.hand_over_undone |= action == "hand_over";
    }

    /// An action has succeeded. A hand-over for which Postgres was `stopped`, here or in an earlier life, has failed until it runs again: taking
    /// it back in etcd does not end that.
    pub fn succeeded(&mut self, action: &str, stopped: bool) {
        self.last_failure = match (action, self.last_failure) {
            ("refuse_request", _) if stopped => Some(("hand_over", Instant::now())),
            ("record_sync", Some(("hand_over", at))) if stopped => Some(("hand_over", at)),
            _ => None,
        };
        self.hand_over_undone |= matches!(self.last_failure, Some(("hand_over", _)));
    }

    /// A switchover is being asked for by this node itself.
    pub fn asked_switchover(&mut self) {
        self.asked_switchover = Some(Instant::now());
    }

    /// Whether the standby that this node is to stream from is good for that; `None`: none is named, or that is not known.
    pub fn look_at_upstream(&mut self, good: Option<bool>) {
        hold(&mut self.upstream_good, good == Some(true));
        hold(&mut self.upstream_bad, good == Some(false));
    }

    /// Takes in what is seen now, and tells all ages. `answered`: when the server was asked for what is seen of it. Who the voters are is taken
    /// from the last picture of etcd: whether they acknowledge is seen without it.
    pub fn look(
        &mut self,
        cluster: &Seen<Cluster>,
        server: Option<&Server>,
        answered: Option<Instant>,
        lock: Lock,
    ) -> Ages {
        if let Some(cluster) = cluster.now() {
            hold(&mut self.vacancy, cluster.leader.is_none());
            hold_for(&mut self.request, cluster.request.as_ref().map(|request| request.revision));
        }
        let term = match lock {
            Lock::Held { term, .. } => Some(term),
            Lock::NotHeld => None,
        };
        hold_for(&mut self.reign, term);
        self.hand_over_undone &= !matches!(server, Some(Server::Primary(_) | Server::Standby(_)));
        let away = matches!(server, Some(Server::Standby(standby)) if standby.follows.is_some() && !standby.streaming);
        hold(&mut self.not_streaming, away);
        hold(&mut self.stopping, matches!(server, Some(Server::Stopping)));
        hold(&mut self.down, matches!(server, Some(Server::Stopped)));
        match server {
            Some(Server::Primary(primary)) => hold_for(&mut self.wal, Some(primary.flushed)),
            Some(Server::Hung { .. }) => {}
            _ => self.wal = None,
        }
        match (server, cluster.last(), term) {
            (Some(Server::Primary(primary)), Some(cluster), Some(term)) => self.look_at_voters(cluster, primary, term),
            _ => self.voters_missing.clear(),
        }
        match (server, term) {
            (Some(Server::Primary(primary)), Some(term)) => self.look_at_rest(primary, term, answered),
            _ => (self.resting, self.answered) = (BTreeMap::new(), None),
        }
        self.tell()
    }

    /// Who rests: counted from one answer of the server to the next, so that neither an old answer nor a pause of this agent makes anybody rest.
    fn look_at_rest(&mut self, primary: &Primary, term: Term, answered: Option<Instant>) {
        let Some(now) = answered.filter(|now| self.answered != Some(*now)) else { return };
        let before = self.answered.replace(now);
        let step = before.map_or(Duration::ZERO, |before| now.saturating_duration_since(before)).min(LOOKS_APART);
        let behind = primary
            .standbys
            .iter()
            .filter(|standby| standby.term == term && standby.caught_up && standby.flushed < primary.flushed);
        let age = |standby: &Streaming| match self.resting.get(&standby.member) {
            Some((flushed, age)) if *flushed == standby.flushed => *age + step,
            _ => Duration::ZERO,
        };
        self.resting = behind.map(|standby| (standby.member.clone(), (standby.flushed, age(standby)))).collect();
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
            voters_resting: self.resting.iter().map(|(voter, (_, age))| (voter.clone(), *age)).collect(),
            not_streaming: age(&self.not_streaming),
            request: self.request.map(|(_, since)| since.elapsed()),
            last_failure: self.last_failure.map(|(_, since)| since.elapsed()),
            stopping: age(&self.stopping),
            down: age(&self.down),
            wal_still: self.wal.map(|(_, since)| since.elapsed()),
            asked_switchover: age(&self.asked_switchover),
            upstream_good: age(&self.upstream_good),
            upstream_bad: age(&self.upstream_bad),
            hand_over_undone: self.hand_over_undone,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(flushed: u64, acknowledged: u64) -> Server {
        let member = MemberName::new("pg2").expect("a good name");
        let (flushed_there, replayed) = (Lsn(acknowledged), Lsn(acknowledged));
        let standby = Streaming { member, term: Term(1), caught_up: true, flushed: flushed_there, replayed };
        Server::Primary(Primary {
            timeline: decision::names::Timeline(1),
            flushed: Lsn(flushed),
            marked_term: Term(1),
            control_timeline: decision::names::Timeline(1),
            waits_for: None,
            standbys: vec![standby],
        })
    }

    /// For how long the standby has rested after these looks: the second of each, the leader's end of WAL, the acknowledged one.
    fn rested(looks: &[(u64, u64, u64)]) -> Option<Duration> {
        let (mut keeper, begin) = (AgeKeeper::default(), Instant::now());
        let lock = Lock::Held { term: Term(1), left: Duration::from_secs(4) };
        let mut ages = Ages::default();
        for (second, flushed, acknowledged) in looks {
            let answered = begin + Duration::from_secs(*second);
            ages = keeper.look(
                &Seen::Never { tried_for: Duration::ZERO },
                Some(&primary(*flushed, *acknowledged)),
                Some(answered),
                lock,
            );
        }
        ages.voters_resting.into_values().next()
    }

    #[test]
    fn a_voter_rests_while_it_is_behind_and_acknowledges_nothing() {
        let seconds = Duration::from_secs;
        assert_eq!(rested(&[(0, 10, 9), (1, 20, 9), (2, 20, 9)]), Some(seconds(2)));
        assert_eq!(rested(&[(0, 10, 9), (1, 20, 9), (2, 30, 10)]), Some(seconds(0)), "slow, but it moves");
        assert_eq!(rested(&[(0, 10, 10), (9, 10, 10)]), None, "there is nothing to acknowledge");
        assert_eq!(rested(&[(0, 10, 9), (1, 10, 9), (1, 10, 9), (1, 10, 9)]), Some(seconds(1)), "the same answer");
        assert_eq!(rested(&[(0, 10, 9), (60, 10, 9)]), Some(seconds(1)), "nobody looked for a minute");
    }
}
