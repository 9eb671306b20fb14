//! kill -9 of the agent before and after every action. Wherever it dies, the next agent, or another node's, finds what it left and goes
//! on from there; no acknowledged row is missing at the end.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::doomed::die_at_each;
use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, on_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_at_each_step_of_the_first_start_form_a_cluster_all_the_same() {
    on_empty_stage(&options(), async |stage| {
        stage.cluster.start_etcd().await?;
        stage.cluster.start_proxy()?;
        let names: Vec<String> = stage.cluster.nodes().iter().map(|node| node.name().to_owned()).collect();
        let nothing = async || Ok(());
        die_at_each(stage, &names[..1], &["bootstrap:before", "bootstrap:after"], nothing).await?;
        let steps = [
            "clone:before",
            "clone:after",
            "start_standby:before",
            "start_standby:after",
            "clear_floor:before",
            "clear_floor:after",
        ];
        die_at_each(stage, &names[1..], &steps, nothing).await?;
        stage.begins_to_write().await?;
        stage.ends_well().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_at_each_step_of_a_failover_lose_nothing() {
    on_stage(&options(), async |stage| {
        standbys_die_taking_over(stage).await.context("taking over")?;
        leader_dies_letting_go(stage, "abdicate:before").await?;
        leader_dies_letting_go(stage, "abdicate:after").await?;
        old_leader_dies_returning(stage).await.context("returning")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_at_each_step_under_a_leader_lose_nothing() {
    on_stage(&options(), async |stage| {
        leader_dies_changing_durability(stage).await.context("changing durability")?;
        candidate_dies_getting_ready(stage).await.context("getting ready")?;
        bystander_dies_repointing(stage).await.context("repointing")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_between_any_two_steps_of_a_switchover_lose_nothing() {
    on_stage(&options(), async |stage| {
        leader_dies_handing_over(stage).await.context("handing over")?;
        candidate_dies_taking_over(stage).await.context("taking over")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_between_any_two_steps_of_a_switchover_lose_nothing_in_async_mode_either() {
    let options = options().with("durability.mode", "\"async\"");
    on_stage(&options, async |stage| leader_dies_handing_over(stage).await.context("handing over")).await;
}

async fn standbys_die_taking_over(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let steps = [
        "pledge:before",
        "pledge:after",
        "acquire:before",
        "acquire:after",
        "promote:before",
        "promote:after",
        "mark:before",
        "mark:after",
    ];
    let leader_dies = async || {
        stage.whole().await?;
        stage.node(&leader)?.kill_everything()
    };
    die_at_each(stage, &stage.others(&leader), &steps, leader_dies).await?;
    stage.writes_go_on().await?;
    let new = stage.leader().await?;
    let done = async || reign_is_on_record(stage, &new, "failover").await;
    stage.eventually("the failover is on no record", done).await?;
    stage.start(&leader)?;
    stage.whole().await
}

async fn leader_dies_letting_go(stage: &Stage, at: &str) -> Result<()> {
    let leader = stage.leader().await?;
    let postgres_dies = async || {
        stage.whole().await?;
        stage.node(&leader)?.kill_postgres()
    };
    die_at_each(stage, std::slice::from_ref(&leader), &[at], postgres_dies).await?;
    stage.writes_go_on().await?;
    stage.whole().await
}

/// WAL that only the old leader has, so that it must be rewound.
const UNACKNOWLEDGED: &str = "SELECT pg_logical_emit_message(false, 'nobody has seen this', repeat('x', 1 << 20))";

async fn old_leader_dies_returning(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let node = stage.node(&leader)?;
    // Frozen, the agent cannot let commits go on without standbys, which would make this leader the only one that has them.
    node.agent().freeze()?;
    for name in stage.others(&leader) {
        stage.node(&name)?.kill_everything()?;
    }
    // Pages are brought to disk whole, so a record is certain to be there once a later one has followed it.
    let end = stage.cluster.psql(&leader, UNACKNOWLEDGED).await?;
    stage.cluster.psql(&leader, UNACKNOWLEDGED).await?;
    let flushed = format!("SELECT pg_current_wal_flush_lsn() >= '{end}'");
    let flushed = async || Ok(stage.cluster.psql(&leader, &flushed).await? == "t");
    stage.eventually("the lonely leader does not bring its WAL to disk", flushed).await?;
    node.kill_everything()?;
    for name in stage.others(&leader) {
        stage.start(&name)?;
    }
    stage.leader_other_than(&leader).await?;
    stage.writes_go_on().await?;
    let steps = ["find_end_of_wal:before", "find_end_of_wal:after", "rewind:before", "rewind:after"];
    die_at_each(stage, std::slice::from_ref(&leader), &steps, async || Ok(())).await?;
    stage.whole().await
}

async fn leader_dies_changing_durability(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let away = stage.standby().await?;
    let steps = [
        "record_sync:before",
        "record_sync:after",
        "apply_sync:before",
        "apply_sync:after",
        "prove_sync:before",
        "prove_sync:after",
    ];
    let standby_dies = async || {
        stage.whole().await?;
        stage.node(&away)?.kill_everything()
    };
    die_at_each(stage, std::slice::from_ref(&leader), &steps, standby_dies).await?;
    stage.writes_go_on().await?;
    let standby_returns = async || {
        stage.writes_go_on().await?;
        stage.start(&away)
    };
    die_at_each(stage, std::slice::from_ref(&leader), &steps, standby_returns).await?;
    stage.whole().await
}

async fn candidate_dies_getting_ready(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let candidate = stage.standby().await?;
    let asked = async || asked_to_lead(stage, &leader, &candidate).await;
    let steps = ["stand_ready:before", "stand_ready:after"];
    die_at_each(stage, std::slice::from_ref(&candidate), &steps, asked).await?;
    request_is_settled(stage).await
}

/// Between any two of its steps, to and fro.
async fn leader_dies_handing_over(stage: &Stage) -> Result<()> {
    let steps = ["before", "heir", "prepared", "stopping", "stopped", "confirmed", "handed", "after"];
    for step in steps {
        let leader = stage.leader().await?;
        let candidate = stage.standby().await?;
        let asked = async || asked_to_lead(stage, &leader, &candidate).await;
        die_at_each(stage, std::slice::from_ref(&leader), &[&format!("hand_over:{step}")], asked).await?;
        request_is_settled(stage).await.with_context(|| format!("the leader died at {step}"))?;
    }
    Ok(())
}

/// The lock is its own by then, and nobody else can promote in its place.
async fn candidate_dies_taking_over(stage: &Stage) -> Result<()> {
    for step in ["promote:before", "promote:after", "mark:before"] {
        let leader = stage.leader().await?;
        let candidate = stage.standby().await?;
        let asked = async || asked_to_lead(stage, &leader, &candidate).await;
        die_at_each(stage, std::slice::from_ref(&candidate), &[step], asked).await?;
        request_is_settled(stage).await.with_context(|| format!("the candidate died at {step}"))?;
        let done = async || reign_is_on_record(stage, &candidate, "switchover").await;
        stage.eventually("the switchover is under way for ever", done).await?;
    }
    Ok(())
}

/// Whoever leads is there by a record, which is done and of this kind, even if nobody has measured it to its end.
async fn reign_is_on_record(stage: &Stage, leader: &str, kind: &str) -> Result<bool> {
    let term = stage.ask(leader, "/beat").await?["term"].clone();
    let records = stage.transitions(leader).await?;
    let of_it = |record: &&Value| record["kind"] == kind && record["term_after"] == term;
    Ok(records.iter().filter(of_it).any(|record| record["outcome"] == "done" && record["to"] == leader))
}

async fn bystander_dies_repointing(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let [candidate, bystander] =
        <[String; 2]>::try_from(stage.others(&leader)).ok().context("there are two standbys")?;
    let asked = async || asked_to_lead(stage, &leader, &candidate).await;
    die_at_each(stage, &[bystander], &["follow:before", "follow:after"], asked).await?;
    request_is_settled(stage).await
}

/// Asks for a switchover and does not wait for its end; what becomes of it is not for whoever asks here.
async fn asked_to_lead(stage: &Stage, leader: &str, candidate: &str) -> Result<()> {
    stage.whole().await?;
    let arguments = ["switchover", "--to", candidate, "--expect-leader", leader, "-y", "--wait", "100ms"];
    stage.cluster.pgvigil(candidate, &arguments).await.map(|_| ())
}

/// A request that nobody has answered yet would be carried out later, in the middle of something else.
async fn request_is_settled(stage: &Stage) -> Result<()> {
    let settled = async || Ok(etcdctl::get(&stage.cluster, "failover").await?.is_empty());
    stage.eventually("the request is never answered", settled).await?;
    stage.writes_go_on().await?;
    stage.whole().await
}
