//! How long things have been so, counted as the agent counts it, on the clock of its host.

use std::collections::BTreeMap;

use decision::names::{Lsn, MemberName, Term};
use decision::view::{Ages, Cluster, Lock, Primary, Server};

use crate::time::{Micros, duration};

#[derive(Clone, Debug, Default)]
pub struct AgeKeeper {
    vacancy: Option<Micros>,
    reign: Option<(Term, Micros)>,
    voters_missing: BTreeMap<MemberName, Micros>,
    request: Option<(i64, Micros)>,
    not_streaming: Option<Micros>,
    last_failure: Option<(&'static str, Micros)>,
    asked_switchover: Option<Micros>,
    wal: Option<(Lsn, Micros)>,
    upstream_good: Option<Micros>,
    upstream_bad: Option<Micros>,
}

fn hold(since: &mut Option<Micros>, condition: bool, now: Micros) {
    *since = condition.then(|| since.unwrap_or(now));
}

fn hold_for<T: PartialEq + Copy>(since: &mut Option<(T, Micros)>, of: Option<T>, now: Micros) {
    *since = of.map(|of| match *since {
        Some((before, at)) if before == of => (of, at),
        _ => (of, now),
    });
}

impl AgeKeeper {
    pub fn failed(&mut self, action: &'static str, now: Micros) {
        self.last_failure = Some((action, now));
    }

    pub fn asked_switchover(&mut self, now: Micros) {
        self.asked_switchover = Some(now);
    }

    pub fn succeeded(&mut self, action: &str, stopped: bool, now: Micros) {
        self.last_failure = match (action, self.last_failure) {
            ("refuse_request", _) if stopped => Some(("hand_over", now)),
            ("record_sync", Some(("hand_over", at))) if stopped => Some(("hand_over", at)),
            _ => None,
        };
    }

    pub fn look_at_upstream(&mut self, good: Option<bool>, now: Micros) {
        hold(&mut self.upstream_good, good == Some(true), now);
        hold(&mut self.upstream_bad, good == Some(false), now);
    }

    pub fn look(&mut self, cluster: Option<&Cluster>, server: Option<&Server>, lock: Lock, now: Micros) -> Ages {
        if let Some(cluster) = cluster {
            hold(&mut self.vacancy, cluster.leader.is_none(), now);
            hold_for(&mut self.request, cluster.request.as_ref().map(|request| request.revision), now);
        }
        let term = match lock {
            Lock::Held { term, .. } => Some(term),
            Lock::NotHeld => None,
        };
        hold_for(&mut self.reign, term, now);
        let end = match server {
            Some(Server::Primary(primary)) => Some(primary.flushed),
            _ => None,
        };
        hold_for(&mut self.wal, end, now);
        let away = matches!(server, Some(Server::Standby(standby)) if standby.follows.is_some() && !standby.streaming);
        hold(&mut self.not_streaming, away, now);
        match (server, cluster, term) {
            (Some(Server::Primary(primary)), Some(cluster), Some(term)) => self.voters(cluster, primary, term, now),
            _ => self.voters_missing.clear(),
        }
        let age = |since: Micros| duration(now.saturating_sub(since));
        Ages {
            vacancy: self.vacancy.map(age),
            reign: self.reign.map(|(_, since)| age(since)),
            voters_missing: self.voters_missing.iter().map(|(voter, since)| (voter.clone(), age(*since))).collect(),
            not_streaming: self.not_streaming.map(age),
            request: self.request.map(|(_, since)| age(since)),
            last_failure: self.last_failure.map(|(_, since)| age(since)),
            failed_action: self.last_failure.map(|(action, _)| action.to_owned()),
            asked_switchover: self.asked_switchover.map(age),
            upstream_good: self.upstream_good.map(age),
            upstream_bad: self.upstream_bad.map(age),
            wal_still: self.wal.map(|(_, since)| age(since)),
            ..Ages::default()
        }
    }

    fn voters(&mut self, cluster: &Cluster, primary: &Primary, term: Term, now: Micros) {
        let voters = cluster.sync.iter().flat_map(|sync| &sync.policies).flat_map(|quorum| &quorum.voters);
        let streams = |voter: &MemberName| {
            primary.standbys.iter().any(|standby| standby.member == *voter && standby.term == term && standby.caught_up)
        };
        let missing: Vec<MemberName> = voters.filter(|voter| !streams(voter)).cloned().collect();
        self.voters_missing.retain(|voter, _| missing.contains(voter));
        for voter in missing {
            self.voters_missing.entry(voter).or_insert(now);
        }
    }

    pub fn soonest(&self, now: Micros, limits: &[Micros]) -> Option<Micros> {
        let failure = self.last_failure.map(|(_, since)| since);
        let running = [self.vacancy, self.not_streaming, failure].into_iter().flatten();
        running
            .chain(self.voters_missing.values().copied())
            .flat_map(|since| limits.iter().map(move |limit| limit.saturating_sub(now.saturating_sub(since))))
            .filter(|left| *left > 0)
            .min()
    }
}
