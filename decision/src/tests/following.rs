//! Another leads: whatever may accept writes stops, everything else comes to stream under the term's name.

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::names::{Lsn, Term, Timeline};
use crate::view::*;

#[test]
fn a_standby_that_streams_does_nothing() {
    check(&view("pg2"), "wait: following");
    says(&view("pg2"), "follows pg1, term 7");
}

#[test]
fn a_primary_beside_another_leader_is_killed() {
    let deposed = view("pg1").within(cluster().led_by("pg2"));
    check(&deposed, "kill: deposed_primary");
    says(&deposed, "pg2 leads term 7, and Postgres here still accepts writes: stop it");
    check(&deposed.lock(Lock::NotHeld), "kill: deposed_primary");
}

#[test]
fn what_may_become_a_primary_beside_another_leader_is_killed_too() {
    let server = |server| view("pg2").runs(server);
    let starting = || Server::Starting { since: secs(1) };
    let hung = || Server::Hung { since: secs(1) };
    check(&server(starting()), "wait: starting");
    check(&server(hung()), "wait: hung");
    check(&server(Server::Hung { since: secs(10) }), "kill: hung");
    for server in [starting(), hung()] {
        let as_primary = view("pg2").on_disk(Data::Present(crashed_primary())).runs(server);
        check(&as_primary, "kill: deposed_primary");
    }
    check(&server(Server::Stopping), "wait: stopping");
}

#[test]
fn a_standby_is_repointed_when_leader_or_term_change() {
    check(&view("pg3").within(cluster().led_by("pg2")), "follow: repoint");
    let mut newer = cluster();
    newer.term = Term(8);
    let view = view("pg3").within(newer);
    let Action::Follow(upstream) = decide(&view).action else { panic!("no follow") };
    assert_eq!((upstream.member, upstream.term), (name("pg1"), Term(8)));
}

#[test]
fn a_leader_whose_agent_is_down_is_left_alone() {
    check(&view("pg2").within(cluster().without("pg1")), "wait: leader_unreachable");
}

#[test]
fn a_pledge_against_the_term_that_leads_is_taken_back_before_following_it() {
    check(&view("pg2").within(cluster().ballot("pg2", 4, 1000)).runs(pledged(1000)), "withdraw: leader_is_back");
}

#[test]
fn a_pledge_that_is_still_being_made_is_broken_off_when_somebody_leads() {
    let pledging = view("pg2").job("pledge", None, secs(1));
    check(&pledging, "cancel: busy");
    check(&pledging.within(cluster().vacant()), "wait: busy");
}

#[test]
fn a_standby_ahead_of_the_fork_is_stopped_for_a_rewind() {
    let new = cluster().led_by("pg1").leader_on(5).forked(4, 999, "pg1");
    let ahead = view("pg2").within(new.clone()).runs(pledged(1000));
    check(&ahead, "stop: diverged");
    says(&ahead, "WAL here reaches 0/3E8 on timeline 4, 1 bytes past the fork at 0/3E7: it must be rewound");
    check(&view("pg2").within(new).runs(pledged(999)), "follow: repoint");
}

#[test]
fn a_standby_of_a_promotion_that_did_not_survive_is_stopped_for_a_rewind() {
    let new = cluster().leader_on(6).forked(4, 999, "pg1");
    let dead_branch = Standby { timeline: Timeline(5), received: Lsn(990), streaming: false, ..standby() };
    check(&view("pg2").within(new).runs(Server::Standby(dead_branch)), "stop: diverged");
}

#[test]
fn what_streams_from_the_leader_has_not_diverged() {
    let new = cluster().leader_on(6).forked(4, 999, "pg1");
    let streams = Standby { timeline: Timeline(5), received: Lsn(990), ..standby() };
    check(&view("pg2").within(new).runs(Server::Standby(streams)), "wait: following");
}

#[test]
fn a_regained_floor_is_cleared_by_a_standby_that_streams() {
    check(&view("pg2").within(cluster().floor("pg2", 1000)), "clear_floor: regained");
    check(&view("pg2").within(cluster().floor("pg2", 1001)), "wait: following");
    let silent = Server::Standby(Standby { streaming: false, ..standby() });
    check(&view("pg2").within(cluster().floor("pg2", 1000)).runs(silent), "wait: following");
}

