//! Chores beside the decisions: the checkpoint after a promotion, the leader's published position, the history of timelines, the old
//! copies of a data directory, the records of transitions. Each runs in the background, one at a time, and may fail and come again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use consensus::records::{HistoryRow, Transition};
use consensus::{Snapshot, Write};
use decision::names::{Lsn, MemberName, Term, Timeline, application_name};
use decision::settings::Mode;
use decision::view::{Cluster, Data, Initialize, Lock, Postgres, Primary, Server, Standby, View};
use pg_control::process::is_stopped;
use pg_control::{Extras, Fork};

use crate::chore::Chore;
use crate::hands::Hands;
use crate::look::Lacking;
use crate::recorder::reload;

/// In `async` mode a failover judges lag by the published position, so it is fresh; elsewhere it is only shown.
const POSITION_EVERY_ASYNC: Duration = Duration::from_secs(1);
const POSITION_EVERY: Duration = Duration::from_secs(10);
/// How long the first commit after a restart may wait for its voters before it is tried again.
const PROOF_WITHIN: Duration = Duration::from_secs(2);
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(300);
/// A standby that streams nothing for so long asks whether its leader has the WAL that it needs.
const ASK_FOR_WAL_AFTER: Duration = Duration::from_secs(30);
/// How often a standby is looked after that could acknowledge something on its own, and how long it may take to read its names.
const LOOK_AFTER_NAMES_EVERY: Duration = Duration::from_secs(30);
const HELD_BACK_WITHIN: Duration = Duration::from_secs(5);
/// How often a leader looks whether its role and table are as they were.
const LOOK_AFTER_OWN_EVERY: Duration = Duration::from_secs(10);
/// A chore that failed waits this long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The chores of one agent.
pub struct Upkeep {
    hands: Arc<Hands>,
    proof: Chore,
    unfinished: Chore,
    secrets: Chore,
    failsafe: Chore,
    alive: BTreeMap<MemberName, Instant>,
    /// Where members were when the list was last looked at.
    reached: Arc<Mutex<BTreeMap<MemberName, String>>>,
    checkpoint: Chore,
    position: Chore,
    history: Chore,
    copies: Chore,
    held_back: Chore,
    own: Chore,
    wal: Chore,
    records: Chore,
    published: Lsn,
    /// The timeline whose origin this life has published.
    history_of: Arc<AtomicU32>,
    recorded_at: i64,
    copies_removed: bool,
    /// A walreceiver that somebody has stopped, and since when.
    frozen: Option<(i32, Instant)>,
}

