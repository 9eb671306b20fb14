//! PgBouncer around a planned switchover: clients are held while nobody takes writes (`PAUSE`), and let go (`RESUME`) where somebody does, so that
//! they see a pause and no error. That they are held is on the record of the switchover, in etcd, before it is so: whoever takes writes next,
//! here or elsewhere, in this life of its agent or the next, finds it there and lets them go. A failover holds nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use consensus::records::Transition;
use futures_util::future::join_all;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::config::{HostPort, Pgbouncer};
use crate::hands::Hands;
use crate::http::health::{self, Query};
use crate::published::{Board, Picture};
use crate::secret::Secret;

/// What stands in a record while clients are held for its sake begins so, and the time is behind it: of two attempts at one switchover each has its own.
const HELD: &str = "held since ";
/// What stands there when they have been let go.
const LET_GO: &str = "let_go";

/// How long PgBouncer may take to let us in, and to answer what needs no waiting.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// Nobody is held for longer than this, whatever becomes of the switchover.
const HELD_AT_MOST: Duration = Duration::from_secs(25);
/// From the new primary's first yes until it is certain to be found by way of HAProxy: its checks are answered at once and come each 20 ms.
const FOUND_WITHIN: Duration = Duration::from_millis(60);
/// When it is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Puts on record that clients are held for the sake of this switchover, asks every PgBouncer to hold them, and waits until they have nothing under
/// way, or for as long as is allowed. Whatever comes of it the switchover goes on; what a reader of its record should know is returned.
pub async fn hold(hands: &Arc<Hands>, record: &str) -> Vec<String> {
    let since = format!("{HELD}{}", jiff::Timestamp::now());
    let noted = hands.store.amend_transition(record, |record| record.clients = Some(since.clone())).await;
    if !noted.is_ok_and(|outcome| outcome.applied()) {
        // Nobody would know that they are to be let go.
        tracing::warn!("it could not be put on record that clients are held: they are not, and the switchover goes on");
        return vec!["PgBouncer was not told to hold its clients: etcd did not take note of it".to_owned()];
    }
    not_for_ever(Arc::clone(hands), record.to_owned(), since);
    let settings = &hands.config.pgbouncer;
    join_all(settings.admin.iter().map(|address| hold_at(hands, address))).await.into_iter().flatten().collect()
}

/// What went wrong there, if anything.
async fn hold_at(hands: &Hands, address: &HostPort) -> Option<String> {
    let (settings, began) = (&hands.config.pgbouncer, Instant::now());
    let held = tokio::time::timeout(settings.pause_within, pause(settings, address)).await;
    let held = held.unwrap_or_else(|_| Err(anyhow!("not all had ended within {:?}", settings.pause_within)));
    hands.metrics.told_pgbouncer("pause", if held.is_ok() { "done" } else { "failed" });
    match held {
        Ok(()) => {
            let took_ms = began.elapsed().as_secs_f64() * 1000.0;
            tracing::info!(pgbouncer = %address, took_ms, "PgBouncer holds its clients");
            None
        }
        Err(error) => {
            tracing::warn!(pgbouncer = %address, "PgBouncer does not hold all its clients: {error:#}; the switchover goes on");
            Some(format!("PgBouncer {address} did not hold all its clients: {error:#}"))
        }
    }
}

async fn pause(settings: &Pgbouncer, address: &HostPort) -> Result<()> {
    let client = admin(settings, address).await?;
    let paused = paused(&client).await?;
    for database in settings.databases.iter().filter(|name| !paused.contains(name)) {
        client
            .simple_query(&format!("PAUSE {}", quoted(database)))
            .await
            .with_context(|| format!("PAUSE {database}"))?;
    }
    Ok(())
}

async fn resume(settings: &Pgbouncer, address: &HostPort) -> Result<()> {
    let client = tokio::time::timeout(ANSWERS_WITHIN, admin(settings, address)).await.context("no answer")??;
    let told = async {
        let paused = paused(&client).await?;
        for database in settings.databases.iter().filter(|name| paused.contains(name)) {
            let done = client.simple_query(&format!("RESUME {}", quoted(database))).await;
            done.with_context(|| format!("RESUME {database}"))?;
        }
        Ok(())
    };
    tokio::time::timeout(ANSWERS_WITHIN, told).await.context("no answer")?
}

