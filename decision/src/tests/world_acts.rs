//! What actions do in the tiny world, how WAL flows, and what half a second does. Every write to etcd carries the guard that the real
//! one has; a host that dies half way leaves what the real one would leave.

use super::world::*;
use crate::action::{Action, Claim, ClaimKind, StartAs, StopMode};
use crate::durability::{Quorum, ending_with, inherited, may_go_over_ahead, quorum_for_new_leader};
use crate::names::{Lsn, MemberName, Term, Timeline};
use crate::settings::Mode;
use crate::view::*;

impl World {
    pub(super) fn act(&mut self, at: usize, action: Action) {
        if self.nodes[at].cut_off && !matches!(action, Action::Stop(_) | Action::Wait) {
            panic!("{} without etcd", action.code());
        }
        let me = self.nodes[at].name.clone();
        let leads = self.etcd.leader.as_ref() == Some(&me) && self.nodes[at].lock == Some(self.etcd.term);
        let node = &mut self.nodes[at];
        match action {
            // There is no other site in this world.
            Action::Wait | Action::Cancel | Action::Bootstrap | Action::LeaveRemote | Action::DemoteSite { .. } => {}
            Action::FindEndOfWal => node.end_known = true,
            Action::Start(how) => self.start(at, how),
            Action::Restart { then, .. } => {
                self.stop(at, StopMode::Fast);
                self.start(at, then);
            }
            Action::Reinit { from, floor, .. } => self.copy(at, &from.member, floor, "reinit"),
            Action::RefuseOrder { .. } => drop(self.etcd.orders.remove(&me)),
            Action::Stop(mode) => self.stop(at, mode),
            Action::Follow(upstream) => node.follows = Some((upstream.member, upstream.term)),
            Action::Pledge { revoked } => self.pledge(at, revoked),
            Action::Withdraw { .. } => drop(self.etcd.ballots.remove(&me)),
            Action::ClearFloor => drop(self.etcd.floors.remove(&me)),
            Action::StandReady => node.stands_ready = true,
            Action::StandDown => node.stands_ready = false,
            Action::Clone { from, floor } => self.copy(at, &from.member, floor, "clone"),
            Action::Rewind { from, floor } => self.copy(at, &from.member, floor, "rewind"),
            Action::Acquire(claim) => self.acquire(at, claim),
            Action::Resume { term } => self.resume(at, term),
            Action::Promote { term, timeline, quorum } => self.promote(at, term, timeline, quorum),
            Action::Mark { term } if node.newest_marker(node.wal.len()) < term => self.write(at, Some(term)),
            Action::Mark { .. } => {}
            Action::ApplySync(quorum) => (node.waits_for, node.proving) = ((quorum, self.etcd.term), None),
            Action::ProveSync { quorum, .. } => {
                if node.proving.as_ref().is_none_or(|(proving, _)| *proving != quorum) {
                    self.write(at, None);
                    self.nodes[at].proving = Some((quorum, self.nodes[at].wal.len()));
                }
            }
            Action::RecordSync { .. } | Action::HandOver { .. } | Action::Release | Action::RefuseRequest { .. }
                if !leads => {}
            Action::AskSwitchover { .. } => {}
            Action::RecordSync { mode, policies } => {
                self.amend(|sync| (sync.mode, sync.policies) = (mode, policies));
                self.amend(|sync| (sync.heir, sync.released) = (None, false));
            }
            Action::HandOver { to, .. } => self.hand_over(at, &to),
            Action::RefuseRequest { .. } => self.etcd.request = None,
            // What is left of the server dies also where the report is refused; half way, only the report is there.
            Action::Abdicate => {
                node.die();
                if leads {
                    self.amend(|sync| sync.released = true);
                    if !self.dies_half_way(at) {
                        (self.etcd.leader, self.nodes[at].lock) = (None, None);
                    }
                }
            }
            Action::Release => {
                (self.etcd.leader, node.lock) = (None, None);
                self.amend(|sync| sync.released = true);
            }
        }
    }

