//! What an adoption would do: everything that forbids it has its mend, and nothing that was set is lost.

use decision::names::{SystemId, Timeline};
use pg_control::Given;

use super::*;

fn config(more: &str) -> Config {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("pgvigil.toml");
    let text = format!(
        "cluster = \"orders\"\nname = \"pg1\"\netcd.endpoints = [\"http://127.0.0.1:2379\"]\npostgres.version = 15\n\
         postgres.data_dir = \"/data\"\npostgres.socket_dir = \"/run/pg\"\npostgres.advertise = \"10.0.0.1:5432\"\n\
         postgres.listen = \"*\"\n{more}"
    );
    std::fs::write(&file, text).expect("writable");
    crate::config::load(&file, std::iter::empty()).expect("a good file")
}

fn stranger() -> Stranger {
    let given =
        |value: &str, source: &str| Given { value: value.to_owned(), source: source.to_owned(), file: String::new() };
    let settings = [
        ("server_version_num", "150019", "default"),
        ("server_version", "15.19", "default"),
        ("port", "5432", "configuration file"),
        ("unix_socket_directories", "/tmp, /run/pg", "configuration file"),
        ("listen_addresses", "*", "configuration file"),
        ("wal_level", "replica", "default"),
        ("max_wal_senders", "10", "default"),
        ("fsync", "on", "default"),
        ("full_page_writes", "on", "default"),
        ("config_file", "/data/postgresql.conf", "override"),
    ];
    Stranger {
        system_id: SystemId(42),
        timeline: Timeline(1),
        standby: false,
        data_checksums: true,
        newest_term: Term(0),
        settings: settings.map(|(name, value, source)| (name.to_owned(), given(value, source))).into(),
        slots: Vec::new(),
    }
}

fn with(name: &str, value: &str, source: &str) -> Stranger {
    let mut found = stranger();
    let given = Given { value: value.to_owned(), source: source.to_owned(), file: String::new() };
    found.settings.insert(name.to_owned(), given);
    found
}

fn plan(found: &Stranger, seen: &Snapshot) -> Plan {
    Plan::of(&config(""), found, seen, &[], false)
}

fn of_system(id: u64, term: u64) -> Snapshot {
    let mut seen = Snapshot::default();
    seen.cluster.initialize = Initialize::Done(SystemId(id));
    seen.cluster.term = Term(term);
    seen
}

#[track_caller]
fn refused(plan: &Plan, why: &str) {
    assert!(plan.refusals.len() == 1 && plan.refusals[0].contains(why), "{:?}", plan.refusals);
}

#[test]
fn a_sound_server_is_taken_over_and_everything_is_told() {
    let plan = plan(&stranger(), &Snapshot::default());
    assert_eq!(plan.refusals, Vec::<String>::new());
    assert_eq!((plan.term, plan.warnings.len(), plan.carried.len()), (Term(1), 0, 0), "{plan:?}");
    assert!(plan.changes.iter().any(|change| change.contains("led term 1 of cluster orders last")), "{plan:?}");
}

#[test]
fn terms_go_on_above_those_that_the_database_knows() {
    let known = Stranger { newest_term: Term(7), ..stranger() };
    assert_eq!(plan(&known, &Snapshot::default()).term, Term(8));
}

#[test]
fn what_the_file_says_otherwise_is_refused() {
    let seen = Snapshot::default();
    refused(&plan(&with("port", "5433", "command line"), &seen), "`postgres.advertise` says 5432: correct it");
    refused(&plan(&with("unix_socket_directories", "/tmp", "default"), &seen), "set `postgres.socket_dir`");
    refused(&plan(&with("server_version_num", "160004", "default"), &seen), "`postgres.version` says 15");
}

#[test]
fn files_outside_the_data_directory_are_brought_home() {
    let home = [("config_file", PathBuf::from("/proc/self/stat"))];
    let plan = Plan::of(&config(""), &stranger(), &Snapshot::default(), &home, false);
    assert!(plan.refusals.is_empty() && plan.changes[0].starts_with("/data/postgresql.conf are copied"), "{plan:?}");
}

