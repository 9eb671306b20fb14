//! The clock of what is scheduled. Whoever leads looks once a second at what it has on its board, and when something is due, at the world: what may begin
//! is moved to where such things are carried out, what may not waits, and what could not begin in its window is dropped with a record that says why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use consensus::records::{Planned, PlannedRestart, PlannedSwitchover, Scheduled};
use consensus::{Begin, Condition, Outcome, Snapshot, Subject};
use decision::names::{MemberName, Term};
use decision::schedule::Turn;
use jiff::Timestamp;

use crate::hands::Hands;
use crate::operate::hold::{told, under_way};
use crate::operate::orders::waits_for_restart;
use crate::operate::proviso::Proviso;
use crate::operate::schedule::turn::{of_restart, of_switchover};
use crate::operate::schedule::{between, not_begun};
use crate::operate::world::Reach;
use crate::published::Board;
use crate::task::crash_point;
use crate::transitions::{EXPIRED, LEADER_CHANGED, NOT_NEEDED};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const CAME_BETWEEN: &str = "something else was asked for, begun or changed at the same moment";

/// Sees to what is scheduled, while this node leads.
pub struct Scheduler {
    hands: Arc<Hands>,
    board: Arc<Board>,
    reach: Arc<Reach>,
    /// What each waits for that is due, by its revision.
    waiting: BTreeMap<i64, String>,
}

/// The reign in whose name something begins, or is dropped.
struct Reign<'a> {
    me: &'a MemberName,
    term: Term,
    seen: &'a Snapshot,
    now: Timestamp,
}

impl Scheduler {
    /// One that has not looked yet.
    pub fn new(hands: Arc<Hands>, board: Arc<Board>, reach: Arc<Reach>) -> Self {
        Self { hands, board, reach, waiting: BTreeMap::new() }
    }

    /// Goes on for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.look().await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "what is scheduled could not be seen to, and will be again"
                );
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        let (term, scheduled) = {
            let picture = self.board.load();
            let scheduled = picture.snapshot.as_ref().map(|snapshot| snapshot.scheduled.clone()).unwrap_or_default();
            (picture.leads(), scheduled)
        };
        let hands = Arc::clone(&self.hands);
        let me = hands.me();
        let Some(term) = term.filter(|_| is_due(&scheduled, me, Timestamp::now())) else {
            self.waiting.clear();
            return Ok(());
        };
        let world = self.reach.look().await;
        let seen = world.etcd.as_ref().map_err(|why| anyhow::anyhow!("etcd does not answer: {why}"))?;
        if seen.cluster.leader.as_ref() != Some(me) || seen.cluster.term != term {
            return Ok(());
        }
        let reign = Reign { me, term, seen, now: Timestamp::now() };
        if let Some(planned) = &seen.scheduled.switchover {
            let (turn, preflight) = of_switchover(&world, seen, planned, reign.now);
            self.switchover(&reign, planned, turn, preflight.candidate).await?;
        }
        // Each as it is after the one before: of two nodes that are to be restarted at the same time one waits for the other.
        for of in seen.scheduled.restarts.keys() {
            let seen = &self.reach.store.read().await?;
            let reign = Reign { me, term, seen, now: Timestamp::now() };
            if let Some(planned) = seen.scheduled.restarts.get(of) {
                self.restart(&reign, of, planned).await?;
            }
        }
        Ok(())
    }

    async fn switchover(
        &mut self,
        reign: &Reign<'_>,
        planned: &Planned<PlannedSwitchover>,
        turn: Turn,
        candidate: Option<MemberName>,
    ) -> Result<()> {
        let turn = if turn == Turn::Begins { self.unless_under_way(reign).await? } else { turn };
        if turn == Turn::Begins {
            let to = candidate.context("the checks have passed, so there is a candidate")?;
            let proviso = Proviso { ignore_hold: planned.record.schedule.ignore_hold, ..Proviso::default() };
            let Ok(pass) = proviso.planned(reign.seen, reign.now) else { return Ok(()) };
            let begin = Begin::Switchover(planned.request(&to, pass.ignored));
            return self.begin(reign, &begin, planned.revision, &pass.condition).await;
        }
        let window = between(&planned.record.schedule);
        self.not_yet(reign, &Subject::Switchover, (planned.revision, &window), turn).await
    }

    async fn restart(&mut self, reign: &Reign<'_>, of: &MemberName, planned: &Planned<PlannedRestart>) -> Result<()> {
        let subject = Subject::Restart(of.clone());
        let turn = match of_restart(reign.seen, of, planned, reign.now) {
            Turn::Begins => self.unless_under_way(reign).await?,
            turn => turn,
        };
        if turn != Turn::Begins {
            let window = between(&planned.record.schedule);
            return self.not_yet(reign, &subject, (planned.revision, &window), turn).await;
        }
        if planned.record.only_pending && !waits_for_restart(reign.seen, of) {
            let why = format!("no parameter waits for a restart of {of}");
            return self.drop(reign, &subject, planned.revision, NOT_NEEDED, why).await;
        }
        let proviso = Proviso { ignore_hold: planned.record.schedule.ignore_hold, ..Proviso::default() };
        let Ok(pass) = proviso.planned(reign.seen, reign.now) else { return Ok(()) };
        let begin = Begin::Restart(of.clone(), planned.order(pass.ignored));
        self.begin(reign, &begin, planned.revision, &pass.condition).await
    }

    /// One server at a time.
    async fn unless_under_way(&self, reign: &Reign<'_>) -> Result<Turn> {
        let (records, _) = self.reach.store.transitions().await?;
        let going_on = under_way(&records, reign.seen, reign.now);
        Ok(going_on.map_or(Turn::Begins, |record| Turn::Waits(told(record))))
    }

    async fn begin(&mut self, reign: &Reign<'_>, begin: &Begin, revision: i64, condition: &Condition) -> Result<()> {
        crash_point("schedule", "before");
        let by = (reign.me, reign.term);
        let moved = self.reach.store.begin_planned(by, begin, revision, condition, reign.seen).await?;
        crash_point("schedule", "after");
        if moved.applied() {
            tracing::info!(id = consensus::records::planned_id(revision), ?begin, "what was scheduled begins");
        }
        after_begin(&mut self.waiting, revision, moved);
        Ok(())
    }

    /// What does not begin now waits, or is dropped.
    async fn not_yet(
        &mut self,
        reign: &Reign<'_>,
        subject: &Subject,
        (revision, window): (i64, &str),
        turn: Turn,
    ) -> Result<()> {
        match turn {
            Turn::Ahead | Turn::Begins => Ok(()),
            Turn::Waits(why) => {
                if self.waiting.insert(revision, why.clone()).is_none() {
                    tracing::warn!(?subject, why, "what is scheduled is due, and waits");
                }
                Ok(())
            }
            Turn::Expired(obstacle) => {
                let why = why_not(obstacle, self.waiting.get(&revision));
                self.drop(reign, subject, revision, EXPIRED, format!("it could not begin {window}: {why}")).await
            }
            Turn::LeaderChanged(leader) => {
                let planned = reign.seen.scheduled.switchover.as_ref();
                let before = planned.map_or("another".to_owned(), |planned| planned.record.leader.to_string());
                let why = format!("it was asked for while {before} led, and {leader} leads by now");
                self.drop(reign, subject, revision, LEADER_CHANGED, why).await
            }
        }
    }

    async fn drop(
        &mut self,
        reign: &Reign<'_>,
        subject: &Subject,
        revision: i64,
        cause: &str,
        why: String,
    ) -> Result<()> {
        let Some(record) = not_begun(reign.seen, subject, cause, why) else { return Ok(()) };
        let dropped = self.reach.store.drop_planned((reign.me, reign.term), subject, revision, &record).await?;
        if dropped.applied() {
            self.waiting.remove(&revision);
            tracing::warn!(id = record.id, ?subject, why = record.cause_text, "what was scheduled is dropped");
        }
        Ok(())
    }
}