impl Upkeep {
    /// The chores of the agent behind `hands`.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            hands,
            proof: Chore::new("proof after a restart"),
            unfinished: Chore::new("unfinished bootstrap"),
            secrets: Chore::new("passwords between members"),
            failsafe: Chore::new("list of who may lead without proof"),
            alive: BTreeMap::new(),
            reached: Arc::default(),
            checkpoint: Chore::new("checkpoint"),
            position: Chore::new("position"),
            history: Chore::new("history"),
            copies: Chore::new("old copies"),
            held_back: Chore::new("names of a standby"),
            own: Chore::new("the agent's own role and table"),
            wal: Chore::new("WAL of the upstream"),
            records: Chore::new("transition records"),
            published: Lsn(0),
            history_of: Arc::new(AtomicU32::new(0)),
            recorded_at: 0,
            copies_removed: false,
            frozen: None,
        }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, view: &View, extras: Option<&Extras>, upstream_lacks: &Arc<Mutex<Lacking>>) {
        self.prove(view);
        if let Some(extras) = extras.filter(|_| !view.settings.paused) {
            self.unfreeze(view, extras);
            self.keep_own(view, extras);
        }
        let Some(cluster) = view.cluster.now() else { return };
        if cluster.initialize != Initialize::Absent && !self.hands.secrets_known.load(Ordering::SeqCst) {
            // Without etcd it would be too late to ask for the key of the promises.
            let hands = Arc::clone(&self.hands);
            self.secrets.begin(AGAIN_AFTER, async move { hands.ensure_secrets().await });
        }
        // Anything that changes raises the revision, so a quiet cluster is read once.
        if self.recorded_at != cluster.revision {
            let hands = Arc::clone(&self.hands);
            let mine = matches!(view.lock, Lock::Held { .. }).then_some(cluster.term);
            if self.records.begin(AGAIN_AFTER, async move { tend_records(&hands, mine).await }) {
                self.recorded_at = cluster.revision;
            }
        }
        if cluster.initialize == Initialize::InProgress && view.job.is_none() {
            self.give_up_unfinished_bootstrap();
        }
        let Some(postgres) = view.postgres.now() else { return };
        if let Server::Standby(standby) = &postgres.server
            && view.ages.not_streaming.is_some_and(|since| since >= ASK_FOR_WAL_AFTER)
        {
            self.ask_for_wal(cluster, standby, upstream_lacks);
        }
        match (&postgres.server, view.lock) {
            (Server::Primary(primary), Lock::Held { term, .. }) => {
                let marked = primary.marked_term == term;
                // The marker is not made to wait behind these, but it does not hold them up either.
                if marked || view.ages.reign.is_some_and(|reign| reign >= view.settings.timing.heartbeat) {
                    self.way_back(cluster, primary, term);
                }
                if marked {
                    self.leader(view, cluster, primary, term);
                }
            }
            (Server::Standby(standby), _) if standby.streaming => self.standby(),
            (Server::Stopped, _) => self.copies_removed = false,
            _ => {}
        }
    }

    /// A WAL sender or a walreceiver that somebody has stopped holds up commits, and nobody takes its place while it is there. It is ended,
    /// and its standby connects again: a leader ends the sender of a standby that rests, a standby its own walreceiver.
    fn unfreeze(&mut self, view: &View, extras: &Extras) {
        let term = match view.lock {
            Lock::Held { term, .. } => Some(term),
            Lock::NotHeld => None,
        };
        let patience = view.settings.timing.voter_drop_after;
        let resting = view.ages.voters_resting.iter().filter(|(_, age)| **age >= patience).map(|(name, _)| name);
        let names: Vec<String> =
            term.iter().flat_map(|term| resting.clone().map(|name| application_name(name, *term))).collect();
        let senders =
            extras.replication.iter().filter(|row| names.iter().any(|name| row["application_name"] == **name));
        let senders = senders.filter_map(|row| i32::try_from(row["pid"].as_i64()?).ok());
        let receiver = extras.receiver.filter(|pid| is_stopped(*pid));
        self.frozen = receiver.map(|pid| match self.frozen {
            Some((before, since)) if before == pid => (pid, since),
            _ => (pid, Instant::now()),
        });
        let receiver = self.frozen.filter(|(_, since)| since.elapsed() >= patience).map(|(pid, _)| pid);
        for pid in senders.chain(receiver) {
            if self.hands.instance.end_stopped(pid) {
                tracing::warn!(
                    pid,
                    "this process of replication has been stopped by somebody: it is ended, so that another takes its place"
                );
            }
        }
    }

    /// The role and the table of the agent are needed at once by the next reign, and not before: what somebody has dropped or revoked of them
    /// is put back now, and reaches the standbys.
    fn keep_own(&mut self, view: &View, extras: &Extras) {
        let server = view.postgres.now().map(|postgres| &postgres.server);
        let (Some(Server::Primary(primary)), Lock::Held { term, .. }) = (server, view.lock) else { return };
        // A reign that has no marker yet mends it when it writes that.
        if primary.marked_term != term {
            return;
        }
        let hands = Arc::clone(&self.hands);
        self.own.begin(if extras.equipped { LOOK_AFTER_OWN_EVERY } else { AGAIN_AFTER }, async move {
            if hands.instance.is_equipped().await? {
                return Ok(());
            }
            tracing::warn!("the agent's own role or table was dropped or revoked by somebody: putting it back");
            let mended = hands.instance.equip(term, hands.me()).await;
            if mended.is_ok() && hands.instance.is_equipped().await? {
                // Whoever adopts this server later finds the marker of this reign acknowledged.
                hands.instance.mark(term, hands.me(), PROOF_WITHIN).await?;
                return Ok(());
            }
            let why = mended.err().map_or_else(|| "something is still missing".to_owned(), |error| error.to_string());
            tracing::warn!(why, "the agent's own role or table could not be put back");
            tokio::time::sleep(LOOK_AFTER_OWN_EVERY).await;
            Ok(())
        });
    }

    /// What was moved aside for its copy is not needed any more; and one that an older version has started is held back from acknowledging
    /// anything, were it promoted by hand.
    fn standby(&mut self) {
        if !self.copies_removed {
            let hands = Arc::clone(&self.hands);
            let remove = async move { Ok(hands.instance.remove_old_copies().await.map(|_| ())?) };
            self.copies_removed = self.copies.begin(AGAIN_AFTER, remove);
        }
        let hands = Arc::clone(&self.hands);
        let hold_back = async move { Ok(hands.instance.hold_back(HELD_BACK_WITHIN).await?) };
        self.held_back.begin(LOOK_AFTER_NAMES_EVERY, hold_back);
    }

    /// A standby that has streamed nothing for a while may need WAL that its leader has not any more. Then it waits for ever.
    fn ask_for_wal(&mut self, cluster: &Cluster, standby: &Standby, upstream_lacks: &Arc<Mutex<Lacking>>) {
        let leads = |member: &MemberName| cluster.leader.as_ref() == Some(member);
        let Some(upstream) = standby.follows.clone().filter(|upstream| leads(&upstream.member)) else { return };
        let (hands, position) = (Arc::clone(&self.hands), standby.received);
        let lacks = Arc::clone(upstream_lacks);
        self.wal.begin(ASK_FOR_WAL_AFTER, async move {
            if !hands.instance.source_still_has(&upstream, position).await? {
                tracing::warn!(%upstream.member, %position, "the leader has removed WAL that this standby needs");
                *lacks.lock().unwrap_or_else(PoisonError::into_inner) = Some((upstream.member, position));
            }
            Ok(())
        });
    }

    /// Without its identity in etcd a cluster could not elect anybody. Whoever leads it knows it, and puts it back.
    fn restore_identity(&mut self, view: &View, cluster: &Cluster, term: Term) {
        let (Initialize::Absent | Initialize::InProgress, Some(Postgres { data: Data::Present(disk), .. })) =
            (cluster.initialize, view.postgres.now())
        else {
            return;
        };
        let (hands, system_id) = (Arc::clone(&self.hands), disk.system_id);
        self.unfinished.begin(AGAIN_AFTER, async move {
            tracing::warn!(%system_id, "the identity of the cluster was missing in etcd: putting it back");
            let identity = Write::put(hands.store.keys().initialize(), system_id.to_string());
            hands.store.write_as_leader(hands.me(), term, &[identity]).await?;
            Ok(())
        });
    }

    /// An earlier life of this agent was creating the cluster when it died, and this one has taken its lease over: nobody else could
    /// begin before it lets go. Guarded by that lease, so it touches no other node's attempt.
    fn give_up_unfinished_bootstrap(&mut self) {
        let hands = Arc::clone(&self.hands);
        self.unfinished.begin(AGAIN_AFTER, async move {
            let lease = hands.leases.member().borrow().id();
            if let Some(lease) = lease {
                hands.store.abandon_bootstrap(lease).await?;
            }
            Ok(())
        });
    }

    /// Where no proof is asked for only listed members may lead, and each of them must promise before this leader goes on without etcd.
    /// So a member is listed as soon as it is there, and struck out when it has been away for longer than a lease.
    fn list_who_may_lead(&mut self, view: &View, cluster: &Cluster, term: Term) {
        let now = Instant::now();
        let mut wanted = cluster.eligible();
        wanted.insert(view.me.clone());
        self.alive.extend(wanted.iter().map(|name| (name.clone(), now)));
        for listed in cluster.failsafe.iter().flatten() {
            let seen = *self.alive.entry(listed.clone()).or_insert(now);
            // A member that is there and is not eligible has been barred by its own tags.
            if seen.elapsed() < view.settings.timing.ttl && !cluster.members.contains_key(listed) {
                wanted.insert(listed.clone());
            }
        }
        let reached = wanted.iter().filter_map(|name| Some((name.clone(), cluster.members.get(name)?.api_url.clone())));
        let reached: BTreeMap<MemberName, String> = reached.collect();
        // Where members are is not in the picture of the list, so the list itself is looked at once when one of them has moved.
        let known = self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if cluster.failsafe.as_ref() == Some(&wanted) && known == reached {
            return;
        }
        let (hands, looked_at) = (Arc::clone(&self.hands), Arc::clone(&self.reached));
        self.failsafe.begin(AGAIN_AFTER, async move {
            publish_list(&hands, term, wanted).await?;
            *looked_at.lock().unwrap_or_else(PoisonError::into_inner) = reached;
            Ok(())
        });
    }

    /// A primary that was restarted is no place for clients before this; where it lives on promises, etcd has no part in it.
    fn prove(&mut self, view: &View) {
        let server = view.postgres.now().map(|postgres| &postgres.server);
        let (Some(Server::Primary(primary)), Lock::Held { term, .. }) = (server, view.lock) else { return };
        if primary.marked_term == term && self.hands.recorder.awaits_proof() {
            let hands = Arc::clone(&self.hands);
            self.proof.begin(Duration::ZERO, async move {
                hands.instance.prove(term, PROOF_WITHIN).await?;
                hands.recorder.writable();
                Ok(())
            });
        }
    }

    fn leader(&mut self, view: &View, cluster: &Cluster, primary: &Primary, term: Term) {
        self.restore_identity(view, cluster, term);
        self.list_who_may_lead(view, cluster, term);
        let mode = cluster.sync.as_ref().map_or(Mode::Async, |sync| sync.mode);
        let every = if mode == Mode::Async { POSITION_EVERY_ASYNC } else { POSITION_EVERY };
        if primary.flushed != self.published {
            let (hands, lsn) = (Arc::clone(&self.hands), primary.flushed);
            let publish = async move { Ok(hands.store.write_status(hands.me(), term, lsn).await.map(|_| ())?) };
            if self.position.begin(every.max(view.settings.timing.heartbeat), publish) {
                self.published = lsn;
            }
        }
    }

    /// What a returning node needs of a new leader: where the timeline before ended, and a control file that shows the new one. It does not
    /// wait for the marker, for the marker may wait for that very node: with two nodes in `strict` mode there is no other voter.
    fn way_back(&mut self, cluster: &Cluster, primary: &Primary, term: Term) {
        if primary.control_timeline < primary.timeline {
            let hands = Arc::clone(&self.hands);
            self.checkpoint.begin(AGAIN_AFTER, async move { Ok(hands.instance.checkpoint(CHECKPOINT_WITHIN).await?) });
        }
        // The row names the timeline before, and numbers may have been skipped: it alone does not tell that it is mine.
        let told = self.history_of.load(Ordering::SeqCst) == primary.timeline.0 && !cluster.history.is_empty();
        if primary.timeline != Timeline(1) && !told {
            let (hands, timeline, told) = (Arc::clone(&self.hands), primary.timeline, Arc::clone(&self.history_of));
            self.history.begin(AGAIN_AFTER, async move {
                publish_history(&hands, timeline, term).await?;
                told.store(timeline.0, Ordering::SeqCst);
                Ok(())
            });
        }
    }
}