    fn amend(&mut self, change: impl FnOnce(&mut SyncRecord)) {
        change(self.etcd.sync.as_mut().expect("the world has a record"));
    }

    fn start(&mut self, at: usize, how: StartAs) {
        let node = &mut self.nodes[at];
        (node.clean, node.end_known, node.proving) = (false, false, None);
        match how {
            StartAs::Primary { term, quorum, .. } => {
                assert!(!node.signal, "a standby's directory started as primary");
                (node.runs, node.waits_for, node.visible) = (Runs::Primary, (quorum, term), node.wal.len());
            }
            StartAs::Standby(upstream) => {
                (node.runs, node.signal) = (Runs::Standby, true);
                node.follows = upstream.map(|upstream| (upstream.member, upstream.term));
            }
        }
    }

    fn stop(&mut self, at: usize, mode: StopMode) {
        if mode == StopMode::Fast && self.nodes[at].runs == Runs::Primary {
            self.write(at, None);
        }
        self.nodes[at].die();
        self.nodes[at].clean = mode == StopMode::Fast;
    }

    fn write(&mut self, at: usize, marker: Option<Term>) {
        let timeline = self.nodes[at].timeline();
        self.nodes[at].wal.push(Record { timeline, id: self.next_id, marker });
        self.next_id += 1;
    }

    fn pledge(&mut self, at: usize, revoked: Term) {
        let node = &mut self.nodes[at];
        node.follows = None;
        let (wal_term, received) = (node.newest_marker(node.wal.len()), lsn(node.wal.len()));
        let (timeline, revision) = (node.timeline(), i64::from(self.next_id));
        self.next_id += 1;
        if self.etcd.term == revoked {
            let ballot = Ballot { revoked, wal_term, received, timeline, late: false, revision };
            self.etcd.ballots.insert(node.name.clone(), ballot);
        }
    }

    /// A copy ends a little behind its source, which has gone on meanwhile.
    fn copy(&mut self, at: usize, from: &MemberName, floor: Lsn, work: &str) {
        let source = self.nodes.iter().find(|node| node.name == *from && node.runs == Runs::Primary && !node.cut_off);
        let Some(wal) = source.map(|node| node.wal.clone()) else {
            return self.nodes[at].failed = Some(0);
        };
        let me = self.nodes[at].name.clone();
        self.etcd.floors.insert(me, floor.max(lsn(wal.len())));
        self.nodes[at].data = Some(Some(work.to_owned()));
        if !self.dies_half_way(at) {
            let node = &mut self.nodes[at];
            let end = wal.len().saturating_sub(3).max(1);
            (node.data, node.wal) = (Some(None), wal[..end].to_vec());
            (node.signal, node.clean, node.end_known) = (true, false, false);
        }
    }

    fn acquire(&mut self, at: usize, claim: Claim) {
        let counted = |(who, revision): &(MemberName, i64)| {
            self.etcd.ballots.get(who).is_some_and(|ballot| ballot.revision == *revision)
        };
        if self.etcd.leader != claim.depose || self.etcd.term != claim.after || !claim.ballots.iter().all(counted) {
            return;
        }
        let me = self.nodes[at].name.clone();
        self.etcd.ballots.remove(&me);
        self.etcd.sync = Some(SyncRecord {
            leader: me.clone(),
            term: claim.term,
            mode: claim.mode,
            policies: claim.policies,
            timeline: claim.timeline,
            released: false,
            reclaimed: claim.kind == ClaimKind::Reclaim,
            handover_lsn: None,
            heir: None,
            follows: false,
        });
        self.etcd.request = self.etcd.request.take().filter(|_| claim.request.is_none());
        self.crown(at, claim.term);
    }

