//! Two standbys race for the leader lock. Whoever comes second had armed its fence to lead: it must not be killed by it, for it is needed at once
//! to acknowledge what the winner commits.

use std::time::Duration;

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};

use crate::etcdctl;
use crate::links::Links;
use crate::stage::{Stage, on_stage, options};

/// What an agent says when etcd has refused its claim.
const REFUSED: &str = "another candidate was faster, or the ballots changed";

/// With two acknowledgers each standby alone proves that nothing is missing, so that neither waits for the other's ballot. A claim may be on
/// its way for long, and its answer is waited for.
fn racing() -> ClusterOptions {
    let options = options().with("durability.acknowledgers", "2").with("etcd.request_timeout", "\"5s\"");
    ClusterOptions { ttl: Duration::from_secs(12), ..options }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_the_race_for_the_lock_stays_up_and_follows_the_winner() {
    on_stage(&racing(), async |stage| {
        let old = stage.leader().await?;
        let others = <[String; 2]>::try_from(stage.others(&old)).ok();
        // Both have the same, so the first by name ranks first, once its ballot is there.
        let [winner, loser] = others.context("there are two standbys")?;
        let links = Links::between(stage, &loser).await?;
        let before = [pid(stage, &winner)?, pid(stage, &loser)?];
        both_have_everything(stage, &old).await?;
        stage.node(&winner)?.agent().freeze()?;
        ensure!(!says_refused(stage, &loser)?, "an earlier claim was refused");
        links.hold_claims();
        stage.node(&old)?.kill_postgres()?;
        stage.eventually(&format!("{loser} claims nothing"), async || Ok(links.hold_a_claim())).await?;
        stage.node(&old)?.kill_everything()?;
        stage.say(&format!("{loser} has claimed the lock, and its claim is on its way"));
        stage.node(&winner)?.agent().thaw()?;
        let taken = async || Ok(etcdctl::get(&stage.cluster, "leader").await? == winner);
        stage.eventually(&format!("{winner} does not take the lock"), taken).await?;
        links.let_claims_go();
        let refused = async || says_refused(stage, &loser);
        stage.eventually(&format!("the claim of {loser} is not refused"), refused).await?;
        stage.say(&format!("{winner} has taken it, and the claim is refused"));
        stage.cluster.proxy().context("there is a proxy")?.thaw()?;
        stage.start(&old)?;
        stage.whole().await?;
        ensure!(stage.leader().await? == winner, "another leads");
        let after = [pid(stage, &winner)?, pid(stage, &loser)?];
        ensure!(after == before, "the postmasters were {before:?} and are {after:?}");
        Ok(())
    })
    .await;
}

fn pid(stage: &Stage, name: &str) -> Result<i32> {
    stage.node(name)?.postmaster_pid().with_context(|| format!("Postgres does not run on {name}"))
}

fn says_refused(stage: &Stage, name: &str) -> Result<bool> {
    Ok(std::fs::read_to_string(stage.node(name)?.agent().log())?.contains(REFUSED))
}

/// Nobody writes any more, commits wait for both standbys, and both have the same.
async fn both_have_everything(stage: &Stage, leader: &str) -> Result<()> {
    let two = async || Ok(etcdctl::get(&stage.cluster, "sync").await?.contains("\"policies\":[{\"k\":2,"));
    stage.eventually("commits do not wait for both", two).await?;
    stage.cluster.proxy().context("there is a proxy")?.freeze()?;
    let level = "SELECT count(*) = 2 FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_insert_lsn()";
    let level = async || Ok(stage.cluster.psql(leader, level).await? == "t");
    stage.eventually("the standbys do not catch up", level).await
}
