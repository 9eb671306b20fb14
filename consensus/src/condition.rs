//! What an operator's write depends on beside what it is about: who leads, and which hold was seen. Both are compared in the transaction that writes, so
//! that nothing comes between the look and the deed.

use decision::names::MemberName;

use crate::guards::Guard;
use crate::keys::Keys;

/// Who must lead at the moment of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lead {
    /// It does not matter.
    #[default]
    Whoever,
    /// This member.
    Of(MemberName),
    /// Nobody, and nobody has led since the durability record was written at this revision.
    VacantSince(i64),
}

/// What an operator's write depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Who must lead.
    pub lead: Lead,
    /// The hold that was seen, by its revision (0: none), for what waits for one; `None`: it waits for none.
    pub hold: Option<i64>,
}

impl Lead {
    pub(crate) fn guards(&self, keys: &Keys) -> Vec<Guard> {
        match self {
            Lead::Whoever => Vec::new(),
            Lead::Of(leader) => vec![Guard::is(keys.leader(), leader.as_str())],
            Lead::VacantSince(sync) => vec![Guard::absent(keys.leader()), Guard::unchanged(keys.sync(), *sync)],
        }
    }
}

impl Condition {
    /// Only under the hold that was seen.
    pub fn under_hold(seen: i64) -> Self {
        Self { hold: Some(seen), ..Self::default() }
    }

    pub(crate) fn guards(&self, keys: &Keys) -> Vec<Guard> {
        let mut guards = self.lead.guards(keys);
        guards.extend(self.hold.map(|seen| Guard::unchanged(keys.hold(), seen)));
        guards
    }
}