    fn resume(&mut self, at: usize, term: Term) {
        let node = &mut self.nodes[at];
        if self.etcd.leader.is_none() && self.etcd.term == term && self.etcd.last_led_by(&node.name) {
            self.etcd.leader = Some(node.name.clone());
            (node.lock, node.lease_left) = (Some(term), TTL);
        }
    }

    fn crown(&mut self, at: usize, term: Term) {
        let node = &mut self.nodes[at];
        (self.etcd.leader, self.etcd.term) = (Some(node.name.clone()), term);
        (node.lock, node.lease_left, node.reign, node.stands_ready) = (Some(term), TTL, 0, false);
    }

    fn promote(&mut self, at: usize, term: Term, timeline: Timeline, quorum: Quorum) {
        let taken = self.nodes.iter().any(|node| node.wal.iter().any(|record| record.timeline == timeline));
        assert!(!taken, "timeline {timeline} for the second time");
        let node = &mut self.nodes[at];
        (node.waits_for, node.follows, node.visible) = ((quorum, term), None, node.wal.len());
        (node.runs, node.signal) = (Runs::Primary, false);
        if self.dies_half_way(at) {
            // The signal file is gone already; the new timeline may have begun, and nobody knows of it.
            let begun = self.next_id.is_multiple_of(2);
            self.next_id += 1;
            let record = Record { timeline, id: self.next_id, marker: None };
            return self.nodes[at].wal.extend(begun.then_some(record));
        }
        self.nodes[at].wal.push(Record { timeline, id: self.next_id, marker: Some(term) });
        self.next_id += 1;
    }

    /// The others are told of the heir first, where commits can go on without them; then a tick passes.
    fn hand_over(&mut self, at: usize, to: &MemberName) {
        let policies = self.etcd.sync.as_ref().map(|sync| sync.policies.clone()).unwrap_or_default();
        if may_go_over_ahead(&policies, to) {
            self.amend(|sync| sync.heir = Some(to.clone()));
        }
        if !self.dies_half_way(at) {
            self.nodes[at].handing_over = Some(to.clone());
        }
    }

    /// Postgres stops, the candidate confirms, the lock moves; or all of it goes back.
    pub(super) fn hand_over_goes_on(&mut self, at: usize, to: &MemberName) {
        self.nodes[at].handing_over = None;
        if self.nodes[at].runs != Runs::Primary {
            return self.hand_over_fails(at);
        }
        self.stop(at, StopMode::Fast);
        let Some(candidate) = self.nodes.iter().position(|node| node.name == *to) else { return };
        let (behind, wal) = (&self.nodes[candidate], &self.nodes[at].wal);
        let follows = behind.follows.as_ref().is_some_and(|(who, _)| *who == self.nodes[at].name);
        let reaches = behind.runs == Runs::Standby && follows && !behind.cut_off && wal.starts_with(&behind.wal);
        if self.dies_half_way(at) {
            return;
        }
        let etcd_answers = !self.nodes[at].cut_off && self.etcd.members.contains_key(to);
        if !reaches || !self.nodes[candidate].stands_ready || !etcd_answers {
            return self.hand_over_fails(at);
        }
        // The candidate confirms what it has streamed; a crash of it may still come before it is primary.
        self.nodes[candidate].wal = self.nodes[at].wal.clone();
        let (end, request) =
            (lsn(self.nodes[at].wal.len()), self.etcd.request.as_ref().map(|request| request.revision));
        let ticks = if self.nodes[at].hands_over_late { 3 } else { 0 };
        let (term, request) = (self.etcd.term, request.unwrap_or_default());
        self.in_flight = Some(InFlight { from: at, to: candidate, term, request, end, ticks });
        if ticks > 0 {
            // No answer came, and neither did one to the question what became of it.
            let node = &mut self.nodes[at];
            (node.failed, node.hand_over_failed, node.hands_over_late) = (Some(0), true, false);
        }
        self.arrive();
    }

