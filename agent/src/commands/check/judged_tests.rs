//! One cluster of three, one thing wrong in each row, and how bad that is.
#![allow(clippy::unwrap_used)]

use super::super::super::status::{PauseStatus, Trouble};
use super::*;

fn member(name: &str, state: &str, lag: Option<u64>) -> MemberStatus {
    let (receive_lag_bytes, replay_lag_bytes) = (lag, lag);
    MemberStatus {
        name: name.to_owned(),
        state: state.to_owned(),
        receive_lag_bytes,
        replay_lag_bytes,
        ..MemberStatus::default()
    }
}

fn status() -> Status {
    let mut status = Status {
        leader: Some("pg1".to_owned()),
        writable: Some(true),
        term: Some(7),
        lease_left_ms: Some(4060),
        etcd_reachable: true,
        members: vec![
            member("pg1", "writable", None),
            member("pg2", "streaming", Some(0)),
            member("pg3", "streaming", Some(4096)),
        ],
        ..Status::default()
    };
    status.verdict.sentence = "the verdict".to_owned();
    status
}

fn with(change: impl FnOnce(&mut Status)) -> Status {
    let mut status = status();
    change(&mut status);
    status
}

fn told(code: &'static str) -> Status {
    with(|status| status.problems.push(Trouble::new(code, format!("it is {code}"), "mend it")))
}

fn usual() -> Limits {
    Limits::of(What::All, None, None).unwrap()
}

#[test]
fn of_the_leader() {
    let none = |word| with(|status| (status.writable, status.verdict.word) = (Some(false), word));
    for (status, level, text) in [
        (status(), Level::Ok, "writes work on pg1, term 7"),
        (none(Word::NoPrimary), Level::Critical, "the verdict"),
        (none(Word::Ok), Level::Ok, "the verdict"),
        (none(Word::Degraded), Level::Warning, "the verdict"),
        (with(|status| status.writable = None), Level::Unknown, "the verdict"),
        (told("writes_forbidden"), Level::Critical, "it is writes_forbidden"),
        (told("primary_without_lock"), Level::Critical, "it is primary_without_lock"),
        (told("replay_behind"), Level::Ok, "writes work on pg1, term 7"),
    ] {
        let finding = leader(&status, &usual());
        assert_eq!((finding.level, finding.text.as_str()), (level, text));
    }
    assert_eq!(leader(&status(), &usual()).perf, ["lease_left=4.060s;;;0", "term=7"]);
}

#[test]
fn of_replication() {
    let of = |pg2, pg3| with(|status| status.members.splice(1.., [pg2, pg3]).for_each(drop));
    let (well, down) = (|| member("pg2", "streaming", Some(0)), |name: &str| member(name, "down", None));
    for (status, level, text) in [
        (status(), Level::Ok, "2 of 2 standbys stream"),
        (of(well(), down("pg3")), Level::Warning, "1 of 2 standbys stream, not pg3"),
        (of(down("pg2"), down("pg3")), Level::Critical, "0 of 2 standbys stream, not pg2, pg3"),
        (of(well(), member("pg3", "streaming", Some(17 << 20))), Level::Warning, "pg3 is 17.0 MB behind"),
        (of(well(), member("pg3", "streaming", Some(300 << 20))), Level::Critical, "pg3 is 300.0 MB behind"),
        (told("durability_degraded"), Level::Warning, "it is durability_degraded"),
        (with(|status| status.members.truncate(1)), Level::Ok, "there is no standby, and none is expected"),
        (
            of(well(), member("pg3", "streaming", None)),
            Level::Unknown,
            "2 of 2 standbys stream, but the leader's agent does not say how far they are behind",
        ),
    ] {
        let finding = replication(&status, &usual());
        assert_eq!((finding.level, finding.text.as_str()), (level, text));
    }
    let strict = Limits::of(What::Replication, Some("1kB"), Some("2kB")).unwrap();
    let finding = replication(&status(), &strict);
    assert_eq!(finding.level, Level::Critical);
    assert_eq!(finding.perf, ["streaming=2;;;0;2", "'pg2_lag'=0B;1024;2048;0", "'pg3_lag'=4096B;1024;2048;0"]);
}

#[test]
fn of_the_settings() {
    for (status, level, text) in [
        (status(), Level::Ok, "the settings are in force"),
        (told("corrupt_key"), Level::Critical, "it is corrupt_key"),
        (told("access_rejected"), Level::Warning, "it is access_rejected"),
        (told("member_down"), Level::Ok, "the settings are in force"),
        (
            with(|status| status.pause = Some(PauseStatus::default())),
            Level::Warning,
            "automatic actions are paused until somebody resumes",
        ),
        (
            with(|status| status.etcd_reachable = false),
            Level::Unknown,
            "the settings are in etcd, and it does not answer",
        ),
    ] {
        let finding = config(&status, &usual());
        assert_eq!((finding.level, finding.text.as_str()), (level, text));
    }
}

#[test]
fn limits_are_read_in_the_unit_of_their_check() {
    let of = |what, warning, critical| Limits::of(what, warning, critical);
    assert_eq!(of(What::Replication, Some("1MB"), None).unwrap().lag_bytes, (1 << 20, 256 << 20));
    assert_eq!(of(What::Replication, None, Some("1MB")).unwrap().lag_bytes, (1 << 20, 1 << 20));
    assert_eq!(of(What::Etcd, Some("20ms"), Some("1s")).unwrap().etcd_ms, (20, 1000));
    assert!(of(What::Etcd, Some("16MB"), None).is_err());
    assert!(of(What::Replication, Some("2MB"), Some("1MB")).is_err());
    assert!(of(What::Leader, Some("1"), None).is_err());
}
