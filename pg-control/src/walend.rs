//! The end of the valid WAL of a stopped server, which tells whether it has diverged. `pg_waldump` reads to the first record that is not
//! there; its error names the last good one, and where that one ends is arithmetic. The wording of the error itself is not relied
//! on: it differs by what happens to lie behind the end, and some wordings name a position beyond it.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use decision::names::{Lsn, Timeline};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::timeline::{Fork, newest_with_wal, read_history, segment};
use crate::tool;

/// Where the valid WAL ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfWal {
    /// The timeline of the last record: newer than that of the last checkpoint when the server died soon after a promotion.
    pub timeline: Timeline,
    /// The position behind the last record.
    pub lsn: Lsn,
}

const PAGE_BYTES: u64 = 8192;

impl Instance {
    /// Reads the WAL of the stopped server to its end. The result is also shown by [`Instance::observe`], until `pg_control` changes.
    ///
    /// # Errors
    /// `WrongState` when the server runs, `NeedsClone` when there is no readable WAL from the last checkpoint on.
    pub async fn find_end_of_wal(&self, cancel: &CancellationToken) -> Result<EndOfWal> {
        if self.postmaster().is_some() {
            return Err(Error::WrongState("the server runs; the end of its WAL moves".to_owned()));
        }
        let full = self.full_control().await?;
        self.close_seam()?;
        let wal_dir = self.data_dir().join("pg_wal");
        let (timeline, began_at) = newest_with_wal(&wal_dir, full.control.timeline)?;
        // The segment in which a timeline begins is a copy of its parent's; earlier ones exist on the parent only.
        let from = match began_at {
            Some(began) => full.control.redo.max(Lsn(began.0 - began.0 % full.wal_segment_bytes)),
            None => full.control.redo,
        };
        let reader = Reader { instance: self, wal_dir, timeline, segment_bytes: full.wal_segment_bytes, cancel };
        let lsn = reader.end_from(from).await?;
        let end = EndOfWal { timeline, lsn };
        self.memory().end_of_wal = Some((full.control, end));
        Ok(end)
    }
}

/// WAL that lies beyond the point where the leader's history left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// How much.
    pub bytes: u64,
    /// How many transactions it commits, acknowledged or not.
    pub transactions: u64,
}

impl Instance {
    /// What the stopped server has from `fork` on, on its own timeline and on those that it came from: what a rewind to that point throws
    /// away.
    ///
    /// # Errors
    /// As [`Instance::find_end_of_wal`].
    pub async fn beyond(&self, fork: Lsn, cancel: &CancellationToken) -> Result<Beyond> {
        let end = self.find_end_of_wal(cancel).await?;
        let segment_bytes = self.full_control().await?.wal_segment_bytes;
        let wal_dir = self.data_dir().join("pg_wal");
        let ancestors = read_history(&wal_dir, end.timeline).unwrap_or_default();
        let last = Fork { timeline: end.timeline, ended_at: end.lsn };
        let (mut transactions, mut from) = (0, fork);
        for piece in ancestors.into_iter().chain([last]).filter(|piece| piece.ended_at > fork) {
            let (wal_dir, timeline) = (wal_dir.clone(), piece.timeline);
            let reader = Reader { instance: self, wal_dir, timeline, segment_bytes, cancel };
            transactions += reader.commits_between(from, piece.ended_at).await?;
            from = piece.ended_at;
        }
        Ok(Beyond { bytes: fork.bytes_behind(end.lsn), transactions })
    }
}

struct Reader<'a> {
    instance: &'a Instance,
    wal_dir: PathBuf,
    timeline: Timeline,
    segment_bytes: u64,
    cancel: &'a CancellationToken,
}

