//! One round: a whole cluster under its writers, a fault, the mend, and the judgement on what the writers saw.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use decision::settings::Mode;

use crate::audit::audit;
use crate::blow::{Blow, Mend};
use crate::dice::Dice;
use crate::fault::{Back, Fault, Step, Target};
use crate::ledger::{Row, Split, silence, splits};
use crate::stage::{Stage, standing};
use crate::system::{Recorded, System};

/// How long writers work before the fault.
const STEADY: Duration = Duration::from_millis(700);
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// Writes are back when rows flow for this long.
const FLOWING: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);
/// How long a transition may take to be written down after all is whole again.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3);
/// Writes that nobody interrupts are further apart only where the machine is busy.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// The system's own record and what the writers saw may differ so much before it is a fault of its own: machines are busy.
const OFF_BY_MS: f64 = 1000.0;

/// What came of a round.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Primary before and after, by name.
    pub led: (String, String),
    /// The longest time without an acknowledgement that began before the fault was made good.
    pub outage: Duration,
    /// How long the fault lasted before it was made good.
    pub lasted: Duration,
    /// The longest one after that, while all came back.
    pub later: Duration,
    /// What the system recorded less what the writers saw, where it recorded one outage.
    pub record_off_ms: Option<f64>,
    /// What it recorded meanwhile.
    pub recorded: Vec<Recorded>,
    /// Rows that were acknowledged.
    pub acknowledged: usize,
    /// Of these, rows that are missing on some node at the end.
    pub lost: usize,
    /// Reigns that acknowledged at the same time.
    pub splits: Vec<Split>,
    /// From the fault until commits waited for a standby again (in `async` mode: until one streamed).
    pub redundancy: Option<Duration>,
    /// What must not be, one sentence each.
    pub violations: Vec<String>,
}

/// Plays a fault on a system that is whole or soon will be, and leaves it whole.
///
/// # Errors
/// It cannot be played, or the system does not become whole again.
pub async fn play<S: System>(stage: &Stage<'_, S>, fault: &Fault, mode: Mode, dice: &mut Dice) -> Result<Outcome> {
    let primary = stage.whole(WHOLE_WITHIN).await.context("before the fault")?;
    let replicas: Vec<usize> = (0..stage.system.spots().len()).filter(|node| *node != primary).collect();
    let replica = replicas[dice.below(replicas.len())];
    let known: Vec<String> = stage.system.recorded().await.into_iter().map(|record| record.id).collect();
    let mark = stage.writers.ledger().len();
    tokio::time::sleep(STEADY).await;

    let mut round = Round::new(stage, fault, mode, primary, replica);
    round.run(dice).await?;
    let whole = stage.whole(WHOLE_WITHIN).await;
    round.redundancy().await;
    let now_primary = whole.context("after the fault")?;
    tokio::time::sleep(FLOWING).await;

    let rows = stage.writers.ledger().since(mark);
    let others: Vec<_> = stage.system.spots().iter().enumerate().filter(|(node, _)| *node != now_primary).collect();
    let others: Vec<_> = others.into_iter().map(|(_, spot)| spot).collect();
    let found = audit(&stage.system.spots()[now_primary], &others, &rows).await.context("counting the rows")?;
    let recorded = recorded(stage.system, &known).await;
    Ok(round.judge(now_primary, &rows, found.lost.len(), recorded))
}

/// What has been recorded beside what is known. What is not finished yet would be taken for the next round's.
async fn recorded<S: System>(system: &S, known: &[String]) -> Vec<Recorded> {
    let begin = Instant::now();
    loop {
        let all = system.recorded().await.into_iter().filter(|record| !known.contains(&record.id));
        let (finished, unfinished): (Vec<_>, Vec<_>) = all.partition(|record| record.finished);
        if unfinished.is_empty() || begin.elapsed() > WRITTEN_WITHIN {
            return finished;
        }
        tokio::time::sleep(POLL).await;
    }
}

struct Round<'a, 's, S> {
    stage: &'a Stage<'s, S>,
    fault: &'a Fault,
    mode: Mode,
    primary: usize,
    replica: usize,
    struck: Instant,
    mended: Instant,
    redundancy: Option<Duration>,
    violations: Vec<String>,
}

impl<'a, 's, S: System> Round<'a, 's, S> {
    fn new(stage: &'a Stage<'s, S>, fault: &'a Fault, mode: Mode, primary: usize, replica: usize) -> Self {
        let now = Instant::now();
        Self {
            stage,
            fault,
            mode,
            primary,
            replica,
            struck: now,
            mended: now,
            redundancy: None,
            violations: Vec::new(),
        }
    }

