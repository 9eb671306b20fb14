//! Members that leave for good. The word is an operator's, and is given only while somebody else leads and the member is away; what follows is
//! the leader's, guarded by its term, by the word itself, and by the member's absence.

use decision::names::{MemberName, Term};

use crate::condition::{Condition, Lead};
use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::DepartureRecord;
use crate::snapshot::Snapshot;
use crate::store::Store;

impl Store {
    /// Says that a member has left, while `leader` leads and the hold is the one of this revision (0: none). `Refused`: it is registered, somebody
    /// else leads, the word is there already, or a hold was taken.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn let_leave(
        &self,
        member: &MemberName,
        leader: &MemberName,
        record: &DepartureRecord,
        hold: i64,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let word = keys.departure(member);
        let condition = Condition { lead: Lead::Of(leader.clone()), hold: Some(hold) };
        let mut guards = condition.guards(keys);
        guards.extend([Guard::absent(keys.member(member)), Guard::absent(&word)]);
        self.commit(&guards, &[Write::put(word, record.to_json())]).await
    }

    /// The name is registered again, so the word is void.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn void_departure(&self, me: &MemberName, term: Term, member: &MemberName) -> Result<Outcome, Error> {
        let mut guards = self.leadership_guard(term, me).to_vec();
        guards.push(Guard::KeyExists { key: self.keys().member(member) });
        self.commit(&guards, &[Write::delete(self.keys().departure(member))]).await
    }

    /// Removes the floor and the order of a member that nothing counts on, as `seen` has it: the record is unchanged since, and the member is
    /// still away.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn finish_departure(
        &self,
        me: &MemberName,
        term: Term,
        member: &MemberName,
        seen: &Snapshot,
    ) -> Result<Outcome, Error> {
        let Some(record) = seen.departure_records.get(member) else { return Ok(Outcome::Refused) };
        let keys = self.keys();
        let mut guards = self.of_who_left(me, term, member, seen);
        guards.push(Guard::unchanged(keys.sync(), seen.sync_revision));
        guards.push(Guard::unchanged(keys.failsafe(), seen.cluster.failsafe_revision));
        let done = record.done_in(term).to_json();
        let writes = [
            Write::put(keys.departure(member), done),
            Write::delete(keys.floor(member)),
            Write::delete(keys.order(member)),
        ];
        self.commit(&guards, &writes).await
    }

    /// Removes the ballot of a member that left in an earlier term.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn forget_ballot(
        &self,
        me: &MemberName,
        term: Term,
        member: &MemberName,
        seen: &Snapshot,
    ) -> Result<Outcome, Error> {
        let guards = self.of_who_left(me, term, member, seen);
        self.commit(&guards, &[Write::delete(self.keys().ballot(member))]).await
    }

    fn of_who_left(&self, me: &MemberName, term: Term, member: &MemberName, seen: &Snapshot) -> Vec<Guard> {
        let revision = seen.cluster.departures.get(member).map_or(0, |departure| departure.revision);
        let mut guards = self.leadership_guard(term, me).to_vec();
        guards.push(Guard::absent(self.keys().member(member)));
        guards.push(Guard::unchanged(self.keys().departure(member), revision));
        guards
    }
}
