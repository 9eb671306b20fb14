//! What silence is, and what it is not: the probes of a primary, against everything that a busy or broken server does.

use std::time::{Duration, Instant};

use decision::view::Stuck;
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
    let probing = probing(&node).await?;
    kill(probing, Signal::SIGSTOP)?;
    let longest = longest_silence(&pulse, Duration::from_secs(2)).await;
    kill(probing, Signal::SIGCONT)?;
    println!("      its own backend stopped for 2 s: at most {longest:?} of silence");
    assert!(longest < HARMLESS, "{longest:?}");
    Ok(())
}

/// A client that commits as fast as it can is stopped, again and again, until it holds what the others need. Its process id; a commit of
/// another client is under way then, and does not end.
async fn freeze_inside_a_commit(node: &Node) -> Result<Pid, Failure> {
    node.run("CREATE TABLE one (x int); CREATE TABLE other (x int)").await?;
    let (writer, other) = (node.sql().await?, node.sql().await?);
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let pid = Pid::from_raw(pid);
    tokio::spawn(async move { while writer.batch_execute("INSERT INTO one VALUES (1)").await.is_ok() {} });
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        kill(pid, Signal::SIGSTOP)?;
        let commit = other.batch_execute("INSERT INTO other VALUES (1)");
        match tokio::time::timeout(Duration::from_millis(300), commit).await {
            Ok(done) => done?,
            // The statement goes on waiting in the server, as long as its connection lasts.
            Err(_) => {
                std::mem::forget(other);
                return Ok(pid);
            }
        }
        kill(pid, Signal::SIGCONT)?;
    }
    Err("it was never stopped while it held anything".into())
}

pub async fn a_backend_frozen_inside_its_commit_stops_all_writes_and_is_noticed() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let frozen = freeze_inside_a_commit(&node).await?;
    let begin = Instant::now();
    eventually("a second without writes", async || Ok(pulse.heartbeat().writes_stuck_for >= Duration::from_secs(1)))
        .await?;
    println!("      a second without writes is known {:?} after the freeze", begin.elapsed());
    let heartbeat = pulse.heartbeat();
    assert!(heartbeat.hang().is_some_and(|(stuck, _)| stuck == Stuck::Writes), "{heartbeat:?}");
    assert!(longest_silence(&pulse, Duration::from_millis(500)).await < HARMLESS, "it answers all the time");
    kill(frozen, Signal::SIGCONT)?;
    eventually("writes go on", async || Ok(pulse.heartbeat().writes_stuck_for.is_zero())).await
}

pub async fn a_postmaster_stopped_alone_is_noticed() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let begin = Instant::now();
    node.signal(Signal::SIGSTOP)?;
    eventually("a door that is shut", async || Ok(pulse.heartbeat().door_shut_for >= Duration::from_secs(2))).await?;
    println!("      shut for two seconds, {:?} after it was stopped", begin.elapsed());
    let heartbeat = pulse.heartbeat();
    assert!(heartbeat.hang().is_some_and(|(stuck, _)| stuck == Stuck::Door), "{heartbeat:?}");
    assert!(longest_silence(&pulse, Duration::from_millis(500)).await < HARMLESS, "it answers all the time");
    node.signal(Signal::SIGCONT)?;
    eventually("an open door", async || Ok(pulse.heartbeat().hang().is_none())).await
}

pub async fn an_open_transaction_and_many_commits_are_no_stuck_writes() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    node.run("CREATE TABLE t (x int); CREATE TABLE u (x int)").await?;
    let open = node.sql().await?;
    open.batch_execute("BEGIN; INSERT INTO u SELECT generate_series(1, 1000)").await?;
    let longest_stuck = async |within: Duration| {
        let (begin, mut longest) = (Instant::now(), Duration::ZERO);
        while begin.elapsed() < within {
            longest = longest.max(pulse.heartbeat().writes_stuck_for);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        longest
    };
    let rests = longest_stuck(Duration::from_secs(3)).await;
    assert!(rests.is_zero(), "{rests:?} with WAL that nobody flushes");
    let mut busy = Vec::new();
    for _ in 0..12 {
        let client = node.sql().await?;
        busy.push(tokio::spawn(async move { while client.batch_execute("INSERT INTO t VALUES (1)").await.is_ok() {} }));
    }
    let under_load = longest_stuck(Duration::from_secs(3)).await;
    let rows = node.ask("SELECT count(*) FROM t").await?;
    println!("      at most {under_load:?} under load, {rows} commits");
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(under_load < HARMLESS, "{under_load:?}");
    Ok(())
}

pub async fn a_stuck_backend_of_the_probe_is_given_up_for_a_new_one() -> Outcome {
    let node = primary("pg1").await?;
    let pulse = watched(&node).await?;
    let probing = probing(&node).await?;
    kill(probing, Signal::SIGSTOP)?;
    let begin = Instant::now();
    let answers = async || Ok(pulse.heartbeat().answered_at.is_some_and(|at| at > begin + Duration::from_millis(500)));
    eventually("answers on another connection", answers).await?;
    println!("      answered again, {:?} after its backend was stopped", begin.elapsed());
    assert!(pulse.heartbeat().silent_for.is_zero() && pulse.heartbeat().hang().is_none());
    kill(probing, Signal::SIGCONT)?;
    Ok(())
}

/// The backend of the probe's connection.
async fn probing(node: &Node) -> Result<Pid, Failure> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvigil' AND query LIKE 'SELECT CASE WHEN NOT pg_is_in_recovery%'";
    Ok(Pid::from_raw(node.ask(sql).await?.parse()?))
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
