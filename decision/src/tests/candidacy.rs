//! What bars each member from leading, all of it, as `pgvigil why` prints it.

use super::builders::*;
use crate::decide;
use crate::view::*;

/// `pg2: sentence; sentence`, one line a member.
fn standings(view: &View) -> Vec<String> {
    let line = |standing: crate::reason::Standing| {
        let bars: Vec<String> = standing.bars.iter().map(ToString::to_string).collect();
        format!("{}: {}", standing.member, bars.join("; "))
    };
    decide(view).standings.into_iter().map(line).collect()
}

#[test]
fn in_a_healthy_cluster_every_standby_could_lead() {
    assert_eq!(standings(&view("pg1")), ["pg1: it is the leader", "pg2: ", "pg3: "]);
    assert_eq!(standings(&view("pg2")), ["pg1: it is the leader", "pg2: ", "pg3: "]);
}

#[test]
fn the_leader_sees_who_lags_and_who_does_not_stream() {
    let far = Primary { flushed: crate::names::Lsn(48 << 20), standbys: vec![streaming("pg2", 0)], ..primary() };
    let down = cluster().mode(crate::settings::Mode::Async).member("pg3", |member| {
        (member.role, member.tags.nofailover) = (MemberRole::Down, true);
    });
    assert_eq!(
        standings(&view("pg1").within(down).runs(Server::Primary(far)))[1..],
        [
            "pg2: 48.0 MB behind the last leader, limit 1.0 MB",
            "pg3: its tags bar it from leading; its Postgres is not a running standby; it does not stream from the leader"
        ]
    );
}

#[test]
fn in_a_vacancy_every_bar_is_named() {
    let vacant = cluster().vacant().without("pg1").ballot("pg2", 4, 1000);
    assert_eq!(
        standings(&view("pg2").within(vacant.clone())),
        ["pg1: its agent is not registered in etcd", "pg2: ", "pg3: it has not pledged and reported what it has"]
    );
    let behind = vacant.clone().ballot("pg3", 4, 952).floor("pg3", 960);
    let floored = "pg3: it was rewound or copied and must first regain 0/3C0, it has 0/3B8; 48 bytes behind pg2";
    assert_eq!(standings(&view("pg2").within(behind))[2], floored);
    let stray = vacant.clone().ballot("pg3", 5, 1000);
    let by_hand = "pg3: timeline 5 was begun there by a promotion that nobody ordered";
    assert_eq!(standings(&view("pg2").within(stray))[2], by_hand);
    let older = vacant.ballot("pg3", 3, 5000);
    assert_eq!(standings(&view("pg2").within(older))[2], "pg3: it is on timeline 3, another has 4");
}

#[test]
fn without_any_sight_of_etcd_nothing_is_said_of_anybody() {
    let blind = View { cluster: Seen::Never { tried_for: secs(1) }, ..view("pg2") };
    assert!(standings(&blind).is_empty());
}
