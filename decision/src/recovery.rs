//! My primary died, or is recovering: start it again here, or hand over? Both are predicted from measurements (limits of PostgreSQL 15 on
//! ordinary hardware), and the shorter outage wins where the voters can prove that a hand-over loses nothing. Being a
//! little wrong costs a tenth of a second; what is never wrong is which node has everything.

use std::time::Duration;

use crate::view::{Data, OnDisk, Server, View};

/// A crash restart with nothing to replay, until the first write (measured: 142 to 188 ms).
const RESTART: Duration = Duration::from_millis(200);
/// A hand-over to a voter that has replayed everything, ballots and promotion together (measured: 130 to 200 ms).
const HANDOVER: Duration = Duration::from_millis(200);
/// Replaying WAL, after a crash or on a standby (measured: 0.4 s for each 100 MB).
const REPLAY_PER_MB: Duration = Duration::from_millis(4);
/// Both are guesses: a start is given this much more than twice what was predicted before it counts as overdue.
const GRACE: Duration = Duration::from_millis(500);

/// What the two ways would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Starting again here.
    pub restart: Duration,
    /// Handing over.
    pub handover: Duration,
}

/// What it would cost if the primary that runs here died now; `None` where none runs.
pub fn predicted(view: &View) -> Option<Forecast> {
    let postgres = view.postgres.last()?;
    matches!(postgres.server, Server::Primary(_)).then(|| forecast_for(view, &postgres.data)).flatten()
}

impl Forecast {
    /// Whether handing over is the shorter outage, for a server that has been starting for `since` already. Equal is not shorter for a
    /// server that recovers by itself, but is for one that would have to be started: a crash restart shows commits to readers
    /// that nobody has acknowledged.
    pub(crate) fn handover_is_shorter(&self, since: Option<Duration>) -> bool {
        match since {
            None => self.handover <= self.restart,
            Some(since) => self.handover + RESTART < self.restart.saturating_sub(since),
        }
    }

    /// Whether a start that has taken `since` is so late that the forecast was wrong.
    pub(crate) fn is_overdue(&self, since: Duration) -> bool {
        since > self.restart * 2 + GRACE
    }
}

/// The forecast for the primary whose directory this is.
pub(crate) fn forecast(view: &View, disk: &OnDisk) -> Forecast {
    let last = view.signs.last_primary.as_ref();
    let end = last.map(|primary| primary.flushed).max(disk.end_of_wal).unwrap_or(disk.checkpoint);
    // The one that has received most would be elected; it must replay that first.
    let furthest = last.and_then(|primary| primary.standbys.iter().max_by_key(|standby| standby.flushed));
    let behind = furthest.map_or(0, |standby| standby.replayed.bytes_behind(standby.flushed));
    Forecast { restart: RESTART + replay(disk.redo.bytes_behind(end)), handover: HANDOVER + replay(behind) }
}

/// The forecast for whatever lies in the data directory; `None` where that is no database.
pub(crate) fn forecast_for(view: &View, data: &Data) -> Option<Forecast> {
    match data {
        Data::Present(disk) => Some(forecast(view, disk)),
        Data::Empty | Data::HalfMade { .. } | Data::Unreadable { .. } => None,
    }
}

fn replay(bytes: u64) -> Duration {
    REPLAY_PER_MB * u32::try_from(bytes / (1 << 20)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Lsn;
    use crate::tests::builders::{crashed_primary, primary, streaming, view};
    use crate::view::Primary;

    const MB: u64 = 1 << 20;

    fn after(redo: u64, flushed: u64, replayed: u64) -> Forecast {
        let mut voter = streaming("pg2", flushed * MB);
        voter.replayed = Lsn(replayed * MB);
        let last = Primary { flushed: Lsn(flushed * MB), standbys: vec![voter], ..primary() };
        let mut view = view("pg1");
        view.signs.last_primary = Some(last);
        forecast(&view, &OnDisk { redo: Lsn(redo * MB), ..crashed_primary() })
    }

    #[test]
    fn much_wal_to_recover_speaks_for_a_hand_over_and_a_standby_behind_for_a_restart() {
        let ms = Duration::from_millis;
        assert_eq!(after(1000, 1100, 1100), Forecast { restart: ms(600), handover: ms(200) });
        assert!(after(1000, 1100, 1100).handover_is_shorter(None));
        assert!(!after(1000, 1100, 500).handover_is_shorter(None));
        assert!(after(1000, 1000, 1000).handover_is_shorter(None), "equal: whoever is up already is preferred");
    }

    #[test]
    fn a_server_that_recovers_by_itself_is_let_finish_unless_it_has_far_to_go() {
        let ms = Duration::from_millis;
        assert!(!after(1000, 1000, 1000).handover_is_shorter(Some(ms(10))));
        assert!(after(1000, 1250, 1250).handover_is_shorter(Some(ms(10))));
        assert!(!after(1000, 1250, 1250).handover_is_shorter(Some(ms(900))), "most of it is behind");
    }

    #[test]
    fn a_forecast_that_was_wrong_is_noticed() {
        let ms = Duration::from_millis;
        assert!(!after(1000, 1000, 1000).is_overdue(ms(900)));
        assert!(after(1000, 1000, 1000).is_overdue(ms(901)));
    }

    #[test]
    fn what_was_never_seen_costs_nothing_in_the_forecast() {
        let unseen = forecast(&view("pg1"), &crashed_primary());
        assert_eq!(unseen, Forecast { restart: RESTART, handover: HANDOVER });
    }
}
