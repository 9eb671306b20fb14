//! The writes of an agent with their guards, exactly as the real ones are guarded (`consensus/src/claims.rs`).

use std::rc::Rc;

use decision::action::{Claim, ClaimKind};
use decision::names::{Lsn, MemberName, Term, Timeline};
use decision::view::{Ballot, Member, Request, RequestKind, SyncRecord};

use crate::broken::Broken;
use crate::etcd::{Guard, Key, Snapshot, Txn, Value, Write};
use crate::world::{At, World};

/// The guards of every write made in the name of leadership.
pub fn leads(term: Term, me: At) -> Vec<Guard> {
    vec![Guard::Is(Key::Term, Value::Term(term)), Guard::Is(Key::Leader, Value::Leader(me))]
}

/// The term is still the highest.
fn still(term: Term) -> Guard {
    match term {
        Term(0) => Guard::Absent(Key::Term),
        term => Guard::Is(Key::Term, Value::Term(term)),
    }
}

fn record(sync: SyncRecord) -> Value {
    Value::Sync(Rc::new(sync))
}

impl World {
    pub fn acquire(&self, me: At, lease: i64, claim: &Claim, seen: &Snapshot) -> Txn {
        let lock = match claim.depose.as_ref().and_then(|leader| self.place(leader)) {
            Some(leader) => Guard::Is(Key::Leader, Value::Leader(leader)),
            None => Guard::Absent(Key::Leader),
        };
        let mut guards = vec![lock, still(claim.after)];
        if !self.breaks(Broken::TakesOverAnyRecord) {
            guards.push(Guard::Unchanged(Key::Sync, seen.sync_revision));
        }
        if !self.breaks(Broken::ForgetsToGuardBallots) {
            let ballot = |(name, revision): &(MemberName, i64)| {
                self.place(name).map(|at| Guard::Unchanged(Key::Ballot(at), *revision))
            };
            guards.extend(claim.ballots.iter().filter_map(ballot));
        }
        guards.extend(claim.request.map(|revision| Guard::Unchanged(Key::Request, revision)));
        guards.extend(claim.failsafe_revision.map(|revision| Guard::Unchanged(Key::Failsafe, revision)));
        let sync = SyncRecord {
            leader: self.names[me].clone(),
            term: claim.term,
            mode: claim.mode,
            policies: claim.policies.clone(),
            timeline: claim.timeline,
            released: false,
            reclaimed: claim.kind == ClaimKind::Reclaim,
            handover_lsn: None,
            heir: None,
            follows: claim.follows,
        };
        let mut writes = vec![
            Write::Put(Key::Leader, Value::Leader(me), Some(lease)),
            Write::Put(Key::Term, Value::Term(claim.term), None),
            Write::Put(Key::Sync, record(sync), None),
            Write::Delete(Key::Ballot(me)),
        ];
        writes.extend(claim.request.map(|_| Write::Delete(Key::Request)));
        Txn { guards, writes }
    }

    /// The lock is bound to a lease of its last leader again, nobody having led since. Its record is written anew, so that nothing that it
    /// has sent before can come true.
    pub fn resume(&self, me: At, lease: i64, sync: SyncRecord, sync_revision: i64) -> Txn {
        let unchanged = Guard::Unchanged(Key::Sync, sync_revision);
        let guards = vec![Guard::Absent(Key::Leader), still(sync.term), unchanged];
        let lock = Write::Put(Key::Leader, Value::Leader(me), Some(lease));
        Txn { guards, writes: vec![lock, Write::Put(Key::Sync, record(sync), None)] }
    }

    /// The lock goes over to `to` with its lease: `sync` is its record, and takes the place of the one of `sync_revision`.
    pub fn hand_over(&self, me: At, (to, lease): (At, i64), request: i64, sync: SyncRecord, sync_revision: i64) -> Txn {
        let mut guards = leads(Term(sync.term.0 - 1), me);
        if !self.breaks(Broken::HandsOverOverAnyRecord) {
            guards.push(Guard::Unchanged(Key::Sync, sync_revision));
        }
        guards.push(Guard::Exists(Key::Member(to)));
        if !self.breaks(Broken::HandsOverWithoutItsRequest) {
            guards.push(Guard::Unchanged(Key::Request, request));
        }
        let writes = vec![
            Write::Put(Key::Leader, Value::Leader(to), Some(lease)),
            Write::Put(Key::Term, Value::Term(sync.term), None),
            Write::Put(Key::Sync, record(sync), None),
            Write::Delete(Key::Request),
        ];
        Txn { guards, writes }
    }

    /// Takes a hand-over back before its transaction, which can never be applied afterwards.
    pub fn break_off_hand_over(&self, me: At, sync: SyncRecord, sync_revision: i64, request: i64) -> Txn {
        let mut guards = leads(sync.term, me);
        guards.push(Guard::Unchanged(Key::Sync, sync_revision));
        guards.push(Guard::Unchanged(Key::Request, request));
        Txn { guards, writes: vec![Write::Put(Key::Sync, record(sync), None), Write::Delete(Key::Request)] }
    }

    pub fn release(&self, me: At, sync: SyncRecord, sync_revision: i64) -> Txn {
        let mut guards = leads(sync.term, me);
        guards.push(Guard::Unchanged(Key::Sync, sync_revision));
        Txn { guards, writes: vec![Write::Delete(Key::Leader), Write::Put(Key::Sync, record(sync), None)] }
    }

