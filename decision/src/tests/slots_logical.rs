//! Logical slots: made by the leader, copied by whoever may lead or taken over by Postgres itself, and ready only where no change can be missed.

use std::collections::BTreeMap;

use super::builders::{name, secs};
use super::slots::{ground, members, pg1_does, published, slot, slot_name, told};
use crate::cluster::Member;
use crate::names::{Lsn, MemberName};
use crate::slots::*;

fn logical(database: &str) -> Kind {
    Kind::Logical { database: database.to_owned(), plugin: "pgoutput".to_owned() }
}

/// A copy whose changes were read up to 500 and that needs the catalogue from transaction 1000 on.
fn cdc(made: Made) -> Slot {
    let (confirmed, catalog_xmin) = (Some(Lsn(500)), Some(1000));
    Slot { kind: logical("orders"), confirmed, catalog_xmin, made: Some(made), ..slot("cdc") }
}

#[test]
fn a_logical_slot_is_made_by_the_leader_and_made_anew_only_where_it_could_miss_changes() {
    let rules = Rules { permanent: BTreeMap::from([(slot_name("cdc"), logical("orders"))]), ..Rules::default() };
    let does = |cdc: Slot| pg1_does(Part::Leads, &rules, &[slot("pg2"), slot("pg3"), cdc], secs(0));
    assert_eq!(pg1_does(Part::Leads, &rules, &[slot("pg2"), slot("pg3")], secs(0)), ["create logical cdc"]);
    assert_eq!(does(cdc(Made::Permanent)), [""; 0]);
    assert_eq!(does(cdc(Made::Copied)), ["renew logical cdc"]);
    assert_eq!(does(Slot { kind: logical("other"), ..cdc(Made::Permanent) }), ["renew logical cdc"]);
    assert_eq!(does(Slot { active: true, ..cdc(Made::Copied) }), [""; 0]);
    assert_eq!(does(Slot { made: None, lost: true, ..cdc(Made::Copied) }), [""; 0]);
}

#[test]
fn a_copy_of_a_logical_slot_follows_the_leaders_and_is_ready_once_the_leader_keeps_what_it_needs() {
    let rules = Rules { permanent: BTreeMap::from([(slot_name("cdc"), logical("orders"))]), ..Rules::default() };
    // What the leader keeps for this node, and what its own slot kept when it began to.
    let does = |at: u64, kept: Option<(Option<u32>, u32)>, cdc: Slot| {
        let told = published(&[("cdc", at)], &[]);
        let kept = kept.map(|(for_node, then)| Kept {
            for_node,
            by_slot: BTreeMap::from([(slot_name("cdc"), then)]),
            ..Kept::default()
        });
        let part = Part::MayLead { replayed: Lsn(700), published: Some(&told), kept: kept.as_ref() };
        pg1_does(part, &rules, &[slot("pg2"), slot("pg3"), cdc], secs(0))
    };
    let kept = |for_node, then| Some((Some(for_node), then));
    assert_eq!(does(600, kept(1000, 1000), cdc(Made::Permanent)), ["read cdc up to 600"]);
    assert_eq!(
        does(900, kept(1000, 1000), cdc(Made::Permanent)),
        ["read cdc up to 700"],
        "no further than it has replayed"
    );
    assert_eq!(does(600, kept(990, 991), cdc(Made::Copied)), ["read cdc up to 600"], "also before it is ready");
    assert_eq!(does(600, kept(1000, 1000), cdc(Made::Copied)), ["note cdc Permanent"], "its reader never rests");
    assert_eq!(does(500, kept(1000, 1000), cdc(Made::Copied)), ["note cdc Permanent"]);
    assert_eq!(does(500, kept(990, 980), cdc(Made::Copied)), ["note cdc Permanent"]);
    assert_eq!(does(500, kept(990, 991), cdc(Made::Copied)), [""; 0], "rows of before may have been cleared away");
    assert_eq!(does(500, kept(1001, 990), cdc(Made::Copied)), [""; 0], "more is needed than is kept");
    assert_eq!(
        does(500, kept(5, u32::MAX - 5), Slot { catalog_xmin: Some(6), ..cdc(Made::Copied) }),
        ["note cdc Permanent"]
    );
    assert_eq!(does(500, kept(990, 995), cdc(Made::Permanent)), [""; 0], "it stays ready");
    assert_eq!(does(500, Some((None, 990)), cdc(Made::Permanent)), ["note cdc Copied"], "nothing is kept any more");
    assert_eq!(does(500, None, cdc(Made::Permanent)), [""; 0], "not known");
    assert_eq!(does(500, None, Slot { lost: true, ..cdc(Made::Permanent) }), ["drop cdc"]);
    let told = published(&[], &[]);
    let part = Part::MayLead { replayed: Lsn(700), published: Some(&told), kept: None };
    assert_eq!(pg1_does(part, &rules, &[slot("pg2"), slot("pg3")], secs(0)), [""; 0], "only a start takes a copy in");
}

