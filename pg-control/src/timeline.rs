//! The timelines in the local `pg_wal`: which have WAL here, and where each forked off. The control file knows only the timeline of its
//! last checkpoint, and a server that was promoted and died soon after has written beyond that.

use std::fs;
use std::path::Path;

use decision::names::{Lsn, Timeline};

use crate::error::{Error, Result};
use crate::instance::Instance;

/// Where a timeline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// The position at which the next one forked off.
    pub ended_at: Lsn,
}

impl Instance {
    /// The ancestors of a timeline as the local history file tells them, oldest first. Timeline 1 has none.
    ///
    /// # Errors
    /// `Io` when the history file is not here.
    pub fn local_history(&self, timeline: Timeline) -> Result<Vec<Fork>> {
        read_history(&self.data_dir().join("pg_wal"), timeline)
    }
}

pub(crate) fn read_history(wal_dir: &Path, timeline: Timeline) -> Result<Vec<Fork>> {
    if timeline.0 <= 1 {
        return Ok(Vec::new());
    }
    let path = wal_dir.join(format!("{:08X}.history", timeline.0));
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok(parse_history(&text))
}

/// Lines of timeline, position and reason; `#` begins a comment.
pub(crate) fn parse_history(text: &str) -> Vec<Fork> {
    let fork = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = Timeline(words.next()?.parse().ok()?);
        Some(Fork { timeline, ended_at: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(fork).collect()
}

/// The newest timeline that descends from `from` and has WAL of its own here, with the position at which it began.
/// A history file alone is no proof: a standby fetches those of timelines that it could never follow.
pub(crate) fn newest_with_wal(wal_dir: &Path, from: Timeline) -> Result<(Timeline, Option<Lsn>)> {
    let entries = fs::read_dir(wal_dir).map_err(|error| Error::io("read", wal_dir, error))?;
    let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let mut newest = (from, None);
    for timeline in names.iter().filter_map(|name| name.strip_suffix(".history")).filter_map(hex) {
        let has_wal = names.iter().any(|name| segment(name).is_some_and(|(of, _)| of.0 == timeline));
        if timeline <= newest.0.0 || !has_wal {
            continue;
        }
        let history = read_history(wal_dir, Timeline(timeline))?;
        if history.iter().any(|fork| fork.timeline == from) {
            newest = (Timeline(timeline), history.last().map(|fork| fork.ended_at));
        }
    }
    Ok(newest)
}

fn hex(text: &str) -> Option<u32> {
    (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// The timeline and number words of a WAL file name: `TTTTTTTTXXXXXXXXYYYYYYYY`.
pub(crate) fn segment(name: &str) -> Option<(Timeline, (u32, u32))> {
    if name.len() != 24 || !name.is_ascii() {
        return None;
    }
    Some((Timeline(hex(&name[..8])?), (hex(&name[8..16])?, hex(&name[16..])?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_is_read() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t0/50000A0\tbefore 2000-01-01\n";
        let forks = parse_history(text);
        assert_eq!(forks.len(), 2);
        assert_eq!(forks[1], Fork { timeline: Timeline(2), ended_at: Lsn(0x500_00A0) });
    }

    #[test]
    fn names_of_wal_files_are_told_from_others() {
        assert_eq!(segment("00000002000000010000000A"), Some((Timeline(2), (1, 10))));
        assert_eq!(segment("00000002.history"), None);
        assert_eq!(segment("00000002000000010000000A.partial"), None);
    }
}
