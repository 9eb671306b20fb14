//! Until when writes worked here. While something is in their way a primary looks alive from afar, for its agent beats on and its Postgres
//! sends keep-alives: only the node itself can say since when.

use std::time::Instant;

use decision::view::Disk;
use pg_control::Heartbeat;

/// When a write last worked, as near as can be told; `None`: nothing is in the way of one. A server fell silent between its last answer and
/// the first question that it has not answered: the middle is off by half of that at most. `disk_worked_at` is when the disk last took a
/// write of the agent's own.
pub fn worked_at(heartbeat: &Heartbeat, disk: &Disk, disk_worked_at: Option<Instant>) -> Option<Instant> {
    let silent_for = heartbeat.silent_for.max(heartbeat.logins_stuck_for);
    let fails = disk.frozen_for.is_some() || disk.fault.is_some() || disk.full;
    let of_server = heartbeat.answered_at.filter(|_| !silent_for.is_zero()).map(|answered| {
        let asked = Instant::now().checked_sub(silent_for).unwrap_or(answered);
        answered + asked.saturating_duration_since(answered) / 2
    });
    let of_disk = heartbeat.flushed_at.max(disk_worked_at).filter(|_| fails);
    let of_writes = heartbeat.flushed_at.filter(|_| !heartbeat.writes_stuck_for.is_zero());
    [of_server, of_disk, of_writes].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_trouble_tells() {
        let (begin, at) = (Instant::now(), |seconds| Instant::now() + Duration::from_secs(seconds));
        let (answered, flushed) = (at(3), at(2));
        let alive = Heartbeat { answered_at: Some(answered), flushed_at: Some(flushed), ..Heartbeat::default() };
        let hung = Heartbeat { silent_for: Duration::from_secs(1), ..alive };
        let frozen = Disk { frozen_for: Some(Duration::from_secs(1)), ..Disk::default() };
        assert_eq!(worked_at(&alive, &Disk::default(), Some(begin)), None);
        assert_eq!(worked_at(&hung, &Disk::default(), Some(begin)), Some(answered));
        assert_eq!(worked_at(&alive, &frozen, Some(begin)), Some(flushed), "clients wrote after the probe did");
        assert_eq!(worked_at(&hung, &frozen, Some(begin)), Some(flushed));
        let (full, filled) = (Disk { full: true, ..Disk::default() }, at(4));
        assert_eq!(worked_at(&alive, &full, Some(filled)), Some(filled), "nothing was written before it was full");
        assert_eq!(worked_at(&alive, &full, Some(begin)), Some(flushed), "there was room in the segment");
        let stuck = Heartbeat { writes_stuck_for: Duration::from_secs(1), ..alive };
        assert_eq!(worked_at(&stuck, &Disk::default(), Some(begin)), Some(flushed));
        let shut = Heartbeat { logins_stuck_for: Duration::from_secs(1), ..alive };
        assert_eq!(worked_at(&shut, &Disk::default(), Some(begin)), Some(answered));
        assert_eq!(worked_at(&Heartbeat::default(), &frozen, None), None);
    }

    #[test]
    fn a_server_fell_silent_between_an_answer_and_a_question() {
        let answered_at = Instant::now().checked_sub(Duration::from_millis(1200));
        let silent_for = Duration::from_secs(1);
        let hung = Heartbeat { silent_for, answered_at, ..Heartbeat::default() };
        let after = worked_at(&hung, &Disk::default(), None).zip(answered_at).map(|(at, answered)| at - answered);
        assert!(after.is_some_and(|after| (100..200).contains(&after.as_millis())), "{after:?}");
    }
}
