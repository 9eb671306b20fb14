//! Which slots a node holds, and what is done about those that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::builders::{check, cluster, member, name, secs, standby, view};
use crate::action::Action;
use crate::cluster::Member;
use crate::decide;
use crate::names::{Lsn, MemberName};
use crate::slots::*;
use crate::view::{MemberRole, Request, RequestKind, Server, Standby, Upstream};

pub(super) fn slot_name(text: &str) -> SlotName {
    SlotName::new(text).expect("test names are good names")
}

/// A slot of ours that keeps WAL from 100 on.
pub(super) fn slot(text: &str) -> Slot {
    Slot {
        name: slot_name(text),
        kind: Kind::Physical,
        active: false,
        restart: Some(Lsn(100)),
        confirmed: None,
        catalog_xmin: None,
        has_xmin: false,
        lost: false,
        failover: false,
        synced: false,
        retained_bytes: 0,
        made: Some(Made::Member),
    }
}

pub(super) fn members(list: &[&str]) -> BTreeMap<MemberName, Member> {
    list.iter().map(|text| (name(text), member(MemberRole::Standby))).collect()
}

pub(super) fn published(positions: &[(&str, u64)], for_members: &[&str]) -> Published {
    Published {
        positions: positions.iter().map(|(text, at)| (slot_name(text), Lsn(*at))).collect(),
        for_members: for_members.iter().map(|text| slot_name(text)).collect(),
    }
}

/// What is done, in words.
pub(super) fn told(steps: &[Step]) -> Vec<String> {
    let tell = |step: &Step| match step {
        Step::Create(name, Made::Member) => format!("create {name}"),
        Step::Create(name, Made::Permanent | Made::Copied) => format!("create {name} for ever"),
        Step::Renew(name, ..) => format!("renew {name}"),
        Step::Advance(name, to) => format!("advance {name} to {}", to.0),
        Step::Drop(name, _) => format!("drop {name}"),
        Step::CreateLogical(name, _) => format!("create logical {name}"),
        Step::RenewLogical(name, ..) => format!("renew logical {name}"),
        Step::AdvanceLogical(name, _, to) => format!("read {name} up to {}", to.0),
        Step::Note(name, made) => format!("note {name} {made:?}"),
    };
    steps.iter().map(tell).collect()
}

/// Where nothing is the matter, and no slot is there.
pub(super) fn ground<'a>(
    me: &'a MemberName,
    part: Part<'a>,
    members: &'a BTreeMap<MemberName, Member>,
    rules: &'a Rules,
    unwanted_for: &'a BTreeMap<SlotName, Duration>,
) -> Ground<'a> {
    Ground { me, part, members, rules, paused: false, disk_low: false, native: false, here: &[], unwanted_for }
}

/// What `pg1` does while it is `part`, beside `pg2` and `pg3`; what is not wanted has been here for as long as is said.
pub(super) fn pg1_does(part: Part<'_>, rules: &Rules, here: &[Slot], unwanted: Duration) -> Vec<String> {
    let (me, members) = (name("pg1"), members(&["pg1", "pg2", "pg3"]));
    let unwanted_for = here.iter().map(|slot| (slot.name.clone(), unwanted)).collect();
    told(&Ground { here, ..ground(&me, part, &members, rules, &unwanted_for) }.steps())
}

fn leader_does(here: &[Slot], unwanted: u64) -> Vec<String> {
    pg1_does(Part::Leads, &Rules::default(), here, secs(unwanted))
}

#[test]
fn who_streams_from_another_standby_has_its_slot_there_alone_and_who_streams_from_nobody_has_none() {
    let (rules, nothing) = (Rules::default(), BTreeMap::new());
    let mut members = members(&["pg1", "pg2", "pg3", "pg4"]);
    members.get_mut(&name("pg3")).expect("one").tags.replicatefrom = Some(name("pg2"));
    members.get_mut(&name("pg4")).expect("one").tags.nostream = true;
    let wants = |me: &str, part| -> Vec<String> {
        let me = name(me);
        ground(&me, part, &members, &rules, &nothing).wanted().into_keys().map(|name| name.to_string()).collect()
    };
    assert_eq!(wants("pg1", Part::Leads), ["pg2"]);
    assert_eq!(wants("pg2", Part::MayLead { replayed: Lsn(1), published: None, kept: None }), ["pg1", "pg3"]);
    assert_eq!(wants("pg2", Part::NeverLeads), ["pg3"]);
}

