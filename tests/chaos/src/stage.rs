//! A system under way: its writers, and what Postgres itself says of who is primary and who streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::demo::session::Session;
use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::task::JoinSet;

use crate::load::Load;
use crate::site::Site;
use crate::system::System;
use crate::volume::Volume;
use crate::writer::{TABLE, Writers};

const CONNECT_WITHIN: Duration = Duration::from_millis(800);
const POLL: Duration = Duration::from_millis(100);
const LOOK: &str = "SELECT pg_is_in_recovery(), \
     coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false), \
     (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'), \
     (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum'))";

/// One node, as its Postgres tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is a primary.
    pub primary: bool,
    /// It receives WAL.
    pub streams: bool,
    /// So many receive WAL from it.
    pub followers: i64,
    /// For so many of them commits wait.
    pub waited_for: i64,
}

/// A system under way.
pub struct Stage<'a, S> {
    /// Its ground.
    pub site: &'a Site,
    /// Itself.
    pub system: &'a S,
    /// Its writers.
    pub writers: Writers,
    _load: Option<Load>,
}

impl<'a, S: System> Stage<'a, S> {
    /// Makes the table and begins to write, with pgbench beside it or not.
    ///
    /// # Errors
    /// Nobody takes writes.
    pub async fn begin(site: &'a Site, system: &'a S, pgbench: bool) -> Result<Self> {
        let primary = primary_of(&standings(system).await)?;
        let spot = &system.spots()[primary];
        let session = Session::to(&spot.host.address().to_string(), spot.port, CONNECT_WITHIN).await?;
        session.batch_execute(TABLE).await.context("creating the table")?;
        let load = if pgbench { Some(Load::start(site.account(), system.spots()).await?) } else { None };
        Ok(Self { site, system, writers: Writers::start(system.spots()), _load: load })
    }

    /// What each node says of itself; nothing where it does not answer.
    pub async fn standings(&self) -> Vec<Option<Standing>> {
        standings(self.system).await
    }

    /// The one node that is a primary.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub async fn primary(&self) -> Result<usize> {
        primary_of(&self.standings().await)
    }

    /// Waits until there is one primary that takes writes, all others stream from it, and the system is content.
    ///
    /// # Errors
    /// Not within the given time; the message says what is missing.
    pub async fn whole(&self, within: Duration) -> Result<usize> {
        let begin = Instant::now();
        loop {
            match self.is_whole().await {
                Ok(primary) => return Ok(primary),
                Err(error) if begin.elapsed() > within => {
                    return Err(error.context(format!("not whole again within {within:?}")));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn is_whole(&self) -> Result<usize> {
        let standings = self.standings().await;
        let primary = primary_of(&standings)?;
        for (spot, standing) in self.system.spots().iter().zip(&standings) {
            let standing = standing.with_context(|| format!("{} does not answer", spot.name))?;
            ensure!(standing.primary || standing.streams, "{} does not stream", spot.name);
            let others = i64::try_from(standings.len()).unwrap_or(0) - 1;
            ensure!(!standing.primary || standing.followers == others, "not all stream from {}", spot.name);
        }
        for member in self.system.members() {
            ensure!(member.service.pid().is_some(), "{} does not run", member.service.name());
        }
        self.system.content().await?;
        let recent = Instant::now().checked_sub(Duration::from_millis(500)).context("the clock has just begun")?;
        ensure!(self.flows_since(recent), "no write is acknowledged");
        Ok(primary)
    }

    /// Whether a number of rows were sent and acknowledged since an instant.
    pub fn flows_since(&self, instant: Instant) -> bool {
        self.writers.ledger().sent_after(instant) >= 10
    }

    /// The volume of a node.
    ///
    /// # Errors
    /// It has none.
    pub fn volume(&self, node: usize) -> Result<&Volume> {
        let home = &self.system.spots()[node].home;
        self.site.volume(home).ok_or_else(|| anyhow!("{} has no volume of its own", self.system.spots()[node].name))
    }
}

/// What one node says of itself.
pub async fn standing(address: &str, port: u16) -> Result<Standing> {
    let asking = async {
        let session = Session::to(address, port, CONNECT_WITHIN).await?;
        let row = session.query_one(LOOK, &[]).await?;
        let (primary, streams) = (!row.get::<_, bool>(0), row.get(1));
        anyhow::Ok(Standing { primary, streams, followers: row.get(2), waited_for: row.get(3) })
    };
    tokio::time::timeout(CONNECT_WITHIN * 2, asking).await.context("no answer")?
}

async fn standings(system: &impl System) -> Vec<Option<Standing>> {
    let mut asking = JoinSet::new();
    for (node, spot) in system.spots().iter().enumerate() {
        let (host, port) = (Arc::clone(&spot.host), spot.port);
        asking.spawn(async move { (node, standing(&host.address().to_string(), port).await.ok()) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(node, _)| *node);
    answers.into_iter().map(|(_, standing)| standing).collect()
}

fn primary_of(standings: &[Option<Standing>]) -> Result<usize> {
    let primary = |standing: &&Standing| standing.primary;
    match standings.iter().flatten().filter(primary).count() {
        1 => {}
        0 => bail!("no node is a primary"),
        _ => bail!("more than one node is a primary"),
    }
    let found = standings.iter().position(|standing| standing.is_some_and(|standing| standing.primary));
    found.context("no node is a primary")
}
