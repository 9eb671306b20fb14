//! Nodes that do not stream from the leader, and zones: whom they follow, whom commits wait for, and what is said of it.

use std::time::Duration;

use super::builders::*;
use crate::action::Action;
use crate::cascade::upstream_is_good;
use crate::decide;
use crate::durability::{Quorum, mode_in_force, quorum_for_new_leader, wanted_quorum};
use crate::names::{MemberName, Timeline};
use crate::settings::{Mode, Settings};
use crate::view::*;

/// `pg3` is to stream from `pg2`, which streams from `pg1`.
fn chained() -> Cluster {
    cluster()
        .policies(&[any(1, &["pg2"])])
        .member("pg2", |it| it.streams_from = Some(name("pg1")))
        .member("pg3", |it| it.tags.replicatefrom = Some(name("pg2")))
}

fn following(who: &str) -> Server {
    let follows = Upstream { member: name(who), host: "10.0.0.1".to_owned(), port: 5432, term: TERM, slot: None };
    Server::Standby(Standby { follows: Some(follows), ..standby() })
}

/// `pg3` in that cluster, and for how long its named upstream has been good or bad.
fn pg3(cluster: Cluster, follows: &str, good: Option<u64>, bad: Option<u64>) -> View {
    view("pg3").within(cluster).runs(following(follows)).aged(|ages| {
        (ages.upstream_good, ages.upstream_bad) = (good.map(Duration::from_millis), bad.map(Duration::from_millis));
    })
}

fn goes_to(view: &View) -> Option<MemberName> {
    match decide(view).action {
        Action::Follow(upstream) => Some(upstream.member),
        _ => None,
    }
}

#[test]
fn it_goes_to_the_standby_that_it_is_to_stream_from_once_that_has_been_good_for_a_while() {
    check(&pg3(chained(), "pg1", Some(9_999), None), "wait: fallen_back");
    assert_eq!(goes_to(&pg3(chained(), "pg1", Some(10_000), None)), Some(name("pg2")));
    check(&pg3(chained(), "pg2", Some(0), None), "wait: cascades");
    says(&pg3(chained(), "pg2", Some(0), None), "follows pg2, as its tags say, and so pg1, term 7");
}

#[test]
fn it_falls_back_to_the_leader_when_that_standby_is_gone_or_no_good() {
    check(&pg3(chained(), "pg2", None, Some(999)), "wait: cascades");
    assert_eq!(goes_to(&pg3(chained(), "pg2", None, Some(1_000))), Some(name("pg1")));
    assert_eq!(goes_to(&pg3(chained().without("pg2"), "pg2", None, None)), Some(name("pg1")));
}

#[test]
fn it_follows_the_leader_where_that_is_the_one_that_is_named_or_where_it_is_to_lead_itself() {
    let led = chained().led_by("pg2").policies(&[any(1, &["pg1"])]);
    check(&pg3(led, "pg2", None, None), "wait: following");
    let asked = |to| chained().asked(RequestKind::Switchover, Some("pg1"), Some(to));
    assert_eq!(goes_to(&pg3(asked("pg3"), "pg2", None, None)), Some(name("pg1")));
    assert_eq!(goes_to(&pg3(asked("pg2"), "pg2", None, None)), None);
}

#[test]
fn it_stays_where_it_is_while_another_is_handed_the_lock_and_goes_over_with_its_own_upstream() {
    let with_heir = |heir: &str| chained().record(|sync| sync.heir = Some(name(heir)));
    let follow = |cluster, from| match decide(&pg3(cluster, from, Some(0), None)).action {
        Action::Follow(upstream) => Some((upstream.member, upstream.term)),
        _ => None,
    };
    assert_eq!(follow(with_heir("pg2"), "pg2"), Some((name("pg2"), TERM.next())));
    let mut fourth = with_heir("pg4");
    fourth.members.insert(name("pg4"), member(MemberRole::Standby));
    assert_eq!(follow(fourth.clone(), "pg2"), None);
    assert_eq!(follow(fourth, "pg1"), Some((name("pg4"), TERM.next())));
}

#[test]
fn a_standby_is_good_for_it_that_streams_from_the_leader_by_whatever_chain_and_not_through_this_node() {
    let good = |cluster: &Cluster, server: &Server| upstream_is_good(cluster, &name("pg3"), Some(server));
    let from_pg1 = following("pg1");
    assert_eq!(good(&chained(), &from_pg1), Some(true));
    assert_eq!(good(&cluster(), &from_pg1), None, "nobody is named");
    assert_eq!(good(&chained().led_by("pg2"), &from_pg1), None, "it leads");
    assert_eq!(good(&chained().without("pg2"), &from_pg1), Some(false));
    let change = |change: fn(&mut Member)| chained().member("pg2", change);
    assert_eq!(good(&change(|it| it.role = MemberRole::Down), &from_pg1), Some(false));
    assert_eq!(good(&change(|it| it.timeline = Some(Timeline(3))), &from_pg1), Some(false));
    assert_eq!(good(&change(|it| it.streams_from = None), &from_pg1), Some(false));
    assert_eq!(good(&change(|it| it.streams_from = Some(name("pg3"))), &from_pg1), Some(false), "in a circle");
    let mut longer = change(|it| it.streams_from = Some(name("pg4")));
    longer.members.insert(name("pg4"), Member { streams_from: Some(name("pg1")), ..member(MemberRole::Standby) });
    assert_eq!(good(&longer, &from_pg1), Some(true));
    let cut_off = Server::Standby(Standby { streaming: false, ..following("pg2").as_standby().expect("one").clone() });
    assert_eq!(good(&chained(), &cut_off), Some(false), "nothing comes from it");
    assert_eq!(good(&chained(), &Server::Stopped), None);
}

