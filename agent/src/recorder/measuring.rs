//! What is being measured of a transition, and since when: a beginning that nobody watched makes an outage longer than what was measured of it.

use std::time::Instant;

use consensus::records::{HoldRecord, Transition};
use decision::names::MemberName;

use crate::transitions::Stopwatch;
use crate::unattended::LedUntil;

/// What is being measured.
#[derive(Default)]
pub(super) struct Measuring {
    /// Runs from the moment something went wrong.
    pub(super) watch: Option<Stopwatch>,
    /// When the primary here was found dead, where that began the watch.
    pub(super) died_at: Option<Instant>,
    /// Nobody has seen that moment: the watch was started when it was found.
    pub(super) began_before: bool,
    /// A primary was seen at work here, and nothing has gone wrong since that was not seen.
    pub(super) seen_at_work: bool,
    /// Until when an earlier life of this agent led at most, until the first record of this one.
    pub(super) led_until: Option<LedUntil>,
    /// What is being recorded, once it is known that this node leads it.
    pub(super) record: Option<Transition>,
    /// The order by which the primary here is stopped and started again: what that costs belongs to its record.
    pub(super) ordered: Option<Transition>,
    /// What is being recorded belongs to the record of an order, which is written already.
    pub(super) is_ordered: bool,
    /// Written, and waiting for redundancy: its id, and since when writes work.
    pub(super) awaiting_redundancy: Option<(String, Instant)>,
    /// Since when the primary here takes no writes, though it lives.
    pub(super) stuck_since: Option<Instant>,
    /// Why the last action was begun.
    pub(super) reason: String,
    /// How many restarts this agent has recorded.
    pub(super) restarts: u64,
    /// For what nobody is promoted, while that is so.
    pub(super) refused: Option<String>,
    /// The hold that was there last.
    pub(super) hold: Option<HoldRecord>,
}

impl Measuring {
    /// Starts the watch where it does not run. `seen`: what it measures begins now, and has not begun before.
    pub(super) fn watched(&mut self, me: &MemberName, seen: bool) -> &mut Stopwatch {
        if self.watch.is_none() {
            (self.began_before, self.died_at) = (!seen && !self.seen_at_work, None);
        }
        self.watch.get_or_insert_with(|| Stopwatch::start(me))
    }

    /// Starts the watch for the order of this record, unless something is being measured already.
    pub(super) fn ordered(&mut self, me: &MemberName, order: &Transition) {
        if self.watch.is_none() && self.record.is_none() {
            // An earlier death is none of this: until it is stopped, the primary is at work.
            (self.began_before, self.died_at) = (false, None);
            (self.watch, self.ordered) = (Some(Stopwatch::start(me)), Some(order.clone()));
        }
    }

    /// What is measured from now on belongs to no order.
    pub(super) fn forget_order(&mut self) {
        (self.ordered, self.is_ordered) = (None, false);
    }

    /// There is a primary at work here: whatever goes wrong from now on is watched from its beginning.
    pub(super) fn sees_work(&mut self) {
        if self.watch.is_none() && self.record.is_none() {
            (self.seen_at_work, self.led_until) = (true, None);
        }
    }

    /// Whether the primary that had died is back, by a question that was asked at this moment, and no record has begun: somebody else has started it,
    /// in less time than it takes to look.
    pub(super) fn has_returned_unseen(&self, asked: Instant) -> bool {
        self.watch.is_some() && self.record.is_none() && self.died_at.is_some_and(|died| asked > died)
    }

    /// What went on here before anybody watched belongs to the outage of a node that led and leads again.
    pub(super) fn accounts_for_its_beginning(&mut self, me: &MemberName) {
        let Some(record) = &mut self.record else { return };
        record.write_outage_at_least = self.began_before;
        let led_until = self.led_until.take().filter(|_| self.began_before);
        let nobody_else = record.from.as_deref() == Some(me.as_str()) && record.to == record.from;
        let (Some(watch), Some(elapsed)) = (&mut self.watch, led_until.and_then(|led| led.elapsed())) else { return };
        if nobody_else {
            watch.preceded_by("unattended", elapsed);
        }
    }

    /// What a reader of a record that begins now should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let lasts = self.hold.as_ref().filter(|hold| hold.lasts(jiff::Timestamp::now()));
        let in_a_hold = lasts.map(|hold| format!("in a hold by {}", hold.by_and_why()));
        in_a_hold.into_iter().chain(self.refused.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An earlier life led until just now, and this one leads again.
    fn leads_again(before: impl FnOnce(&mut Measuring)) -> (bool, bool) {
        let me = MemberName::new("pg1").expect("a good name");
        let mut now = Measuring { led_until: LedUntil::in_so_long(Duration::ZERO), ..Measuring::default() };
        std::thread::sleep(Duration::from_millis(5));
        before(&mut now);
        now.watched(&me, false);
        let both = Some(me.to_string());
        now.record = Some(Transition { from: both.clone(), to: both, ..Transition::default() });
        now.accounts_for_its_beginning(&me);
        let at_least = now.record.is_some_and(|record| record.write_outage_at_least);
        (now.watch.is_some_and(|watch| watch.has("unattended")), at_least)
    }

    #[test]
    fn what_nobody_watched_counts_and_a_primary_that_was_seen_at_work_was_watched() {
        assert_eq!(leads_again(|_| {}), (true, true));
        assert_eq!(
            leads_again(Measuring::sees_work),
            (false, false),
            "it was taken over by this life, weeks ago perhaps"
        );
    }

    #[test]
    fn a_primary_that_died_and_is_back_is_seen_by_a_later_look_alone_and_unless_a_record_has_begun() {
        let me = MemberName::new("pg1").expect("a good name");
        let watch = || Some(Stopwatch::start(&me));
        let died = Instant::now();
        let later = died + Duration::from_millis(1);
        let died_at = Some(died);
        for (now, asked, has) in [
            (Measuring { watch: watch(), died_at, ..Measuring::default() }, later, true),
            (Measuring { watch: watch(), died_at, ..Measuring::default() }, died, false),
            (Measuring { watch: watch(), ..Measuring::default() }, later, false),
            (Measuring { died_at, ..Measuring::default() }, later, false),
            (
                Measuring { watch: watch(), died_at, record: Some(Transition::default()), ..Measuring::default() },
                later,
                false,
            ),
        ] {
            assert_eq!(now.has_returned_unseen(asked), has, "{:?} {:?}", now.watch, now.record);
        }
        let mut ordered = Measuring { died_at, ..Measuring::default() };
        ordered.ordered(&me, &Transition::default());
        assert!(ordered.ordered.is_some() && !ordered.has_returned_unseen(later), "it has not been stopped yet");
    }
}
