//! What an acknowledged commit is worth: names, waits, proofs, and what must not count as one.

use std::time::{Duration, Instant};

use decision::durability::Quorum;
use decision::names::{Term, Timeline};
use pg_control::Error;
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::world::{Failure, Node, PATIENCE, any, eventually, name, primary, standby_of};

const SHORT: Duration = Duration::from_millis(700);

async fn waiting(node: &Node) -> Result<Vec<i32>, Failure> {
    let rows = node.sql().await?.query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub async fn a_commit_waits_when_its_voter_is_gone() -> Outcome {
    let leader = primary("pg1").await?;
    let voter = standby_of(&leader, "pg2", 1).await?;
    let begin = Instant::now();
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    println!("      apply {:?}", begin.elapsed());
    let begin = Instant::now();
    leader.instance.prove(Term(1), PATIENCE).await?;
    println!("      synchronous proof {:?}", begin.elapsed());
    voter.instance.kill_all().await?;
    let proof = leader.instance.prove(Term(1), SHORT).await;
    assert!(matches!(proof, Err(Error::Timeout { .. })), "{proof:?}");
    leader.instance.apply_sync(&Quorum::none(), Term(1), PATIENCE).await?;
    leader.instance.prove(Term(1), PATIENCE).await?;
    Ok(())
}

pub async fn a_cancelled_wait_is_no_acknowledgement() -> Outcome {
    let leader = primary("pg1").await?;
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(2), PATIENCE).await?;
    let cancel = async {
        eventually("a commit that waits", async || Ok(!waiting(&leader).await?.is_empty())).await?;
        for pid in waiting(&leader).await? {
            leader.run(&format!("SELECT pg_cancel_backend({pid})")).await?;
        }
        Ok::<(), Failure>(())
    };
    let me = name("pg1");
    let (marked, cancelled) = tokio::join!(leader.instance.mark(Term(2), &me, PATIENCE), cancel);
    cancelled?;
    assert!(matches!(marked, Err(Error::NotAcknowledged(_))), "{marked:?}");
    assert_eq!(leader.ask("SELECT max(term) FROM pgvigil.leadership").await?, "2", "the row is visible all the same");
    assert_eq!(leader.as_primary().await?.marked_term, Term(1), "and proves nothing");
    assert_eq!(leader.instance.observe().await?.extras.ok_or("no extras")?.newest_marker, Term(2));
    Ok(())
}

pub async fn a_stranger_of_another_term_acknowledges_nothing() -> Outcome {
    let leader = primary("pg1").await?;
    let voter = standby_of(&leader, "pg2", 1).await?;
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(2), PATIENCE).await?;
    let marked = leader.instance.mark(Term(2), &name("pg1"), SHORT).await;
    assert!(matches!(marked, Err(Error::Timeout { .. })), "pg2 streams as pg2_t1: {marked:?}");
    voter.instance.follow(&leader.as_upstream(2), PATIENCE).await?;
    leader.instance.mark(Term(2), &name("pg1"), PATIENCE).await?;
    assert_eq!(leader.as_primary().await?.marked_term, Term(2));
    Ok(())
}

pub async fn a_removed_voter_is_cut_off() -> Outcome {
    let leader = primary("pg1").await?;
    let removed = standby_of(&leader, "pg2", 1).await?;
    let stays = standby_of(&leader, "pg3", 1).await?;
    leader.instance.apply_sync(&any(1, &["pg2", "pg3"]), Term(1), PATIENCE).await?;
    leader.instance.prove(Term(1), PATIENCE).await?;
    let sender =
        |node: &'static str| format!("SELECT pid FROM pg_stat_replication WHERE application_name = '{node}_t1'");
    let (before_removed, before_stays) = (leader.ask(&sender("pg2")).await?, leader.ask(&sender("pg3")).await?);
    let begin = Instant::now();
    leader.instance.apply_sync(&any(1, &["pg3"]), Term(1), PATIENCE).await?;
    println!("      apply with one cut off {:?}", begin.elapsed());
    leader.instance.prove(Term(1), PATIENCE).await?;
    eventually("pg2 back as a stranger", async || {
        let after = leader.ask(&sender("pg2")).await.unwrap_or_default();
        Ok(!after.is_empty() && after != before_removed)
    })
    .await?;
    assert_eq!(leader.ask(&sender("pg3")).await?, before_stays, "a voter that stays is left alone");
    stays.instance.kill_all().await?;
    let proof = leader.instance.prove(Term(1), SHORT).await;
    assert!(matches!(proof, Err(Error::Timeout { .. })), "pg2 releases nobody: {proof:?}");
    drop(removed);
    Ok(())
}