/// What has come of moving it: it does not wait any more, or it does for what came between the look at the world and that.
fn after_begin(waiting: &mut BTreeMap<i64, String>, revision: i64, moved: Outcome) {
    if moved.applied() {
        waiting.remove(&revision);
    } else if waiting.insert(revision, CAME_BETWEEN.to_owned()).is_none() {
        let id = consensus::records::planned_id(revision);
        tracing::warn!(id, why = CAME_BETWEEN, "what is scheduled is due, and waits");
    }
}

/// Why it could not begin: what is in the way, or else what it has waited for last.
fn why_not(obstacle: Option<String>, waited_for: Option<&String>) -> String {
    let obstacle = obstacle.or_else(|| waited_for.cloned());
    obstacle.unwrap_or_else(|| "nobody led who could have begun it".to_owned())
}

/// Whether there is something to be done about any of it, under this leader.
fn is_due(scheduled: &Scheduled, me: &MemberName, now: Timestamp) -> bool {
    let now_ms = now.as_millisecond();
    let switchover =
        scheduled.switchover.iter().map(|planned| (&planned.record.schedule, Some(&planned.record.leader)));
    let restarts = scheduled.restarts.values().map(|planned| (&planned.record.schedule, None));
    switchover.chain(restarts).any(|(schedule, under)| schedule.due(under).turn(now_ms, Some(me), None) != Turn::Ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_between_each_time_is_why_it_has_expired() {
        let mut waiting = BTreeMap::new();
        for (moved, obstacle, says) in [
            (Outcome::Refused, None, CAME_BETWEEN),
            (Outcome::Refused, Some("planned actions are held"), "planned actions are held"),
            (Outcome::Applied { revision: 9 }, None, "nobody led"),
        ] {
            after_begin(&mut waiting, 7, moved);
            let why = why_not(obstacle.map(str::to_owned), waiting.get(&7));
            assert!(why.starts_with(says), "{moved:?}: {why}");
        }
    }
}
