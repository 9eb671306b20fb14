//! Clones, followers, pledges and promotions.

use std::time::{Duration, Instant};

use decision::durability::Quorum;
use decision::names::{Term, Timeline};
use decision::view::Server;
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::world::{self, Node, PATIENCE, any, empty, eventually, name, primary, primary_with, standby_of};

pub async fn a_clone_follows_and_is_promoted() -> Outcome {
    let old = primary("pg1").await?;
    let begin = Instant::now();
    let new = standby_of(&old, "pg2", 1).await?;
    println!("      clone to streaming {:?}", begin.elapsed());
    let seen = old.as_primary().await?;
    assert_eq!(seen.standbys.len(), 1);
    assert_eq!((seen.standbys[0].member.as_str(), seen.standbys[0].term), ("pg2", Term(1)));
    old.run("CREATE TABLE t AS SELECT 1 AS a").await?;
    new.has_replayed(old.as_primary().await?.flushed).await?;
    let standby = new.as_standby().await?;
    assert_eq!(standby.wal_term, Term(1));
    assert_eq!(standby.follows, Some(old.as_upstream(1)));
    assert_eq!(standby.timeline, Timeline(1));
    eventually("replay done", async || Ok(new.as_standby().await?.replay_done)).await?;
    old.instance.kill_all().await?;

    let begin = Instant::now();
    let pledged = new.instance.pledge(PATIENCE).await?;
    let pledge = begin.elapsed();
    assert!(pledged.replay_done && !pledged.receiver_running && pledged.follows.is_none(), "{pledged:?}");
    let promoted = new.instance.promote(&Quorum::none(), Term(2), PATIENCE).await?;
    let promote = begin.elapsed();
    new.instance.mark(Term(2), &name("pg2"), PATIENCE).await?;
    println!(
        "      pledge {pledge:?}, promote {:?} ({promoted:?}), writable after {:?}",
        promote - pledge,
        begin.elapsed()
    );
    let seen = new.as_primary().await?;
    assert_eq!((seen.timeline, seen.marked_term), (Timeline(2), Term(2)));
    assert!(begin.elapsed() < Duration::from_secs(2));
    new.instance.promote(&Quorum::none(), Term(2), PATIENCE).await?;
    Ok(())
}

pub async fn a_standby_is_repointed_by_reload() -> Outcome {
    let old = primary("pg1").await?;
    let candidate = standby_of(&old, "pg2", 1).await?;
    let other = standby_of(&old, "pg3", 1).await?;
    let pid = other.pid();
    old.instance.kill_all().await?;
    candidate.instance.pledge(PATIENCE).await?;
    let begin = Instant::now();
    let quorum = any(1, &["pg3"]);
    let to = candidate.as_upstream(2);
    let (promoted, followed) =
        tokio::join!(candidate.instance.promote(&quorum, Term(2), PATIENCE), other.instance.follow(&to, PATIENCE));
    println!("      {:?}", promoted?);
    followed?;
    candidate.instance.mark(Term(2), &name("pg2"), PATIENCE).await?;
    println!("      promote signal to a synchronous marker {:?}", begin.elapsed());
    assert_eq!(other.pid(), pid, "no restart");
    let seen = candidate.as_primary().await?;
    assert_eq!(seen.waits_for, Some((quorum, Term(2))));
    eventually("pg3 on the new timeline", async || {
        let standby = other.as_standby().await?;
        Ok(standby.streaming && standby.timeline == Timeline(2) && standby.wal_term == Term(2))
    })
    .await?;
    // Asked again it is a matter of one look.
    other.instance.follow(&to, PATIENCE).await?;
    Ok(())
}

/// A standby whose replay is held up by a reader's snapshot; returns the reader.
async fn blocked(leader: &Node, standby: &Node) -> Result<tokio_postgres::Client, world::Failure> {
    leader.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a").await?;
    standby.has_replayed(leader.as_primary().await?.flushed).await?;
    let reader = standby.sql().await?;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await?;
    leader.run("DELETE FROM t").await?;
    leader.run("VACUUM t").await?;
    let end = leader.as_primary().await?.flushed;
    eventually("everything received", async || Ok(standby.as_standby().await?.received >= end)).await?;
    eventually("replay held up", async || {
        let waits = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
        Ok(standby.ask(waits).await?.starts_with("RecoveryConflict"))
    })
    .await?;
    assert!(!standby.as_standby().await?.replay_done);
    Ok(reader)
}