pub async fn a_proof_is_a_commit_that_waits() -> Outcome {
    let leader = primary("pg1").await?;
    let missing = leader.instance.prove(Term(9), PATIENCE).await;
    assert!(matches!(missing, Err(Error::WrongState(_))), "{missing:?}");
    // An operator's defaults must not turn a proof into a promise.
    leader.run("ALTER ROLE pgvigil SET synchronous_commit = off; ALTER ROLE pgvigil SET default_transaction_read_only = on").await?;
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    let fresh = pg_control::Instance::new(leader.instance.config().clone())?;
    let proof = fresh.prove(Term(1), SHORT).await;
    assert!(matches!(proof, Err(Error::Timeout { .. })), "{proof:?}");
    Ok(())
}

pub async fn a_write_probe_waits_as_a_clients_commit_does_locks_nothing_and_leaves_no_backend() -> Outcome {
    let leader = primary("pg1").await?;
    let end = leader.ask("SELECT pg_current_wal_insert_lsn()").await?;
    leader.instance.write_probe(PATIENCE).await?;
    let wrote = leader.ask(&format!("SELECT pg_current_wal_flush_lsn() > '{end}'")).await?;
    assert_eq!(wrote, "true", "a commit is in the WAL");
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    let (probed, marked) = tokio::join!(leader.instance.write_probe(SHORT), leader.instance.prove(Term(1), SHORT));
    assert!(matches!(probed, Err(Error::Timeout { .. })), "nobody acknowledges: {probed:?}");
    assert!(matches!(marked, Err(Error::Timeout { .. })), "it is in nobody's way: {marked:?}");
    eventually("nobody waits", async || Ok(waiting(&leader).await?.is_empty())).await?;
    Ok(())
}

pub async fn a_mark_that_was_given_up_leaves_no_backend() -> Outcome {
    let leader = primary("pg1").await?;
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(2), PATIENCE).await?;
    for _ in 0..3 {
        let marked = leader.instance.mark(Term(2), &name("pg1"), Duration::from_millis(200)).await;
        assert!(matches!(marked, Err(Error::Timeout { .. })), "{marked:?}");
    }
    eventually("nobody waits", async || Ok(waiting(&leader).await?.is_empty())).await?;
    assert_eq!(leader.as_primary().await?.marked_term, Term(1));
    Ok(())
}

pub async fn a_program_under_a_voters_name_releases_commits_and_under_another_does_not() -> Outcome {
    // What Postgres does: names decide, whoever bears them. So names carry the term, and the role has a password.
    let leader = primary("pg1").await?;
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    let receive = |application: &str| {
        let config = leader.instance.config();
        let conninfo = format!(
            "host=127.0.0.1 port={} user={} application_name={application} passfile={}",
            config.port,
            config.replication_user,
            config.state_dir.join("pgpass").display()
        );
        let into = leader.dir.path().join(application);
        std::fs::create_dir_all(&into)?;
        let program = config.bin_dir.join("pg_receivewal");
        let mut command = tokio::process::Command::new(program);
        command.arg("--synchronous").arg("--no-loop").arg("-D").arg(into).arg("-d").arg(conninfo);
        command.kill_on_drop(true).spawn()
    };
    let mut stranger = receive("pg2_t9")?;
    eventually("pg2_t9 streams", async || {
        Ok(leader.ask("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg2_t9'").await? == "1")
    })
    .await?;
    let proof = leader.instance.prove(Term(1), SHORT).await;
    assert!(matches!(proof, Err(Error::Timeout { .. })), "a name of another term releases nobody: {proof:?}");
    stranger.kill().await?;
    let mut impostor = receive("pg2_t1")?;
    let proof = leader.instance.prove(Term(1), PATIENCE).await;
    assert!(proof.is_ok(), "the very name of the voter releases commits, whoever bears it: {proof:?}");
    impostor.kill().await?;
    Ok(())
}

