//! What happened, in words, for whoever has to understand a failure.

use crate::time::{MS, Micros};

#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Nobody listens while thousands of seeds go well.
    pub listens: bool,
    lines: Vec<(Micros, String)>,
}

impl Story {
    pub fn told() -> Self {
        Self { listens: true, lines: Vec::new() }
    }

    pub fn add(&mut self, at: Micros, words: String) {
        self.lines.push((at, words));
    }

    pub fn text(&self) -> String {
        let line = |(at, words): &(Micros, String)| format!("{:>9.3} s  {words}", *at as f64 / (MS * 1000) as f64);
        self.lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
