//! Whatever is stored under a key, reading it gives a record or a sentence, never a fault: every decoder on every kind of nonsense, and on good
//! records that were cut off or changed by a byte anywhere.

use super::*;

/// A decoder of one kind of record, which says whether it has understood.
type Decode = fn(&str) -> bool;

const DECODERS: &[(&str, Decode)] = &[
    ("config", |text| ClusterConfig::from_json(text).1.is_empty()),
    ("config_history", |text| ConfigRevision::from_json(1, text).is_ok()),
    ("departures", |text| DepartureRecord::from_json(text).is_ok()),
    ("failover", |text| FailoverRecord::from_json(text).and_then(|record| record.to_request(1)).is_ok()),
    ("members", |text| MemberRecord::from_json(text).and_then(|record| record.to_member()).is_ok()),
    ("orders", |text| OrderRecord::from_json(text).and_then(|record| record.to_order(1)).is_ok()),
    ("scheduled/switchover", |text| PlannedSwitchover::from_json(text).is_ok()),
    ("scheduled/restarts", |text| PlannedRestart::from_json(text).is_ok()),
    ("ballots", |text| pledge::ballot_from_stored(text, 1).is_ok()),
    ("floors", |text| pledge::floor_from_stored(text).is_ok()),
    ("status", |text| progress::status_from_stored(text).is_ok()),
    ("history", |text| progress::history_from_stored(text).is_ok()),
    ("stray_timeline", |text| progress::timeline_from_stored(text).is_ok()),
    ("secrets", |text| Secrets::from_json(text).is_ok()),
    ("sync", |text| sync::from_stored(text).is_ok()),
    ("transitions", |text| Transition::from_json(text).is_ok()),
    ("site_token", |text| text.parse::<decision::site::Token>().is_ok()),
    ("leader", |text| decision::names::MemberName::new(text).is_ok()),
];