    fn hand_over_fails(&mut self, at: usize) {
        (self.nodes[at].failed, self.nodes[at].hand_over_failed) = (Some(0), true);
        let leads = self.etcd.leader.as_ref() == Some(&self.nodes[at].name) && !self.nodes[at].cut_off;
        if leads && self.nodes[at].lock == Some(self.etcd.term) {
            self.etcd.request = None;
            self.amend(|sync| sync.heir = None);
        }
    }

    /// etcd carries out the transaction of a hand-over, if its guards still hold.
    pub(super) fn arrive(&mut self) {
        let Some(flight) = self.in_flight.take_if(|flight| flight.ticks == 0) else { return };
        let from = &self.nodes[flight.from];
        let leads = self.etcd.leader.as_ref() == Some(&from.name) && self.etcd.term == flight.term;
        let asked = self.etcd.request.as_ref().is_some_and(|request| request.revision == flight.request);
        let to = self.nodes[flight.to].name.clone();
        if !leads || !asked || !self.etcd.members.contains_key(&to) || !self.nodes[flight.to].stands_ready {
            return;
        }
        assert!(from.runs != Runs::Primary, "the lock left {} while it was primary", from.name);
        let quorum = quorum_for_new_leader(&to, &self.etcd, &self.settings);
        let inherited = self.etcd.sync.as_ref().map(inherited).unwrap_or_default();
        let term = self.etcd.term.next();
        self.amend(|sync| {
            (sync.leader, sync.term, sync.handover_lsn) = (to.clone(), term, Some(flight.end));
            sync.policies = ending_with(&inherited, &quorum);
            (sync.timeline, sync.released, sync.reclaimed) = (Timeline(sync.timeline.0 + 1), false, false);
            sync.heir = None;
        });
        (self.etcd.request, self.nodes[flight.from].lock) = (None, None);
        self.crown(flight.to, term);
    }

    fn dies_half_way(&mut self, at: usize) -> bool {
        let dies = self.nodes[at].dies_half_way;
        if dies {
            self.host_dies(at);
        }
        dies
    }

    /// Clients write, WAL flows (to `pg2` one record a tick, to the others all), commits are acknowledged, proofs end.
    pub(super) fn replicate(&mut self) {
        let primaries: Vec<usize> = (0..3).filter(|at| self.nodes[*at].runs == Runs::Primary).collect();
        for &leader in &primaries {
            if self.clients_write {
                self.write(leader, None);
            }
            for at in 0..3 {
                if self.nodes[at].streams_from(&self.nodes[leader]) {
                    let (have, all) = (self.nodes[at].wal.len(), self.nodes[leader].wal.len());
                    let now = if at == 1 && self.clients_write { all.min(have + 1) } else { all };
                    self.nodes[at].wal = self.nodes[leader].wal[..now].to_vec();
                }
            }
            let acknowledged = self.acknowledged_by(&self.nodes[leader]);
            self.nodes[leader].visible = self.nodes[leader].visible.max(acknowledged);
            self.acknowledged.extend(self.nodes[leader].wal[..acknowledged].iter().map(|record| record.id));
            self.end_proof(leader, acknowledged);
        }
        for at in 0..3 {
            let upstream = (0..3).find(|other| self.nodes[at].streams_behind(&self.nodes[*other]));
            if let Some(upstream) = upstream {
                self.nodes[at].wal = self.nodes[upstream].wal.clone();
            }
        }
        let leader = primaries.into_iter().find(|at| self.nodes[*at].lock == Some(self.etcd.term));
        if let Some(leader) = leader.filter(|_| self.settings.durability.mode != Mode::Async) {
            let has: std::collections::BTreeSet<u32> = self.nodes[leader].wal.iter().map(|record| record.id).collect();
            let lost: Vec<_> = self.acknowledged.difference(&has).collect();
            assert!(lost.is_empty(), "{} leads and lacks {lost:?}", self.nodes[leader].name);
        }
    }