/// The console of a PgBouncer.
///
/// # Errors
/// It is not there, or does not let us in; the mend is named.
pub async fn admin(settings: &Pgbouncer, address: &HostPort) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(&address.host).port(address.port).user(&settings.user).dbname("pgbouncer");
    config.connect_timeout(ANSWERS_WITHIN).application_name("pgvigil");
    if let Some(file) = &settings.password_file {
        config.password(Secret::read(file)?.expose());
    }
    let (client, connection) = config.connect(NoTls).await.with_context(|| {
        format!(
            "the console of PgBouncer at {address} does not let {user} in: is it running there, and {user} in its `admin_users` and `auth_file`, \
             with the password in `pgbouncer.password_file`?",
            user = settings.user
        )
    })?;
    // It ends with the client, and what ends it before is seen by whoever asks.
    tokio::spawn(connection);
    Ok(client)
}

/// Which databases hold their clients.
async fn paused(client: &Client) -> Result<Vec<String>> {
    Ok(databases(client).await?.into_iter().filter(|(_, paused)| *paused).map(|(name, _)| name).collect())
}

/// The databases of a PgBouncer, and whether each holds its clients.
///
/// # Errors
/// It does not answer.
pub async fn databases(client: &Client) -> Result<Vec<(String, bool)>> {
    let rows = client.simple_query("SHOW DATABASES").await.context("SHOW DATABASES")?;
    let named = rows.iter().filter_map(|row| match row {
        SimpleQueryMessage::Row(row) => Some((row.get("name")?.to_owned(), row.get("paused") == Some("1"))),
        _ => None,
    });
    Ok(named.collect())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// For ever: where this node takes writes and clients are held, lets them go.
pub async fn let_go_when_it_leads(hands: Arc<Hands>, board: Arc<Board>) {
    let mut seen_to = false;
    loop {
        let picture = board.load().clone();
        let leads = takes_writes(&picture);
        if leads && !seen_to {
            seen_to = match let_go(&hands, Some(&board), None).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!("clients may still be held by PgBouncer: {error:#}");
                    tokio::time::sleep(AGAIN_AFTER).await;
                    false
                }
            };
            continue;
        }
        seen_to &= leads;
        board.after(picture.made_at, LOOK_EVERY).await;
    }
}

/// It does, and is not about to stop.
fn takes_writes(picture: &Picture) -> bool {
    let hands_over = picture.view.job.as_ref().is_some_and(|job| job.action == "hand_over");
    !hands_over && health::judge(picture, "/primary", &Query::default()).is_ok()
}

/// Lets clients go where a record says that they are held: the record `of` by these words, or any.
async fn let_go(hands: &Hands, board: Option<&Board>, of: Option<(&str, &str)>) -> Result<()> {
    let (records, _) = hands.store.transitions().await?;
    let is_meant = |record: &&Transition| {
        let held = record.clients.as_deref().filter(|clients| clients.starts_with(HELD));
        held.is_some_and(|held| of.is_none_or(|(id, since)| record.id == id && held == since))
    };
    let held: Vec<&Transition> = records.iter().filter(is_meant).collect();
    if held.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(FOUND_WITHIN).await;
    if board.is_some_and(|board| !takes_writes(&board.load())) {
        return Err(anyhow!("this node takes no writes any more"));
    }
    let settings = &hands.config.pgbouncer;
    let all = join_all(settings.admin.iter().map(|address| resume(settings, address))).await;
    for (address, resumed) in settings.admin.iter().zip(&all) {
        hands.metrics.told_pgbouncer("resume", if resumed.is_ok() { "done" } else { "failed" });
        if resumed.is_ok() {
            tracing::info!(pgbouncer = %address, "PgBouncer lets its clients go");
        }
    }
    all.into_iter().collect::<Result<Vec<()>>>()?;
    for record in held {
        // Another attempt may have begun to hold them anew.
        let amend = |now: &mut Transition| {
            if now.clients == record.clients {
                now.clients = Some(LET_GO.to_owned());
            }
        };
        hands.store.amend_transition(&record.id, amend).await?;
    }
    Ok(())
}

/// Lets these clients go after a while even if nobody comes to take writes: better an error than silence.
fn not_for_ever(hands: Arc<Hands>, record: String, since: String) {
    tokio::spawn(async move {
        tokio::time::sleep(HELD_AT_MOST).await;
        if let Err(error) = let_go(&hands, None, Some((&record, &since))).await {
            tracing::warn!("clients may still be held by PgBouncer: {error:#}");
        }
    });
}