/// A standby of a version that takes over slots by itself, and a leader that has `cdc`, and `theirs` of somebody else.
fn standby_of_17_does(here: &[Slot], paused: bool) -> Vec<String> {
    let (me, members, nothing) = (name("pg1"), members(&["pg1"]), BTreeMap::new());
    let pattern = Pattern { name: Some("left".to_owned()), ..Pattern::default() };
    let permanent = BTreeMap::from([(slot_name("cdc"), logical("orders"))]);
    let rules = Rules { permanent, ignored: vec![pattern], ..Rules::default() };
    let failover = ["cdc", "theirs", "left"].map(slot_name).into();
    let (kept, published) = (Kept { failover, ..Kept::default() }, published(&[("cdc", 600)], &[]));
    let part = Part::MayLead { replayed: Lsn(700), published: Some(&published), kept: Some(&kept) };
    let (rules, disk_low, native, unwanted_for) = (&rules, false, true, &nothing);
    told(&Ground { me: &me, part, members: &members, rules, paused, disk_low, native, here, unwanted_for }.steps())
}

#[test]
fn where_postgres_takes_over_slots_only_those_in_its_way_are_dropped() {
    let own = |text: &str, made| Slot { name: slot_name(text), failover: true, made, ..cdc(Made::Permanent) };
    let permanent = own("cdc", Some(Made::Permanent));
    assert_eq!(standby_of_17_does(&[], false), [""; 0]);
    assert_eq!(standby_of_17_does(std::slice::from_ref(&permanent), false), ["drop cdc"]);
    assert_eq!(standby_of_17_does(&[own("theirs", None)], false), ["drop theirs"], "Postgres could not go on");
    for left_alone in [
        Slot { synced: true, ..permanent.clone() },
        Slot { synced: true, ..own("theirs", None) },
        Slot { active: true, ..own("theirs", None) },
        own("elsewhere", None),
        own("left", None),
        Slot { failover: false, ..own("theirs", None) },
    ] {
        assert_eq!(standby_of_17_does(std::slice::from_ref(&left_alone), false), [""; 0], "{left_alone:?}");
    }
    assert_eq!(standby_of_17_does(&[permanent], true), [""; 0], "nothing is dropped in a pause");
    let rules = Rules { permanent: BTreeMap::from([(slot_name("cdc"), logical("orders"))]), ..Rules::default() };
    let taken_over = Slot { synced: true, made: None, ..own("cdc", None) };
    let here = [slot("pg2"), slot("pg3"), taken_over];
    assert_eq!(pg1_does(Part::Leads, &rules, &here, secs(0)), ["note cdc Permanent"], "it is the new leader's own");
}

#[test]
fn the_catalogue_is_kept_by_the_slot_of_whoever_streams_from_the_leader_and_not_for_those_behind_an_archive() {
    let mut there = members(&["pg1", "pg2", "pg3", "pg4"]);
    let kept_by = |there: &BTreeMap<MemberName, Member>, leader: &str, me: &str| {
        slot_at_leader(there, Some(&name(leader)), &name(me)).map(|slot| slot.to_string())
    };
    assert_eq!(kept_by(&there, "pg1", "pg2").as_deref(), Some("pg2"));
    there.get_mut(&name("pg3")).expect("one").tags.replicatefrom = Some(name("pg2"));
    there.get_mut(&name("pg4")).expect("one").tags.replicatefrom = Some(name("pg3"));
    assert_eq!(kept_by(&there, "pg1", "pg4").as_deref(), Some("pg2"));
    assert_eq!(kept_by(&there, "pg2", "pg4").as_deref(), Some("pg3"), "its upstream leads");
    there.get_mut(&name("pg2")).expect("one").tags.nostream = true;
    assert_eq!(kept_by(&there, "pg1", "pg4"), None);
    let permanent = BTreeMap::from([(slot_name("cdc"), logical("orders"))]);
    let (me, rules, nothing) = (name("pg4"), Rules { permanent, ..Rules::default() }, BTreeMap::new());
    let part = Part::MayLead { replayed: Lsn(7), published: None, kept: None };
    let ground = |members| ground(&me, part, members, &rules, &nothing);
    let behind_an_archive = ground(&there);
    assert!(behind_an_archive.not_copied().is_empty());
    assert!(!behind_an_archive.wanted().contains_key(&slot_name("cdc")));
    let mut heard = there.clone();
    heard.get_mut(&name("pg2")).expect("one").tags.nostream = false;
    assert_eq!(ground(&heard).not_copied(), [slot_name("cdc")].into());
}