#[test]
fn a_server_that_nothing_could_be_promised_of_is_refused() {
    for (name, value) in
        [("wal_level", "minimal"), ("max_wal_senders", "0"), ("fsync", "off"), ("full_page_writes", "off")]
    {
        refused(&plan(&with(name, value, "configuration file"), &Snapshot::default()), &format!("{name} is {value}; "));
    }
    let barred = Plan::of(&config("tags.nofailover = true\n"), &stranger(), &Snapshot::default(), &[], false);
    refused(&barred, "the tags of this node bar it");
}

#[test]
fn a_cluster_that_is_there_already_is_left_alone() {
    refused(&plan(&stranger(), &of_system(9, 3)), "of database system 9");
    refused(&plan(&stranger(), &of_system(42, 3)), "start its agent");
    refused(&plan(&stranger(), &of_system(42, 0)), "another system keeps cluster orders");
    let mut creating = Snapshot::default();
    creating.cluster.initialize = Initialize::InProgress;
    refused(&plan(&stranger(), &creating), "another node is creating cluster orders");
}

#[test]
fn a_cluster_of_patroni_is_taken_over_once_patroni_is_out_of_the_way() {
    let plan = |seen: &Snapshot| Plan::of(&config(""), &stranger(), seen, &[], true);
    let mut seen = of_system(42, 0);
    assert!(plan(&seen).refusals.is_empty());
    seen.cluster.leader = Some("pg2".parse().expect("a good name"));
    refused(&plan(&seen), "Patroni's pg2 leads; patronictl pause");
    refused(&plan(&of_system(9, 0)), "of database system 9");
    let mut synchronous = of_system(42, 0);
    synchronous.config.raw = serde_json::json!({"synchronous_mode": true});
    assert!(plan(&synchronous).warnings[0].contains("durability.mode"));
}

#[test]
fn a_standby_comes_after_its_primary() {
    let standby = Stranger { standby: true, ..stranger() };
    refused(&plan(&standby, &Snapshot::default()), "pgvigil adopt on the primary first");
    refused(&plan(&standby, &of_system(9, 1)), "belongs to another primary");
    assert!(plan(&standby, &of_system(42, 1)).refusals.is_empty());
}

#[test]
fn what_would_be_another_after_the_next_start_is_kept() {
    let seen = Snapshot::default();
    let kept = |found: &Stranger| plan(found, &seen).carried.into_iter().collect::<Vec<_>>();
    let one = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(kept(&with("shared_buffers", "1GB", "command line")), one("shared_buffers", "1GB"));
    assert_eq!(kept(&with("max_wal_senders", "20", "configuration file")), one("max_wal_senders", "20"));
    assert_eq!(kept(&with("work_mem", "8MB", "configuration file")), []);
    assert_eq!(kept(&with("cluster_name", "x", "command line")), []);
    let program = plan(&with("archive_command", "cp %p /a", "command line"), &seen);
    assert!(program.carried.is_empty() && program.warnings[0].contains("in the file of each node"), "{program:?}");
    let own = config("postgres.parameters.shared_buffers = \"2GB\"\n");
    assert!(Plan::of(&own, &with("shared_buffers", "1GB", "command line"), &seen, &[], false).carried.is_empty());
}

#[test]
fn what_changes_for_clients_or_waits_for_a_restart_is_told() {
    let seen = Snapshot::default();
    let told = |found: &Stranger, what: &str| {
        let plan = plan(found, &seen);
        assert!(plan.warnings.len() == 1 && plan.warnings[0].contains(what), "{:?}", plan.warnings);
    };
    told(&with("synchronous_standby_names", "s1", "configuration file"), "commits wait for nobody");
    told(&with("listen_addresses", "localhost", "default"), "it listens on 'localhost' until");
    told(&Stranger { data_checksums: false, ..stranger() }, "copied anew");
    told(&Stranger { slots: vec!["s1".to_owned()], ..stranger() }, "the slots s1 stay");
}
