//! All that lies under one namespace: which clusters there are, and which of them are ours. Only names travel here, page by page and all of one
//! revision; the values of each cluster are read at that same revision with [`Store::read_at`]. Patroni keeps its clusters in the same place
//! and under the same names: what no key of ours is in belongs to others.

use std::collections::BTreeMap;

use etcd_client::{GetOptions, GetResponse};

use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::keys::Keys;
use crate::store::Store;

/// How many names come at once.
const PAGE_KEYS: i64 = 1000;

/// Keys and folders that no other system has.
const OURS: [&str; 8] =
    ["term", "ballots/", "floors/", "secrets/", "transitions/", "orders/", "departures/", "config_history/"];
/// Those that Patroni has as well.
const PATRONIS: [&str; 9] =
    ["leader", "initialize", "config", "status", "history", "sync", "failsafe", "failover", "members/"];

/// Whose a scope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Agents of pgvigil have been at work there.
    Ours,
    /// It has the keys of Patroni, and none that only we have.
    Patroni,
    /// Nobody knows.
    Unknown,
}

/// What there is under a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The revision at which it was so.
    pub revision: i64,
    /// The scopes by name.
    pub scopes: BTreeMap<String, Owner>,
}

/// Lists the scopes under a namespace.
///
/// # Errors
/// etcd does not answer, or does not let this user see the whole namespace.
pub async fn list(endpoints: &Endpoints, namespace: &str) -> Result<Listing, Error> {
    let base = format!("/{}/", namespace.trim_matches('/'));
    let (mut from, mut listing) = (base.clone().into_bytes(), Listing::default());
    loop {
        let page = page(endpoints, &from, &base, listing.revision).await?;
        if listing.revision == 0 {
            listing.revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
        }
        for kv in page.kvs() {
            take(&mut listing.scopes, &base, &String::from_utf8_lossy(kv.key()));
        }
        match page.kvs().last() {
            // The next possible key.
            Some(last) if page.more() => from = [last.key(), &[0]].concat(),
            _ => return Ok(listing),
        }
    }
}

async fn page(endpoints: &Endpoints, from: &[u8], base: &str, revision: i64) -> Result<GetResponse, Error> {
    let options = GetOptions::new().with_range(Keys::end_of(base)).with_keys_only().with_limit(PAGE_KEYS);
    let options = options.with_revision(revision);
    endpoints
        .for_large_answers()
        .call(|mut client| {
            let (from, options) = (from.to_owned(), options.clone());
            async move { client.get(from, Some(options)).await }
        })
        .await
}

/// Notes what one key tells of its scope.
fn take(scopes: &mut BTreeMap<String, Owner>, base: &str, key: &str) {
    let Some((scope, rest)) = key.strip_prefix(base).and_then(|rest| rest.split_once('/')) else { return };
    let is_one_of =
        |names: &[&str]| names.iter().any(|name| rest == *name || (name.ends_with('/') && rest.starts_with(name)));
    let owner = scopes.entry(scope.to_owned()).or_insert(Owner::Unknown);
    if is_one_of(&OURS) {
        *owner = Owner::Ours;
    } else if *owner == Owner::Unknown && is_one_of(&PATRONIS) {
        *owner = Owner::Patroni;
    }
}

impl Store {
    /// Whether an agent of ours has registered in this cluster: all there is to see of one that is about to be made.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn has_member_of_ours(&self, revision: i64) -> Result<bool, Error> {
        let options = GetOptions::new().with_prefix().with_revision(revision);
        let members = self.keys().members();
        let answer = self
            .endpoints()
            .for_large_answers()
            .call(|mut client| {
                let (members, options) = (members.clone(), options.clone());
                async move { client.get(members, Some(options)).await }
            })
            .await?;
        let ours = |value: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(value).is_ok_and(|record| record["pgvigil"].is_string())
        };
        Ok(answer.kvs().iter().any(|kv| ours(kv.value())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_scope_is_its_keys_tell() {
        for (keys, owner) in [
            (&["term", "leader"][..], Owner::Ours),
            (&["leader", "initialize", "members/pg1", "status"], Owner::Patroni),
            (&["members/pg1", "ballots/pg1"], Owner::Ours),
            (&["terms"], Owner::Unknown),
            (&["0/leader"], Owner::Unknown),
            (&["transitions/t-1"], Owner::Ours),
        ] {
            let mut scopes = BTreeMap::new();
            for key in keys {
                take(&mut scopes, "/service/", &format!("/service/orders/{key}"));
            }
            assert_eq!(scopes, BTreeMap::from([("orders".to_owned(), owner)]), "{keys:?}");
        }
    }

    #[test]
    fn a_key_that_is_in_no_scope_is_none() {
        let mut scopes = BTreeMap::new();
        take(&mut scopes, "/service/", "/service/lonely");
        take(&mut scopes, "/service/", "/other/orders/term");
        assert_eq!(scopes, BTreeMap::new());
    }
}