async fn publish_list(hands: &Hands, term: Term, wanted: BTreeSet<MemberName>) -> Result<()> {
    let seen = hands.store.read().await?;
    let listed = with_addresses(&seen, &wanted);
    let is_so = seen.cluster.failsafe.as_ref() == Some(&wanted) && seen.failsafe_urls == listed;
    if seen.cluster.term != term || is_so {
        return Ok(());
    }
    let revision = seen.cluster.failsafe_revision;
    hands.noting(move |promises| promises.reign.may_list(&seen, wanted)).await?;
    hands.store.write_failsafe(hands.me(), term, &listed, revision).await?;
    Ok(())
}

/// Those who may lead with where they are, as they say themselves; where they were, for those who are away.
fn with_addresses(seen: &Snapshot, wanted: &BTreeSet<MemberName>) -> BTreeMap<MemberName, String> {
    let url = |name: &MemberName| {
        let registered = seen.member_records.get(name).map(|record| record.api_url.clone());
        registered.or_else(|| seen.failsafe_urls.get(name).cloned()).unwrap_or_default()
    };
    wanted.iter().map(|name| (name.clone(), url(name))).collect()
}

/// Reads the records, and as the leader of term `mine` closes those whose own leader never came to do it.
async fn tend_records(hands: &Hands, mine: Option<Term>) -> Result<()> {
    reload(&hands.store, &hands.ledger).await?;
    let Some(term) = mine else { return Ok(()) };
    let abandoned = |record: &Transition| record.outcome == "in_progress" && record.term_after < term.0;
    for record in hands.ledger.all().into_iter().filter(abandoned) {
        let close = |record: &mut Transition| {
            record.outcome = "failed".into();
            record.notes.push(format!("cut off: the next reign is term {term}"));
        };
        hands.store.amend_transition(&record.id, close).await?;
    }
    Ok(())
}

