//! The operations of the storm. Each begins on a whole cluster, says by which commands it is done, and need not wait for the cluster to be
//! whole again.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::etcdctl;
use crate::stage::Stage;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Operation {
    /// `restart` of a standby.
    RestartStandby,
    /// `restart` of the leader, where it is.
    RestartLeader,
    /// `restart --rolling`.
    RollingRestart,
    /// The same, and the leader is lost in the midst of it.
    LeaderDiesInRollingRestart,
    /// `reinit` of a standby.
    CopyAnew,
    /// The same, and the node that is copied from is lost in the midst of it.
    SourceDiesInCopy,
    /// `switchover` to a named standby.
    SwitchOver,
    /// The same, and the old leader is lost in the midst of it.
    LeaderDiesInSwitchover,
    /// Agent and Postgres of the leader die, and are started again.
    LoseLeader,
    /// The same with a standby.
    LoseStandby,
    /// Postgres of the leader dies alone.
    KillPostgres,
    /// The agent of the leader dies alone, and is started again.
    KillAgent,
    /// A standby dies, is removed, and comes back with what it had.
    RemoveAndComeBack,
    /// The same, and it comes back with nothing.
    RemoveAndReplace,
    /// A parameter that needs a restart is raised or lowered, and all are restarted for it.
    ChangeConnections,
    /// A parameter that needs none, and back again.
    ChangeAndRollBack,
    /// Another mode of durability.
    ChangeDurability,
    /// A standby never leads, for a while.
    BarFromLeading,
    /// A standby streams from the other one, for a while.
    Cascade,
    /// A permanent slot is asked for, and not any more.
    PermanentSlot,
    /// A pause, in which a standby is restarted.
    Pause,
    /// A member of etcd dies and is started again.
    LoseEtcdMember,
}

use Operation::*;

/// With whom.
#[derive(Clone, Debug)]
pub struct Cast {
    /// Who leads as it begins.
    pub leader: String,
    /// The others; the first is the one that is taken.
    pub standbys: Vec<String>,
    /// For whatever else is left to chance.
    pub throw: usize,
}

/// Does it.
pub async fn play(stage: &mut Stage, operation: Operation, cast: &Cast) -> Result<()> {
    let (leader, standby) = (cast.leader.as_str(), cast.standbys[0].as_str());
    let soon = Duration::from_millis(cast.throw as u64 * 2);
    match operation {
        RestartStandby => run(stage, standby, &["restart", standby, "-y"]).await,
        RestartLeader => run(stage, standby, &["restart", leader, "-y"]).await,
        RollingRestart => run(stage, leader, &["restart", "--rolling", "-y"]).await,
        LeaderDiesInRollingRestart => {
            lost_meanwhile(stage, leader, standby, &["restart", "--rolling", "-y"], soon).await
        }
        CopyAnew => run(stage, leader, &["reinit", standby, "-y"]).await,
        SourceDiesInCopy => lost_meanwhile(stage, leader, standby, &["reinit", standby, "-y"], soon).await,
        SwitchOver => run(stage, standby, &["switchover", "--to", standby, "-y"]).await,
        LeaderDiesInSwitchover => {
            lost_meanwhile(stage, leader, standby, &["switchover", "--to", standby, "-y"], soon / 2).await
        }
        LoseLeader => lose(stage, leader, soon).await,
        LoseStandby => lose(stage, standby, soon).await,
        KillPostgres => stage.node(leader)?.kill_postgres(),
        KillAgent => {
            stage.node(leader)?.agent().kill();
            tokio::time::sleep(soon).await;
            stage.start(leader)
        }
        RemoveAndComeBack => removed(stage, cast, false).await,
        RemoveAndReplace => removed(stage, cast, true).await,
        ChangeConnections => {
            let connections = format!("max_connections={}", 60 + cast.throw % 7 * 20);
            run(stage, leader, &["config", "set", "-p", &connections, "-y"]).await?;
            run(stage, leader, &["restart", "--rolling", "-y"]).await
        }
        ChangeAndRollBack => changed_and_back(stage, cast).await,
        ChangeDurability => {
            let to = ["durability.mode=strict", "durability.mode=quorum", "durability.acknowledgers=2"][cast.throw % 3];
            run(stage, leader, &["config", "set", to, "-y"]).await?;
            stage.writes_go_on().await?;
            run(stage, leader, &["config", "set", "--unset", to.split('=').next().unwrap_or_default(), "-y"]).await
        }
        BarFromLeading => barred(stage, cast).await,
        Cascade => cascaded(stage, cast).await,
        PermanentSlot => permanent_slot(stage, cast).await,
        Pause => {
            run(stage, leader, &["pause", "--for", "10m"]).await?;
            run(stage, leader, &["restart", standby, "-y"]).await?;
            run(stage, standby, &["resume"]).await
        }
        LoseEtcdMember => {
            let member = &stage.cluster.etcd()[cast.throw % 3];
            member.kill();
            stage.writes_go_on().await?;
            member.start()
        }
    }
}