impl Reader<'_> {
    async fn end_from(&self, from: Lsn) -> Result<Lsn> {
        let numbers = self.segment_numbers();
        let mut last_file = from.0 / self.segment_bytes;
        while numbers.contains(&(last_file + 1)) {
            last_file += 1;
        }
        // Without a bound pg_waldump waits 5 s for the file after the last one to appear.
        let bound = Lsn((last_file + 1) * self.segment_bytes).to_string();
        let said = self.dump(from, &["-q", "-e", &bound]).await?;
        let last = match last_good_record(&said.err) {
            Some(last) => last,
            // The WAL ends exactly where a file ends: nothing is wrong behind it.
            None if said.ok => self.last_record(&[from.max(Lsn(last_file * self.segment_bytes)), from], &bound).await?,
            None => return Err(Error::NeedsClone(tool::last_words(&said.err))),
        };
        let said = self.dump(last, &["-n", "1"]).await?;
        let record = said.out.lines().find_map(parse_record).filter(|record| record.at == last);
        let record = record
            .ok_or_else(|| Error::NeedsClone(format!("no WAL record at {last}: {}", tool::last_words(&said.err))))?;
        Ok(record.end(self.segment_bytes))
    }

    /// The last record that begins between one of these positions, the first that has any, and the bound.
    async fn last_record(&self, starts: &[Lsn], bound: &str) -> Result<Lsn> {
        for start in starts {
            let said = self.dump(*start, &["-e", bound]).await?;
            if let Some(record) = said.out.lines().rev().find_map(parse_record) {
                return Ok(record.at);
            }
        }
        Err(Error::NeedsClone(format!("no WAL record before {bound}")))
    }

    /// The transactions whose commit records begin between two positions.
    async fn commits_between(&self, from: Lsn, to: Lsn) -> Result<u64> {
        let end = to.to_string();
        let said = self.dump(from, &["-r", "Transaction", "-e", &end]).await?;
        Ok(said.out.lines().filter(|line| line.contains("desc: COMMIT")).count() as u64)
    }

    fn segment_numbers(&self) -> Vec<u64> {
        let per_word = 0x1_0000_0000 / self.segment_bytes;
        let number = |name: &str| {
            let (timeline, (high, low)) = segment(name)?;
            (timeline == self.timeline).then_some(u64::from(high) * per_word + u64::from(low))
        };
        let names = fs::read_dir(&self.wal_dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| number(&name)).collect()
    }

    async fn dump(&self, from: Lsn, more: &[&str]) -> Result<tool::Said> {
        let mut arguments: Vec<OsString> = vec!["-p".into(), self.wal_dir.clone().into()];
        arguments.extend(["-t".into(), self.timeline.to_string().into(), "-s".into(), from.to_string().into()]);
        arguments.extend(more.iter().map(OsString::from));
        self.instance.run("pg_waldump", &arguments, self.cancel).await
    }
}

/// `pg_waldump: error: error in WAL record at 0/177D418: ...` names the last record that was read well.
fn last_good_record(text: &str) -> Option<Lsn> {
    let rest = text.rsplit_once("error in WAL record at ")?.1;
    rest.split(':').next()?.trim().parse().ok()
}

struct Record {
    at: Lsn,
    bytes: u64,
    /// A switch leaves the rest of its segment unused.
    switch: bool,
}

/// `rmgr: Heap  len (rec/tot):  54/  3570, tx:  725, lsn: 0/0177C620, prev ..., desc: INSERT ...`
fn parse_record(line: &str) -> Option<Record> {
    let total = line.split_once("len (rec/tot):")?.1.split_once('/')?.1.split_once(',')?.0;
    let at = line.split_once("lsn: ")?.1.split_once(',')?.0.parse().ok()?;
    let switch = line.starts_with("rmgr: XLOG ") && line.contains("desc: SWITCH");
    Some(Record { at, bytes: total.trim().parse().ok()?, switch })
}

impl Record {
    /// Where it ends: its bytes are interrupted by a header on each further page, and rounded up to eight.
    fn end(&self, segment_bytes: u64) -> Lsn {
        let mut at = self.at.0;
        let mut left = self.bytes;
        loop {
            let room = PAGE_BYTES - at % PAGE_BYTES;
            if left <= room {
                break;
            }
            left -= room;
            at += room;
            at += if at.is_multiple_of(segment_bytes) { 40 } else { 24 };
        }
        let end = (at + left).next_multiple_of(8);
        Lsn(if self.switch { end.next_multiple_of(segment_bytes) } else { end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_last_good_record_is_in_the_error() {
        let text = "pg_waldump: error: error in WAL record at 0/177D418: invalid record length at 0/177D440: wanted 24, got 0\n";
        assert_eq!(last_good_record(text), Some(Lsn(0x177_D418)));
        assert_eq!(last_good_record("pg_waldump: error: could not find file"), None);
    }

    #[test]
    fn a_record_ends_behind_its_bytes() {
        let line = "rmgr: Transaction len (rec/tot):     34/    34, tx:        725, lsn: 0/0177D418, prev 0/0177C620, desc: COMMIT";
        let record = parse_record(line).expect("a record");
        assert_eq!(record.end(16 * MIB), Lsn(0x177_D440));
    }

    #[test]
    fn a_record_over_a_page_makes_room_for_the_header() {
        // From the sample: FPI_FOR_HINT at 0/177A920 with 7397 bytes is followed by a record at 0/177C620.
        let record = Record { at: Lsn(0x177_A920), bytes: 7397, switch: false };
        assert_eq!(record.end(16 * MIB), Lsn(0x177_C620));
    }

    #[test]
    fn a_switch_ends_with_its_segment() {
        let record = Record { at: Lsn(0x177_D440), bytes: 24, switch: true };
        assert_eq!(record.end(16 * MIB), Lsn(0x200_0000));
    }
}
