//! What Postgres wrote about itself into `global/pg_control`. The bytes are read directly (microseconds, so that a switchover can poll
//! for the shutdown checkpoint); where the format is unknown, `pg_controldata` is asked and its text parsed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use decision::names::{Lsn, SystemId, Timeline};
use decision::view::ControlState;

use crate::error::{Error, Result};

/// The formats of `pg_control` that the direct reader knows: PostgreSQL 13 to 16, 17, and 18. They differ behind what is read here.
const KNOWN_VERSIONS: [u32; 3] = [1300, 1700, 1800];

/// The facts that decisions need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The identity of the database.
    pub system_id: SystemId,
    /// How it was left, or that it runs.
    pub state: ControlState,
    /// The latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where crash recovery would begin.
    pub redo: Lsn,
    /// The timeline of the latest checkpoint.
    pub timeline: Timeline,
}

/// What only `pg_controldata` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullControl {
    /// The facts that decisions need.
    pub control: Control,
    /// Data pages carry checksums.
    pub data_checksums: bool,
    /// The size of a WAL segment in bytes.
    pub wal_segment_bytes: u64,
    /// The least that a standby must be configured with (`max_connections` and so on), as the primary had it.
    pub standby_floors: BTreeMap<String, u64>,
}

/// Reads `global/pg_control` directly. `None` when its format is unknown; then ask `pg_controldata`.
pub fn read_direct(data_dir: &Path) -> Result<Option<Control>> {
    let path = data_dir.join("global/pg_control");
    let read = || fs::read(&path).map_err(|error| Error::io("read", &path, error));
    // Postgres overwrites the file in place; two equal reads in a row cannot both be torn at the same byte.
    let mut bytes = read()?;
    for _ in 0..5 {
        let again = read()?;
        if again == bytes {
            return parse_bytes(&bytes, &path);
        }
        bytes = again;
    }
    Err(Error::Busy(format!("{} changes faster than it can be read", path.display())))
}

fn parse_bytes(bytes: &[u8], path: &Path) -> Result<Option<Control>> {
    let corrupt = || Error::WrongState(format!("{} is too short: the data directory is damaged", path.display()));
    let word = |at: usize| {
        let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).ok_or_else(corrupt)?;
        Ok::<u64, Error>(u64::from_le_bytes(part))
    };
    let half = |at: usize| {
        let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).ok_or_else(corrupt)?;
        Ok::<u32, Error>(u32::from_le_bytes(part))
    };
    if !KNOWN_VERSIONS.contains(&half(8)?) || cfg!(target_endian = "big") {
        return Ok(None);
    }
    let Some(state) = state_of_number(half(16)?) else { return Ok(None) };
    Ok(Some(Control {
        system_id: SystemId(word(0)?),
        state,
        checkpoint: Lsn(word(32)?),
        redo: Lsn(word(40)?),
        timeline: Timeline(half(48)?),
    }))
}

/// `DBState` in `src/include/catalog/pg_control.h`.
fn state_of_number(number: u32) -> Option<ControlState> {
    Some(match number {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        _ => return None,
    })
}

fn state_of_text(text: &str) -> Option<ControlState> {
    Some(match text {
        "starting up" => ControlState::StartingUp,
        "shut down" => ControlState::ShutDown,
        "shut down in recovery" => ControlState::ShutDownInRecovery,
        "shutting down" => ControlState::ShuttingDown,
        "in crash recovery" => ControlState::InCrashRecovery,
        "in archive recovery" => ControlState::InArchiveRecovery,
        "in production" => ControlState::InProduction,
        _ => return None,
    })
}