#[test]
fn work_under_way_is_waited_for() {
    let job = |action, from| view("pg2").on_disk(Data::Empty).runs(Server::Stopped).job(action, from, secs(1));
    check(&job("clone", Some("pg1")), "wait: busy");
    says(&job("clone", Some("pg1")), "clone under way for 1.0 s");
}

#[test]
fn a_copy_from_a_member_that_is_gone_or_deposed_is_broken_off() {
    let job = |cluster| view("pg2").runs(Server::Stopped).within(cluster).job("clone", Some("pg1"), secs(1));
    check(&job(cluster().without("pg1")), "cancel: busy");
    check(&job(cluster().led_by("pg3")), "cancel: busy");
}

#[test]
fn no_work_but_stopping_keeps_a_deposed_primary_alive() {
    let deposed = |job| view("pg1").within(cluster().led_by("pg2")).job(job, None, secs(1));
    check(&deposed("promote"), "cancel: busy");
    check(&deposed("mark"), "cancel: busy");
    check(&deposed("stop"), "wait: busy");
    check(&deposed("kill"), "wait: busy");
}

#[test]
fn a_standby_whose_wal_is_gone_is_copied_anew_and_others_are_given_time() {
    let lags = |since| {
        let silent = Standby { streaming: false, receiver_running: false, ..standby() };
        view("pg2").runs(Server::Standby(silent)).aged(|ages| ages.not_streaming = Some(secs(since)))
    };
    check(&lags(9), "wait: following");
    check(&lags(10), "wait: not_streaming");
    says(&lags(12), "is to follow pg1, and has received nothing for 12.0 s: see postgres.log here");
    let mut lacks = lags(40);
    lacks.signs.upstream_lacks = Some(Lsn(1000));
    check(&lacks, "stop: wal_removed");
    says(&lacks, "pg1 has removed the WAL that this standby needs next (from 0/3E8 on): copy it anew");
    check(&lacks.clone().stopped(disk()), "clone: wal_removed");
    check(&lacks.runs(Server::Standby(standby())), "wait: not_streaming");
}

#[test]
fn paused_replay_is_told() {
    let mut paused = view("pg2");
    paused.signs.replay_paused = true;
    check(&paused, "wait: replay_paused");
}

#[test]
fn a_lock_in_the_hands_of_another_clusters_data_is_given_up_untouched() {
    let foreign = OnDisk { system_id: crate::names::SystemId(43), ..crashed_primary() };
    check(&view("pg1").stopped(foreign.clone()), "release: foreign_system");
    check(&view("pg1").on_disk(Data::Present(foreign)), "wait: foreign_system");
}

#[test]
fn a_standby_that_follows_a_stranger_is_repointed() {
    let stranger = Upstream { member: name("stranger"), host: String::new(), port: 0, term: Term(0), slot: None };
    let led_astray = Standby { follows: Some(stranger), ..standby() };
    check(&view("pg2").runs(Server::Standby(led_astray.clone())), "follow: repoint");
    let balloted = cluster().vacant().ballot("pg2", 4, 1000);
    check(&view("pg2").within(balloted).runs(Server::Standby(led_astray)), "pledge: vacant");
}

#[test]
fn another_clusters_data_is_left_alone() {
    let foreign = OnDisk { system_id: crate::names::SystemId(43), ..crashed_primary() };
    let view = view("pg2").stopped(foreign);
    check(&view, "wait: foreign_system");
    says(
        &view,
        "the data directory belongs to system 43, the cluster in etcd is system 42: this node stays out; point it at its own cluster or an empty data directory",
    );
}

#[test]
fn a_paused_cluster_is_left_alone() {
    check(&view("pg2").set(|settings| settings.paused = true), "wait: paused");
    check(&view("pg1").within(cluster().led_by("pg2")).set(|settings| settings.paused = true), "wait: paused");
}