pub async fn a_timeout_in_a_block_is_a_false_acknowledgement_with_a_warning() -> Outcome {
    // What Postgres does: a plain COMMIT is beyond the timer, a COMMIT inside DO is not, and it then reports success.
    let leader = primary("pg1").await?;
    leader.run("CREATE TABLE acknowledged (id int)").await?;
    // Our own sessions have no timer, whatever is set for everybody.
    leader.run("ALTER ROLE pgvigil SET statement_timeout = 100").await?;
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    let client = leader.sql().await?;
    client.batch_execute("SET statement_timeout = 300").await?;
    let plain = client.batch_execute("INSERT INTO acknowledged VALUES (1)");
    assert!(tokio::time::timeout(Duration::from_secs(1), plain).await.is_err(), "the wait is beyond the timer");
    let other = leader.sql().await?;
    other.batch_execute("SET statement_timeout = 300").await?;
    let block = "DO $$ BEGIN INSERT INTO acknowledged VALUES (2); COMMIT; END $$";
    let done = tokio::time::timeout(PATIENCE, other.batch_execute(block)).await?;
    assert!(done.is_ok(), "success, although nobody has acknowledged it: {done:?}");
    assert_eq!(leader.ask("SELECT count(*) FROM acknowledged WHERE id = 2").await?, "1", "and everybody sees it");
    let fresh = pg_control::Instance::new(leader.instance.config().clone())?;
    let marked = fresh.mark(Term(1), &name("pg1"), SHORT).await;
    assert!(matches!(marked, Err(Error::Timeout { .. })), "{marked:?}");
    Ok(())
}

pub async fn orphans_of_a_postmaster_go_on_committing_until_they_are_killed() -> Outcome {
    let leader = primary("pg1").await?;
    leader.run("CREATE TABLE late (id serial)").await?;
    let client = leader.sql().await?;
    // It never waits, so it does not notice that its postmaster is gone.
    let block = "DO $$ BEGIN LOOP INSERT INTO late DEFAULT VALUES; COMMIT; END LOOP; END $$";
    let busy = tokio::spawn(async move { client.batch_execute(block).await });
    eventually("rows", async || Ok(leader.ask("SELECT count(*) > 10 FROM late").await? == "true")).await?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader.pid()), nix::sys::signal::Signal::SIGKILL)?;
    eventually("no postmaster", async || Ok(leader.instance.postmaster().is_none())).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let left = pg_control::process::orphans(&leader.instance.config().data_dir);
    println!("      {} orphans 200 ms after their postmaster", left.len());
    assert!(!left.is_empty(), "killing the postmaster alone is no fence");
    leader.instance.kill_all().await?;
    assert!(pg_control::process::orphans(&leader.instance.config().data_dir).is_empty());
    assert!(tokio::time::timeout(PATIENCE, busy).await??.is_err());
    Ok(())
}

