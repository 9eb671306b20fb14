//! Chores beside the decisions: the checkpoint after a promotion, the leader's published position, the history of timelines, the old
//! copies of a data directory, the records of transitions. Each runs in the background, one at a time, and may fail and come again.
//! Here is when each has its turn; a file a subject says what it does.

mod departures;
mod frozen;
mod identity;
mod listed;
mod mending;
mod pauses;
mod reigning;
mod returning;
mod site;
mod standby;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::begun::Begun;
use crate::chore::Chore;
use crate::hands::Hands;
use crate::look::LastLook;
use crate::recorder::{KEPT_RECORDS, reload};
use crate::transitions::{REFUSED, close as close_record};
use anyhow::Result;
use consensus::Snapshot;
use consensus::records::Transition;
use decision::names::{MemberName, Term};
use decision::view::{Initialize, Lock, Primary, Server, View};

use departures::Departures;
use frozen::Frozen;
use identity::Identity;
use listed::Listed;
use mending::Mending;
use pauses::Pauses;
use reigning::Reigning;
use returning::WayBack;
use site::AnotherSite;
use standby::AsStandby;

/// A chore that failed waits this long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often the length of the log of Postgres is looked at.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The chores of one agent.
pub struct Upkeep {
    hands: Arc<Hands>,
    log: Chore,
    secrets: Chore,
    records: Chore,
    recorded_at: i64,
    identity: Identity,
    listed: Listed,
    mending: Mending,
    departures: Departures,
    pauses: Pauses,
    reigning: Reigning,
    way_back: WayBack,
    standby: AsStandby,
    another_site: AnotherSite,
    frozen: Frozen,
}

impl Upkeep {
    /// The chores of the agent behind `hands`.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            log: Chore::new("log of Postgres"),
            secrets: Chore::new("passwords between members"),
            records: Chore::new("transition records"),
            recorded_at: 0,
            identity: Identity::new(Arc::clone(&hands)),
            listed: Listed::new(Arc::clone(&hands)),
            mending: Mending::new(Arc::clone(&hands)),
            departures: Departures::new(Arc::clone(&hands)),
            pauses: Pauses::new(Arc::clone(&hands)),
            reigning: Reigning::new(Arc::clone(&hands)),
            way_back: WayBack::new(Arc::clone(&hands)),
            standby: AsStandby::new(Arc::clone(&hands)),
            another_site: AnotherSite::new(Arc::clone(&hands)),
            frozen: Frozen::new(Arc::clone(&hands)),
            hands,
        }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, view: &View, seen: Option<&Arc<Snapshot>>, look: &LastLook) {
        let (extras, upstream_lacks) = (look.extras.as_ref(), &look.upstream_lacks);
        let reign = reign(view);
        if runs(view) {
            let instance = self.hands.instance.clone();
            self.log.begin(LOG_EVERY, async move { bound_log(instance).await });
        }
        if let Some((primary, term)) = reign {
            self.reigning.prove(primary, term);
        }
        if let Some(extras) = extras.filter(|_| !view.settings.paused) {
            self.frozen.end(view, extras);
            if let Some((primary, term)) = reign {
                self.reigning.keep_own(primary, term, extras.equipped);
            }
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
            let here = Here { idle: view.job.is_none(), runs: runs(view) };
            if self.records.begin(AGAIN_AFTER, async move { tend_records(&hands, mine, here).await }) {
                self.recorded_at = cluster.revision;
            }
        }
        // Whoever leads has nothing of the kind: what is there instead of the identity, nobody can read.
        if cluster.initialize == Initialize::InProgress && view.job.is_none() && reign.is_none() {
            self.identity.give_up_unfinished_bootstrap();
        }
        if let Some(seen) = seen {
            self.mending.see(view, seen);
        }
        let Some(postgres) = view.postgres.now() else { return };
        if let Some((primary, term)) = reign {
            let marked = primary.marked_term == term;
            // The marker is not made to wait behind these, but it does not hold them up either.
            if marked || view.ages.reign.is_some_and(|reign| reign >= view.settings.timing.heartbeat) {
                self.way_back.prepare(cluster, primary, term);
            }
            if marked {
                self.reigning.account(cluster, term);
                self.identity.restore(postgres, cluster, term);
                self.listed.keep(view, cluster, term);
                self.departures.see(cluster, term);
                seen.iter().for_each(|seen| self.pauses.see(seen));
                self.reigning.publish_position(view, cluster, primary, term);
            }
        }
        self.standby.see(view, cluster, &postgres.server, upstream_lacks);
        self.another_site.see(view, cluster, &postgres.server, &look.remote);
    }
}

/// The primary that leads here, and its term.
fn reign(view: &View) -> Option<(&Primary, Term)> {
    match (&view.postgres.now()?.server, view.lock) {
        (Server::Primary(primary), Lock::Held { term, .. }) => Some((primary, term)),
        _ => None,
    }
}

/// What goes on here.
#[derive(Clone, Copy)]
struct Here {
    /// No job is under way.
    idle: bool,
    /// A server runs.
    runs: bool,
}

/// A server runs here, and is not in the middle of anything.
fn runs(view: &View) -> bool {
    let server = view.postgres.now().map(|postgres| &postgres.server);
    matches!(server, Some(Server::Primary(_) | Server::Standby(_)))
}

/// On a thread of its own, for the disk may hang.
async fn bound_log(instance: pg_control::Instance) -> Result<()> {
    if tokio::task::spawn_blocking(move || instance.bound_log()).await?? {
        tracing::info!("postgres.log had grown large: it is in postgres.log.1 now, and begins anew");
    }
    Ok(())
}