/// The lines of `pg_controldata` that floor a standby's settings, and the setting that each floors.
const FLOORS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// Parses the output of `pg_controldata` (run with `LC_ALL=C`).
pub fn parse(text: &str) -> Result<FullControl> {
    let lines: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim())).collect();
    let field = |key: &str| {
        let missing = || Error::WrongState(format!("pg_controldata did not say \"{key}\""));
        lines.get(key).copied().ok_or_else(missing)
    };
    let bad = |key: &str| Error::WrongState(format!("pg_controldata says something unknown about \"{key}\""));
    let number = |key: &str| field(key)?.parse::<u64>().map_err(|_| bad(key));
    let lsn = |key: &str| field(key)?.parse::<Lsn>().map_err(|_| bad(key));
    let timeline =
        field("Latest checkpoint's TimeLineID")?.parse().map_err(|_| bad("Latest checkpoint's TimeLineID"))?;
    let control = Control {
        system_id: SystemId(number("Database system identifier")?),
        state: state_of_text(field("Database cluster state")?).ok_or_else(|| bad("Database cluster state"))?,
        checkpoint: lsn("Latest checkpoint location")?,
        redo: lsn("Latest checkpoint's REDO location")?,
        timeline: Timeline(timeline),
    };
    let mut standby_floors = BTreeMap::new();
    for (line, setting) in FLOORS {
        standby_floors.insert(setting.to_owned(), number(line)?);
    }
    Ok(FullControl {
        control,
        data_checksums: number("Data page checksum version")? > 0,
        wal_segment_bytes: number("Bytes per WAL segment")?,
        standby_floors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../tests/it/pg_controldata.txt");

    #[test]
    fn the_text_of_pg_controldata_is_understood() {
        let full = parse(SAMPLE).expect("a good sample");
        assert_eq!(full.control.system_id, SystemId(7_710_937_462_502_104_598));
        assert_eq!(full.control.state, ControlState::InProduction);
        assert_eq!(full.control.checkpoint, Lsn(0x177_A540));
        assert_eq!(full.control.redo, Lsn(0x177_A508));
        assert_eq!(full.control.timeline, Timeline(1));
        assert!(full.data_checksums);
        assert_eq!(full.wal_segment_bytes, 16 * 1024 * 1024);
        assert_eq!(full.standby_floors["max_connections"], 100);
        assert_eq!(full.standby_floors["max_prepared_transactions"], 0);
    }

    #[test]
    fn a_missing_line_is_named() {
        let error = parse("pg_control version number: 1300").expect_err("nothing in it");
        assert!(error.to_string().contains("TimeLineID"), "{error}");
    }

    #[test]
    fn bytes_of_an_unknown_version_are_left_to_pg_controldata() {
        let mut bytes = vec![0_u8; 8192];
        bytes[8..12].copy_from_slice(&1900_u32.to_le_bytes());
        assert_eq!(parse_bytes(&bytes, Path::new("x")).expect("no error"), None);
    }

    #[test]
    fn bytes_of_the_known_versions_are_read() {
        for version in KNOWN_VERSIONS {
            let mut bytes = vec![0_u8; 8192];
            bytes[0..8].copy_from_slice(&77_u64.to_le_bytes());
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            bytes[16..20].copy_from_slice(&1_u32.to_le_bytes());
            bytes[32..40].copy_from_slice(&0x0300_0028_u64.to_le_bytes());
            bytes[40..48].copy_from_slice(&0x0300_0020_u64.to_le_bytes());
            bytes[48..52].copy_from_slice(&4_u32.to_le_bytes());
            let control = parse_bytes(&bytes, Path::new("x")).expect("no error").expect("known");
            assert_eq!(control.state, ControlState::ShutDown);
            assert_eq!((control.checkpoint, control.redo), (Lsn(0x0300_0028), Lsn(0x0300_0020)));
            assert_eq!((control.timeline, control.system_id), (Timeline(4), SystemId(77)));
        }
    }

    #[test]
    fn a_torn_file_is_an_error() {
        let mut bytes = vec![0_u8; 20];
        bytes[8..12].copy_from_slice(&KNOWN_VERSIONS[0].to_le_bytes());
        assert!(parse_bytes(&bytes, Path::new("x")).is_err());
    }
}