#[test]
fn names_of_slots_are_those_that_patroni_gives() {
    for (member, slot) in [("pg1", "pg1"), ("DB-01.example.org", "db_01_example_org")] {
        assert_eq!(SlotName::of(&name(member)).as_str(), slot);
    }
    for bad in ["", "A", "a-b", &"x".repeat(64)] {
        assert!(SlotName::new(bad).is_err(), "{bad}");
    }
    let there = members(&["pg-1", "pg_1", "pg2"]);
    assert_eq!(slot_of(&there, &name("pg-1")), None, "neither could stream while the other does");
    assert_eq!(slot_of(&there, &name("pg2")), Some(slot_name("pg2")));
}

#[test]
fn a_leader_has_a_slot_for_every_member_and_keeps_it_for_a_while() {
    assert_eq!(leader_does(&[], 0), ["create pg2", "create pg3"]);
    assert_eq!(leader_does(&[slot("pg2"), slot("pg3")], 0), [""; 0]);
    let gone = [slot("pg2"), slot("pg3"), slot("pg4")];
    assert_eq!(leader_does(&gone, 30 * 60 - 1), [""; 0]);
    assert_eq!(leader_does(&gone, 30 * 60), ["drop pg4"]);
    let at_once = Rules { absent_for: Duration::ZERO, ..Rules::default() };
    assert_eq!(pg1_does(Part::Leads, &at_once, &gone, Duration::ZERO), ["drop pg4"]);
}

#[test]
fn what_somebody_else_has_made_or_uses_is_left_alone() {
    let foreign = Slot { made: None, ..slot("backup") };
    let used = Slot { active: true, ..slot("pg4") };
    let theirs = Slot { made: None, lost: true, ..slot("pg3") };
    assert_eq!(leader_does(&[slot("pg2"), theirs, foreign, used], 999_999), [""; 0]);
}

#[test]
fn a_slot_that_keeps_nothing_is_made_anew() {
    let lost = Slot { lost: true, ..slot("pg2") };
    let empty = Slot { restart: None, ..slot("pg3") };
    let gone = Slot { lost: true, ..slot("pg4") };
    assert_eq!(leader_does(&[lost.clone(), empty, gone], 0), ["renew pg2", "renew pg3", "drop pg4"]);
    let used = Slot { active: true, ..lost };
    assert_eq!(leader_does(&[used, slot("pg3")], 0), [""; 0]);
}

#[test]
fn whoever_may_lead_has_the_same_slots_and_they_keep_no_more_than_the_leaders() {
    let told = published(&[("pg2", 900), ("pg3", 300), ("pg4", 200)], &["pg1", "pg3", "pg4"]);
    let part = Part::MayLead { replayed: Lsn(700), published: Some(&told), kept: None };
    let rules = Rules::default();
    assert_eq!(pg1_does(part, &rules, &[], secs(0)), ["create pg2", "create pg3", "create pg4"]);
    let here = [slot("pg2"), slot("pg3"), slot("pg4"), slot("pg5")];
    let expected = ["advance pg2 to 700", "advance pg3 to 300", "advance pg4 to 200"];
    assert_eq!(pg1_does(part, &rules, &here, secs(59)), expected);
    assert_eq!(pg1_does(part, &rules, &here, secs(60))[3..], ["drop pg5"]);
    let ahead = [Slot { restart: Some(Lsn(800)), ..slot("pg2") }, slot("pg3"), slot("pg4")];
    assert_eq!(pg1_does(part, &rules, &ahead, secs(0)), expected[1..]);
    let left =
        [Slot { has_xmin: true, ..slot("pg2") }, Slot { has_xmin: true, active: true, ..slot("pg3") }, slot("pg4")];
    assert_eq!(pg1_does(part, &rules, &left, secs(0)), ["renew pg2", "advance pg4 to 200"], "from its time as primary");
}

#[test]
fn a_leader_that_tells_nothing_of_its_slots_costs_none() {
    let part = Part::MayLead { replayed: Lsn(700), published: None, kept: None };
    assert_eq!(pg1_does(part, &Rules::default(), &[slot("pg2"), slot("pg4")], secs(999_999)), ["create pg3"]);
}

#[test]
fn whoever_never_leads_has_none() {
    let here = [slot("pg2"), Slot { made: None, ..slot("dr") }];
    assert_eq!(pg1_does(Part::NeverLeads, &Rules::default(), &here, secs(60)), ["drop pg2"]);
    assert_eq!(pg1_does(Part::NeverLeads, &Rules::default(), &here, secs(59)), [""; 0]);
}

#[test]
fn without_slots_for_members_they_go() {
    let rules = Rules { for_members: false, ..Rules::default() };
    assert_eq!(pg1_does(Part::Leads, &rules, &[slot("pg2")], secs(59)), [""; 0]);
    assert_eq!(pg1_does(Part::Leads, &rules, &[slot("pg2")], secs(60)), ["drop pg2"]);
}