const GOOD: &[(&str, &str)] = &[
    (
        "config",
        r#"{"ttl":30,"pause":true,"maximum_lag_on_failover":1,"postgresql":{"parameters":{"work_mem":"8MB"},"pg_hba":["local all all peer"],"use_slots":true},"slots":{"a":{"type":"physical"}},"member_slots_ttl":"30min","standby_cluster":{"host":"a","port":1},"pgvigil":{"pause":{"until":"2026-11-22T10:00:00Z"},"durability":{"mode":"quorum","acknowledgers":1},"site":{"promote":{"after":"42:4:0/28"}}}}"#,
    ),
    ("config_history", r#"{"by":"anna","at":"2026-11-22T10:00:00Z","config":{}}"#),
    ("departures", r#"{"by":"anna","at":"now","done":true,"done_in_term":3}"#),
    ("failover", r#"{"leader":"pg1","member":"pg2","kind":"switchover","accept_data_loss":true}"#),
    (
        "members",
        r#"{"conn_url":"postgres://h:5432/postgres","api_url":"http://h:8008/patroni","state":"running","role":"replica","version":"4.1.5","pgvigil":"1","timeline":5,"tags":{"nosync":true},"lock_lease":"7","slots":["a"],"capacities":{"max_connections":100}}"#,
    ),
    ("orders", r#"{"order":"restart","role":"replica","requested_by":"anna"}"#),
    (
        "scheduled/switchover",
        r#"{"at":"2026-11-22T10:00:00Z","window_s":600,"requested_by":"anna","reason":"x","leader":"pg1","member":"pg2"}"#,
    ),
    (
        "scheduled/restarts",
        r#"{"at":"2026-11-22T10:00:00Z","window_s":600,"ignore_hold":true,"requested_by":"anna","role":"replica","only_pending":true}"#,
    ),
    ("ballots", r#"{"revoked":7,"wal_term":6,"received":"0/3000148","timeline":4}"#),
    ("floors", r#"{"lsn":"0/3000148"}"#),
    ("status", r#"{"optime":67393608,"slots":{"pg2":67393608},"retain_slots":["pg2"]}"#),
    ("history", r#"[[1,25623960,"no recovery target specified","2026-09-23T16:57:57.324+00:00","pg2"]]"#),
    ("stray_timeline", "7"),
    ("secrets", r#"{"replication_password":"a","rewind_password":"b"}"#),
    (
        "sync",
        r#"{"leader":"pg1","quorum":1,"sync_standby":"pg2,pg3","term":7,"mode":"quorum","policies":[{"k":1,"voters":["pg2","pg3"]}],"timeline":4,"released":false,"reclaimed":false,"handover_lsn":"0/3000148","heir":"pg2"}"#,
    ),
    (
        "transitions",
        r#"{"id":"t-8","phases":[{"name":"detect","duration_ms":512.5,"measured_on":"pg2"}],"lost_bytes_bound":0}"#,
    ),
    ("site_token", "42:4:0/28"),
    ("leader", "pg1"),
];

fn nonsense() -> Vec<String> {
    let mut all: Vec<String> = [
        "", " ", "[]", "{}", "null", "true", "42", "-1", "1e400", "18446744073709551616", "\"\"", "\"\\u0000\"", "{\"a\":", "\u{0}", "\u{FFFD}\u{FFFD}",
        "[null]", "[[1]]", "[[1,2,3,4,5]]", "{\"lsn\":null}", "{\"optime\":-1}", "{\"policies\":{}}", "{\"conn_url\":\"postgres://:\"}",
        "{\"conn_url\":\"postgres://[:1\"}", "{\"conn_url\":\"postgres://h:99999/x\"}", "{\"conn_url\":\"://\"}", "FFFFFFFF/FFFFFFFF", "0/", "/", "::", "42:4",
        "{\"pgvigil\":[],\"postgresql\":42,\"slots\":\"x\",\"pause\":null,\"standby_cluster\":[]}",
        "{\"postgresql\":{\"pg_hba\":[[]],\"parameters\":[]},\"member_slots_ttl\":1e300}",
        "{\"leader\":\"pg1\",\"term\":7,\"mode\":\"majority\",\"policies\":[{\"k\":4294967295,\"voters\":[]}],\"timeline\":1}",
        "{\"initialize\":{\"foreign\":\"tool\"},\"@type\":\"x\"}",
    ]
    .map(str::to_owned)
    .into();
    all.extend(["[", "{\"a\":", "[{\"a\":"].map(|opening| opening.repeat(100_000)));
    all.push(format!("{}{}", "[".repeat(100), "]".repeat(100)));
    all.push("9".repeat(1 << 20));
    all.push(format!("\"{}\"", "\u{1F418}".repeat(1 << 18)));
    all
}

#[test]
fn no_decoder_fails_on_nonsense() {
    for text in nonsense() {
        for (_, decode) in DECODERS {
            decode(&text);
        }
    }
}

#[test]
fn no_decoder_fails_on_good_records_that_are_cut_off_or_changed() {
    for (kind, good) in GOOD {
        let (_, decode) = DECODERS.iter().find(|(name, _)| name == kind).expect("its decoder");
        assert!(decode(good), "{kind} is not understood: {good}");
        for at in 0..good.len() {
            decode(&good[..at]);
            for byte in [b'0', b'9', b'-', b'"', b'{', b'[', b'e', b'/', b'\\', 0x00, 0xff] {
                let mut bytes = good.as_bytes().to_vec();
                bytes[at] = byte;
                decode(&String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn a_newer_version_may_say_more() {
    for (kind, good) in GOOD.iter().filter(|(_, good)| good.starts_with('{')) {
        let (_, decode) = DECODERS.iter().find(|(name, _)| name == kind).expect("its decoder");
        let newer = format!("{{\"of_a_newer_version\":{{\"x\":[1]}},{}", &good[1..]);
        assert!(decode(&newer), "{kind} is not understood: {newer}");
    }
}
