//! What silence is, and what it is not: the probes of a primary, against everything that a busy or broken server does.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_control::Pulse;

use crate::Outcome;
use crate::health::signal_all;
use crate::world::{Failure, Node, PATIENCE, eventually, primary};

/// Less than half of what counts as hung: nothing that is merely busy comes near it.
const HARMLESS: Duration = Duration::from_millis(250);

async fn watched(node: &Node) -> Result<Pulse, Failure> {
    let pulse = Pulse::start(node.instance.clone())?;
    pulse.watch(true);
    eventually("a first answer", async || Ok(pulse.heartbeat().answered_at.is_some())).await?;
    Ok(pulse)
}

/// The longest silence within a while.
async fn longest_silence(pulse: &Pulse, within: Duration) -> Duration {
    let (begin, mut longest) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < within {
        longest = longest.max(pulse.heartbeat().silent_for);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest
}

pub async fn a_frozen_server_is_silent_and_a_thawed_one_answers() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let begin = Instant::now();
    signal_all(&node, Signal::SIGSTOP)?;
    eventually("half a second of silence", async || Ok(pulse.heartbeat().silent_for >= Duration::from_millis(500)))
        .await?;
    println!("      half a second of silence, {:?} after the freeze", begin.elapsed());
    signal_all(&node, Signal::SIGCONT)?;
    eventually("an answer", async || Ok(pulse.heartbeat().silent_for.is_zero())).await
}

pub async fn one_stuck_backend_is_no_silence() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvigil' AND query LIKE 'SELECT CASE WHEN NOT pg_is_in_recovery%'";
    let probing: i32 = node.ask(sql).await?.parse()?;
    kill(Pid::from_raw(probing), Signal::SIGSTOP)?;
    let longest = longest_silence(&pulse, Duration::from_secs(2)).await;
    kill(Pid::from_raw(probing), Signal::SIGCONT)?;
    println!("      its own backend stopped for 2 s: at most {longest:?} of silence");
    assert!(longest < HARMLESS, "{longest:?}");
    Ok(())
}

pub async fn full_slots_locks_and_checkpoints_are_no_silence() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let locker = node.sql().await?;
    locker.batch_execute("BEGIN; LOCK TABLE pgvigil.leadership IN ACCESS EXCLUSIVE MODE").await?;
    let mut clients = Vec::new();
    while let Ok(client) = node.sql().await {
        clients.push(client);
    }
    let writes = clients.pop().ok_or("no client")?;
    let work = async {
        writes
            .batch_execute("CREATE TABLE big AS SELECT g, repeat('x', 500) FROM generate_series(1, 100000) g")
            .await?;
        writes.batch_execute("CHECKPOINT").await
    };
    let (worked, longest) = tokio::join!(work, longest_silence(&pulse, Duration::from_secs(3)));
    worked?;
    println!("      {} clients, a lock, a checkpoint: at most {longest:?} of silence", clients.len());
    assert!(longest < HARMLESS, "{longest:?}");
    // A probe that is new to a full server is told so, and that is an answer.
    let fresh = watched(&node).await?;
    assert!(longest_silence(&fresh, Duration::from_secs(1)).await < HARMLESS);
    Ok(())
}

pub async fn a_backend_that_is_killed_cuts_every_session_and_postgres_mends_itself() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let postmaster = node.pid();
    let client = node.sql().await?;
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let begin = Instant::now();
    kill(Pid::from_raw(backend), Signal::SIGKILL)?;
    tokio::time::timeout(PATIENCE, async {
        while pulse.heartbeat().cuts == 0 {
            pulse.news().await;
        }
    })
    .await?;
    println!("      the cut is known after {:?}", begin.elapsed());
    eventually("a primary again", async || Ok(node.as_primary().await.is_ok())).await?;
    println!("      it is a primary again after {:?}", begin.elapsed());
    assert_eq!(node.pid(), postmaster, "the postmaster has lived through it: nobody else would have noticed");
    Ok(())
}
