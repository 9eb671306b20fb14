//! Coming back: without a rewind, with one, or not at all.

use std::time::Instant;

use decision::durability::Quorum;
use decision::names::{Lsn, Term, Timeline};
use decision::site::Remote;
use decision::view::{ControlState, Data, Server};
use nix::sys::signal::Signal;
use pg_control::{Error, InstanceConfig};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::world::{Failure, Node, PATIENCE, empty, empty_with, eventually, name, primary, primary_with, standby_of};

async fn take_over(node: &Node, term: u64) -> Outcome {
    node.instance.pledge(PATIENCE).await?;
    node.instance.promote(&Quorum::none(), Term(term), PATIENCE).await?;
    let member = node.instance.config().member.clone();
    node.instance.mark(Term(term), &member, PATIENCE).await?;
    Ok(())
}

async fn end_of_wal(node: &Node) -> Result<pg_control::EndOfWal, Failure> {
    Ok(node.instance.find_end_of_wal(&CancellationToken::new()).await?)
}

pub async fn a_cleanly_stopped_primary_rejoins_without_a_rewind() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    assert!(old.instance.begin_stop());
    let checkpoint = old.instance.shutdown_checkpoint(PATIENCE).await?;
    eventually("the shutdown checkpoint replayed", async || Ok(new.as_standby().await?.replayed > checkpoint)).await?;
    take_over(&new, 2).await?;
    old.instance.stop_fast(PATIENCE).await?;
    let end = end_of_wal(&old).await?;
    let fork = new.instance.local_history(Timeline(2))?[0];
    assert!(end.lsn <= fork.ended_at, "{end:?} {fork:?}: nothing diverged");
    let begin = Instant::now();
    old.instance.start_as_standby(Some(&new.as_upstream(2))).await?;
    old.instance.wait_ready(PATIENCE).await?;
    old.streams().await?;
    println!("      start to streaming {:?}", begin.elapsed());
    eventually("the new marker", async || Ok(old.as_standby().await?.wal_term == Term(2))).await
}

pub async fn a_diverged_primary_is_found_and_rewound() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    old.run("CREATE TABLE t AS SELECT 1 AS a").await?;
    new.has_replayed(old.as_primary().await?.flushed).await?;
    take_over(&new, 2).await?;
    old.run("INSERT INTO t SELECT generate_series(1, 20000)").await?;
    let flushed = old.as_primary().await?.flushed;
    old.instance.kill_all().await?;

    let begin = Instant::now();
    let end = end_of_wal(&old).await?;
    println!("      end of WAL found in {:?}", begin.elapsed());
    assert!(end.lsn >= flushed, "{end:?} {flushed}");
    assert!(end.lsn.0 - flushed.0 < 8192, "{end:?} {flushed}");
    let Data::Present(disk) = old.instance.observe().await?.postgres.data else { return Err("no data".into()) };
    assert_eq!((disk.end_of_wal, disk.state), (Some(end.lsn), ControlState::InProduction));
    let fork = new.instance.local_history(Timeline(2))?[0].ended_at;
    let beyond = old.instance.beyond(fork, &CancellationToken::new()).await?;
    assert_eq!(beyond.bytes, fork.bytes_behind(end.lsn));
    // The one INSERT, and nothing of what the new leader has as well.
    assert_eq!(beyond.transactions, 1, "{beyond:?}");

    new.instance.checkpoint(PATIENCE).await?;
    let begin = Instant::now();
    old.instance.rewind(&new.as_upstream(2), Some(Timeline(2)), &CancellationToken::new()).await?;
    println!("      rewind {:?}", begin.elapsed());
    assert_eq!(old.instance.read_conf().and_then(|conf| conf.recovery.upstream().cloned()), Some(new.as_upstream(2)));
    old.instance.start_as_standby(Some(&new.as_upstream(2))).await?;
    old.instance.wait_ready(PATIENCE).await?;
    old.streams().await?;
    old.has_replayed(new.as_primary().await?.flushed).await?;
    assert_eq!(old.ask("SELECT count(*) FROM t").await?, "1");
    assert_eq!(new.as_primary().await?.standbys[0].member, name("pg1"));
    Ok(())
}

