//! The series that dashboards and alert rules made for Patroni read, under Patroni's names and with its numbers, each read off the picture.

use super::{Row, yes};
use crate::published::{Picture, SyncKind};

/// All of them; docs/compatibility.md says where one differs.
pub(super) const PATRONIS: &[Row] = &[
    ("patroni_version", "Version that Patroni's tools compare", |_| 40105.0),
    ("patroni_postgres_running", "1 if Postgres is running", |p| yes(p.state() == "running")),
    ("patroni_postmaster_start_time", "When Postgres started, seconds since the epoch, 0 while it does not run", |p| {
        p.extras.as_ref().map_or(0.0, |extras| seconds_since_epoch(&extras.postmaster_start_time))
    }),
    ("patroni_primary", "1 if Postgres is a primary", |p| yes(p.primary().is_some())),
    ("patroni_master", "1 if Postgres is a primary (old name)", |p| yes(p.primary().is_some())),
    ("patroni_xlog_location", "Flushed WAL position in bytes, 0 on a standby", |p| {
        p.primary().map_or(0.0, |x| x.flushed.0 as f64)
    }),
    ("patroni_standby_leader", "1 if this is a standby leader", |p| yes(p.leads_a_follower())),
    ("patroni_replica", "1 if Postgres is a standby, and no standby leader", |p| {
        yes(p.standby().is_some() && !p.leads_a_follower())
    }),
    ("patroni_sync_standby", "1 if every acknowledged commit is here", |p| yes(p.sync_kind() == SyncKind::Sync)),
    ("patroni_quorum_standby", "1 if this is a voter", |p| yes(p.sync_kind() == SyncKind::Quorum)),
    ("patroni_xlog_received_location", "Received WAL position in bytes, 0 on a primary", |p| {
        p.standby().map_or(0.0, |s| s.received.0 as f64)
    }),
    ("patroni_xlog_replayed_location", "Replayed WAL position in bytes, 0 on a primary", |p| {
        p.standby().map_or(0.0, |s| s.replayed.0 as f64)
    }),
    (
        "patroni_xlog_replayed_timestamp",
        "When the transaction replayed last was committed, seconds since the epoch",
        |p| {
            let replayed = p.extras.as_ref().and_then(|extras| extras.replayed_timestamp.as_deref());
            replayed.filter(|_| p.standby().is_some()).map_or(0.0, seconds_since_epoch)
        },
    ),
    ("patroni_xlog_paused", "1 if replay is paused", |p| yes(p.extras.as_ref().is_some_and(|e| e.replay_paused))),
    ("patroni_postgres_streaming", "1 if the standby streams", |p| yes(p.standby().is_some_and(|s| s.streaming))),
    ("patroni_postgres_in_archive_recovery", "1 if the standby reads from an archive", |p| {
        yes(p.standby().is_some_and(|s| !s.streaming))
    }),
    ("patroni_postgres_server_version", "Version of Postgres", |p| {
        p.extras.as_ref().map_or(0.0, |e| e.server_version as f64)
    }),
    ("patroni_cluster_unlocked", "1 if nobody holds the leader lock", |p| {
        yes(p.cluster().is_none_or(|c| c.leader.is_none()))
    }),
    ("patroni_failsafe_mode_is_active", "1 if failsafe mode is active", |p| yes(p.leads_on_promises())),
    ("patroni_failsafe_mode_enabled", "1: going on without etcd is no switch here", |_| 1.0),
    ("patroni_failsafe_member", "1 if this member is listed among those that a leader without etcd asks", |p| {
        yes(p.cluster().and_then(|c| c.failsafe.as_ref()).is_some_and(|listed| listed.contains(&p.view.me)))
    }),
    ("patroni_postgres_timeline", "The timeline of Postgres", |p| p.timeline().map_or(0.0, |t| f64::from(t.0))),
    ("patroni_dcs_last_seen", "When etcd was last seen, seconds since the epoch", |p| p.etcd_seen_epoch_s as f64),
    ("patroni_pending_restart", "1 if a parameter waits for a restart", |p| yes(!p.parameters.pending().is_empty())),
    ("patroni_is_paused", "1 while automatic actions are paused", |p| yes(p.view.settings.paused)),
    ("patroni_postgres_state", "State of Postgres, as Patroni numbers it", |p| state_number(p)),
    ("patroni_failover_priority", "Among equals the higher number leads, 0: never", |p| {
        let tags = p.cluster().and_then(|c| c.members.get(&p.view.me)).map(|member| &member.tags);
        tags.map_or(0.0, |tags| if tags.nofailover { 0.0 } else { f64::from(tags.failover_priority) })
    }),
];

/// A time as Postgres prints it; 0 where that is no ISO date.
fn seconds_since_epoch(printed: &str) -> f64 {
    printed.parse::<jiff::Timestamp>().map_or(0.0, |at| at.as_duration().as_secs_f64())
}

/// Patroni's numbers for the states of Postgres.
fn state_number(picture: &Picture) -> f64 {
    match picture.state() {
        "initializing new cluster" => 0.0,
        "creating replica" => 4.0,
        "running" => 5.0,
        "starting" => 6.0,
        "stopping" => 11.0,
        "stopped" => 12.0,
        "crashed" => 14.0,
        _ => -1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_postgres_prints_them() {
        for (printed, epoch_s) in [
            ("2026-08-28 11:09:08.5+00", 1_787_915_348.5),
            ("2026-08-28 13:09:08.5+02", 1_787_915_348.5),
            ("2026-08-28 16:39:08+05:30", 1_787_915_348.0),
            ("Fri 28 Aug 11:09:08 2026 UTC", 0.0),
            ("", 0.0),
        ] {
            assert!((seconds_since_epoch(printed) - epoch_s).abs() < 1e-6, "{printed}");
        }
    }
}