pub async fn names_count_only_once_the_checkpointer_has_published_them() -> Outcome {
    // What Postgres does: commits wait once the checkpointer has raised its flag. While it is stopped the new names are in every SHOW,
    // and commits wait for nobody: so a change is only believed once it has been seen to take it.
    let leader = primary("pg1").await?;
    let checkpointer: i32 =
        leader.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").await?.parse()?;
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(checkpointer), signal);
    signal(nix::sys::signal::Signal::SIGSTOP)?;
    let applied = leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), SHORT).await;
    let shown = leader.ask("SELECT current_setting('synchronous_standby_names')").await?;
    let committed = tokio::time::timeout(SHORT, leader.run("CREATE TABLE unprotected ()")).await;
    signal(nix::sys::signal::Signal::SIGCONT)?;
    assert!(matches!(applied, Err(Error::Timeout { .. })), "a change that was not taken is not believed: {applied:?}");
    assert!(shown.contains("pg2_t1"), "every session shows the new names: {shown}");
    assert!(committed.is_ok(), "and a commit still waits for nobody");
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    let proof = leader.instance.prove(Term(1), SHORT).await;
    assert!(matches!(proof, Err(Error::Timeout { .. })), "now it waits: {proof:?}");
    Ok(())
}

pub async fn whoever_holds_a_lock_on_the_marker_table_is_named() -> Outcome {
    let leader = primary("pg1").await?;
    let client = leader.sql().await?;
    client
        .batch_execute("SET application_name = 'report'; BEGIN; LOCK TABLE pgvigil.leadership IN ACCESS EXCLUSIVE MODE")
        .await?;
    let proof = leader.instance.prove(Term(1), PATIENCE).await;
    let Err(Error::Busy(why)) = proof else { return Err(format!("{proof:?}").into()) };
    println!("      {why}");
    assert!(why.contains("application \"report\"") && why.contains("end that transaction"), "{why}");
    Ok(())
}

pub async fn a_standby_that_is_promoted_by_hand_acknowledges_nothing() -> Outcome {
    let leader = primary("pg1").await?;
    let made = standby_of(&leader, "pg2", 1).await?;
    let repointed = standby_of(&leader, "pg3", 1).await?;
    let relieved = standby_of(&leader, "pg4", 1).await?;
    leader.run("CREATE TABLE t (a int)").await?;
    // One that was made ready for a promotion which does not come, and one that has gone over to another term meanwhile.
    for standby in [&repointed, &relieved] {
        standby.instance.expect_promotion(&Quorum::none(), Term(2), PATIENCE).await?;
        assert_eq!(standby.ask("current_setting('synchronous_standby_names')").await?, "");
    }
    repointed.instance.follow(&leader.as_upstream(2), PATIENCE).await?;
    relieved.instance.expect_no_promotion(PATIENCE).await?;
    for standby in [&made, &repointed, &relieved] {
        standby.has_replayed(leader.as_primary().await?.flushed).await?;
        let config = standby.instance.config();
        let promote = tokio::process::Command::new(config.bin_dir.join("pg_ctl"))
            .args(["promote", "-s", "-D"])
            .arg(&config.data_dir)
            .status()
            .await?;
        assert!(promote.success());
        let fork = standby.instance.local_history(Timeline(2))?[0];
        let client = standby.sql().await?;
        let committed = tokio::time::timeout(SHORT, client.batch_execute("INSERT INTO t VALUES (1)")).await;
        assert!(committed.is_err(), "{}: {committed:?}", config.member);
        assert_eq!(standby.as_primary().await?.waits_for, None, "strangers' names");
        standby.instance.kill_all().await?;
        let beyond = standby.instance.beyond(fork.ended_at, &CancellationToken::new()).await?;
        assert_eq!(beyond.transactions, 1, "what waited is counted: {beyond:?}");
    }
    Ok(())
}

