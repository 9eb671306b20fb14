//! A stopped directory beside a leader: start, rewind or replace, and what the node must regain afterwards.

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::names::{Lsn, Timeline};
use crate::view::*;

/// `pg1` was promoted to timeline 5, which left timeline 4 at 950.
fn promoted() -> Cluster {
    cluster().leader_on(5).forked(4, 950, "pg1")
}

fn ended(state: ControlState, timeline: u32, end: u64) -> OnDisk {
    let standby_signal = matches!(state, ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery);
    OnDisk { state, timeline: Timeline(timeline), end_of_wal: Some(Lsn(end)), standby_signal, ..disk() }
}

fn back(disk: OnDisk) -> View {
    view("pg2").within(promoted()).stopped(disk)
}

#[test]
fn nothing_on_disk_is_filled_from_the_leader() {
    let with = |data| view("pg2").on_disk(data).runs(Server::Stopped);
    check(&with(Data::Empty), "clone: empty_directory");
    says(&with(Data::Empty), "no data here: copy it from pg1");
    check(&with(Data::HalfMade { by: "rewind".to_owned() }), "clone: half_made");
    says(
        &with(Data::HalfMade { by: "rewind".to_owned() }),
        "an earlier rewind was cut off; the directory is replaced, never started",
    );
    check(&with(Data::Unreadable { why: "torn".to_owned() }), "wait: data_unreadable");
    let Action::Clone { floor, .. } = decide(&with(Data::Empty)).action else { panic!("no clone") };
    assert_eq!(floor, Lsn(1000));
}

#[test]
fn nothing_is_copied_from_a_leader_that_is_not_primary_or_gone() {
    let young = cluster().member("pg1", |member| member.role = MemberRole::Standby);
    for data in [Data::Empty, Data::Present(disk())] {
        let view = view("pg2").on_disk(data).runs(Server::Stopped);
        check(&view.clone().within(young.clone()), "wait: leader_not_primary");
        check(&view.clone().within(cluster().without("pg1")), "wait: leader_unreachable");
        check(&view.aged(|ages| ages.last_failure = Some(secs(1))), "wait: retrying");
    }
}

#[test]
fn a_stopped_standby_of_the_leaders_timeline_just_starts() {
    check(&view("pg2").stopped(ended(ControlState::ShutDownInRecovery, 4, 900)), "start_standby: clean_rejoin");
    check(&view("pg2").stopped(ended(ControlState::InArchiveRecovery, 4, 900)), "start_standby: clean_rejoin");
}

#[test]
fn a_primary_on_the_leaders_own_timeline_is_replaced() {
    check(&view("pg2").stopped(crashed_primary()), "clone: twin");
    check(&view("pg2").stopped(clean_primary()), "clone: twin");
}

#[test]
fn a_standby_of_another_branch_with_the_leaders_number_is_replaced() {
    let standby_of = |forked| OnDisk { forked, ..ended(ControlState::ShutDownInRecovery, 4, 900) };
    let (mine, other) = (Some((Timeline(3), Lsn(700))), Some((Timeline(3), Lsn(650))));
    let published = || cluster().forked(3, 700, "pg1");
    check(&view("pg2").within(published()).stopped(standby_of(mine)), "start_standby: clean_rejoin");
    check(&view("pg2").within(published()).stopped(standby_of(other)), "clone: twin");
    // What is not published yet, or was published of a promotion that did not last, says nothing.
    let unknown = Cluster { history: Vec::new(), ..cluster() };
    check(&view("pg2").within(unknown).stopped(standby_of(other)), "start_standby: clean_rejoin");
    let again = cluster().forked(3, 600, "pg3").forked(3, 700, "pg1");
    check(&view("pg2").within(again).stopped(standby_of(mine)), "start_standby: clean_rejoin");
    let runs = |forked| {
        let silent = Standby { streaming: false, ..standby() };
        view("pg2").within(published()).on_disk(Data::Present(standby_of(forked))).runs(Server::Standby(silent))
    };
    check(&runs(other), "stop: twin");
    check(&runs(mine), "wait: following");
}

#[test]
fn a_crashed_primary_is_started_or_rewound_by_where_its_wal_ends() {
    check(&back(crashed_primary()), "find_end_of_wal: end_of_wal_unknown");
    check(&back(ended(ControlState::InProduction, 4, 950)), "start_standby: clean_rejoin");
    check(&back(ended(ControlState::InProduction, 4, 951)), "rewind: diverged");
    check(&back(ended(ControlState::ShutDownInRecovery, 4, 951)), "rewind: diverged");
    says(
        &back(ended(ControlState::InProduction, 4, 950 + (48 << 20))),
        "WAL here reaches 0/30003B6 on timeline 4, 48.0 MB past the fork at 0/3B6: it must be rewound",
    );
}

