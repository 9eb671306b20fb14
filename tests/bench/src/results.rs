//! What was measured, a small file each, so that a run that is broken off loses only what it was at.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::report::Circumstances;

/// One fault on one system, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Played {
    /// The system, by its name on the command line.
    pub system: String,
    /// The fault.
    pub fault: String,
    /// Which run, from 1.
    pub run: usize,
    /// What came of it, or why it could not be played to its end.
    pub outcome: std::result::Result<Measured, String>,
}

/// What came of a fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The longest time without an acknowledgement.
    pub outage_ms: f64,
    /// How long the fault lasted before it was made good.
    pub lasted_ms: f64,
    /// Writes were acknowledged again before that.
    pub back_by_itself: bool,
    /// Rows that were acknowledged.
    pub acknowledged: usize,
    /// Of these, rows that are missing on some node at the end.
    pub lost: usize,
    /// Rows that one node took after another had begun to acknowledge.
    pub split: usize,
    /// From the fault until a standby has each commit again.
    pub redundancy_ms: Option<f64>,
    /// The system's own record of where the time went.
    pub phases: Vec<(String, f64)>,
    /// What else went wrong.
    pub violations: Vec<String>,
}

/// What a system costs when nothing happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rest {
    /// The system.
    pub system: String,
    /// Processes of one agent.
    pub processes: f64,
    /// Resident memory of one agent, what its processes share counted for each.
    pub rss_mb: f64,
    /// The same, what they share counted once.
    pub pss_mb: f64,
    /// Processor time of one agent, in percent of one core.
    pub cpu_percent: f64,
    /// Requests to etcd a second, of all three agents.
    pub requests: Option<f64>,
    /// Writes to etcd a second.
    pub writes: Option<f64>,
    /// Processor time of etcd, or of what takes its place, in percent of one core.
    pub meeting_cpu_percent: f64,
    /// Its resident memory.
    pub meeting_rss_mb: f64,
}

/// One run of the demo, through HAProxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The fault, as the demo names it.
    pub fault: String,
    /// Which run.
    pub run: usize,
    /// The longest time without an acknowledgement.
    pub outage_ms: f64,
    /// Acknowledged rows that were missing.
    pub lost: usize,
}

/// The kinds of results, each in a directory of its own.
const KINDS: [&str; 5] = ["faults", "rest", "crowd", "proxy", "routes"];

/// The directory of the results.
#[derive(Clone, Debug)]
pub struct Results {
    directory: PathBuf,
}

impl Results {
    /// Opens it, empty if `anew`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(directory: &Path, anew: bool) -> Result<Self> {
        Self::open_for(directory, if anew { &KINDS } else { &[] })
    }

    /// Opens it, empty of these kinds.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open_for(directory: &Path, anew: &[&str]) -> Result<Self> {
        for kind in KINDS {
            let (name, kind) = (kind, directory.join(kind));
            if anew.contains(&name) && kind.exists() {
                std::fs::remove_dir_all(&kind).with_context(|| format!("cannot empty {}", kind.display()))?;
            }
            std::fs::create_dir_all(&kind).with_context(|| format!("cannot make {}", kind.display()))?;
        }
        if anew == KINDS {
            // There may be none yet.
            let _ = std::fs::remove_file(directory.join("run.json"));
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether a result is there.
    pub fn has(&self, kind: &str, name: &str) -> bool {
        self.file(kind, name).exists()
    }

    /// What was noted when the run began, or `now` as the first note.
    ///
    /// # Errors
    /// It can be neither read nor written.
    pub fn circumstances(&self, now: impl FnOnce() -> Circumstances) -> Result<Circumstances> {
        let file = self.directory.join("run.json");
        if let Ok(text) = std::fs::read_to_string(&file) {
            return serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()));
        }
        let now = now();
        std::fs::write(&file, serde_json::to_string_pretty(&now)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(now)
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// The disk is full.
    pub fn put(&self, kind: &str, name: &str, result: &impl Serialize) -> Result<()> {
        let file = self.file(kind, name);
        let text = serde_json::to_string_pretty(result)?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// All results of a kind, in the order of their names.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn all<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>> {
        let entries = std::fs::read_dir(self.directory.join(kind))?.filter_map(Result::ok).map(|entry| entry.path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|is| is == "json")).collect();
        files.sort();
        let read = |file: &PathBuf| -> Result<T> {
            let text = std::fs::read_to_string(file)?;
            serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()))
        };
        files.iter().map(read).collect()
    }

    fn file(&self, kind: &str, name: &str) -> PathBuf {
        self.directory.join(kind).join(format!("{name}.json"))
    }
}