#[test]
fn permanent_slots_are_everywhere_and_ignored_ones_nobodys() {
    let permanent = BTreeMap::from([(slot_name("dr"), Kind::Physical), (slot_name("pg2"), Kind::Physical)]);
    let rules = Rules { permanent, ..Rules::default() };
    assert_eq!(pg1_does(Part::Leads, &rules, &[slot("pg3")], secs(0)), ["create dr for ever", "create pg2 for ever"]);
    let told = published(&[("dr", 300)], &[]);
    let part = Part::MayLead { replayed: Lsn(700), published: Some(&told), kept: None };
    let here = [slot("dr"), slot("pg2"), slot("pg3")];
    assert_eq!(pg1_does(part, &rules, &here, secs(0)), ["advance dr to 300"]);
    let pattern = Pattern { name: Some("pg4".to_owned()), kind: Some("physical".to_owned()), ..Pattern::default() };
    let ignoring = Rules { ignored: vec![pattern], ..Rules::default() };
    let here = [slot("pg2"), slot("pg3"), slot("pg4"), slot("pg5")];
    assert_eq!(pg1_does(Part::Leads, &ignoring, &here, secs(999_999)), ["drop pg5"]);
    let elsewhere = Pattern { database: Some("orders".to_owned()), ..Pattern::default() };
    let ignoring = Rules { ignored: vec![elsewhere], ..Rules::default() };
    assert_eq!(pg1_does(Part::Leads, &ignoring, &here, secs(999_999)), ["drop pg4", "drop pg5"]);
}

#[test]
fn while_the_settings_cannot_be_understood_nothing_is_dropped() {
    let rules = Rules { doubtful: true, ..Rules::default() };
    let here = [slot("pg2"), slot("pg4"), Slot { made: Some(Made::Permanent), ..slot("dr") }];
    assert_eq!(pg1_does(Part::Leads, &rules, &here, secs(999_999)), ["create pg3"]);
}

#[test]
fn on_a_disk_that_fills_the_largest_slot_of_a_member_that_nobody_uses_goes() {
    let (me, there, unwanted_for) = (name("pg1"), members(&["pg1", "pg2", "pg3"]), BTreeMap::new());
    let permanent = BTreeMap::from([(slot_name("dr"), Kind::Physical)]);
    let rules = Rules { permanent, ..Rules::default() };
    let holds = |text: &str, megabytes: u64| Slot { retained_bytes: megabytes << 20, ..slot(text) };
    let does = |here: &[Slot], paused| {
        let ground = Ground {
            me: &me,
            part: Part::Leads,
            members: &there,
            rules: &rules,
            paused,
            disk_low: true,
            native: false,
            here,
            unwanted_for: &unwanted_for,
        };
        told(&ground.steps())
    };
    let permanent = Slot { made: Some(Made::Permanent), ..holds("dr", 9000) };
    let used = Slot { active: true, ..holds("pg2", 8000) };
    let foreign = Slot { made: None, ..holds("backup", 9000) };
    let here = [permanent, used, foreign, holds("pg3", 90), holds("gone", 100)];
    assert_eq!(does(&here, false), ["drop gone"]);
    assert_eq!(does(&here[..4], false), ["renew pg3"], "it comes back to an empty slot, and is copied");
    assert_eq!(does(&here, true), [""; 0]);
    assert_eq!(does(&[here[0].clone(), here[1].clone(), holds("pg3", 63)], false), [""; 0]);
}

#[test]
fn a_slot_that_keeps_much_is_told_before_the_disk_is_full() {
    let holds = |megabytes: u64| Slot { retained_bytes: megabytes << 20, ..slot("pg2") };
    let free = |megabytes: u64| Some(megabytes << 20);
    for (slot, free, unused, told) in [
        (holds(600), free(1000), None, true),
        (holds(500), free(1000), None, false),
        (holds(60), free(1), None, false),
        (holds(1024), free(1 << 20), Some(secs(3600)), true),
        (holds(1023), free(1 << 20), Some(secs(3600)), false),
        (holds(1024), None, Some(secs(3599)), false),
    ] {
        assert_eq!(slot.holds_too_much(free, unused), told, "{slot:?}, {free:?} free");
    }
}

