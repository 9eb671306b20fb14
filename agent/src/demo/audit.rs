//! Counting what is there. Every acknowledged row is looked for on the primary and on every standby, once each has replayed all that the
//! primary has: nothing is lost only if nothing is missing anywhere.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::types::PgLsn;

use super::cluster::LocalCluster;
use super::session::Session;
use super::writer::Logbook;

/// How long a standby may take to replay everything.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged rows that are missing on at least one node.
    pub lost_rows: usize,
    /// How many of them each node misses; a node without an entry was not looked at.
    pub missing: BTreeMap<String, usize>,
}

/// Looks for every row of the logbook on every node that is there.
///
/// # Errors
/// Nobody leads, a node does not catch up, or it cannot be read.
pub async fn audit(cluster: &LocalCluster, logbook: &Logbook) -> Result<Audit> {
    let leader = cluster.leader().await?;
    let session = cluster.connect(&leader).await?;
    let end: PgLsn = session.query_one("SELECT pg_current_wal_flush_lsn()", &[]).await?.get(0);
    let mut audit = Audit::default();
    let mut lost = HashSet::new();
    for sight in cluster.lookout().survey().await {
        if sight.name != leader && !sight.streams() {
            continue;
        }
        let session = cluster.connect(&sight.name).await?;
        if sight.name != leader {
            replayed(&session, end).await.with_context(|| sight.name.clone())?;
        }
        let found = ids(&session).await.with_context(|| format!("reading the rows of {}", sight.name))?;
        let missing: Vec<i64> =
            logbook.acknowledged.iter().map(|row| row.id).filter(|id| !found.contains(id)).collect();
        audit.missing.insert(sight.name, missing.len());
        lost.extend(missing);
    }
    audit.lost_rows = lost.len();
    Ok(audit)
}

/// Waits until a standby has replayed up to there.
///
/// # Errors
/// It has not within a minute, or it cannot be asked.
pub async fn replayed(session: &Session, end: PgLsn) -> Result<()> {
    let begin = Instant::now();
    loop {
        let row = session.query_one("SELECT coalesce(pg_last_wal_replay_lsn() >= $1, false)", &[&end]).await?;
        if row.get(0) {
            return Ok(());
        }
        if begin.elapsed() > CATCH_UP {
            bail!("has not replayed up to {end} within {CATCH_UP:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ids(session: &Session) -> Result<HashSet<i64>> {
    Ok(session.query("SELECT id FROM rows", &[]).await?.iter().map(|row| row.get(0)).collect())
}
