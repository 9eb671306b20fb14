//! Something planned that is to begin at a time, and whether it is its turn. Whoever asked for Sunday at three knew what they asked for then: it begins
//! in its window and under the leader whom they saw, or not at all. Times are in milliseconds since the epoch, by one wall clock.

use crate::names::MemberName;

/// When something is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due<'a> {
    /// Not before this.
    pub at_ms: i64,
    /// For so long after that it may still begin.
    pub window_ms: i64,
    /// Only while this member leads; `None`: whoever leads.
    pub under: Option<&'a MemberName>,
}

/// Whether it is its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its time has not come.
    Ahead,
    /// It is to begin.
    Begins,
    /// Its time has come, and something is in the way that may pass.
    Waits(String),
    /// It could not begin in its window, and does not any more; with what is in the way, if anything is.
    Expired(Option<String>),
    /// Another leads than the one under whom it was asked for.
    LeaderChanged(MemberName),
}

impl Due<'_> {
    /// Whose turn it is at `now_ms`, while `leader` leads and `obstacle` is in the way.
    pub fn turn(&self, now_ms: i64, leader: Option<&MemberName>, obstacle: Option<String>) -> Turn {
        if let (Some(under), Some(leader)) = (self.under, leader)
            && under != leader
        {
            return Turn::LeaderChanged(leader.clone());
        }
        let obstacle = match leader {
            Some(_) => obstacle,
            None => Some("nobody leads".to_owned()),
        };
        if now_ms < self.at_ms {
            Turn::Ahead
        } else if now_ms > self.at_ms.saturating_add(self.window_ms) {
            Turn::Expired(obstacle)
        } else {
            obstacle.map_or(Turn::Begins, Turn::Waits)
        }
    }
}