    fn end_proof(&mut self, leader: usize, acknowledged: usize) {
        let node = &mut self.nodes[leader];
        let Some((quorum, _)) = node.proving.take_if(|(_, end)| *end <= acknowledged) else { return };
        if node.lock == Some(self.etcd.term) && self.etcd.leader.as_ref() == Some(&node.name) && !node.cut_off {
            self.amend(|sync| (sync.policies, sync.handover_lsn, sync.reclaimed) = (vec![quorum], None, false));
        }
    }

    /// How much of a primary's WAL is acknowledged under what it waits for.
    fn acknowledged_by(&self, leader: &Node) -> usize {
        let (quorum, term) = &leader.waits_for;
        let counts = |standby: &&Node| {
            let named = standby.follows.as_ref().is_some_and(|(_, of)| of == term);
            standby.streams_from(leader) && named && quorum.voters.contains(&standby.name)
        };
        let mut ends: Vec<usize> = self.nodes.iter().filter(counts).map(|standby| standby.wal.len()).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        match quorum.k as usize {
            0 => leader.wal.len(),
            k => ends.get(k - 1).copied().unwrap_or(0),
        }
    }

    pub(super) fn pass_time(&mut self) {
        let (leader, term) = (self.etcd.leader.clone(), self.etcd.term);
        for node in &mut self.nodes {
            let holds = leader.as_ref() == Some(&node.name) && node.lock == Some(term);
            let renewed = holds && node.agent_up && !node.cut_off;
            node.lease_left = if renewed { TTL } else { node.lease_left.saturating_sub(1) };
            // The fence strikes one tick before the lease ends.
            if node.lease_left <= 1 && node.runs == Runs::Primary {
                node.die();
            }
            if node.lease_left == 0 {
                node.lock = None;
                self.etcd.leader = self.etcd.leader.take().filter(|leader| *leader != node.name);
            }
        }
        self.vacancy = if self.etcd.leader.is_none() { self.vacancy + 1 } else { 0 };
        self.asked += 1;
        if let Some(flight) = &mut self.in_flight {
            flight.ticks = flight.ticks.saturating_sub(1);
        }
        let voters: Vec<MemberName> =
            self.etcd.sync.iter().flat_map(|sync| &sync.policies).flat_map(|quorum| quorum.voters.clone()).collect();
        for at in 0..3 {
            let (node, term) = (&self.nodes[at], self.etcd.term);
            let streams = |who: &MemberName| {
                let of_term = |it: &&Node| it.name == *who && it.follows.as_ref().is_some_and(|(_, of)| *of == term);
                self.nodes.iter().find(of_term).is_some_and(|standby| standby.streams_from(node))
            };
            let leads = node.lock.is_some() && node.runs == Runs::Primary;
            let missing: Vec<MemberName> = voters.iter().filter(|who| leads && !streams(who)).cloned().collect();
            let node = &mut self.nodes[at];
            node.missing = missing
                .into_iter()
                .map(|who| (who.clone(), node.missing.get(&who).map_or(0, |ticks| ticks + 1)))
                .collect();
            node.reign += 1;
            node.failed = node.failed.map(|ticks| ticks + 1);
        }
    }

    /// Whether one marked leader leads under one proven quorum, and the others stream from it and have everything.
    pub(super) fn is_well(&self) -> bool {
        let Some(leader) = self.nodes.iter().find(|node| self.etcd.leader.as_ref() == Some(&node.name)) else {
            return false;
        };
        let rest = || self.nodes.iter().filter(|node| node.name != leader.name);
        let voters = self.etcd.sync.as_ref().map(|sync| sync.policies.clone()).unwrap_or_default();
        let wanted = if self.settings.durability.mode == Mode::Async { 0 } else { 2 };
        leader.runs == Runs::Primary
            && leader.newest_marker(leader.visible) == self.etcd.term
            && rest().all(|node| node.streams_from(leader) && node.wal.len() == leader.wal.len())
            && voters.len() == 1
            && voters[0].voters.len() == wanted
            && self.etcd.floors.is_empty()
    }
}
