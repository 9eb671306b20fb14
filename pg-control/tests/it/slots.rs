//! Replication slots: made, moved on and dropped on primaries and standbys.

use decision::names::Lsn;
use decision::slots::{Kind, Made, Slot, SlotName, Step};
use decision::view::Upstream;
use pg_control::Instance;

use crate::Outcome;
use crate::world::{Failure, Node, eventually, primary, primary_with, standby_of};

fn name(text: &str) -> SlotName {
    SlotName::new(text).expect("a good name")
}

async fn slot(node: &Node, text: &str) -> Result<Slot, Failure> {
    let found = node.instance.slots().await?.into_iter().find(|slot| slot.name == name(text));
    found.ok_or_else(|| format!("no slot {text}").into())
}

async fn done(node: &Node, steps: &[Step]) -> Outcome {
    let failed = node.instance.change_slots(steps).await?;
    if failed.is_empty() { Ok(()) } else { Err(format!("{failed:?}").into()) }
}

fn create(text: &str) -> Step {
    Step::Create(name(text), Made::Member)
}

pub async fn a_standby_streams_by_a_slot_and_has_slots_of_its_own() -> Outcome {
    let leader = primary("pg1").await?;
    let standby = standby_of(&leader, "pg2", 1).await?;
    done(&leader, &[create("pg2")]).await?;
    let made = slot(&leader, "pg2").await?;
    assert_eq!((&made.kind, made.active, made.made), (&Kind::Physical, false, Some(Made::Member)));
    assert!(made.restart.is_some() && !made.lost, "it keeps WAL from its first moment on: {made:?}");
    let by_slot = Upstream { slot: Some(name("pg2")), ..leader.as_upstream(1) };
    standby.instance.follow(&by_slot, crate::world::PATIENCE).await?;
    eventually("streams by its slot", async || Ok(slot(&leader, "pg2").await?.active)).await?;
    assert_eq!(standby.as_standby().await?.follows, Some(by_slot));
    done(&standby, &[create("pg3")]).await?;
    let before = slot(&standby, "pg3").await?;
    leader.run("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a").await?;
    let end = leader.as_primary().await?.flushed;
    standby.has_replayed(end).await?;
    done(&standby, &[Step::Advance(name("pg3"), end)]).await?;
    let after = slot(&standby, "pg3").await?;
    assert!(after.restart > before.restart && after.restart <= Some(end), "{before:?} {after:?}");
    let back = standby.instance.change_slots(&[Step::Advance(name("pg3"), Lsn(8)), create("pg4")]).await?;
    assert!(back.len() == 1 && back[0].0 == name("pg3"), "nothing moves backwards, and nothing else suffers: {back:?}");
    done(&standby, &[Step::Drop(name("pg3"), "test"), Step::Drop(name("pg3"), "somebody was quicker")]).await?;
    assert_eq!(standby.instance.slots().await?.len(), 1);
    // A slot that is not there: the standby does not stream by it, and is not held up once it does not name it any more.
    let by_none = Upstream { slot: Some(name("nobody")), ..leader.as_upstream(1) };
    standby.instance.follow(&by_none, crate::world::PATIENCE).await?;
    eventually("is refused", async || Ok(!standby.as_standby().await?.streaming)).await?;
    standby.instance.follow(&leader.as_upstream(1), crate::world::PATIENCE).await?;
    standby.streams().await
}

pub async fn what_an_agent_has_made_is_known_to_its_next_life() -> Outcome {
    let node = primary("pg1").await?;
    node.run("SELECT pg_create_physical_replication_slot('backup', true)").await?;
    done(&node, &[create("pg2"), Step::Create(name("dr"), Made::Permanent)]).await?;
    let taken = node.instance.change_slots(&[create("backup")]).await?;
    assert_eq!(taken.len(), 1, "it is there already");
    let next = Instance::new(node.instance.config().clone())?;
    let made: Vec<_> = next.slots().await?.into_iter().map(|slot| (slot.name.to_string(), slot.made)).collect();
    let expected = [("backup", None), ("dr", Some(Made::Permanent)), ("pg2", Some(Made::Member))];
    assert_eq!(made, expected.map(|(name, made)| (name.to_owned(), made)));
    Ok(())
}

pub async fn a_slot_that_has_lost_its_wal_is_made_anew() -> Outcome {
    let limits =
        [("max_slot_wal_keep_size", "8MB"), ("wal_keep_size", "0"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let node = primary_with("pg1", |config| {
        config.parameters.extend(limits.map(|(key, value)| (key.to_owned(), value.to_owned())));
    })
    .await?;
    done(&node, &[create("pg2")]).await?;
    for _ in 0..6 {
        node.run("CREATE TABLE IF NOT EXISTS t (a text); INSERT INTO t SELECT repeat(md5(i::text), 30) FROM generate_series(1, 10000) AS i").await?;
        node.run("SELECT pg_switch_wal()").await?;
        node.run("CHECKPOINT").await?;
    }
    let lost = slot(&node, "pg2").await?;
    assert!(lost.lost, "{lost:?}");
    done(&node, &[Step::Renew(name("pg2"), Made::Member, "test")]).await?;
    let anew = slot(&node, "pg2").await?;
    assert!(!anew.lost && anew.restart.is_some() && anew.made == Some(Made::Member), "{anew:?}");
    let usual = primary("pg1").await?;
    let limit = usual.ask("current_setting('max_slot_wal_keep_size')").await?;
    assert!(limit.ends_with("MB") || limit.ends_with("GB"), "a forgotten slot would fill the disk: {limit}");
    Ok(())
}
