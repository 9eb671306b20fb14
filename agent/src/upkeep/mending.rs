//! What somebody has put nonsense in the place of, and an agent puts right: the lock, the term and the durability record by what stood there before, the
//! passwords between members by what the leader knows. What else a leader owns has its own file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use consensus::{Holder, Mend, Nonsense, Outcome, Snapshot};
use decision::durability::{Quorum, covered, ending_with};
use decision::names::{MemberName, Term, Timeline};
use decision::settings::Mode;
use decision::view::{Initialize, Lock, Primary, Server, SyncRecord, View};

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;
use crate::passwords::to_publish;
use crate::promises::Ground;

/// Whose Postgres is no primary leaves it to the one whose is for so long.
const TO_THE_PRIMARY: Duration = Duration::from_secs(1);
/// Whose Postgres is no primary can put a record back only if it led last, and then nothing is in a hurry.
const RECORD_OF_ANOTHER: Duration = Duration::from_secs(10);

/// The keys of a reign, as they were last read, for when nobody can read them any more.
pub struct Mending {
    hands: Arc<Hands>,
    chore: Chore,
    last: Option<SyncRecord>,
    since: Option<(Nonsense, Instant)>,
}

/// What this node knows of its own reign, where it runs.
#[derive(Clone, Debug)]
struct Own {
    record: SyncRecord,
    /// That its lock is bound to.
    lease: i64,
}

/// What this node knows beside what etcd remembers.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Of its own reign, if that lasts as far as it can tell.
    own: Option<Own>,
    /// Every quorum of the term of the primary here that may be in force, seen or noted on disk, and the strictest mode.
    noted: Option<SyncRecord>,
    /// What Postgres waits for, and the term in whose names.
    running: Option<(Quorum, Term)>,
}

impl Mending {
    /// Nothing has been read.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("nonsense in the place of the keys of a reign"), last: None, since: None }
    }

    /// Remembers what is good, and has put right what is not.
    pub fn see(&mut self, view: &View, seen: &Arc<Snapshot>) {
        self.last = remembered(self.last.take(), seen, self.hands.me());
        let nonsense = seen.nonsense;
        if nonsense.is_empty() {
            self.since = None;
            return;
        }
        let primary = view.postgres.now().and_then(|postgres| match &postgres.server {
            Server::Primary(primary) => Some(primary),
            _ => None,
        });
        // Whose marker is in the WAL knows it without `initialize`, which is put right by the leader alone, and under the term.
        let marked = primary.is_some_and(|primary| primary.marked_term > Term(0));
        let initialized = marked || matches!(seen.cluster.initialize, Initialize::Done(_));
        // Where no term was ever given out the keys are not ours; another system may keep its own there.
        if !initialized || (nonsense.term == 0 && seen.cluster.term == Term(0)) {
            self.since = None;
            return;
        }
        let known = self.since.filter(|(before, _)| *before == nonsense);
        let (_, since) = *self.since.insert(known.unwrap_or((nonsense, Instant::now())));
        if primary.is_none() && since.elapsed() < TO_THE_PRIMARY {
            return;
        }
        let known = primary.map(|primary| self.known(view, primary)).unwrap_or_default();
        let record_alone = nonsense.leader == 0 && nonsense.term == 0;
        let every = if primary.is_none() && record_alone { RECORD_OF_ANOTHER } else { AGAIN_AFTER };
        let (hands, seen) = (Arc::clone(&self.hands), Arc::clone(seen));
        self.chore.begin(every, async move { put_right(&hands, seen, known).await });
    }

    /// **Invariant: Postgres waits only for what a record says that this node has seen.** So the record that was seen last covers everything
    /// that has been acknowledged, whatever was written over it since; and so do all those together that are noted on disk for the promises.
    fn known(&self, view: &View, primary: &Primary) -> Known {
        let me = self.hands.me();
        let held = matches!(view.lock, Lock::Held { left, .. } if !left.is_zero());
        let on_disk = || of_ground(&self.hands.promises.reign.ground()?, me, primary.timeline);
        let noted = self.last.clone().or_else(on_disk).filter(|record| {
            record.leader == *me && record.term == primary.marked_term && record.timeline == primary.timeline
        });
        // A record under which the lock was to move is nobody's to write anew.
        let goes_on = |record: &&SyncRecord| !record.released && record.heir.is_none() && !record.follows;
        let lease = self.hands.authority.lease().filter(|_| held);
        let own = noted.as_ref().filter(goes_on).zip(lease);
        let own = own.map(|(record, lease)| Own { record: record.clone(), lease });
        Known { own, noted, running: primary.waits_for.clone() }
    }
}

