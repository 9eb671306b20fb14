//! Who has not promised to let this leader go on, and why: for people, who would otherwise see it end without a reason.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use decision::names::MemberName;
use decision::promise::Refusal;

/// What each peer said last that was no promise.
#[derive(Default)]
pub struct Refused(Mutex<BTreeMap<MemberName, String>>);

impl Refused {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberName, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has not promised, because of this.
    pub fn note(&self, peer: &MemberName, why: String) {
        self.lock().insert(peer.clone(), why);
    }

    /// It has promised.
    pub fn has_promised(&self, peer: &MemberName) {
        self.lock().remove(peer);
    }

    /// Nobody is asked any more.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Everybody who has not promised.
    pub fn now(&self) -> Vec<(MemberName, String)> {
        self.lock().clone().into_iter().collect()
    }
}

/// A refusal in words. `None`: the peer would have promised, and could not write it down.
pub fn in_words(refusal: Option<&Refusal>) -> String {
    match refusal {
        None => "it cannot write a promise down: see the log of its agent".to_owned(),
        Some(Refusal::KnowsTooLittle) => {
            "it has not seen etcd since it was set up, and does not know whether it has balloted".to_owned()
        }
        Some(Refusal::Foreign) => "its database is another one".to_owned(),
        Some(Refusal::Revoked) => "it has balloted against this term, or is about to".to_owned(),
        Some(Refusal::Primary) => "it leads itself, or its Postgres is a primary".to_owned(),
        Some(Refusal::LaterTerm { term }) => format!("it knows of term {term}: somebody else has led since"),
        Some(Refusal::OtherLeader { leader }) => format!("it knows {leader} as the leader of this term"),
        Some(Refusal::LetGo) => "this leader has said in etcd that it is done for".to_owned(),
        Some(Refusal::Promised { leader }) => format!("it has promised a later leader, {leader}"),
    }
}

#[cfg(test)]
mod tests {
    use decision::names::Term;

    use super::*;

    #[test]
    fn who_refuses_is_told_until_it_promises_or_nobody_asks() {
        let [pg2, pg3] = ["pg2", "pg3"].map(|name| MemberName::new(name).expect("a good name"));
        let refused = Refused::default();
        refused.note(&pg2, in_words(Some(&Refusal::Revoked)));
        refused.note(&pg3, in_words(Some(&Refusal::LaterTerm { term: Term(8) })));
        refused.has_promised(&pg2);
        assert_eq!(refused.now(), [(pg3, "it knows of term 8: somebody else has led since".to_owned())]);
        refused.forget();
        assert_eq!(refused.now(), []);
    }
}