pub async fn what_an_operator_sets_against_the_promises_is_known() -> Outcome {
    let leader = primary("pg1").await?;
    // The connection that asks is open before anything is set.
    leader.as_primary().await?;
    assert_eq!(leader.instance.overruled().await?, []);
    leader.run("CREATE DATABASE \"Shop\"").await?;
    leader
        .run(
            "CREATE ROLE loader; ALTER ROLE loader SET synchronous_commit = off;
             ALTER DATABASE \"Shop\" SET synchronous_commit = local; ALTER ROLE loader SET default_transaction_read_only = on",
        )
        .await?;
    for set in
        ["synchronous_commit = local", "fsync = off", "full_page_writes = off", "default_transaction_read_only = on"]
    {
        leader.run(&format!("ALTER SYSTEM SET {set}")).await?;
    }
    leader.run("SELECT pg_reload_conf()").await?;
    eventually("told", async || Ok(leader.instance.overruled().await?.len() == 6)).await?;
    let told: Vec<String> =
        leader.instance.overruled().await?.into_iter().map(|one| format!("{}: {}", one.what, one.mend)).collect();
    let open = "; open sessions keep it until they end";
    let reset = |name: &str| format!("ALTER SYSTEM RESET {name}; SELECT pg_reload_conf()");
    let expected = [
        format!("synchronous_commit = local for database Shop: ALTER DATABASE \"Shop\" RESET synchronous_commit{open}"),
        format!("synchronous_commit = local for the whole server: {}", reset("synchronous_commit")),
        format!("synchronous_commit = off for role loader: ALTER ROLE \"loader\" RESET synchronous_commit{open}"),
        format!("fsync = off for the whole server: {}", reset("fsync")),
        format!("full_page_writes = off for the whole server: {}", reset("full_page_writes")),
        format!("default_transaction_read_only = on for the whole server: {}", reset("default_transaction_read_only")),
    ];
    let mut sorted = told.clone();
    sorted.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(sorted, expected);
    // Our own proofs go on as they were.
    leader.instance.apply_sync(&any(1, &["pg2"]), Term(1), PATIENCE).await?;
    let proof = leader.instance.prove(Term(1), SHORT).await;
    assert!(matches!(proof, Err(Error::Timeout { .. })), "{proof:?}");
    Ok(())
}

pub async fn what_is_the_agents_own_is_put_back_for_the_marker() -> Outcome {
    let leader = primary("pg1").await?;
    assert!(leader.instance.is_equipped().await?);
    let harms = [
        "DROP TABLE pgvigil.leadership",
        "DROP SCHEMA pgvigil CASCADE",
        "REVOKE ALL ON pgvigil.leadership FROM pgvigil",
        "REVOKE ALL ON SCHEMA pgvigil FROM pgvigil",
        "ALTER TABLE pgvigil.leadership OWNER TO postgres",
    ];
    for (harm, term) in harms.into_iter().zip(2..) {
        leader.run(harm).await?;
        // An agent that adopts the server, and one that has been here all along.
        let fresh = pg_control::Instance::new(leader.instance.config().clone())?;
        let seen = fresh.observe().await?;
        assert!(!seen.extras.ok_or("no extras")?.equipped && !leader.instance.is_equipped().await?, "{harm}");
        let begin = Instant::now();
        leader.instance.mark(Term(term), &name("pg1"), PATIENCE).await.map_err(|error| format!("{harm}: {error}"))?;
        println!("      marked {:?} after {harm}", begin.elapsed());
        assert_eq!(leader.as_primary().await?.marked_term, Term(term), "{harm}");
        assert!(leader.instance.is_equipped().await?, "{harm}");
    }
    Ok(())
}

pub async fn a_role_that_may_not_log_in_is_mended_and_stops_nobody() -> Outcome {
    let leader = primary("pg1").await?;
    leader
        .run("ALTER ROLE pgvigil NOLOGIN; ALTER ROLE pgvigil_replication NOLOGIN; REVOKE pg_monitor FROM pgvigil")
        .await?;
    let fresh = pg_control::Instance::new(leader.instance.config().clone())?;
    fresh.observe().await?;
    fresh.mark(Term(2), &name("pg1"), PATIENCE).await?;
    assert!(!fresh.is_equipped().await?);
    fresh.equip(Term(2), &name("pg1")).await?;
    assert!(fresh.is_equipped().await?);
    let rights = "SELECT bool_and(rolcanlogin) AND pg_has_role('pgvigil', 'pg_monitor', 'USAGE') FROM pg_roles WHERE rolname LIKE 'pgvigil%'";
    assert_eq!(leader.ask(rights).await?, "true");
    Ok(())
}