pub async fn a_pledge_ends_the_walreceiver_although_a_reader_blocks_replay() -> Outcome {
    let old = primary("pg1").await?;
    let standby = standby_of(&old, "pg2", 1).await?;
    let _reader = blocked(&old, &standby).await?;
    let end = standby.as_standby().await?.received;
    let begin = Instant::now();
    let pledged = standby.instance.pledge(PATIENCE).await?;
    println!("      pledge with a blocked replay {:?}", begin.elapsed());
    assert!(pledged.replay_done && pledged.received >= end && !pledged.receiver_running, "{pledged:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    eventually("no sender left", async || Ok(old.as_primary().await?.standbys.is_empty())).await?;
    old.run("INSERT INTO t VALUES (1)").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = standby.as_standby().await?;
    assert_eq!(
        (after.received, after.receiver_running),
        (pledged.received, false),
        "nothing is received after a pledge"
    );
    Ok(())
}

pub async fn a_blocked_candidate_is_promoted_quickly() -> Outcome {
    let old = primary("pg1").await?;
    let standby = standby_of(&old, "pg2", 1).await?;
    let _reader = blocked(&old, &standby).await?;
    old.instance.kill_all().await?;
    let begin = Instant::now();
    standby.instance.promote(&Quorum::none(), Term(2), PATIENCE).await?;
    println!("      promote with a blocked replay {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(5), "30 s is what max_standby_streaming_delay would allow");
    assert_eq!(standby.ask("SELECT count(*) FROM t").await?, "0", "everything received was replayed");
    Ok(())
}

pub async fn a_cancelled_clone_leaves_nothing_running() -> Outcome {
    let old = primary("pg1").await?;
    let node = empty("pg2")?;
    let cancel = CancellationToken::new();
    let from = old.as_upstream(1);
    let copy = node.instance.clone_from(&from, &cancel);
    let stop = async {
        eventually("copying", async || Ok(old.ask("SELECT count(*) FROM pg_stat_progress_basebackup").await? != "0"))
            .await?;
        cancel.cancel();
        Ok::<(), world::Failure>(())
    };
    let (copied, stopped) = tokio::join!(copy, stop);
    stopped?;
    assert!(matches!(copied, Err(pg_control::Error::Cancelled(_))), "{copied:?}");
    let dir = node.dir.path().to_string_lossy().into_owned();
    eventually("no copy running", async || {
        let mut all = procfs::process::all_processes()?.filter_map(|process| process.ok());
        let ours = |process: &procfs::process::Process| {
            process.stat().is_ok_and(|stat| stat.comm == "pg_basebackup" && stat.state != 'Z')
        };
        Ok(!all.any(|process| ours(&process) && process.cmdline().is_ok_and(|line| line.join(" ").contains(&dir))))
    })
    .await?;
    assert_eq!(node.server().await?, Server::Stopped);
    node.instance.clone_from(&from, &CancellationToken::new()).await?;
    let left: Vec<_> =
        std::fs::read_dir(node.dir.path())?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    assert!(!left.iter().any(|name| name.contains(".cloning")), "{left:?}");
    Ok(())
}

pub async fn observing_is_cheap() -> Outcome {
    let old = primary("pg1").await?;
    let standby = standby_of(&old, "pg2", 1).await?;
    for node in [&old, &standby] {
        let begin = Instant::now();
        for _ in 0..500 {
            node.server().await?;
        }
        println!("      one look at {}: {:?}", node.instance.config().member, begin.elapsed() / 500);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    let extras = standby.instance.observe().await?.extras.ok_or("no extras")?;
    assert!(extras.last_msg_receipt_age.is_some_and(|age| age < PATIENCE), "{extras:?}");
    assert!(extras.server_version >= 150_000);
    assert_eq!(old.instance.observe().await?.extras.ok_or("no extras")?.replication.len(), 1);
    Ok(())
}

pub async fn a_standby_that_is_refused_its_wal_never_claims_to_stream() -> Outcome {
    let leader = primary_with("pg1", |config| {
        config.parameters.insert("wal_keep_size".to_owned(), "0".to_owned());
    })
    .await?;
    let standby = standby_of(&leader, "pg2", 1).await?;
    standby.instance.stop_fast(PATIENCE).await?;
    for _ in 0..3 {
        leader.run("INSERT INTO pgvigil.leadership VALUES (0, '') ON CONFLICT (term) DO UPDATE SET proofs = 1").await?;
        leader.run("SELECT pg_switch_wal()").await?;
    }
    leader.instance.checkpoint(PATIENCE).await?;
    standby.instance.start_as_standby(Some(&leader.as_upstream(1))).await?;
    standby.instance.wait_ready(PATIENCE).await?;
    let (begin, mut dialled) = (Instant::now(), false);
    while begin.elapsed() < Duration::from_millis(800) {
        let seen = standby.as_standby().await?;
        dialled |= seen.receiver_running;
        assert!(!seen.streaming, "{seen:?}");
    }
    assert!(dialled, "it did try");
    Ok(())
}

/// What is in `pg_wal` when the new primary dies right after a standby has begun to follow it: the history file, and the first page of the
/// segment that is sent once more.
pub async fn a_standby_that_was_torn_off_while_it_changed_timelines_is_promoted() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    let left = standby_of(&old, "pg3", 1).await?;
    old.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a").await?;
    let end = old.as_primary().await?.flushed;
    for standby in [&new, &left] {
        standby.has_replayed(end).await?;
    }
    left.instance.stop_fast(PATIENCE).await?;
    old.instance.kill_all().await?;
    new.instance.pledge(PATIENCE).await?;
    new.instance.promote(&Quorum::none(), Term(2), PATIENCE).await?;
    let fork = new.instance.local_history(Timeline(2))?.last().ok_or("no fork")?.ended_at;
    let bytes: u64 = new.ask("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'").await?.parse()?;
    let (from, to) = (new.instance.config().data_dir.join("pg_wal"), left.instance.config().data_dir.join("pg_wal"));
    std::fs::copy(from.join("00000002.history"), to.join("00000002.history"))?;
    let name = format!("00000002{:08X}{:08X}", 0, fork.0 / bytes);
    let mut torn = std::fs::read(from.join(&name))?;
    torn[8192..].fill(0);
    std::fs::write(to.join(&name), torn)?;
    new.instance.kill_all().await?;

    left.instance.start_as_standby(None).await?;
    left.instance.wait_ready(PATIENCE).await?;
    left.instance.pledge(PATIENCE).await?;
    left.instance.promote(&Quorum::none(), Term(3), PATIENCE).await?;
    assert_eq!(left.ask("SELECT count(*) FROM t").await?, "1000");
    Ok(())
}

pub async fn paused_replay_goes_on_for_a_pledge() -> Outcome {
    let leader = primary("pg1").await?;
    let standby = standby_of(&leader, "pg2", 1).await?;
    standby.run("SELECT pg_wal_replay_pause()").await?;
    leader.run("CREATE TABLE unreplayed ()").await?;
    eventually("paused", async || {
        Ok(standby.instance.observe().await?.extras.is_some_and(|extras| extras.replay_paused))
    })
    .await?;
    let facts = standby.instance.pledge(PATIENCE).await?;
    assert!(facts.replay_done && facts.replayed == facts.received, "{facts:?}");
    Ok(())
}

pub async fn replay_that_somebody_has_stopped_goes_on_for_a_pledge_and_for_a_promotion() -> Outcome {
    let leader = primary("pg1").await?;
    let standby = standby_of(&leader, "pg2", 1).await?;
    let stop_replay = async || -> Outcome {
        let startup = standby.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'").await?;
        let startup = nix::unistd::Pid::from_raw(startup.parse()?);
        Ok(nix::sys::signal::kill(startup, nix::sys::signal::Signal::SIGSTOP)?)
    };
    stop_replay().await?;
    leader.run("CREATE TABLE unreplayed ()").await?;
    let end = leader.as_primary().await?.flushed;
    eventually("received", async || Ok(standby.as_standby().await?.received >= end)).await?;
    let facts = standby.instance.pledge(PATIENCE).await?;
    assert!(facts.replay_done && facts.replayed == facts.received, "{facts:?}");
    stop_replay().await?;
    standby.instance.promote(&Quorum::none(), Term(2), PATIENCE).await?;
    assert_eq!(standby.ask("SELECT count(*) FROM unreplayed").await?, "0");
    Ok(())
}

pub async fn an_upstream_set_behind_our_back_is_a_stranger() -> Outcome {
    let leader = primary("pg1").await?;
    let standby = standby_of(&leader, "pg2", 1).await?;
    standby.run("ALTER SYSTEM SET primary_conninfo = 'host=nowhere'").await?;
    standby.run("SELECT pg_reload_conf()").await?;
    eventually("seen", async || {
        let follows = standby.as_standby().await?.follows;
        Ok(follows.is_some_and(|upstream| upstream.member.as_str() == "stranger"))
    })
    .await?;
    standby.instance.follow(&leader.as_upstream(1), PATIENCE).await?;
    standby.streams().await?;
    eventually("ours again", async || Ok(standby.as_standby().await?.follows == Some(leader.as_upstream(1)))).await
}

pub async fn wal_that_the_upstream_has_removed_is_missed() -> Outcome {
    let leader = primary("pg1").await?;
    let standby = standby_of(&leader, "pg2", 1).await?;
    let upstream = leader.as_upstream(1);
    let at = standby.as_standby().await?;
    assert!(standby.instance.source_still_has(&upstream, at.received).await?);
    standby.instance.kill_all().await?;
    leader.run("ALTER SYSTEM SET wal_keep_size = 0").await?;
    leader.run("SELECT pg_reload_conf()").await?;
    for _ in 0..3 {
        leader.run("CREATE TABLE t (); DROP TABLE t; SELECT pg_switch_wal()").await?;
        leader.run("CHECKPOINT").await?;
    }
    eventually("its WAL is gone", async || Ok(!standby.instance.source_still_has(&upstream, at.received).await?)).await
}