pub async fn a_rewind_takes_wal_that_is_not_here_any_more_from_the_archive() -> Outcome {
    let archive = tempfile::tempdir()?;
    let fetch = format!("cp {}/%f %p", archive.path().display());
    let old = primary_with("pg1", |config| drop(config.parameters.insert("restore_command".to_owned(), fetch))).await?;
    let new = standby_of(&old, "pg2", 1).await?;
    old.run("CREATE TABLE t AS SELECT 1 AS a").await?;
    new.has_replayed(old.as_primary().await?.flushed).await?;
    take_over(&new, 2).await?;
    old.run("INSERT INTO t SELECT generate_series(1, 20000); SELECT pg_switch_wal()").await?;
    old.instance.checkpoint(PATIENCE).await?;
    old.instance.kill_all().await?;
    // As a checkpoint removes it: everything before the segment that the last one needs.
    let needed = old.instance.full_control().await?.control.redo.0 / (16 << 20);
    let wal = old.instance.config().data_dir.join("pg_wal");
    let mut moved = 0;
    for number in 0..needed {
        let name = format!("{:08X}{:08X}{:08X}", 1, number / 256, number % 256);
        if wal.join(&name).exists() {
            std::fs::copy(wal.join(&name), archive.path().join(&name))?;
            std::fs::remove_file(wal.join(&name))?;
            moved += 1;
        }
    }
    assert!(moved > 0, "nothing was removed");

    new.instance.checkpoint(PATIENCE).await?;
    old.instance.rewind(&new.as_upstream(2), Some(Timeline(2)), &CancellationToken::new()).await?;
    old.instance.start_as_standby(Some(&new.as_upstream(2))).await?;
    old.instance.wait_ready(PATIENCE).await?;
    old.has_replayed(new.as_primary().await?.flushed).await?;
    assert_eq!(old.ask("SELECT count(*) FROM t").await?, "1");
    Ok(())
}

pub async fn what_a_dead_primary_still_owes_the_archive_is_archived_before_its_rewind() -> Outcome {
    let archive = tempfile::tempdir()?;
    let place = archive.path().display().to_string();
    let command = format!("test -f {place}/open && cp %p {place}/%f");
    let archives = |config: &mut InstanceConfig| {
        config.parameters.extend([("archive_mode".into(), "on".into()), ("archive_command".into(), command.clone())]);
    };
    let old = primary_with("pg1", archives).await?;
    let new = standby_of(&old, "pg2", 1).await?;
    old.run("CREATE TABLE t AS SELECT 1 AS a; SELECT pg_switch_wal()").await?;
    new.has_replayed(old.as_primary().await?.flushed).await?;
    take_over(&new, 2).await?;
    old.run("INSERT INTO t SELECT generate_series(1, 20000)").await?;
    old.instance.kill_all().await?;
    let status = old.instance.config().data_dir.join("pg_wal/archive_status");
    let owed = |suffix: &str| -> Vec<String> {
        let names = std::fs::read_dir(&status).into_iter().flatten().flatten();
        names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(suffix)?.to_owned())).collect()
    };
    let before = owed(".ready");
    assert!(!before.is_empty(), "nothing waits for the archive");
    std::fs::write(archive.path().join("open"), "")?;

    new.instance.checkpoint(PATIENCE).await?;
    old.instance.rewind(&new.as_upstream(2), Some(Timeline(2)), &CancellationToken::new()).await?;
    for segment in before {
        assert!(archive.path().join(&segment).exists(), "{segment} is not archived");
    }
    Ok(())
}

pub async fn the_end_of_wal_is_found_at_the_end_of_a_file() -> Outcome {
    let node = primary("pg1").await?;
    node.run("CREATE TABLE t AS SELECT 1 AS a; SELECT pg_switch_wal()").await?;
    node.instance.kill_all().await?;
    let wal = node.instance.config().data_dir.join("pg_wal");
    let segment = 16 * 1024 * 1024;
    let end = end_of_wal(&node).await?.lsn;
    // Background records may already follow the switch; without the next file it ends with the one before.
    let number = (end.0 - 1) / segment;
    let files: Vec<String> =
        std::fs::read_dir(&wal)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let first = node.instance.full_control().await?.control.redo.0 / segment;
    for file in files.iter().filter(|file| file.len() == 24) {
        if u64::from_str_radix(&file[8..], 16)? > first {
            std::fs::remove_file(wal.join(file))?;
        }
    }
    let cut = end_of_wal(&node).await?.lsn;
    assert_eq!(cut, Lsn((first + 1) * segment), "{end} was in file {number}");
    Ok(())
}