async fn run(stage: &Stage, node: &str, words: &[&str]) -> Result<()> {
    stage.pgvigil(node, words).await.map(drop)
}

async fn lose(stage: &Stage, node: &str, soon: Duration) -> Result<()> {
    stage.node(node)?.kill_everything()?;
    tokio::time::sleep(soon).await;
    stage.writes_go_on().await?;
    stage.start(node)
}

/// A command is under way when the leader is lost; it may say that it came to no end.
async fn lost_meanwhile(stage: &Stage, leader: &str, asks: &str, words: &[&str], soon: Duration) -> Result<()> {
    let losing = async {
        tokio::time::sleep(soon).await;
        stage.node(leader)?.kill_everything()?;
        stage.writes_go_on().await?;
        stage.start(leader)
    };
    let (said, lost) = tokio::join!(stage.cluster.pgvigil(asks, words), losing);
    stage.say(&format!("{words:?} ended with {}", said?.status));
    lost
}

async fn removed(stage: &Stage, cast: &Cast, with_nothing: bool) -> Result<()> {
    let (leader, gone) = (cast.leader.as_str(), cast.standbys[0].as_str());
    stage.node(gone)?.kill_everything()?;
    let key = format!("members/{gone}");
    let away = async || Ok(etcdctl::get(&stage.cluster, &key).await?.is_empty());
    stage.eventually("its lease does not end", away).await?;
    run(stage, leader, &["member", "remove", gone, "-y"]).await?;
    stage.writes_go_on().await?;
    if with_nothing {
        std::fs::remove_dir_all(stage.node(gone)?.data_dir())?;
    }
    stage.start(gone)
}

async fn changed_and_back(stage: &Stage, cast: &Cast) -> Result<()> {
    let leader = cast.leader.as_str();
    let shown: serde_json::Value =
        serde_json::from_str(&stage.pgvigil(leader, &["config", "show", "-o", "json"]).await?)?;
    let before = shown["revision"].as_u64().unwrap_or_default();
    let memory = format!("{}MB", 5 + cast.throw % 20);
    run(stage, leader, &["config", "set", "-p", &format!("work_mem={memory}"), "-y"]).await?;
    for node in stage.others("") {
        let there = async || Ok(stage.cluster.psql(&node, "SHOW work_mem").await? == memory);
        stage.eventually(&format!("{node} does not take {memory}"), there).await?;
    }
    if before > 0 {
        run(stage, leader, &["config", "rollback", &before.to_string(), "-y"]).await?;
    }
    Ok(())
}

async fn tagged(stage: &Stage, node: &str, key: &str, value: Option<&str>) -> Result<()> {
    match value {
        Some(value) => stage.set(node, key, value)?,
        None => stage.unset(node, key)?,
    }
    stage.stop(node).await?;
    stage.start(node)
}

async fn barred(stage: &Stage, cast: &Cast) -> Result<()> {
    let (leader, standby) = (cast.leader.as_str(), cast.standbys[0].as_str());
    tagged(stage, standby, "tags.nofailover", Some("true")).await?;
    let refused = async || {
        let output = stage.cluster.pgvigil(leader, &["switchover", "--to", standby, "--dry-run"]).await?;
        Ok(output.status.code() == Some(3))
    };
    stage.eventually("it may still lead", refused).await?;
    lose(stage, leader, Duration::ZERO).await?;
    ensure!(stage.leader().await? != standby, "the one that never leads does");
    tagged(stage, standby, "tags.nofailover", None).await
}

async fn cascaded(stage: &Stage, cast: &Cast) -> Result<()> {
    let [standby, upstream] = [cast.standbys[0].as_str(), cast.standbys[1].as_str()];
    tagged(stage, standby, "tags.replicatefrom", Some(&format!("{upstream:?}"))).await?;
    let streams = format!("SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE '{standby}%'");
    let there = async || Ok(stage.cluster.psql(upstream, &streams).await? == "1");
    stage.eventually(&format!("{standby} does not stream from {upstream}"), there).await?;
    stage.writes_go_on().await?;
    tagged(stage, standby, "tags.replicatefrom", None).await
}

async fn permanent_slot(stage: &Stage, cast: &Cast) -> Result<()> {
    let leader = cast.leader.as_str();
    run(stage, leader, &["config", "set", "slots.permanent.backup=physical", "-y"]).await?;
    for node in stage.others("") {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'backup'";
        let there = async || Ok(stage.cluster.psql(&node, slots).await? == "1");
        stage.eventually(&format!("{node} has no such slot"), there).await?;
    }
    run(stage, leader, &["config", "set", "--unset", "slots.permanent.backup", "-y"]).await
}