/// The record of the reign of `me`, as long as nothing says that it is over.
fn remembered(last: Option<SyncRecord>, seen: &Snapshot, me: &MemberName) -> Option<SyncRecord> {
    let (nonsense, cluster) = (seen.nonsense, &seen.cluster);
    let last = if nonsense.sync == 0 { cluster.sync.clone() } else { last };
    let term_passed = |record: &SyncRecord| nonsense.term == 0 && record.term != cluster.term;
    let led_by_another = cluster.leader.as_ref().is_some_and(|leader| leader != me);
    last.filter(|record| record.leader == *me && !term_passed(record) && !led_by_another)
}

fn strictness(mode: Mode) -> u8 {
    match mode {
        Mode::Async => 0,
        Mode::Auto | Mode::Quorum => 1,
        Mode::Strict => 2,
    }
}

/// The record of a reign of which only that is known which a leader notes for the promises: every quorum that may be in force, and the strictest mode.
fn of_ground(ground: &Ground, me: &MemberName, timeline: Timeline) -> Option<SyncRecord> {
    let mode = ground.records.iter().map(|record| record.mode).max_by_key(|mode| strictness(*mode))?;
    let mut policies = Vec::new();
    for quorum in ground.records.iter().flat_map(|record| &record.policies) {
        policies = ending_with(&policies, quorum);
    }
    (!policies.is_empty()).then(|| SyncRecord::of_reign(me.clone(), ground.term, mode, policies, timeline))
}

/// Whether something that can be read says that this reign lasts, and nothing says that it does not. The lock under this very lease does, for a
/// later reign would have taken it under its own; and a term below this reign's, of an etcd that was restored from a backup, says nothing of a later one.
fn is_vouched_for(seen: &Snapshot, own: &Own) -> bool {
    let (nonsense, cluster) = (seen.nonsense, &seen.cluster);
    let of_this_reign = |sync: &SyncRecord| sync.leader == own.record.leader && sync.term == own.record.term;
    let says = [
        (nonsense.term == 0 && cluster.term >= own.record.term).then(|| cluster.term == own.record.term),
        (nonsense.sync == 0).then(|| cluster.sync.as_ref().is_some_and(of_this_reign)),
        (nonsense.leader == 0)
            .then(|| cluster.leader.as_ref() == Some(&own.record.leader) && seen.leader_lease == own.lease),
    ];
    says.contains(&Some(true)) && !says.contains(&Some(false))
}