pub async fn the_end_of_wal_follows_a_promotion() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    old.instance.kill_all().await?;
    take_over(&new, 2).await?;
    new.run("CREATE TABLE t AS SELECT 1 AS a").await?;
    let flushed = new.as_primary().await?.flushed;
    new.instance.kill_all().await?;
    let end = end_of_wal(&new).await?;
    assert!(end.lsn >= flushed, "{end:?} {flushed}");
    assert_eq!(end.timeline, Timeline(2), "whatever the control file says");
    Ok(())
}

pub async fn a_half_made_directory_is_never_started() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    take_over(&new, 2).await?;
    new.instance.checkpoint(PATIENCE).await?;
    old.run("CREATE TABLE t AS SELECT generate_series(1, 1000)").await?;
    old.instance.kill_all().await?;
    // Without its WAL a rewind cannot find where the histories parted.
    let wal = old.instance.config().data_dir.join("pg_wal");
    for entry in std::fs::read_dir(&wal)?.filter_map(|entry| entry.ok()).filter(|entry| entry.path().is_file()) {
        std::fs::remove_file(entry.path())?;
    }
    let failed = old.instance.rewind(&new.as_upstream(2), None, &CancellationToken::new()).await;
    assert!(matches!(failed, Err(Error::NeedsClone(_))), "{failed:?}");
    assert_eq!(old.instance.observe().await?.postgres.data, Data::HalfMade { by: "rewind".to_owned() });
    for started in [
        old.instance.start_as_standby(Some(&new.as_upstream(2))).await,
        old.instance.start_as_primary(&Quorum::none(), Term(3), || true).await,
    ] {
        assert!(matches!(started, Err(Error::NeedsClone(_))), "{started:?}");
    }
    assert_eq!(old.server().await?, Server::Stopped);
    // An operator's own, whatever it is called.
    let kept = ["data.old-before-upgrade", "data.old-1", "data.failed", "data.cloning-mine"];
    let kept = kept.map(|name| old.dir.path().join(name));
    for path in &kept {
        std::fs::create_dir(path)?;
        std::fs::write(path.join("PG_VERSION"), "15\n")?;
    }
    old.instance.clone_from(&new.as_upstream(2), &CancellationToken::new()).await?;
    old.instance.start_as_standby(Some(&new.as_upstream(2))).await?;
    old.instance.wait_ready(PATIENCE).await?;
    old.streams().await?;
    assert_eq!(old.instance.remove_old_copies().await?, 1, "the old directory was kept until now");
    assert!(kept.iter().all(|path| path.join("PG_VERSION").exists()), "what others keep here is theirs");
    Ok(())
}

pub async fn overrides_are_struck_out() -> Outcome {
    let node = primary("pg1").await?;
    node.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
    node.run("ALTER SYSTEM SET work_mem = '5MB'").await?;
    node.run("ALTER SYSTEM SET primary_conninfo = 'host=elsewhere'").await?;
    // Comments may be of any encoding.
    for file in ["postgresql.conf", "postgresql.auto.conf"] {
        let path = node.instance.config().data_dir.join(file);
        std::fs::write(&path, [std::fs::read(&path)?, b"# gr\xf6\xdfer\n\n".to_vec()].concat())?;
    }
    std::fs::remove_file(node.instance.config().data_dir.join("pgvigil.conf"))?;
    node.instance.apply_sync(&Quorum::none(), Term(1), PATIENCE).await?;
    let read = |file: &str| std::fs::read(node.instance.config().data_dir.join(file));
    assert!(read("postgresql.auto.conf")?.ends_with(b"# gr\xf6\xdfer\n\n"), "what is not ours stays as it is");
    let text = String::from_utf8_lossy(&read("postgresql.auto.conf")?).into_owned();
    assert!(text.contains("work_mem") && !text.contains("synchronous") && !text.contains("primary_conninfo"), "{text}");
    assert_eq!(node.as_primary().await?.waits_for, Some((Quorum::none(), Term(1))));
    let main = String::from_utf8_lossy(&read("postgresql.conf")?).into_owned();
    assert_eq!(main.matches("include 'pgvigil.conf'").count(), 1);
    Ok(())
}