/// Every part, every set of registered members, every set of slots of whatever maker and state, in a pause or not.
#[test]
fn in_every_small_world_nothing_is_dropped_that_is_used_wanted_whole_or_anothers() {
    let all = ["pg1", "pg2", "pg3"];
    let told = published(&[("pg1", 150), ("pg2", 200), ("pg3", 300)], &["pg2", "pg3"]);
    let parts = [
        Part::Leads,
        Part::MayLead { replayed: Lsn(250), published: Some(&told), kept: None },
        Part::MayLead { replayed: Lsn(250), published: None, kept: None },
        Part::NeverLeads,
    ];
    let makers = [None, Some(Made::Member), Some(Made::Permanent)];
    let (me, rules) = (name("pg1"), Rules::default());
    let mut worlds = 0;
    for part in parts {
        for registered in 0..8_usize {
            let there: Vec<&str> = (0..3).filter(|bit| registered >> bit & 1 == 1).map(|bit| all[bit]).collect();
            let members = members(&there);
            for (text, made) in all.iter().flat_map(|text| makers.map(|made| (*text, made))) {
                for flags in 0..16_usize {
                    let flag = |bit: usize| flags >> bit & 1 == 1;
                    let here = [Slot { active: flag(0), lost: flag(1), has_xmin: flag(2), made, ..slot(text) }];
                    let unwanted_for = BTreeMap::from([(slot_name(text), secs(999_999))]);
                    let paused = flag(3);
                    let ground = Ground {
                        me: &me,
                        part,
                        members: &members,
                        rules: &rules,
                        paused,
                        disk_low: false,
                        native: false,
                        here: &here,
                        unwanted_for: &unwanted_for,
                    };
                    let wanted: BTreeSet<SlotName> = ground.wanted().into_keys().collect();
                    assert!(!wanted.contains(&slot_name("pg1")), "for itself");
                    for step in ground.steps() {
                        worlds += 1;
                        match step {
                            Step::Create(name, _) => assert!(wanted.contains(&name) && name != here[0].name),
                            Step::Advance(_, to) => assert!(to <= Lsn(250) && !flag(0)),
                            Step::Renew(name, ..) => {
                                assert!(wanted.contains(&name) && (flag(1) || flag(2)) && made.is_some());
                                assert!(!flag(0) && !paused);
                            }
                            Step::CreateLogical(..)
                            | Step::RenewLogical(..)
                            | Step::AdvanceLogical(..)
                            | Step::Note(..) => panic!("nobody wants a logical slot: {step:?}"),
                            Step::Drop(name, _) => {
                                assert!(!wanted.contains(&name) && made.is_some() && !flag(0) && !paused);
                            }
                        }
                    }
                    let for_a_member = made == Some(Made::Member);
                    assert!(ground.usable().iter().all(|name| (wanted.contains(name) || for_a_member) && !flag(1)));
                }
            }
        }
    }
    assert!(worlds > 1000, "{worlds}");
}

fn by(slot: Option<&str>) -> Upstream {
    let follows = standby().follows.expect("it follows somebody");
    Upstream { slot: slot.map(slot_name), ..follows }
}

/// `pg2` beside a leader that has these slots, streaming or not by such a slot.
fn pg2_streams(offered: &[&str], by_slot: Option<&str>, streaming: bool) -> crate::view::View {
    let offers = cluster().member("pg1", |leader| leader.slots = offered.iter().map(|text| slot_name(text)).collect());
    let follows = Standby { follows: Some(by(by_slot)), streaming, ..standby() };
    view("pg2").within(offers).runs(Server::Standby(follows))
}

#[test]
fn a_standby_takes_the_slot_that_is_there_and_never_waits_for_one() {
    check(&pg2_streams(&["pg2", "pg3"], Some("pg2"), true), "wait: following");
    check(&pg2_streams(&["pg3"], None, true), "wait: following");
    check(&pg2_streams(&["pg2"], None, true), "follow: take_slot");
    check(&pg2_streams(&["pg2"], None, false), "wait: following");
    check(&pg2_streams(&[], Some("pg2"), true), "wait: following");
    check(&pg2_streams(&[], Some("pg2"), false), "follow: repoint");
    let Action::Follow(upstream) = decide(&pg2_streams(&["pg2"], None, true)).action else { panic!("no follow") };
    assert_eq!(upstream, by(Some("pg2")));
    let Action::Follow(upstream) = decide(&pg2_streams(&[], Some("pg2"), false)).action else { panic!("no follow") };
    assert_eq!(upstream, by(None));
}

#[test]
fn a_slot_is_not_taken_while_a_hand_over_is_near() {
    let mut view = pg2_streams(&["pg2"], None, true);
    let asked = |cluster: &mut crate::view::Cluster| {
        cluster.request = Some(Request {
            kind: RequestKind::Switchover,
            from: None,
            to: Some(name("pg3")),
            accept_data_loss: false,
            revision: 5,
        });
    };
    let mut within = view.cluster.now().expect("seen").clone();
    asked(&mut within);
    view = view.within(within);
    check(&view, "wait: following");
}
