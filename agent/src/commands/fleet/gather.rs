//! Looks at every cluster under the namespace: first the names of all at one revision, then each cluster's values at that revision and its
//! agents, many clusters at a time. A cluster that does not answer costs a second, and is a row.

use std::sync::Arc;

use consensus::fleet::{Owner, list};
use consensus::{Error, Snapshot};
use decision::settings::Mode;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::super::screen::tell;
use super::super::status::Status;
use super::facts::{ClusterRow, Fleet, ForeignRow};
use crate::cli::Exit;
use crate::config::Config;
use crate::operate::world::Reach;

/// How many clusters are looked at at a time: each takes four connections to each of its agents.
pub const AT_ONCE: usize = 24;

/// What was found under one name.
enum Found {
    Cluster(Box<ClusterRow>),
    Foreign(ForeignRow),
}

/// The clusters that are ours, by name, and what is not.
pub struct Scopes {
    /// The revision at which it was so.
    pub revision: i64,
    /// All names, and whose they seem to be.
    pub names: Vec<(String, Owner)>,
}

/// Lists what there is; what keeps it from that is told.
pub async fn scopes(reach: &Reach) -> Result<Scopes, Exit> {
    let namespace = &reach.config.etcd.namespace;
    match list(reach.store.endpoints(), namespace).await {
        Ok(found) => Ok(Scopes { revision: found.revision, names: found.scopes.into_iter().collect() }),
        Err(error) => {
            tell(&format!("error: the clusters are listed in etcd: {error}"));
            if reach.store.endpoints().turned_away() {
                tell(&format!("HINT: the user of this file must be allowed to read all of /{namespace}/"));
            }
            Err(reach.silence())
        }
    }
}

/// Looks at all of them.
pub async fn fleet(reach: &Reach) -> Result<Fleet, Exit> {
    let Scopes { revision, names } = scopes(reach).await?;
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    for (name, owner) in names {
        let (reach, turns, own) = (reach.beside(&name), Arc::clone(&turns), name == reach.config.cluster);
        looks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            look(&reach, owner, revision, own).await
        });
    }
    let (mut clusters, mut not_ours) = (Vec::new(), Vec::new());
    for found in looks.join_all().await {
        match found {
            Found::Cluster(row) => clusters.push(*row),
            Found::Foreign(row) => not_ours.push(row),
        }
    }
    Ok(Fleet::of(&reach.config.etcd.namespace, revision, clusters, not_ours))
}

async fn look(reach: &Reach, owner: Owner, revision: i64, own: bool) -> Found {
    let cluster = reach.config.cluster.clone();
    match is_ours(reach, owner, revision).await {
        Ok(false) => return Found::Foreign(ForeignRow::of(cluster, owner)),
        Ok(true) => {}
        Err(error) => return Found::Cluster(Box::new(ClusterRow::unread(cluster, error.to_string()))),
    }
    let row = match read(reach, revision).await {
        Ok(snapshot) => {
            let world = reach.look_at(snapshot).await;
            ClusterRow::of(Status::of(&world, &config_of(&reach.config, own), Timestamp::now()))
        }
        Err(error) => ClusterRow::unread(cluster, error.to_string()),
    };
    Found::Cluster(Box::new(row))
}

/// Whether agents of ours keep it. One that is about to be made has nothing yet but their registrations.
pub async fn is_ours(reach: &Reach, owner: Owner, revision: i64) -> Result<bool, Error> {
    match owner {
        Owner::Ours => Ok(true),
        Owner::Patroni => reach.store.has_member_of_ours(revision).await,
        Owner::Unknown => Ok(false),
    }
}

async fn read(reach: &Reach, revision: i64) -> Result<Snapshot, Error> {
    match reach.store.read_at(revision).await {
        // The revision was compacted away meanwhile: as it is now, then.
        Err(Error::Rejected(_)) => reach.store.read().await,
        read => read,
    }
}

/// What another cluster's files ask for is not known here, so nothing is said of what nobody has chosen there.
fn config_of(config: &Config, own: bool) -> Config {
    let mut config = config.clone();
    if !own {
        config.durability.mode = Mode::Async;
    }
    config
}
