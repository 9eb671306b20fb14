//! PgBouncer around a planned switchover: clients are held while nobody takes writes (`PAUSE`), and let go (`RESUME`) where somebody does, so that
//! they see a pause and no error. That they are held is on the record of the switchover, in etcd, before it is so: whoever takes writes next,
//! here or elsewhere, in this life of its agent or the next, finds it there and lets them go. A failover holds nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use consensus::records::Transition;
use futures_util::future::join_all;
use pg_control::quoted;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::config::{HostPort, Pgbouncer};
use crate::hands::Hands;
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
/// When it is tried again; each time twice as long.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// And no longer than this: whoever is held waits for it once PgBouncer can be reached.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(4);
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
    hands.begun.hold(record, &since);
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

/// How many databases had held their clients, and do not any more.
async fn resume(settings: &Pgbouncer, address: &HostPort) -> Result<usize> {
    let client = admin(settings, address).await?;
    let told = async {
        let paused = paused(&client).await?;
        let ours: Vec<&String> = settings.databases.iter().filter(|name| paused.contains(name)).collect();
        for database in &ours {
            let done = client.simple_query(&format!("RESUME {}", quoted(database))).await;
            done.with_context(|| format!("RESUME {database}"))?;
        }
        Ok(ours.len())
    };
    tokio::time::timeout(ANSWERS_WITHIN, told).await.with_context(|| format!("PgBouncer {address} does not answer"))?
}

/// The console of a PgBouncer.
///
/// # Errors
/// It is not there, or does not let us in; the mend is named.
pub async fn admin(settings: &Pgbouncer, address: &HostPort) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(&address.host).port(address.port).user(&settings.user).dbname("pgbouncer");
    config.application_name("pgvigil");
    if let Some(file) = settings.password_file.clone() {
        config.password(tokio::task::spawn_blocking(move || Secret::read(&file)).await??.expose());
    }
    let entered = tokio::time::timeout(ANSWERS_WITHIN, config.connect(NoTls)).await;
    let entered = entered.map_err(|_| anyhow!("no answer within {ANSWERS_WITHIN:?}")).and_then(|it| Ok(it?));
    let (client, connection) = entered.with_context(|| {
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

/// For ever: where this node takes writes and clients are held, lets them go.
pub async fn let_go_when_it_leads(hands: Arc<Hands>, board: Arc<Board>) {
    let (mut seen_to, mut again_after, mut complaint) = (false, AGAIN_AFTER, String::new());
    let mut left = Left::default();
    loop {
        let picture = board.load().clone();
        let leads = takes_writes(&picture);
        if leads && !seen_to {
            match left.let_go(&hands, &board).await {
                Ok(nobody_is_left) => (seen_to, again_after, complaint) = (nobody_is_left, AGAIN_AFTER, String::new()),
                Err(error) => {
                    let now = format!("{error:#}");
                    if complaint != now {
                        tracing::warn!("clients may still be held by PgBouncer, and it is tried on: {now}");
                        complaint = now;
                    }
                    tokio::time::sleep(again_after).await;
                    again_after = (again_after * 2).min(AGAIN_AFTER_MAX);
                }
            }
            continue;
        }
        seen_to &= leads;
        board.after(picture.made_at, LOOK_EVERY).await;
    }
}

/// It does, and is not about to stop.
fn takes_writes(picture: &Picture) -> bool {
    let hands_over = picture.view.job.as_ref().is_some_and(|job| job.action == "hand_over");
    !hands_over && picture.writable()
}

/// Whoever may still hold clients. Where it was done once it is not done again: a pause that an operator has asked for since is theirs.
#[derive(Default)]
struct Left {
    /// The records that say so, each with its own words.
    held: Vec<(String, String)>,
    /// Who has not let go yet.
    at: Vec<HostPort>,
}

impl Left {
    /// Lets clients go whom this life holds, and then whoever is held by what a record says; whether nobody is left.
    async fn let_go(&mut self, hands: &Hands, board: &Board) -> Result<bool> {
        // Of its own doing this life knows without etcd, which may have been lost in the midst of it.
        let own = hands.begun.held();
        let held = if own.is_empty() { recorded(hands).await? } else { own };
        if held.is_empty() {
            return Ok(true);
        }
        if held != self.held {
            (self.held, self.at) = (held, hands.config.pgbouncer.admin.clone());
        }
        tokio::time::sleep(FOUND_WITHIN).await;
        if !takes_writes(&board.load()) {
            return Err(anyhow!("this node takes no writes any more"));
        }
        let failed = resume_all(hands, &self.at).await;
        self.at = failed.iter().map(|(address, _)| address.clone()).collect();
        if let Some((_, why)) = failed.into_iter().next() {
            return Err(why);
        }
        for (id, words) in &self.held {
            note_let_go(hands, id, words).await?;
        }
        Ok(false)
    }
}

/// Who is held by what stands in etcd.
async fn recorded(hands: &Hands) -> Result<Vec<(String, String)>> {
    let (records, _) = hands.store.transitions().await?;
    let held = |record: Transition| Some((record.id, record.clients.filter(|words| words.starts_with(HELD))?));
    Ok(records.into_iter().filter_map(held).collect())
}

/// Has each of these let its clients go; whoever has not, and why.
async fn resume_all(hands: &Hands, at: &[HostPort]) -> Vec<(HostPort, Error)> {
    let settings = &hands.config.pgbouncer;
    let all = join_all(at.iter().map(|address| resume(settings, address))).await;
    let mut failed = Vec::new();
    for (address, resumed) in at.iter().zip(all) {
        hands.metrics.told_pgbouncer("resume", if resumed.is_ok() { "done" } else { "failed" });
        match resumed {
            Ok(0) => {}
            Ok(databases) => tracing::info!(pgbouncer = %address, databases, "PgBouncer lets its clients go"),
            Err(error) => failed.push((address.clone(), error)),
        }
    }
    failed
}

/// Another attempt may have begun to hold them anew: its words are others.
async fn note_let_go(hands: &Hands, id: &str, words: &str) -> Result<()> {
    let amend = |now: &mut Transition| {
        if now.clients.as_deref() == Some(words) {
            now.clients = Some(LET_GO.to_owned());
        }
    };
    hands.store.amend_transition(id, amend).await?;
    hands.begun.let_go(id, words);
    Ok(())
}

/// Lets these clients go after a while even if nobody comes to take writes, and whatever etcd says or does not say: better an error than silence.
fn not_for_ever(hands: Arc<Hands>, record: String, since: String) {
    tokio::spawn(async move {
        tokio::time::sleep(HELD_AT_MOST).await;
        let mut at = hands.config.pgbouncer.admin.clone();
        loop {
            // An agent of an older version that writes the record drops the word: only another word says that it is over.
            let now = hands.store.transition(&record).await.ok().flatten();
            if now.and_then(|record| record.clients).is_some_and(|now| now != since) {
                hands.begun.let_go(&record, &since);
                return;
            }
            let failed = resume_all(&hands, &at).await;
            let Some((address, error)) = failed.first() else { break };
            tracing::warn!(pgbouncer = %address, "clients may still be held by PgBouncer: {error:#}");
            at = failed.into_iter().map(|(address, _)| address).collect();
            tokio::time::sleep(AGAIN_AFTER_MAX).await;
        }
        if let Err(error) = note_let_go(&hands, &record, &since).await {
            tracing::warn!("it could not be put on record that clients were let go: {error:#}");
        }
    });
}
