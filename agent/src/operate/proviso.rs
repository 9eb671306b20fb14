//! On what conditions something is asked for: who must lead, and whether a hold keeps it waiting. What is found here before goes into the very
//! transaction that writes it, so that nothing slips in between.

use consensus::records::Hold;
use consensus::{Condition, Lead, Snapshot};
use decision::names::MemberName;
use jiff::Timestamp;

use super::hold::{Shown, waits};
use super::world::Reach;
use super::{Kind, Unable};

/// What whoever asks says beside what they ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proviso {
    /// Who must lead; `None`: that does not matter.
    pub expect_leader: Option<MemberName>,
    /// It goes on against a hold.
    pub ignore_hold: bool,
    /// It may be the first word in a cluster that is only to be.
    pub founds: bool,
}

/// What something that was asked for goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// What must still be so when it is written.
    pub condition: Condition,
    /// The hold against which it is done, by whom and why.
    pub ignored: Option<String>,
}

impl Proviso {
    /// It matters who leads, and no hold is ignored.
    pub fn expecting(leader: Option<MemberName>) -> Self {
        Self { expect_leader: leader, ..Self::default() }
    }

    /// Who must lead when it is written.
    ///
    /// # Errors
    /// Another leads, or nobody; or there is no such cluster, as where its name in the node's file is misspelt.
    pub fn lead(&self, snapshot: &Snapshot) -> Result<Lead, Unable> {
        if snapshot.is_of_nothing() && !self.founds {
            return Err(Unable::new(Kind::Refused, UNKNOWN_CLUSTER));
        }
        let Some(expected) = &self.expect_leader else { return Ok(Lead::Whoever) };
        match another_leads(snapshot.cluster.leader.as_ref(), expected) {
            Some(why) => Err(Unable::new(Kind::Unexpected, why)),
            None => Ok(Lead::Of(expected.clone())),
        }
    }

    /// Whether something may be done now that no hold keeps waiting.
    ///
    /// # Errors
    /// Another leads, or nobody.
    pub fn unheld(&self, snapshot: &Snapshot) -> Result<Pass, Unable> {
        let condition = Condition { lead: self.lead(snapshot)?, hold: None };
        Ok(Pass { condition, ignored: None })
    }

    /// Whether something planned may be done now.
    ///
    /// # Errors
    /// Another leads, or nobody; or it waits, and for whom and until when.
    pub fn planned(&self, snapshot: &Snapshot, now: Timestamp) -> Result<Pass, Unable> {
        let condition = Condition { lead: self.lead(snapshot)?, hold: Some(snapshot.hold_revision) };
        let Some(shown) = Shown::of(snapshot, now) else { return Ok(Pass { condition, ignored: None }) };
        if !self.ignore_hold {
            return Err(Unable::new(Kind::Held, waits(&shown)));
        }
        let ignored = match &snapshot.hold {
            Hold::Taken(record) if record.lasts(now) => record.by_and_why(),
            _ if shown.is_for_settings() => "settings that nobody can read or remembers".to_owned(),
            Hold::Taken(_) | Hold::Nothing | Hold::Unreadable(_) => "somebody whose record nobody can read".to_owned(),
        };
        Ok(Pass { condition, ignored: Some(ignored) })
    }

    /// Why something was not accepted by etcd: another has come to lead or a hold was taken at that very moment, or it is as `otherwise` says.
    pub async fn overtaken(&self, reach: &Reach, seen: &Pass, otherwise: &str) -> Unable {
        if let Ok(snapshot) = reach.store.read().await {
            if let Err(another) = self.lead(&snapshot) {
                return another;
            }
            let changed = seen.condition.hold.is_some_and(|revision| revision != snapshot.hold_revision);
            if let (true, Err(held)) = (changed, Self::default().planned(&snapshot, Timestamp::now())) {
                return held;
            }
        }
        Unable::new(Kind::Overtaken, otherwise)
    }
}

/// What is said where nobody has ever registered.
const UNKNOWN_CLUSTER: &str = "no such cluster is in this etcd, for no agent has ever registered there: is `cluster` in the node's file right? \
                               `pgvigil fleet status` lists what is there; nothing was changed";

/// `pg2 leads, not pg1`, where it is not as expected.
pub fn another_leads(leader: Option<&MemberName>, expected: &MemberName) -> Option<String> {
    match leader {
        Some(leader) if leader == expected => None,
        Some(leader) => Some(format!("{leader} leads, not {expected}; nothing was changed")),
        None => Some(format!("nobody leads, so {expected} does not; nothing was changed")),
    }
}

#[cfg(test)]
mod tests {
    use decision::names::SystemId;
    use decision::view::Initialize;

    use super::super::testing::name;
    use super::*;

    #[test]
    fn who_leads_is_said_where_it_is_not_who_was_expected() {
        let under = |leader: Option<&str>| {
            let mut snapshot = Snapshot::default();
            snapshot.cluster.leader = leader.map(name);
            snapshot.cluster.initialize = Initialize::Done(SystemId(1));
            snapshot
        };
        let expecting = |leader: &str| Proviso::expecting(Some(name(leader)));
        assert_eq!(Proviso::default().lead(&under(Some("pg2"))), Ok(Lead::Whoever));
        let nothing = Proviso::default().lead(&Snapshot::default()).expect_err("no such cluster");
        assert_eq!((nothing.kind, nothing.text().as_str()), (Kind::Refused, UNKNOWN_CLUSTER));
        let founds = Proviso { founds: true, ..Proviso::default() };
        assert_eq!(founds.lead(&Snapshot::default()), Ok(Lead::Whoever));
        assert_eq!(expecting("pg1").lead(&under(Some("pg1"))), Ok(Lead::Of(name("pg1"))));
        for (leader, told) in [(Some("pg2"), "pg2 leads, not pg1"), (None, "nobody leads")] {
            for refused in
                [expecting("pg1").unheld(&under(leader)), expecting("pg1").planned(&under(leader), Timestamp::now())]
            {
                let why = refused.expect_err("another leads");
                assert!(why.kind == Kind::Unexpected && why.text().starts_with(told), "{why:?}");
            }
        }
    }
}