#[test]
fn a_clean_shutdown_is_judged_by_its_checkpoint() {
    let at = |checkpoint| back(OnDisk { checkpoint: Lsn(checkpoint), ..clean_primary() });
    check(&at(949), "start_standby: clean_rejoin");
    check(&at(950), "rewind: diverged");
}

#[test]
fn no_rewind_before_the_leaders_first_checkpoint() {
    let young = promoted().member("pg1", |member| member.rewind_source_ready = false);
    check(&back(ended(ControlState::InProduction, 4, 951)).within(young), "wait: awaiting_leader_checkpoint");
}

#[test]
fn a_node_two_failovers_behind_is_judged_by_its_own_fork() {
    let twice = cluster().leader_on(6).forked(4, 950, "pg3").forked(5, 1200, "pg1");
    let end = |end| view("pg2").within(twice.clone()).stopped(ended(ControlState::InProduction, 4, end));
    check(&end(950), "start_standby: clean_rejoin");
    check(&end(951), "rewind: diverged");
}

#[test]
fn a_fork_that_is_not_published_yet_is_waited_for() {
    let unpublished = cluster().leader_on(5).member("pg1", |member| member.rewind_source_ready = false);
    let view = view("pg2").within(unpublished).stopped(ended(ControlState::InProduction, 4, 951));
    check(&view, "wait: awaiting_history");
    says(&view, "the leader has not published where timeline 4 ended");
}

#[test]
fn a_promotion_that_did_not_survive_comes_back() {
    // Timeline 5 was pg2's promotion; pg1 was promoted from 4 to 6, so that no row of the history lies between 5 and 6.
    let survived = cluster().leader_on(6).forked(4, 940, "pg1");
    check(&view("pg2").within(survived).stopped(ended(ControlState::InProduction, 5, 990)), "rewind: diverged");
}

#[test]
fn a_row_of_a_branch_that_died_is_no_history() {
    // 4 -> 5 -> 6 both died unseen (5 has a row, of 6's promotion); 7 forked off from 4 again.
    let died_twice = cluster().leader_on(7).forked(5, 980, "pg3").forked(4, 940, "pg1");
    check(&view("pg2").within(died_twice).stopped(ended(ControlState::InProduction, 5, 970)), "rewind: diverged");
}

#[test]
fn a_row_about_the_same_timeline_that_came_later_counts() {
    let twice = cluster().leader_on(6).forked(4, 980, "pg2").forked(4, 940, "pg1");
    check(&view("pg2").within(twice).stopped(ended(ControlState::InProduction, 4, 960)), "rewind: diverged");
}

#[test]
fn a_newer_timeline_than_the_leaders_is_rewound() {
    let view = view("pg2").stopped(ended(ControlState::InProduction, 9, 960));
    check(&view, "rewind: diverged");
}

#[test]
fn a_rewound_node_must_regain_at_least_the_fork() {
    let quiet = Cluster { leader_lsn: Some(Lsn(700)), ..promoted() };
    let view = view("pg2").within(quiet).stopped(ended(ControlState::InProduction, 4, 951));
    let Action::Rewind { floor, .. } = decide(&view).action else { panic!("no rewind") };
    assert_eq!(floor, Lsn(950));
}

#[test]
fn where_two_histories_went_apart_is_found_among_all_ancestors() {
    let shared = |cluster: &Cluster, timeline, ancestors: &[(u32, u64)]| {
        let ancestors: Vec<_> = ancestors.iter().map(|(of, at)| (Timeline(*of), Lsn(*at))).collect();
        crate::rejoin::shared_up_to(cluster, Timeline(timeline), &ancestors)
    };
    let promoted = promoted();
    assert_eq!(shared(&promoted, 4, &[(3, 500)]), Some(Lsn(950)), "the old leader, left by the new one");
    let here =
        [("of the leader's own timeline", 5, 990, 990), ("before it was left", 4, 900, 900), ("after", 4, 990, 950)];
    for (what, from, began, at) in here {
        assert_eq!(shared(&promoted, 6, &[(from, began)]), Some(Lsn(at)), "a branch {what}");
    }
    assert_eq!(shared(&promoted, 7, &[(4, 940), (6, 970)]), Some(Lsn(940)), "a branch of a branch");
    assert_eq!(shared(&promoted, 5, &[(4, 950)]), None, "the leader's own");
    assert_eq!(shared(&promoted, 9, &[(8, 990)]), None, "nothing in common is known");
}