/// Reads the records; closes those of orders to this node that an earlier life of this agent has begun, and as the leader of term `mine` those whose own
/// leader never came to do it.
async fn tend_records(hands: &Hands, mine: Option<Term>, here: Here) -> Result<()> {
    reload(&hands.store, &hands.ledger).await?;
    let cut_off = |record: &Transition| was_cut_off(record, hands.me(), &hands.begun, here);
    for record in hands.ledger.all().into_iter().filter(cut_off) {
        let close = |record: &mut Transition| close_cut_off(record, &hands.begun);
        hands.store.amend_transition(&record.id, close).await?;
    }
    let Some(term) = mine else { return Ok(()) };
    mending::passwords(hands, term).await?;
    if hands.ledger.count() > KEPT_RECORDS {
        // Here alone: whoever writes a record need not count the others.
        hands.store.prune_transitions(KEPT_RECORDS).await?;
    }
    // A refusal ends with the reign that follows it, and whoever has told of it says so.
    let abandoned =
        |record: &Transition| record.outcome == "in_progress" && record.kind != REFUSED && record.term_after < term.0;
    for record in hands.ledger.all().into_iter().filter(abandoned) {
        let close = |record: &mut Transition| {
            close_record(record, Some(hands.me()), format!("cut off: the next reign is term {term}"));
        };
        hands.store.amend_transition(&record.id, close).await?;
    }
    Ok(())
}

/// Whether this is an order to this node that an earlier life of this agent has begun and will not finish. A copy that was cut off is made all the same,
/// and is under way until the server runs.
fn was_cut_off(record: &Transition, me: &MemberName, begun: &Begun, here: Here) -> bool {
    let mine = [&record.from, &record.to].iter().all(|name| name.as_deref() == Some(me.as_str()));
    let ordered = record.kind == "restart" || (record.kind == "reinit" && here.runs);
    record.outcome == "in_progress" && mine && ordered && here.idle && !begun.has_order(&record.id)
}

/// Closes the record of an order that was cut off, or never came to its beginning. Whoever finds a copy begun makes it anew, and what this life has copied is newer than an order that an
/// earlier one has begun; whether the earlier one came to touch the data, nobody knows.
fn close_cut_off(record: &mut Transition, begun: &Begun) {
    if record.outcome != "in_progress" {
        return;
    }
    if begun.is_not_taken(&record.id) {
        let why = "nothing was done: etcd's answer to the beginning was lost; ask again";
        return close_record(record, None, why.to_owned());
    }
    let why = match (record.kind.as_str(), begun.copied()) {
        ("reinit", true) => {
            record.outcome = "done".to_owned();
            record.notes.push("the agent ended meanwhile, and the next one has made the copy".to_owned());
            return;
        }
        ("reinit", false) => {
            "cut off: the agent ended meanwhile; the server runs, on a copy or on the data that was here before: pgvigil status tells how it is"
        }
        _ => "cut off: the agent ended meanwhile, and another one has taken over",
    };
    close_record(record, None, why.to_owned());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_an_earlier_life_has_begun_is_closed_and_no_other() {
        let record = |kind: &str, of: &str| Transition {
            kind: kind.to_owned(),
            from: Some(of.to_owned()),
            to: Some(of.to_owned()),
            ..Transition::default()
        };
        let (me, begun) = (MemberName::new("pg1").unwrap(), Begun::default());
        begun.order("o-7");
        let (busy, stopped, at_work) =
            (Here { idle: false, runs: true }, Here { idle: true, runs: false }, Here { idle: true, runs: true });
        for (record, here, is) in [
            (record("restart", "pg1"), stopped, true),
            (record("restart", "pg1"), at_work, true),
            (record("restart", "pg1"), busy, false),
            (Transition { id: "o-7".to_owned(), ..record("restart", "pg1") }, stopped, false),
            (Transition { id: "o-6".to_owned(), ..record("restart", "pg1") }, stopped, true),
            (record("restart", "pg2"), at_work, false),
            (record("reinit", "pg1"), stopped, false),
            (record("reinit", "pg1"), at_work, true),
            (record("reinit", "pg1"), busy, false),
            (record("switchover", "pg1"), at_work, false),
            (Transition { outcome: "done".to_owned(), ..record("restart", "pg1") }, at_work, false),
            (Transition { to: Some("pg2".to_owned()), ..record("restart", "pg1") }, at_work, false),
        ] {
            assert_eq!(was_cut_off(&record, &me, &begun, here), is, "{record:?}");
        }
    }

    #[test]
    fn a_copy_that_the_next_life_has_made_is_done_and_nothing_is_said_of_another() {
        let (nothing, copied) = (Begun::default(), Begun::default());
        copied.has_copied();
        copied.was_not_taken("o-8");
        for (id, kind, outcome, begun, becomes, says) in [
            ("o-7", "reinit", "in_progress", &copied, "done", "the next one has made the copy"),
            ("o-8", "reinit", "in_progress", &copied, "failed", "nothing was done"),
            ("o-7", "reinit", "in_progress", &nothing, "failed", "pgvigil status"),
            ("o-7", "restart", "in_progress", &copied, "failed", "another one has taken over"),
            ("o-8", "reinit", "refused", &copied, "refused", ""),
        ] {
            let (id, kind, outcome) = (id.to_owned(), kind.to_owned(), outcome.to_owned());
            let mut record = Transition { id, kind, outcome, ..Transition::default() };
            close_cut_off(&mut record, begun);
            assert_eq!(record.outcome, becomes, "{record:?}");
            assert!(record.notes.join("; ").contains(says), "{record:?}");
        }
    }
}
