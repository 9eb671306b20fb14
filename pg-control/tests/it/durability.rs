//! What an acknowledged commit is worth: names, waits, proofs, and what must not count as one.

use std::time::{Duration, Instant};

use decision::durability::Quorum;
use decision::names::Term;
use pg_control::Error;

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
