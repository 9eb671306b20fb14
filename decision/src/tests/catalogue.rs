//! Values of parameters: each in one form, and each mistake with what was expected.

use crate::catalogue::{Catalogue, Kind, Parameter, Takes, check, edits};

fn catalogue() -> Catalogue {
    let plain = |kind| Parameter { kind, unit: None, min: None, max: None, choices: Vec::new(), takes: Takes::Reload };
    let number = |kind, unit: &str, min, max| Parameter {
        unit: Some(unit.to_owned()).filter(|unit| !unit.is_empty()),
        min: Some(min),
        max: Some(max),
        ..plain(kind)
    };
    let words = |words: &[&str]| Parameter {
        choices: words.iter().map(|word| (*word).to_owned()).collect(),
        ..plain(Kind::Choice)
    };
    [
        ("work_mem", number(Kind::Whole, "kB", 64.0, 2_147_483_647.0)),
        ("shared_buffers", Parameter { takes: Takes::Restart, ..number(Kind::Whole, "8kB", 16.0, 1_073_741_823.0) }),
        ("wal_sender_timeout", number(Kind::Whole, "ms", 0.0, 2_147_483_647.0)),
        ("temp_file_limit", number(Kind::Whole, "kB", -1.0, 2_147_483_647.0)),
        ("vacuum_cost_delay", number(Kind::Number, "ms", 0.0, 100.0)),
        ("random_page_cost", number(Kind::Number, "", 0.0, 1e300)),
        ("max_connections", number(Kind::Whole, "", 1.0, 262_143.0)),
        ("jit", plain(Kind::Switch)),
        ("datestyle", plain(Kind::Text)),
        ("synchronous_commit", words(&["local", "remote_write", "remote_apply", "on", "off"])),
        ("wal_level", words(&["minimal", "replica", "logical"])),
        ("block_size", Parameter { takes: Takes::Never, ..number(Kind::Whole, "", 8192.0, 8192.0) }),
        ("plpgsql.check_asserts", plain(Kind::Switch)),
    ]
    .map(|(name, parameter)| (name.to_owned(), parameter))
    .into()
}

#[test]
fn each_value_has_one_form() {
    for (name, value, expected) in [
        ("work_mem", "8192kB", "8MB"),
        ("work_mem", "8192", "8MB"),
        ("Work_Mem", " 8 MB ", "8MB"),
        ("work_mem", "1.5GB", "1536MB"),
        ("work_mem", "100", "100kB"),
        ("shared_buffers", "16384", "128MB"),
        ("wal_sender_timeout", "60000", "1min"),
        ("wal_sender_timeout", "5s", "5s"),
        ("wal_sender_timeout", "0", "0"),
        ("temp_file_limit", "-1", "-1"),
        ("vacuum_cost_delay", "0.5", "500us"),
        ("vacuum_cost_delay", "2ms", "2ms"),
        ("random_page_cost", "1.10", "1.1"),
        ("max_connections", "200", "200"),
        ("max_connections", "0777", "511"),
        ("work_mem", "0.5GB", "512MB"),
        ("jit", "Yes", "on"),
        ("jit", "0", "off"),
        ("DateStyle", "ISO, DMY", "ISO, DMY"),
        ("synchronous_commit", "true", "on"),
        ("wal_level", "Logical", "logical"),
        ("auto_explain.log_min_duration", "1s", "1s"),
    ] {
        assert_eq!(check(&catalogue(), name, value).as_deref(), Ok(expected), "{name} = {value}");
    }
}

#[test]
fn each_mistake_says_what_was_expected() {
    for (name, value, expected) in [
        ("work_mem", "8 parsec", "a whole number, or one with a unit (B, kB, MB, GB, TB)"),
        ("work_mem", "8s", "a whole number, or one with a unit"),
        ("work_mem", "1kB", "from 64kB to"),
        ("shared_buffers", "lots", "a whole number"),
        ("wal_sender_timeout", "-1", "from 0 to"),
        ("max_connections", "0", "a whole number from 1 to 262143"),
        ("max_connections", "200kB", "expected a whole number"),
        ("jit", "maybe", "on or off"),
        ("wal_level", "archive", "one of minimal, replica, logical"),
        ("block_size", "8192", "cannot be changed"),
        ("work_men", "8MB", "did you mean `work_mem`?"),
        ("shoe_size", "43", "Postgres has no parameter \"shoe_size\""),
        ("plpgsql.check_assert", "on", "did you mean `plpgsql.check_asserts`?"),
        (".x", "1", "no parameter"),
    ] {
        let told = check(&catalogue(), name, value);
        assert!(told.as_ref().is_err_and(|told| told.contains(expected)), "{name} = {value}: {told:?}");
    }
}

#[test]
fn edits_are_counted() {
    assert_eq!(edits("ttl", "ttl"), 0);
    assert_eq!(edits("kitten", "sitting"), 3);
    assert_eq!(edits("", "abc"), 3);
}