    /// Strikes, waits, makes good.
    async fn run(&mut self, dice: &mut Dice) -> Result<()> {
        let (mut at, mut course) = (Duration::ZERO, Vec::new());
        for step in &self.fault.steps {
            at += step.after.0 + dice.fraction_of(step.after.1 - step.after.0);
            course.push((at, *step));
        }
        self.struck = Instant::now();
        let (stage, primary, replica, struck) = (self.stage, self.primary, self.replica, self.struck);
        let by_hand = |step: &Step| step.blow == Blow::SwitchOver;
        let switched = Cell::new(!course.iter().any(|(_, step)| by_hand(step)));
        let switching = async {
            let mut said = Ok(());
            for (at, step) in course.iter().filter(|(_, step)| by_hand(step)) {
                tokio::time::sleep_until((struck + *at).into()).await;
                let done =
                    tokio::time::timeout(stage.system.patience(), step.blow.strike(stage, primary, replica)).await;
                said = done.context("the switchover takes too long").and_then(|done| done.map(drop));
            }
            switched.set(true);
            said
        };
        let breaking = async {
            let mut mends = Vec::new();
            for (at, step) in course.iter().filter(|(_, step)| !by_hand(step)) {
                tokio::time::sleep_until((struck + *at).into()).await;
                let node = if step.target == Target::Primary { primary } else { replica };
                mends.extend(step.blow.strike(stage, node, replica).await.with_context(|| format!("{:?}", step.blow))?);
            }
            self.outlast(&switched).await;
            self.mended = Instant::now();
            for mend in mends.into_iter().rev() {
                Mend::apply(mend, stage).await.with_context(|| format!("{mend:?}"))?;
            }
            anyhow::Ok(())
        };
        let (switchover, broken) = tokio::join!(switching, breaking);
        broken?;
        if let (Err(error), 1) = (switchover, self.fault.steps.len()) {
            self.violations.push(format!("the switchover failed: {error:#}"));
        }
        Ok(())
    }

    /// Waits until the fault has lasted long enough, and writes are back where they come back by themselves.
    async fn outlast(&mut self, switched: &Cell<bool>) {
        let by_itself = match self.fault.back {
            Back::ByItself => true,
            Back::Undisturbed => self.stage.system.needs_no_agreement(),
            Back::Mended => false,
        };
        loop {
            let now = Instant::now();
            let flows =
                now.checked_sub(FLOWING).is_some_and(|since| since > self.struck && self.stage.flows_since(since));
            if flows && self.redundancy.is_none() {
                self.redundancy().await;
            }
            let lasted = now - self.struck;
            if lasted >= self.fault.lasts && switched.get() && (flows || !by_itself) {
                return;
            }
            if lasted > self.fault.lasts + self.stage.system.patience() {
                self.violations
                    .push(format!("no write was acknowledged until the fault was made good after {lasted:.1?}"));
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Looks whether commits are on a standby again.
    async fn redundancy(&mut self) {
        let Some(last) = self.stage.writers.ledger().last() else { return };
        let spot = &self.stage.system.spots()[last.node];
        let Ok(standing) = standing(&spot.host.address().to_string(), spot.port).await else { return };
        let there = if self.mode == Mode::Async { standing.followers } else { standing.waited_for };
        if standing.primary && there > 0 && self.redundancy.is_none() {
            self.redundancy = Some(self.struck.elapsed());
        }
    }

    fn judge(mut self, now_primary: usize, rows: &[Row], lost: usize, recorded: Vec<Recorded>) -> Outcome {
        let gap = |from, until| silence(rows, from, until).map(|(length, _)| length).unwrap_or_default();
        let end = rows.last().map_or(self.mended, |row| row.at);
        let outage = gap(self.struck, self.mended);
        let after: Vec<Row> = rows.iter().filter(|row| row.at > self.mended).copied().collect();
        let later = silence(&after, self.mended, end).map(|(length, _)| length).unwrap_or_default();
        let splits = splits(rows);
        let name = |node: usize| self.stage.system.spots()[node].name.clone();
        for split in &splits {
            self.violations.push(format!(
                "split brain: {} took {} rows on timeline {} after {} had acknowledged on timeline {}",
                name(split.old.0),
                split.rows,
                split.old.1,
                name(split.new.0),
                split.new.1
            ));
        }
        if lost > 0 && self.mode != Mode::Async {
            self.violations.push(format!("{lost} acknowledged rows are lost"));
        }
        let longest = outage.max(later);
        let undisturbed = self.fault.back == Back::Undisturbed && self.stage.system.needs_no_agreement();
        if undisturbed && longest > UNDISTURBED {
            self.violations.push(format!("writes were to go on, and stopped for {longest:.1?}"));
        }
        let outages: Vec<f64> = recorded.iter().filter_map(|record| record.write_outage_ms).collect();
        let record_off_ms = match outages[..] {
            // Where nobody was left to measure, what was recorded is only the end of it.
            [one] if self.fault.back == Back::ByItself => Some(one - outage.as_secs_f64() * 1000.0),
            _ => None,
        };
        if let Some(off) = record_off_ms.filter(|off| off.abs() > OFF_BY_MS) {
            self.violations.push(format!("the recorded outage is {off:+.0} ms off what the writers saw"));
        }
        Outcome {
            led: (name(self.primary), name(now_primary)),
            outage,
            lasted: self.mended - self.struck,
            later,
            record_off_ms,
            recorded,
            acknowledged: rows.len(),
            lost,
            splits,
            redundancy: self.redundancy,
            violations: self.violations,
        }
    }
}
