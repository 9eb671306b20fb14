//! The ground on which a leader stands, as a value: what it must know to tell whether the promises that it hears block every takeover.

use std::collections::{BTreeMap, BTreeSet};

use decision::durability::Policies;
use decision::names::{MemberName, SystemId, Term};
use decision::promise::Basis;
use decision::settings::Mode;
use serde::{Deserialize, Serialize};

/// The ground on which a leader stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// The database.
    pub system_id: SystemId,
    /// The term.
    pub term: Term,
    /// Every mode with its quorums that may be in force.
    pub records: Vec<Record>,
    /// Every list of those who may lead without proof that may be in force.
    pub lists: Vec<Option<BTreeSet<MemberName>>>,
    /// The health APIs of the other members.
    pub peers: BTreeMap<MemberName, String>,
}

/// A mode with its quorums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The mode.
    pub mode: Mode,
    /// Its quorums.
    pub policies: Policies,
}

impl Ground {
    /// Every combination that may be in force.
    pub fn bases(&self) -> Vec<Basis> {
        let of_record = |record: &Record| {
            let basis = |listed: &Option<_>| Basis {
                mode: record.mode,
                policies: record.policies.clone(),
                listed: listed.clone(),
            };
            self.lists.iter().map(basis).collect::<Vec<_>>()
        };
        self.records.iter().flat_map(of_record).collect()
    }
}