pub async fn a_rewind_waits_for_the_checkpoint_after_a_promotion() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    take_over(&new, 2).await?;
    old.instance.kill_all().await?;
    let premature = old.instance.rewind(&new.as_upstream(1), Some(Timeline(3)), &CancellationToken::new()).await;
    assert!(matches!(premature, Err(Error::SourceNotReady(_))), "{premature:?}");
    assert!(matches!(old.instance.observe().await?.postgres.data, Data::Present(_)), "nothing was touched");
    new.signal(Signal::SIGHUP)?;
    new.instance.checkpoint(PATIENCE).await?;
    assert_eq!(new.as_primary().await?.control_timeline, Timeline(2));
    old.instance.rewind(&new.as_upstream(2), Some(Timeline(2)), &CancellationToken::new()).await?;
    Ok(())
}

pub async fn a_reservation_that_was_not_used_does_no_harm() -> Outcome {
    let leader = primary("pg1").await?;
    let other = standby_of(&leader, "pg2", 1).await?;
    other.instance.reserve_timeline(Timeline(1), Timeline(5))?;
    other.instance.stop_fast(PATIENCE).await?;
    other.instance.start_as_standby(Some(&leader.as_upstream(1))).await?;
    other.instance.wait_ready(PATIENCE).await?;
    other.streams().await
}

pub async fn a_reserved_timeline_is_taken_and_followed() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    let other = standby_of(&old, "pg3", 1).await?;
    old.instance.stop_fast(PATIENCE).await?;
    new.instance.reserve_timeline(Timeline(1), Timeline(5))?;
    take_over(&new, 2).await?;
    assert_eq!(new.as_primary().await?.timeline, Timeline(5));
    other.instance.follow(&new.as_upstream(2), PATIENCE).await?;
    old.instance.start_as_standby(Some(&new.as_upstream(2))).await?;
    for node in [&other, &old] {
        eventually("timeline 5", async || {
            Ok(node.as_standby().await.is_ok_and(|standby| standby.streaming && standby.timeline == Timeline(5)))
        })
        .await?;
    }
    // A standby that was away meanwhile gets every history file from the next leader, too.
    other.instance.stop_fast(PATIENCE).await?;
    other.instance.start_as_standby(Some(&new.as_upstream(2))).await?;
    other.instance.wait_ready(PATIENCE).await?;
    other.streams().await
}

pub async fn another_site_is_asked_copied_and_followed_under_no_voters_name() -> Outcome {
    let old = primary("pg1").await?;
    let new = standby_of(&old, "pg2", 1).await?;
    take_over(&new, 2).await?;
    old.instance.kill_all().await?;
    new.instance.checkpoint(PATIENCE).await?;
    let port = |node: &Node| node.instance.config().port;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", port(&old), port(&new));
    let site = Remote::parse(&hosts, 5432)?.upstream();
    let far = empty_with("far", |config| config.cluster = "west".to_owned())?;
    let seen = far.instance.ask_remote(&site).await?;
    let fork = new.instance.local_history(Timeline(2))?[0];
    assert_eq!((seen.timeline, seen.rewind_source_ready), (Some(Timeline(2)), true));
    assert_eq!(seen.history, [(fork.timeline, fork.ended_at)]);
    far.instance.clone_from(&site, &CancellationToken::new()).await?;
    assert_eq!(far.instance.born().await?.system_id, seen.system_id);
    far.instance.start_as_standby(Some(&site)).await?;
    far.instance.wait_ready(PATIENCE).await?;
    far.streams().await?;
    assert_eq!(far.as_standby().await?.follows, Some(site));
    assert_eq!(new.as_primary().await?.standbys, [], "it is no member's name");
    assert_eq!(new.ask("SELECT application_name FROM pg_stat_replication").await?, "west-far");
    // Its own site follows it, and is copied from it.
    let near = empty("near")?;
    let upstream = far.as_upstream(7);
    assert!(near.instance.source_position(&upstream, false).await.is_err());
    assert!(near.instance.source_position(&upstream, true).await? > Lsn(0));
    let of_a_standby = near.instance.ask_remote(&Remote::parse("127.0.0.1", port(&far))?.upstream()).await?;
    assert_eq!((of_a_standby.timeline, of_a_standby.system_id), (None, seen.system_id));
    near.instance.clone_from(&upstream, &CancellationToken::new()).await?;
    near.instance.start_as_standby(Some(&upstream)).await?;
    near.instance.wait_ready(PATIENCE).await?;
    near.streams().await
}
