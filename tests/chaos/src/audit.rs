//! Looking for every acknowledged row on every node that can be reached, once each has replayed all that the primary has.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use agent::demo::audit::replayed;
use agent::demo::session::Session;
use anyhow::{Context, Result};
use tokio_postgres::types::PgLsn;

use crate::ledger::Row;
use crate::system::Spot;
use crate::writer::NUMBERS;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Acknowledged rows that are missing on at least one node.
    pub lost: HashSet<i64>,
    /// How many each node misses; a node without an entry was not looked at.
    pub missing: BTreeMap<String, usize>,
}

/// Looks for these rows on these nodes.
///
/// # Errors
/// A node does not catch up, or cannot be read.
pub async fn audit(primary: &Spot, others: &[&Spot], rows: &[Row]) -> Result<Audit> {
    let session = open(primary).await?;
    let end: PgLsn = session.query_one("SELECT pg_current_wal_flush_lsn()", &[]).await?.get(0);
    let mut audit = Audit::default();
    for spot in std::iter::once(&primary).chain(others) {
        let session = open(spot).await?;
        if spot.name != primary.name {
            replayed(&session, end).await.with_context(|| spot.name.clone())?;
        }
        let found = found(&session, rows).await.with_context(|| format!("reading the rows of {}", spot.name))?;
        let missing: Vec<i64> = rows.iter().map(|row| row.id).filter(|id| !found.contains(id)).collect();
        audit.missing.insert(spot.name.clone(), missing.len());
        audit.lost.extend(missing);
    }
    Ok(audit)
}

async fn open(spot: &Spot) -> Result<Session> {
    Session::to(&spot.host.address().to_string(), spot.port, CONNECT_WITHIN).await
}

/// The rows that are there, of the span that each node wrote.
async fn found(session: &Session, rows: &[Row]) -> Result<HashSet<i64>> {
    let mut spans: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for row in rows {
        let span = spans.entry(row.id / NUMBERS).or_insert((row.id, row.id));
        *span = (span.0.min(row.id), span.1.max(row.id));
    }
    let mut found = HashSet::new();
    for (first, last) in spans.into_values() {
        let there = session.query("SELECT id FROM rows WHERE id BETWEEN $1 AND $2", &[&first, &last]).await?;
        found.extend(there.iter().map(|row| row.get::<_, i64>(0)));
    }
    Ok(found)
}