fn wanted(cluster: &Cluster, change: impl FnOnce(&mut Settings)) -> Quorum {
    let mut settings = Settings::default();
    settings.durability.mode = Mode::Quorum;
    change(&mut settings);
    wanted_quorum(&name("pg1"), TERM, &primary(), cluster, &Ages::default(), &settings)
}

#[test]
fn who_does_not_stream_from_the_leader_is_in_no_quorum_though_it_does_at_this_moment() {
    let both = |cluster: &Cluster| {
        let mut settings = Settings::default();
        settings.durability.mode = Mode::Quorum;
        (wanted(cluster, |_| {}), quorum_for_new_leader(&name("pg1"), cluster, &settings))
    };
    let only_pg2 = (any(1, &["pg2"]), any(1, &["pg2"]));
    assert_eq!(both(&chained()), only_pg2);
    assert_eq!(both(&cluster().member("pg3", |it| it.tags.nostream = true)), only_pg2);
    assert_eq!(mode_in_force(&Settings::default(), &chained().mode(Mode::Async)), Mode::Async, "two that could vote");
}

#[test]
fn voters_are_those_of_other_zones_while_there_are_enough_of_them() {
    let zones = |pg1: &str, pg2: &str, pg3: &str| {
        let zone = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let with = cluster().member("pg1", |it| it.zone = zone(pg1)).member("pg2", |it| it.zone = zone(pg2));
        with.member("pg3", |it| it.zone = zone(pg3))
    };
    let other = |settings: &mut Settings| settings.durability.other_zone = true;
    assert_eq!(wanted(&zones("a", "a", "b"), |_| {}), any(1, &["pg2", "pg3"]));
    assert_eq!(wanted(&zones("a", "a", "b"), other), any(1, &["pg3"]));
    assert_eq!(wanted(&zones("a", "b", "b"), other), any(1, &["pg2", "pg3"]));
    assert_eq!(wanted(&zones("a", "a", "a"), other), any(1, &["pg2", "pg3"]), "there is no other");
    assert_eq!(wanted(&zones("a", "", "a"), other), any(1, &["pg2", "pg3"]), "where it is is not known");
    let two = |settings: &mut Settings| (settings.durability.other_zone, settings.durability.acknowledgers) = (true, 2);
    assert_eq!(wanted(&zones("a", "a", "b"), two), any(2, &["pg2", "pg3"]), "too few are there");
}

#[test]
fn among_equals_the_zone_decides_after_the_priority_and_before_the_name() {
    let level = |prefer: &str| {
        let level = cluster().vacant().ballot("pg2", 4, 1000).ballot("pg3", 4, 1000);
        let level = level.member("pg2", |it| it.zone = Some("a".to_owned()));
        let level = level.member("pg3", |it| it.zone = Some("b".to_owned())).without("pg1");
        Cluster { prefer_zone: Some(prefer.to_owned()), ..level }
    };
    let sees = |cluster| view("pg2").within(cluster).runs(pledged(1000));
    check(&sees(level("a")), "acquire: elected");
    check(&sees(level("c")), "acquire: elected");
    check(&sees(level("b")), "wait: outranked");
    check(&sees(level("b").member("pg2", |it| it.tags.failover_priority = 2)), "acquire: elected");
}

#[test]
fn a_node_that_takes_wal_from_the_archive_alone_waits_there_and_never_leads() {
    let fed = cluster().member("pg3", |it| it.tags.nostream = true).policies(&[any(1, &["pg2"])]);
    let silent = Server::Standby(Standby { streaming: false, receiver_running: false, ..standby() });
    let archive = view("pg3").within(fed.clone()).runs(silent).aged(|ages| ages.not_streaming = Some(secs(60)));
    check(&archive, "wait: from_archive");
    let told = decide(&view("pg1").within(fed)).standings;
    let of = |who: &str| told.iter().find(|standing| standing.member == name(who)).map(|it| it.bars.clone());
    let codes: Vec<_> = of("pg3").into_iter().flatten().map(|bar| bar.code()).collect();
    assert_eq!(codes, ["from_archive"]);
}

#[test]
fn why_tells_from_whom_a_cascaded_node_streams() {
    let mut leader = view("pg1").within(chained().member("pg3", |it| it.streams_from = Some(name("pg2"))));
    leader = leader.runs(Server::Primary(Primary { standbys: vec![streaming("pg2", 1000)], ..primary() }));
    let told = decide(&leader).standings;
    let of_pg3 = told.iter().find(|standing| standing.member == name("pg3")).expect("it is known");
    let told: Vec<String> = of_pg3.bars.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["it streams from pg2, not from the leader"]);
}