    /// The lock alone: the record says since `sync_revision` that its leader is done for.
    pub fn let_go_of_lock(&self, me: At, term: Term, sync_revision: i64) -> Txn {
        let mut guards = leads(term, me);
        guards.push(Guard::Unchanged(Key::Sync, sync_revision));
        Txn { guards, writes: vec![Write::Delete(Key::Leader)] }
    }

    pub fn record_sync(&self, me: At, sync: SyncRecord, sync_revision: i64) -> Txn {
        let mut guards = leads(sync.term, me);
        guards.push(Guard::Unchanged(Key::Sync, sync_revision));
        if self.breaks(Broken::RecordsUnguarded) {
            guards.clear();
        }
        Txn { guards, writes: vec![Write::Put(Key::Sync, record(sync), None)] }
    }

    /// `before` is the revision of the ballot that it replaces; 0: there is none.
    pub fn put_ballot(&self, me: At, ballot: Ballot, before: i64) -> Txn {
        let key = Key::Ballot(me);
        let guards = vec![Guard::Unchanged(key, before), still(ballot.revoked)];
        Txn { guards, writes: vec![Write::Put(key, Value::Ballot(ballot), None)] }
    }

    /// An empty ballot in the place that one which may be on its way was to take.
    pub fn void_ballot(&self, me: At, term: Term, before: i64) -> Txn {
        let none = Ballot {
            revoked: Term(0),
            wal_term: Term(0),
            received: Lsn(0),
            timeline: Timeline(0),
            late: false,
            revision: 0,
        };
        let txn = self.put_ballot(me, none, before);
        Txn { guards: vec![Guard::Unchanged(Key::Ballot(me), before), still(term)], ..txn }
    }

    pub fn withdraw_ballot(&self, me: At, ballot: &Ballot) -> Txn {
        let key = Key::Ballot(me);
        let guards = vec![Guard::Unchanged(key, ballot.revision), still(ballot.revoked)];
        let empty = Ballot { revoked: Term(0), ..ballot.clone() };
        Txn { guards, writes: vec![Write::Put(key, Value::Ballot(empty), None)] }
    }

    pub fn remove_request(&self, revision: i64) -> Txn {
        Txn { guards: vec![Guard::Unchanged(Key::Request, revision)], writes: vec![Write::Delete(Key::Request)] }
    }

    /// A leader asks for a switchover itself, as an operator would.
    pub fn ask_to_be_relieved(&self, me: At, to: &MemberName) -> Txn {
        let (from, to) = (Some(self.names[me].clone()), Some(to.clone()));
        let request = Request { kind: RequestKind::Switchover, from, to, accept_data_loss: false, revision: 0 };
        let writes = vec![Write::Put(Key::Request, Value::Request(request), None)];
        Txn { guards: vec![Guard::Absent(Key::Request)], writes }
    }

    pub fn set_floor(&self, me: At, floor: Lsn) -> Txn {
        Txn { guards: Vec::new(), writes: vec![Write::Put(Key::Floor(me), Value::Position(floor), None)] }
    }

    pub fn clear_floor(&self, me: At, floor: Lsn) -> Txn {
        let key = Key::Floor(me);
        Txn { guards: vec![Guard::Is(key, Value::Position(floor))], writes: vec![Write::Delete(key)] }
    }

    /// `who` has come back under its name.
    pub fn void_departure(&self, me: At, term: Term, who: At) -> Txn {
        let mut guards = leads(term, me);
        guards.push(Guard::Exists(Key::Member(who)));
        Txn { guards, writes: vec![Write::Delete(Key::Departure(who))] }
    }

    /// Nothing counts on whoever left: neither the record nor the list have changed since these revisions.
    pub fn finish_departure(
        &self,
        me: At,
        term: Term,
        (who, word): (At, i64),
        (sync_revision, failsafe_revision): (i64, i64),
    ) -> Txn {
        let mut guards = of_who_left(me, term, who, word);
        guards.push(Guard::Unchanged(Key::Sync, sync_revision));
        guards.push(Guard::Unchanged(Key::Failsafe, failsafe_revision));
        let writes =
            vec![Write::Put(Key::Departure(who), Value::Left(Some(term)), None), Write::Delete(Key::Floor(who))];
        Txn { guards, writes }
    }

    pub fn forget_ballot(&self, me: At, term: Term, (who, word): (At, i64)) -> Txn {
        Txn { guards: of_who_left(me, term, who, word), writes: vec![Write::Delete(Key::Ballot(who))] }
    }

    pub fn register_member(&self, me: At, member: Rc<Member>, lease: i64, first: bool) -> Txn {
        let key = Key::Member(me);
        let guard = if first { Guard::OnLease(key, lease) } else { Guard::Absent(key) };
        Txn { guards: vec![guard], writes: vec![Write::Put(key, Value::Member(member), Some(lease))] }
    }
}

fn of_who_left(me: At, term: Term, who: At, word: i64) -> Vec<Guard> {
    let mut guards = leads(term, me);
    guards.push(Guard::Absent(Key::Member(who)));
    guards.push(Guard::Unchanged(Key::Departure(who), word));
    guards
}
