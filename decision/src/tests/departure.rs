//! Who has been taken out of the cluster: whom commits wait for without it, and when its keys go.

use super::builders::*;
use crate::departure::{Departure, Parting, is_counted_on, next};
use crate::durability::{Quorum, Step, cannot_spare, next_step, quorum_for_new_leader, wanted_quorum};
use crate::names::Term;
use crate::settings::{Mode, Settings};
use crate::view::{Cluster, Primary};

impl Cluster {
    /// An operator says that it has left.
    fn departed(mut self, who: &str, done: Option<u64>) -> Self {
        self.departures.insert(name(who), Departure { done: done.map(Term), revision: 90 });
        self
    }
}

fn wanted(cluster: &Cluster, mode: Mode, k: u32) -> Quorum {
    let mut settings = Settings::default();
    (settings.durability.mode, settings.durability.acknowledgers) = (mode, k);
    let is_there = |standby: &crate::view::Streaming| cluster.members.contains_key(&standby.member);
    let standbys = primary().standbys.into_iter().filter(is_there).collect();
    let ages = crate::view::Ages {
        voters_missing: names(&["pg2", "pg3"])
            .into_iter()
            .filter(|who| !cluster.members.contains_key(who))
            .map(|who| (who, secs(60)))
            .collect(),
        ..Default::default()
    };
    wanted_quorum(&name("pg1"), TERM, &Primary { standbys, ..primary() }, cluster, &ages, &settings)
}

#[test]
fn commits_wait_for_nobody_who_has_left_though_it_streams() {
    let left = cluster().departed("pg3", None);
    assert_eq!(wanted(&left, Mode::Quorum, 1), any(1, &["pg2"]));
    assert_eq!(wanted(&left, Mode::Strict, 1), any(1, &["pg2"]));
    assert_eq!(wanted(&left.without("pg3"), Mode::Quorum, 2), any(1, &["pg2"]));
}

#[test]
fn in_strict_mode_k_does_not_fall_when_somebody_leaves() {
    let dead = cluster().mode(Mode::Strict).without("pg2").without("pg3");
    assert_eq!(wanted(&dead, Mode::Strict, 1), any(1, &["pg2", "pg3"]));
    let left = dead.departed("pg3", None);
    assert_eq!(wanted(&left, Mode::Strict, 1), any(1, &["pg2"]), "it is not waited for any more");
    assert_eq!(wanted(&left, Mode::Strict, 2), any(2, &["pg2", "pg3"]), "without it too few are left");
    let both = left.departed("pg2", None);
    assert_eq!(wanted(&both, Mode::Strict, 1), any(1, &["pg2", "pg3"]));
}

#[test]
fn a_new_leader_does_not_wait_for_who_left_either() {
    let mut settings = Settings::default();
    settings.durability.mode = Mode::Strict;
    let vacant = cluster().mode(Mode::Strict).vacant().without("pg3").departed("pg3", None);
    assert_eq!(quorum_for_new_leader(&name("pg2"), &vacant, &settings), any(1, &["pg1"]));
    let all_left = vacant.without("pg1").departed("pg1", None);
    assert_eq!(quorum_for_new_leader(&name("pg2"), &all_left, &settings), any(1, &["pg1", "pg3"]));
}

#[test]
fn the_command_is_refused_where_strict_mode_needs_the_member() {
    let strict = cluster().mode(Mode::Strict);
    assert_eq!(cannot_spare(&strict, &name("pg3")), None);
    let last = strict.clone().policies(&[any(1, &["pg3"])]);
    assert_eq!(cannot_spare(&last, &name("pg3")), Some(any(1, &["pg3"])));
    assert_eq!(cannot_spare(&strict.departed("pg2", None), &name("pg3")), Some(any(1, &["pg2", "pg3"])));
    assert_eq!(cannot_spare(&cluster().policies(&[any(1, &["pg3"])]), &name("pg3")), None);
}

#[test]
fn it_leaves_the_record_by_the_ordinary_steps() {
    let recorded = vec![any(1, &["pg2", "pg3"])];
    let step = next_step(&recorded, recorded.first(), &any(1, &["pg2"]));
    assert_eq!(step, Step::Record(vec![any(1, &["pg2", "pg3"]), any(1, &["pg2"])]));
}

#[test]
fn its_keys_go_when_nothing_counts_on_it_any_more() {
    let gone = |cluster: Cluster| cluster.without("pg3").floor("pg3", 500).ballot("pg3", 4, 800);
    let pg3 = || name("pg3");
    let counted = gone(cluster()).departed("pg3", None);
    assert_eq!(next(&counted), None, "a voter of the record");
    let spared = counted.policies(&[any(1, &["pg2"])]);
    assert_eq!(next(&spared), Some(Parting::Done(pg3())));
    assert_eq!(next(&spared.clone().record(|sync| sync.heir = Some(pg3()))), None);
    assert_eq!(
        next(&Cluster { failsafe: Some(names(&["pg1", "pg3"])), ..spared.clone() }),
        None,
        "it may lead without proof"
    );
    assert_eq!(next(&Cluster { sync: None, ..spared.clone() }), None, "what is counted on is not known");
    // A ballot of this very term may still be on its way, and must not find the place of an empty one free.
    let done = spared.departed("pg3", Some(TERM.0));
    assert_eq!(next(&done), None);
    let later = Cluster { term: TERM.next(), ..done.clone() };
    assert_eq!(next(&later), Some(Parting::ForgetBallot(pg3())));
    assert_eq!(next(&Cluster { ballots: Default::default(), ..later }), None);
    let back = cluster().departed("pg3", Some(3));
    assert_eq!(next(&back), Some(Parting::CameBack(pg3())));
}

#[test]
fn the_leader_and_the_last_one_are_counted_on() {
    let alone = cluster().policies(&[any(0, &[])]);
    assert!(is_counted_on(&alone, &name("pg1")) && !is_counted_on(&alone, &name("pg2")));
    assert!(is_counted_on(&alone.vacant(), &name("pg1")));
}
