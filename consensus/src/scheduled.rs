//! What is planned for a time: written where nothing else is planned, and moved by the leader's agent to where it is carried out, in one transaction.
//! Whoever dies before that has done nothing, and whoever dies after it has nothing left to do.

use decision::names::{MemberName, Term};

use crate::condition::{Condition, Lead};
use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::keys::Keys;
use crate::records::{FailoverRecord, OrderRecord, PlannedRestart, PlannedSwitchover, Transition};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// What is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The switchover.
    Switchover,
    /// The restart of this node.
    Restart(MemberName),
}

/// What something planned becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A request of everybody.
    Switchover(FailoverRecord),
    /// An order to this node.
    Restart(MemberName, OrderRecord),
}

impl Subject {
    /// Where it lies.
    pub fn key(&self, keys: &Keys) -> String {
        match self {
            Subject::Switchover => keys.scheduled_switchover(),
            Subject::Restart(of) => keys.scheduled_restart(of),
        }
    }
}

impl Begin {
    /// Of what this is the beginning.
    pub fn subject(&self) -> Subject {
        match self {
            Begin::Switchover(_) => Subject::Switchover,
            Begin::Restart(of, _) => Subject::Restart(of.clone()),
        }
    }

    fn target(&self, keys: &Keys) -> (String, String) {
        match self {
            Begin::Switchover(request) => (keys.failover(), request.to_json()),
            Begin::Restart(of, order) => (keys.order(of), order.to_json()),
        }
    }
}

impl Store {
    /// Plans a switchover while the one leads under whom it is asked for. `Refused`: another leads, or one is planned already.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn plan_switchover(&self, record: &PlannedSwitchover) -> Result<Outcome, Error> {
        self.plan(&Subject::Switchover, record.to_json(), &Lead::Of(record.leader.clone())).await
    }

    /// Plans the restart of a node, while it leads who must. `Refused`: another leads, or one is planned already.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn plan_restart(&self, of: &MemberName, record: &PlannedRestart, lead: &Lead) -> Result<Outcome, Error> {
        self.plan(&Subject::Restart(of.clone()), record.to_json(), lead).await
    }

    async fn plan(&self, subject: &Subject, text: String, lead: &Lead) -> Result<Outcome, Error> {
        let key = subject.key(self.keys());
        let mut guards = lead.guards(self.keys());
        guards.push(Guard::absent(&key));
        self.commit(&guards, &[Write::put(key, text)]).await
    }

    /// Takes back what was planned at this revision, with the record that says so; `Refused`: it is gone, or another.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn cancel_planned(&self, what: &Subject, revision: i64, record: &Transition) -> Result<Outcome, Error> {
        self.withdraw(what.key(self.keys()), revision, record).await
    }

    /// Drops what was planned at this revision, as its leader, with the record that says why.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn drop_planned(
        &self,
        (me, term): (&MemberName, Term),
        what: &Subject,
        revision: i64,
        record: &Transition,
    ) -> Result<Outcome, Error> {
        let (key, told) = (what.key(self.keys()), self.keys().transition(&record.id));
        let mut guards = self.leadership_guard(term, me).to_vec();
        guards.extend([Guard::unchanged(&key, revision), Guard::absent(&told)]);
        self.commit(&guards, &[Write::delete(key), Write::put(told, record.to_json())]).await
    }

    /// Moves what was planned at this revision to where it is carried out, as its leader: under the hold of `condition`, under the settings that were
    /// `seen`, in which there is no pause, and where nothing else has been asked for or begun since. `Refused`: something of that is otherwise by now.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn begin_planned(
        &self,
        (me, term): (&MemberName, Term),
        begin: &Begin,
        revision: i64,
        condition: &Condition,
        seen: &Snapshot,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let (planned, (target, text)) = (begin.subject().key(keys), begin.target(keys));
        let mut guards = self.leadership_guard(term, me).to_vec();
        guards.extend(condition.guards(keys));
        guards.extend([
            Guard::unchanged(&planned, revision),
            Guard::unchanged(keys.config(), seen.config_revision),
            Guard::none_newer(keys.orders(), seen.cluster.revision),
            // An order that was given and taken up since then has left its key, and has its record.
            Guard::none_newer(keys.transitions(), seen.cluster.revision),
        ]);
        if let Begin::Restart(..) = begin {
            guards.push(Guard::unchanged(keys.failover(), seen.failover_revision));
        }
        let writes = [Write::delete(planned), Write::put(&target, text)];
        let with = |guard: Guard| guards.iter().cloned().chain([guard]).collect::<Vec<_>>();
        match self.commit(&with(Guard::absent(&target)), &writes).await? {
            // Patroni's way of asking for nothing.
            Outcome::Refused if matches!(begin, Begin::Switchover(_)) => {
                self.commit(&with(Guard::is(&target, "{}")), &writes).await
            }
            outcome => Ok(outcome),
        }
    }
}