/// Publishes where the timeline before this leader's ended: every returning node needs it to know whether it has diverged.
async fn publish_history(hands: &Hands, timeline: Timeline, term: Term) -> Result<()> {
    let forks = hands.instance.local_history(timeline)?;
    let row = |fork: &Fork| HistoryRow {
        timeline: fork.timeline,
        ended_at: fork.ended_at,
        reason: "no recovery target specified".into(),
        timestamp: None,
        new_leader: None,
    };
    let (last, before) = forks.split_last().context("the history file names no timeline")?;
    let timestamp = Some(jiff::Timestamp::now().to_string());
    let mine = HistoryRow { timestamp, new_leader: Some(hands.me().clone()), ..row(last) };
    let ancestors: Vec<HistoryRow> = before.iter().map(row).collect();
    hands.store.append_history(hands.me(), term, &ancestors, &mine).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::records::MemberRecord;

    #[test]
    fn the_list_says_where_members_are_now_and_where_those_who_are_away_were() {
        let name = |text: &str| MemberName::new(text).expect("good name");
        let at = |url: &str| MemberRecord { api_url: url.to_owned(), ..MemberRecord::default() };
        let registered = [(name("pg1"), at("one")), (name("pg2"), at("moved"))].into();
        let before = [(name("pg2"), "old".to_owned()), (name("pg3"), "three".to_owned())].into();
        let mut seen = Snapshot::default();
        (seen.member_records, seen.failsafe_urls) = (registered, before);
        let listed = with_addresses(&seen, &["pg1", "pg2", "pg3"].map(name).into());
        assert_eq!(listed.into_values().collect::<Vec<_>>(), ["one", "moved", "three"]);
    }
}