/// What `me` may put back of what stood there before; where etcd does not remember it, what this node knows of its own reign, if that lasts.
///
/// The lock and the term are anybody's to put back: they are a name and a number. A record that this version cannot read may be a newer one's, so
/// that is put back by its leader alone, who has not written what it cannot read, unless by a newer version in an earlier life.
///
/// **Invariant: a record that is put back promises no less than the one that it follows.** What a leader of whatever version has promised it has noted
/// before, so the quorums and the mode of those notes are put back with it. Where there are none, only the value right below the nonsense will do.
fn to_put_back(me: &MemberName, seen: &Snapshot, before: Mend, known: &Known) -> Mend {
    let (nonsense, mut mend) = (seen.nonsense, before);
    let vouched = known.own.as_ref().filter(|own| is_vouched_for(seen, own));
    let remembered = mend.sync.is_some();
    if let Some(own) = vouched {
        let (lock, record) = (|| Holder::Member(me.clone(), own.lease), || own.record.clone());
        mend.leader = mend.leader.or_else(|| (nonsense.leader != 0).then(lock));
        mend.term = mend.term.or_else(|| (nonsense.term != 0).then_some(own.record.term));
        mend.sync = mend.sync.or_else(|| (nonsense.sync != 0).then(record));
    }
    let term = if nonsense.term == 0 { Some(seen.cluster.term) } else { mend.term };
    let another_leads = match &mend.leader {
        Some(Holder::Member(name, _)) => name != me,
        Some(Holder::Nobody) | None => seen.cluster.leader.as_ref().is_some_and(|leader| leader != me),
    };
    // The leader of an etcd that went back knows a later term than is there.
    let of_term = |sync: &SyncRecord| Some(sync.term) == term || (!remembered && Some(sync.term) > term);
    mend.sync = mend.sync.filter(|sync| sync.leader == *me && of_term(sync) && !another_leads);
    let noted = |sync: &SyncRecord| known.noted.clone().filter(|noted| noted.term == sync.term);
    let is_behind = mend.sync_is_behind;
    mend.sync = mend.sync.filter(|sync| !is_behind || noted(sync).is_some());
    if let Some(sync) = &mut mend.sync {
        if let Some(noted) = noted(sync) {
            promise_as_well(sync, &noted);
        }
        if let Some((quorum, _)) = known.running.as_ref().filter(|(_, of_term)| *of_term == sync.term)
            && !covered(&sync.policies, quorum)
        {
            sync.policies = ending_with(&sync.policies, quorum);
        }
    }
    mend
}

/// Adds what is noted and not in the record, which goes on waiting for what it waited for.
fn promise_as_well(sync: &mut SyncRecord, noted: &SyncRecord) {
    let waits_for = sync.policies.last().cloned();
    for quorum in noted.policies.iter().filter(|quorum| !covered(&sync.policies, quorum)).collect::<Vec<_>>() {
        sync.policies = ending_with(&sync.policies, quorum);
    }
    if let Some(last) = waits_for {
        sync.policies = ending_with(&sync.policies, &last);
    }
    if strictness(noted.mode) > strictness(sync.mode) {
        sync.mode = noted.mode;
    }
}

async fn put_right(hands: &Hands, seen: Arc<Snapshot>, known: Known) -> Result<()> {
    let before = hands.store.before_nonsense(&seen).await?;
    let mend = to_put_back(hands.me(), &seen, before, &known);
    if mend.is_empty() {
        return Ok(());
    }
    if let Some(sync) = &mend.sync {
        let (seen, mode, policies) = (Arc::clone(&seen), sync.mode, sync.policies.clone());
        hands.noting(move |promises| promises.reign.may_record(&seen, mode, policies)).await?;
    }
    if let Outcome::Applied { .. } = hands.store.put_right(&seen, &mend).await? {
        let keys = seen.cluster.unreadable.keys().join(", ");
        tracing::warn!(keys, leader = ?mend.leader, term = ?mend.term, record = ?mend.sync,
            "somebody has put nonsense in the place of keys in etcd: what stood there before has been put back");
    }
    Ok(())
}

/// Nobody could join a cluster whose passwords nobody can read. What stood there before is what members without a file go by, whatever file the leader
/// has; where etcd has forgotten it, what the leader knows.
pub async fn passwords(hands: &Hands, term: Term) -> Result<()> {
    let key = hands.store.keys().replication_secrets();
    let Some(problem) = hands.ledger.problems().into_iter().find(|problem| problem.key == key) else { return Ok(()) };
    let secrets = match hands.store.secrets_before(problem.revision).await? {
        Some(before) => Some(before),
        None => match hands.instance.secrets() {
            Ok(known) => to_publish(&hands.config.postgres, &known)?,
            Err(_) => None,
        },
    };
    let Some(secrets) = secrets else { return Ok(()) };
    tracing::warn!(key, "somebody has put nonsense in the place of the passwords between members: writing them anew");
    hands.store.put_secrets_right(hands.me(), term, &secrets, problem.revision).await?;
    Ok(())
}

#[cfg(test)]
#[path = "mending_tests.rs"]
mod tests;
