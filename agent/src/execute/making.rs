//! A cluster comes into being on this node: the database is made, then etcd is told in one transaction. What no cluster came to know of is
//! moved out of the way again.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use consensus::{Bootstrap, Snapshot};
use decision::durability::Quorum;
use decision::settings::Mode;
use decision::site::Remote;
use decision::view::SyncRecord;
use pg_control::Born;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Effect;
use crate::hands::Hands;

pub(super) async fn bootstrap(hands: &Hands, seen: &Snapshot, cancel: &CancellationToken) -> Result<Effect> {
    takes_its_parameters(hands).await?;
    let member_lease = hands.leases.member().borrow().id().context("no member lease yet")?;
    if !hands.store.begin_bootstrap(member_lease).await?.applied() {
        return Ok(Effect::LOCAL);
    }
    tracing::info!(restored = hands.local.load().bootstrap.backup.is_some(), "creating the cluster");
    let born = make_database(hands, cancel).await;
    let is_ours = born.is_ok();
    let made = match born {
        Ok(born) => publish_cluster(hands, seen, member_lease, born).await,
        Err(error) => Err(error),
    };
    let Err(error) = &made else { return made };
    hands.instance.kill_all().await?;
    if matches!(error.downcast_ref(), Some(consensus::Error::Unknown(_))) {
        // The cluster may have been created with this very database: the next look at etcd tells.
        return made;
    }
    if is_ours {
        // A database that no cluster knows of would stand in the way of the next attempt. What was there before an attempt that could not make one is
        // not ours to give up.
        hands.instance.condemn("bootstrap")?;
    }
    let _ = hands.store.abandon_bootstrap(member_lease).await;
    made
}

/// Before anybody hears of it: a cluster whose first node cannot start would be made again and again.
async fn takes_its_parameters(hands: &Hands) -> Result<()> {
    let (bin_dir, parameters) = (hands.config.postgres.bin_dir.clone(), hands.instance.config().parameters.clone());
    let judged = tokio::task::spawn_blocking(move || pg_control::objections(&bin_dir, &parameters)).await?;
    let wrong: Vec<String> = judged?.into_iter().map(|(name, why)| format!("{name}: {why}")).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "nothing is created, for Postgres would not start with the parameters in the file of this node: {}; mend them, then start the agent again",
        wrong.join(" | ")
    )
}

async fn make_database(hands: &Hands, cancel: &CancellationToken) -> Result<Born> {
    hands.create_secrets().await?;
    let local = hands.local.load_full();
    match &local.bootstrap_site {
        Some(site) => copy_of_a_site(hands, site, local.bootstrap.within, cancel).await,
        None => Ok(hands.instance.bootstrap(&local.bootstrap, cancel).await?),
    }
}

/// A copy of another site, started as its standby.
async fn copy_of_a_site(hands: &Hands, site: &Remote, within: Duration, cancel: &CancellationToken) -> Result<Born> {
    let upstream = site.upstream();
    let copy = hands.instance.clone_from(&upstream, cancel);
    let copied = match within {
        Duration::ZERO => copy.await,
        within => tokio::time::timeout(within, copy).await.context("the copy takes too long")?,
    };
    copied.with_context(|| format!("copying {site}"))?;
    let started = async {
        let born = hands.instance.born().await?;
        hands.instance.start_as_standby(Some(&upstream)).await?;
        anyhow::Ok(born)
    };
    let started = started.await;
    if started.is_err() {
        hands.instance.condemn("bootstrap")?;
    }
    started
}

async fn publish_cluster(hands: &Hands, seen: &Snapshot, member_lease: i64, born: Born) -> Result<Effect> {
    let lock_lease = hands.leases.ensure_lock_lease().await?;
    hands.authority.bind(lock_lease);
    let local = hands.local.load_full();
    let site = local.bootstrap_site.as_ref();
    if site.is_none() {
        hands.fence.arm_confirmed().await?;
    }
    let me = hands.me().clone();
    let after = seen.cluster.term;
    let sync = SyncRecord {
        leader: me.clone(),
        term: after.next(),
        mode: match hands.config.durability.mode {
            Mode::Auto => Mode::Async,
            _ if site.is_some() => Mode::Async,
            mode => mode,
        },
        policies: vec![Quorum::none()],
        timeline: born.timeline,
        released: false,
        reclaimed: false,
        handover_lsn: None,
        heir: None,
        follows: site.is_some(),
    };
    let term = sync.term;
    let config = match site {
        Some(site) => Some(settings_of(&seen.config.raw, site)),
        None => (seen.config_revision == 0).then(|| serde_json::json!({})),
    };
    let system_id = born.system_id;
    let done = Bootstrap { me, member_lease, lock_lease, system_id, after, term, sync, config };
    let outcome = hands.store.finish_bootstrap(&done).await?;
    if !outcome.applied() {
        bail!("another node created the cluster meanwhile");
    }
    hands.recorder.took_lock("bootstrap", "create_cluster", None, after, term);
    if site.is_some() {
        hands.recorder.leads_a_follower();
    }
    Ok(Effect::of(outcome))
}

/// The settings with the other site in Patroni's place.
fn settings_of(raw: &Value, site: &Remote) -> Value {
    let mut settings = raw.as_object().cloned().unwrap_or_default();
    settings.insert("standby_cluster".to_owned(), serde_json::json!({"host": site.to_string()}));
    Value::Object(settings)
}
