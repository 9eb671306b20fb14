//! Whom a new leader waits for, in each mode.

use super::builders::*;
use crate::durability::{Quorum, inherited, mode_in_force, quorum_for_new_leader, stands_alone};
use crate::names::Term;
use crate::settings::{Mode, Settings};
use crate::view::{Cluster, Primary};

fn new_leader_waits_for(cluster: &Cluster, mode: Mode, k: u32) -> Quorum {
    let mut settings = Settings::default();
    (settings.durability.mode, settings.durability.acknowledgers) = (mode, k);
    quorum_for_new_leader(&name("pg2"), cluster, &settings)
}

#[test]
fn a_new_leader_waits_for_the_others_that_are_alive_and_may_vote() {
    let vacant = cluster().vacant();
    assert_eq!(new_leader_waits_for(&vacant, Mode::Quorum, 1), any(1, &["pg1", "pg3"]));
    let without = vacant.clone().without("pg1");
    assert_eq!(new_leader_waits_for(&without, Mode::Quorum, 1), any(1, &["pg3"]));
    assert_eq!(new_leader_waits_for(&without, Mode::Quorum, 2), any(1, &["pg3"]));
    let excused = without.member("pg3", |member| member.tags.nosync = true);
    assert_eq!(new_leader_waits_for(&excused, Mode::Quorum, 1), any(0, &[]));
    assert_eq!(new_leader_waits_for(&vacant, Mode::Async, 1), any(0, &[]));
}

#[test]
fn the_stand_in_for_a_record_that_could_not_be_read_votes_for_nobody() {
    let unreadable = cluster().vacant().record(|sync| {
        sync.leader = name("unreadable-sync-record");
        sync.policies = Vec::new();
    });
    assert_eq!(new_leader_waits_for(&unreadable, Mode::Strict, 1), any(1, &["pg1", "pg3"]));
}

#[test]
fn in_strict_mode_the_missing_are_waited_for() {
    let alone = cluster().vacant().without("pg1").without("pg3");
    assert_eq!(new_leader_waits_for(&alone, Mode::Strict, 2), any(2, &["pg1", "pg3"]));
}

#[test]
fn auto_counts_the_members_that_may_lead_and_remembers() {
    let auto = Settings::default();
    let asynchronous = cluster().mode(Mode::Async);
    assert_eq!(mode_in_force(&auto, &asynchronous), Mode::Quorum);
    assert_eq!(mode_in_force(&auto, &asynchronous.clone().without("pg3")), Mode::Async);
    assert_eq!(mode_in_force(&auto, &cluster().without("pg3")), Mode::Quorum);
}

#[test]
fn what_postgres_is_told_reads_back_the_same() {
    for quorum in [any(1, &["pg2"]), any(2, &["pg2", "pg3", "db-01.example.org"])] {
        let text = quorum.standby_names(Term(7));
        assert_eq!(Quorum::parse_standby_names(&text, Term(3)), Some((quorum, Term(7))), "{text}");
    }
    assert_eq!(any(2, &["pg2", "pg3"]).standby_names(Term(7)), "ANY 2 (\"pg2_t7\", \"pg3_t7\")");
    assert_eq!(Quorum::parse_standby_names("", Term(3)), Some((Quorum::none(), Term(3))));
}

#[test]
fn what_somebody_else_has_set_is_not_ours() {
    let foreign =
        ["*", "pg2", "FIRST 1 (pg2_t7)", "ANY 1 (pg2)", "ANY 1 (pg2_t7, pg3_t6)", "ANY 2 (pg2_t7)", "ANY 0 (pg2_t7)"];
    for text in foreign {
        assert_eq!(Quorum::parse_standby_names(text, Term(7)), None, "{text}");
    }
}

#[test]
fn a_new_leader_inherits_promises_that_the_old_leader_can_help_to_prove() {
    let inherits = |policies: &[Quorum]| {
        let cluster = cluster().policies(policies);
        inherited(cluster.sync.as_ref().expect("recorded"))
    };
    assert_eq!(inherits(&[any(1, &["pg2", "pg3"])]), [any(2, &["pg1", "pg2", "pg3"])]);
    assert_eq!(inherits(&[any(0, &[])]), [any(1, &["pg1"])]);
    let inherited_before = any(2, &["pg1", "pg2", "pg3"]);
    assert_eq!(inherits(std::slice::from_ref(&inherited_before)), [inherited_before]);
}

#[test]
fn a_leader_that_waits_for_nobody_is_alone_where_its_mode_promises_that_somebody_has_it() {
    let alone = |mode, k, of_term| {
        let cluster = cluster().mode(mode);
        let waits_for = Some((any(k, if k == 0 { &[] } else { &["pg2", "pg3"] }), TERM));
        stands_alone(cluster.sync.as_ref().expect("recorded"), of_term, &Primary { waits_for, ..primary() })
    };
    assert!(alone(Mode::Quorum, 0, TERM));
    assert!(!alone(Mode::Quorum, 1, TERM), "a voter has it");
    assert!(!alone(Mode::Async, 0, TERM), "nothing was promised");
    assert!(alone(Mode::Strict, 0, TERM), "it was set when there was nobody to wait for");
    assert!(!alone(Mode::Strict, 1, TERM), "commits wait");
    assert!(!alone(Mode::Quorum, 0, TERM.next()), "the record speaks of another reign");
}
