//! What is on the screen, as a value: the last look, what has changed since the watch began, and what the viewer has chosen.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::records::Transition;
use jiff::Timestamp;

use super::super::status::{MemberStatus, Status};
use super::changes::changes;
use super::keys::Wish;

/// More than any screen shows.
const EVENTS_MAX: usize = 200;

/// One look.
pub struct Sight {
    /// How the cluster stands, or why that cannot be seen.
    pub status: Result<Status, String>,
    /// Its transitions, the oldest first.
    pub records: Vec<Transition>,
}

/// Everything that is drawn.
pub struct Scene {
    /// The name of the cluster.
    pub cluster: String,
    /// How long a lease is.
    pub ttl: Duration,
    /// Whether colours are wanted; nothing is told by colour alone.
    pub colours: bool,
    /// The last look that saw anything.
    pub status: Option<Status>,
    /// Why the last look saw nothing.
    pub dark: Option<String>,
    /// The transitions, the oldest first.
    pub records: Vec<Transition>,
    /// What has changed and when, the newest first.
    pub events: VecDeque<(Timestamp, String)>,
    /// When it was last seen.
    pub seen_at: Option<Timestamp>,
    /// Which row is chosen.
    pub chosen: usize,
    /// The keys are shown.
    pub help: bool,
    /// The chosen member is shown in full.
    pub details: bool,
}

impl Scene {
    /// Before the first look.
    pub fn new(cluster: &str, ttl: Duration, colours: bool) -> Self {
        Self {
            cluster: cluster.to_owned(),
            ttl,
            colours,
            status: None,
            dark: None,
            records: Vec::new(),
            events: VecDeque::new(),
            seen_at: None,
            chosen: 0,
            help: false,
            details: false,
        }
    }

    /// Takes a look in.
    pub fn sees(&mut self, sight: Sight) {
        let now = Timestamp::now();
        self.records = sight.records;
        match sight.status {
            Ok(status) => {
                if let Some(before) = &self.status {
                    for change in changes(before, &status) {
                        self.events.push_front((now, change));
                    }
                    self.events.truncate(EVENTS_MAX);
                }
                (self.status, self.dark, self.seen_at) = (Some(status), None, Some(now));
            }
            Err(why) => self.dark = Some(why),
        }
        self.chosen = self.chosen.min(self.members().len().saturating_sub(1));
    }

    /// Does what the viewer wants.
    pub fn obeys(&mut self, wish: Wish) {
        match wish {
            Wish::End | Wish::Redraw => {}
            Wish::Help => self.help = !self.help,
            Wish::Details => self.details = !self.details,
            Wish::Next => self.chosen = (self.chosen + 1).min(self.members().len().saturating_sub(1)),
            Wish::Previous => self.chosen = self.chosen.saturating_sub(1),
        }
    }

    /// The rows of the table.
    pub fn members(&self) -> &[MemberStatus] {
        self.status.as_ref().map_or(&[], |status| &status.members)
    }

    /// The one whose row is chosen.
    pub fn chosen(&self) -> Option<&MemberStatus> {
        self.members().get(self.chosen)
    }

    /// The transition that is under way, or else the last one.
    pub fn transition(&self) -> Option<&Transition> {
        self.records.iter().rev().find(|record| record.outcome == "in_progress").or(self.records.last())
    }
}
