//! The list of those who may lead where no proof is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use consensus::Snapshot;
use decision::names::{MemberName, Term};
use decision::view::{Cluster, View};

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;

/// The list, as this node would keep it while it leads.
pub struct Listed {
    hands: Arc<Hands>,
    chore: Chore,
    /// When each was last there.
    alive: BTreeMap<MemberName, Instant>,
    /// Where members were when the list was last looked at.
    reached: Arc<Mutex<BTreeMap<MemberName, String>>>,
}

impl Listed {
    /// Nobody has been seen.
    pub fn new(hands: Arc<Hands>) -> Self {
        let chore = Chore::new("list of who may lead without proof");
        Self { hands, chore, alive: BTreeMap::new(), reached: Arc::default() }
    }

    /// Where no proof is asked for only listed members may lead, and each of them must promise before this leader goes on without etcd.
    /// So a member is listed as soon as it is there, and struck out when it has been away for longer than a lease.
    pub fn keep(&mut self, view: &View, cluster: &Cluster, term: Term) {
        let now = Instant::now();
        let mut wanted = cluster.eligible();
        wanted.insert(view.me.clone());
        self.alive.extend(wanted.iter().map(|name| (name.clone(), now)));
        for listed in cluster.failsafe.iter().flatten() {
            let seen = *self.alive.entry(listed.clone()).or_insert(now);
            // A member that is there and is not eligible has been barred by its own tags.
            let is_away = !cluster.members.contains_key(listed) && !cluster.has_departed(listed);
            if seen.elapsed() < view.settings.timing.ttl && is_away {
                wanted.insert(listed.clone());
            }
        }
        let reached = wanted.iter().filter_map(|name| Some((name.clone(), cluster.members.get(name)?.api_url.clone())));
        let reached: BTreeMap<MemberName, String> = reached.collect();
        // Where members are is not in the picture of the list, so the list itself is looked at once when one of them has moved.
        let known = self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if cluster.failsafe.as_ref() == Some(&wanted) && known == reached {
            return;
        }
        let (hands, looked_at) = (Arc::clone(&self.hands), Arc::clone(&self.reached));
        self.chore.begin(AGAIN_AFTER, async move {
            publish_list(&hands, term, wanted).await?;
            *looked_at.lock().unwrap_or_else(PoisonError::into_inner) = reached;
            Ok(())
        });
    }
}

async fn publish_list(hands: &Hands, term: Term, wanted: BTreeSet<MemberName>) -> Result<()> {
    let seen = hands.store.read().await?;
    let listed = with_addresses(&seen, &wanted);
    let is_so = seen.cluster.failsafe.as_ref() == Some(&wanted) && seen.failsafe_urls == listed;
    if seen.cluster.term != term || is_so {
        return Ok(());
    }
    let revision = seen.cluster.failsafe_revision;
    hands.noting(move |promises| promises.reign.may_list(&seen, wanted)).await?;
    hands.store.write_failsafe(hands.me(), term, &listed, revision).await?;
    Ok(())
}

/// Those who may lead with where they are, as they say themselves; where they were, for those who are away.
fn with_addresses(seen: &Snapshot, wanted: &BTreeSet<MemberName>) -> BTreeMap<MemberName, String> {
    let url = |name: &MemberName| {
        let registered = seen.member_records.get(name).map(|record| record.api_url.clone());
        registered.or_else(|| seen.failsafe_urls.get(name).cloned()).unwrap_or_default()
    };
    wanted.iter().map(|name| (name.clone(), url(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::records::MemberRecord;

    #[test]
    fn the_list_says_where_members_are_now_and_where_those_who_are_away_were() {
        let name = |text: &str| MemberName::new(text).expect("good name");
        let at = |url: &str| MemberRecord { api_url: url.to_owned(), ..MemberRecord::default() };
        let registered = [(name("pg1"), at("one")), (name("pg2"), at("moved"))].into();
        let before = [(name("pg2"), "old".to_owned()), (name("pg3"), "three".to_owned())].into();
        let mut seen = Snapshot::default();
        (seen.member_records, seen.failsafe_urls) = (registered, before);
        let listed = with_addresses(&seen, &["pg1", "pg2", "pg3"].map(name).into());
        assert_eq!(listed.into_values().collect::<Vec<_>>(), ["one", "moved", "three"]);
    }
}
