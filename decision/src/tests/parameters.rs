//! Parameters of Postgres: what is refused, whose word counts, and that no order of changes and restarts leaves a standby below its primary.

use std::collections::{BTreeMap, BTreeSet};

use crate::parameters::{
    Capacities, Parameters, Part, cluster_objection, effective, is_local_only, is_owned, objection, usable,
};
use crate::settings::Mode;

fn of(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn connections(number: u64) -> Capacities {
    BTreeMap::from([("max_connections".to_owned(), number)])
}

const ALONE: Part<'static> = Part::Follows { leader: None };

#[test]
fn what_would_break_a_promise_is_refused() {
    for (name, value, expected) in [
        ("Port", "1", "belongs to the agent"),
        ("synchronous_standby_names", "*", "belongs to the agent"),
        ("wal_receiver_timeout", "1s", "belongs to the agent"),
        ("synchronous_commit", "remote_write", "its disk does not have yet"),
        ("synchronous_commit", "local", "would not wait for the voters"),
        ("fsync", "OFF", "would destroy"),
        ("wal_level", "minimal", "nothing could be replicated"),
        ("max_wal_senders", "5", "too small"),
        ("max_connections", "many", "too small"),
        ("work_mem", "1\nport = 2", "cannot be written"),
        ("a b", "1", "cannot be written"),
        ("include_if_exists", "/etc/passwd", "is no parameter"),
    ] {
        let told = objection(name, value, Mode::Quorum).map(|objection| objection.what);
        assert!(told.as_ref().is_some_and(|told| told.contains(expected)), "{name}: {told:?}");
    }
    for (name, value) in [("wal_level", "logical"), ("work_mem", "8MB"), ("a.b", "c"), ("max_wal_senders", "10")] {
        assert_eq!(objection(name, value, Mode::Strict), None, "{name}");
    }
    assert_eq!(objection("synchronous_commit", "local", Mode::Async), None);
}

#[test]
fn commands_and_libraries_are_only_the_nodes_own_to_say() {
    let local = [
        "archive_command",
        "restore_command",
        "archive_library",
        "shared_preload_libraries",
        "ssl_key_file",
        "krb_server_keyfile",
        "log_directory",
        "dynamic_library_path",
        "jit_provider",
        "ssl_crl_dir",
        "plperl.on_init",
        "pltcl.start_proc",
        "Archive_Command",
    ];
    for name in local {
        assert!(is_local_only(name) && cluster_objection(name, "x", Mode::Async).is_some(), "{name}");
        assert!(is_owned(name) || objection(name, "x", Mode::Async).is_none(), "{name} is the node's to set");
    }
    for name in ["work_mem", "log_line_prefix", "archive_mode", "file_copy_method", "temp_tablespaces"] {
        assert!(!is_local_only(name), "{name}");
    }
}

#[test]
fn what_etcd_must_not_say_is_left_out_and_told() {
    let (good, bad) = usable(&of(&[("Work_Mem", "8MB"), ("archive_command", "rm"), ("port", "1")]), Mode::Async);
    assert_eq!(good, of(&[("work_mem", "8MB")]));
    assert_eq!(bad.len(), 2, "{bad:?}");
}

#[test]
fn the_node_file_goes_over_the_cluster_save_for_what_must_be_alike() {
    let cluster = of(&[("work_mem", "8MB"), ("wal_level", "logical"), ("max_connections", "200"), ("jit", "off")]);
    let node = of(&[("work_mem", "4MB"), ("wal_level", "replica"), ("max_connections", "50"), ("fsync", "on")]);
    let expected = of(&[
        ("fsync", "on"),
        ("jit", "off"),
        ("max_connections", "200"),
        ("wal_level", "logical"),
        ("work_mem", "4MB"),
    ]);
    assert_eq!(effective(&cluster, &node, &Capacities::new(), ALONE), expected);
    // Where the cluster says nothing the node's word counts for these, too.
    assert_eq!(effective(&Parameters::new(), &node, &Capacities::new(), ALONE), node);
}

#[test]
fn capacities_are_raised_on_standbys_first_and_lowered_on_the_primary_first() {
    let [few, usual, many] = [50, 100, 200].map(connections);
    let (none, unsaid) = (Capacities::new(), Capacities::new());
    for (asked, part, expected, why) in [
        ("200", Part::Follows { leader: Some(&usual) }, Some("200"), "a standby is raised at once"),
        ("50", Part::Follows { leader: Some(&usual) }, Some("100"), "and not lowered below its primary"),
        ("50", Part::Follows { leader: Some(&few) }, Some("50"), "but with it"),
        ("50", ALONE, Some("50"), "of nobody it follows nothing is known"),
        ("200", Part::Leads { mine: &usual, standbys: &[&many, &usual] }, Some("100"), "one standby is not raised yet"),
        ("200", Part::Leads { mine: &usual, standbys: &[&many, &unsaid] }, Some("100"), "one has not said"),
        ("200", Part::Leads { mine: &usual, standbys: &[&many, &many] }, Some("200"), "all are"),
        ("200", Part::Leads { mine: &usual, standbys: &[] }, Some("200"), "there is none"),
        ("50", Part::Leads { mine: &usual, standbys: &[&usual] }, Some("50"), "a primary is lowered at once"),
        ("200", Part::Leads { mine: &none, standbys: &[&usual] }, Some("100"), "a primary that is down"),
    ] {
        let cluster = of(&[("max_connections", asked)]);
        let got = effective(&cluster, &Parameters::new(), &Capacities::new(), part);
        assert_eq!(got.get("max_connections").map(String::as_str), expected, "{why}");
    }
    // Nobody asks for anything: postgresql.conf counts, and is only overridden where the primary has more.
    let nothing = Parameters::new();
    assert_eq!(effective(&nothing, &nothing, &usual, Part::Follows { leader: Some(&usual) }), nothing);
    let raised = effective(&nothing, &nothing, &few, Part::Follows { leader: Some(&usual) });
    assert_eq!(raised, of(&[("max_connections", "100")]));
}

/// Three nodes, the first of which leads. What each runs with, and what is asked for.
type World = ([u64; 3], u64);

fn at_start(world: &World, node: usize) -> u64 {
    let (running, asked) = *world;
    let cluster = of(&[("max_connections", &asked.to_string())]);
    let all = running.map(connections);
    let standbys = [&all[1], &all[2]];
    let part = match node {
        0 => Part::Leads { mine: &all[0], standbys: &standbys },
        _ => Part::Follows { leader: Some(&all[0]) },
    };
    effective(&cluster, &Parameters::new(), &Capacities::new(), part)["max_connections"].parse().expect("a number")
}

/// Every order of changes of the setting and of restarts of single nodes.
#[test]
fn no_order_of_changes_and_restarts_leaves_a_standby_below_its_primary() {
    let mut seen = BTreeSet::new();
    let mut left: Vec<World> = vec![([100; 3], 100)];
    while let Some(world) = left.pop() {
        if !seen.insert(world) {
            continue;
        }
        let (running, asked) = world;
        assert!(running[1] >= running[0] && running[2] >= running[0], "{world:?}");
        left.extend([50, 100, 200, 300].map(|other| (running, other)));
        for node in 0..3 {
            let mut after = running;
            after[node] = at_start(&world, node);
            left.push((after, asked));
        }
    }
    assert!(seen.len() > 100, "{} worlds are too few", seen.len());
    // Restarted in the right order, all come to what is asked for.
    for (from, to, order) in [(100, 300, [1, 2, 0]), (300, 50, [0, 1, 2])] {
        let mut running = [from; 3];
        for node in order {
            running[node] = at_start(&(running, to), node);
        }
        assert_eq!(running, [to; 3]);
    }
}
