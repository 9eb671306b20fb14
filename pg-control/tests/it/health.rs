//! What counts as hung, and what must not.

use std::time::{Duration, Instant};

use decision::names::Term;
use decision::view::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Outcome;
use crate::world::{Node, PATIENCE, eventually, primary};

pub fn signal_all(node: &Node, signal: Signal) -> Outcome {
    let postmaster = node.pid();
    for process in procfs::process::all_processes()?.filter_map(|process| process.ok()) {
        if process.pid == postmaster || process.stat().is_ok_and(|stat| stat.ppid == postmaster) {
            kill(Pid::from_raw(process.pid), signal)?;
        }
    }
    Ok(())
}

pub async fn a_frozen_server_hangs() -> Outcome {
    let node = primary("pg1").await?;
    node.as_primary().await?;
    signal_all(&node, Signal::SIGSTOP)?;
    let begin = Instant::now();
    let first = node.server().await?;
    println!("      hung reported after {:?}: {first:?}", begin.elapsed());
    assert!(matches!(first, Server::Hung { .. }), "{first:?}");
    assert!(begin.elapsed() < Duration::from_secs(3));
    let Server::Hung { since } = node.server().await? else { return Err("not hung any more".into()) };
    assert!(since > node.instance.config().answer_within, "{since:?} adds up");
    signal_all(&node, Signal::SIGCONT)?;
    eventually("a primary again", async || Ok(node.as_primary().await.is_ok())).await?;
    signal_all(&node, Signal::SIGSTOP)?;
    let took = node.instance.kill_all().await?;
    println!("      frozen processes killed in {took:?}");
    Ok(())
}

pub async fn full_slots_are_no_outage() -> Outcome {
    let node = primary("pg1").await?;
    let mut clients = Vec::new();
    while let Ok(client) = node.sql().await {
        clients.push(client);
    }
    assert!(clients.len() > 20, "{}", clients.len());
    node.as_primary().await?;
    // An agent that comes new to a full server does not call it dead, either.
    let fresh = pg_control::Instance::new(node.instance.config().clone())?;
    let seen = fresh.observe().await;
    assert!(matches!(seen, Err(pg_control::Error::Busy(_))), "{seen:?}");
    // With only the ordinary slots taken it gets in.
    clients.truncate(clients.len() - 3);
    eventually("seen through a reserved slot", async || Ok(fresh.observe().await.is_ok())).await
}

pub async fn a_locked_marker_table_is_no_outage() -> Outcome {
    let node = primary("pg1").await?;
    node.as_primary().await?;
    let client = node.sql().await?;
    client.batch_execute("BEGIN; LOCK TABLE pgvigil.leadership IN ACCESS EXCLUSIVE MODE").await?;
    let begin = Instant::now();
    let seen = node.as_primary().await?;
    println!("      seen past the lock in {:?}", begin.elapsed());
    assert_eq!(seen.marked_term, Term(1));
    let marked = node.instance.prove(Term(1), PATIENCE).await;
    assert!(matches!(marked, Err(pg_control::Error::Busy(_))), "{marked:?}");
    Ok(())
}
