//! Every view over small domains (servers, data, leaders, locks, records, requests, jobs) against the rules that data depends on.

use super::builders::*;
use crate::action::{Action, StartAs};
use crate::names::{Lsn, SystemId, Term, Timeline};
use crate::view::*;
use crate::{Decision, decide};

fn servers() -> Vec<Server> {
    let marked = |marked_term| Server::Primary(Primary { marked_term, ..primary() });
    let since = secs(60);
    vec![
        Server::Stopped,
        Server::Starting { since },
        marked(TERM),
        marked(Term(6)),
        Server::Standby(standby()),
        pledged(1000),
        Server::Stopping,
        Server::Hung { since },
    ]
}

fn data() -> Vec<Data> {
    vec![
        Data::Empty,
        Data::HalfMade { by: "clone".to_owned() },
        Data::Unreadable { why: "torn".to_owned() },
        Data::Present(disk()),
        Data::Present(crashed_primary()),
        Data::Present(clean_primary()),
        Data::Present(OnDisk { timeline: Timeline(3), end_of_wal: Some(Lsn(501)), ..crashed_primary() }),
        Data::Present(OnDisk { system_id: SystemId(43), ..crashed_primary() }),
    ]
}

/// Who leads, and what the record says of it.
fn clusters() -> Vec<Cluster> {
    let ballots = cluster().vacant().ballot("pg1", 4, 1000).ballot("pg2", 4, 1000);
    let released = cluster().vacant().record(|sync| sync.released = true);
    let handed = |cluster: Cluster| cluster.record(|sync| sync.handover_lsn = Some(Lsn(1001)));
    let mut lost = cluster();
    lost.sync = None;
    vec![
        cluster(),
        cluster().led_by("pg2"),
        cluster().led_by("pg2").leader_on(5).forked(4, 900, "pg2"),
        handed(cluster()),
        handed(cluster().vacant()),
        cluster().vacant(),
        cluster().led_before_by("pg2"),
        cluster().without("pg3"),
        ballots,
        released,
        lost,
        Cluster::default(),
        Cluster { initialize: Initialize::InProgress, ..Cluster::default() },
    ]
}

fn locks() -> [Lock; 4] {
    let held = |term, left| Lock::Held { term, left: secs(left) };
    [Lock::NotHeld, held(TERM, 4), held(TERM, 0), held(Term(6), 4)]
}

fn requests() -> [Option<Request>; 4] {
    let asked = |kind, to: Option<&str>| cluster().asked(kind, None, to).request;
    [
        None,
        asked(RequestKind::Switchover, Some("pg2")),
        asked(RequestKind::Failover, Some("pg1")),
        asked(RequestKind::Failover, None),
    ]
}

/// What is so around a view: its freshness, a failure, a job.
fn circumstances(view: View) -> Vec<View> {
    let long_ago = view.clone().aged(|ages| {
        (ages.vacancy, ages.reign, ages.request) = (Some(secs(60)), Some(secs(60)), Some(secs(60)));
    });
    let failed = view.clone().aged(|ages| ages.last_failure = Some(secs(0)));
    let busy = |action| view.clone().job(action, None, secs(1));
    let of_before = |seen: &Seen<Cluster>| Seen::Before { value: seen.last().expect("seen").clone(), age: secs(3) };
    let silent = View { cluster: of_before(&view.cluster), ..view.clone() };
    let postgres = Seen::Before { value: view.postgres.last().expect("seen").clone(), age: secs(3) };
    let unseen = View { postgres, ..view.clone() };
    let paused = view.clone().set(|settings| settings.paused = true);
    let (marking, killing) = (busy("mark"), busy("kill"));
    vec![view, long_ago, failed, marking, killing, silent, unseen, paused]
}

fn every_view(mut rule: impl FnMut(&View, &Decision)) {
    for cluster in clusters() {
        for request in requests() {
            let cluster = Cluster { request, ..cluster.clone() };
            for lock in locks() {
                for data in data() {
                    for server in servers() {
                        let view = view("pg1").within(cluster.clone()).lock(lock).on_disk(data.clone()).runs(server);
                        for view in circumstances(view) {
                            rule(&view, &decide(&view));
                        }
                    }
                }
            }
        }
    }
}

/// The rules, each with its name; `None` where it holds.
fn broken(view: &View, decision: &Decision) -> Option<&'static str> {
    let postgres = view.postgres.last().expect("seen");
    let fresh = view.cluster.now();
    let leads = fresh.is_some_and(|it| it.leader.as_ref() == Some(&view.me) && view.lock.leads(it.term));
    let action = &decision.action;
    let needs_lock = matches!(
        action,
        Action::Promote { .. }
            | Action::Start(StartAs::Primary { .. })
            | Action::Mark { .. }
            | Action::HandOver { .. }
            | Action::Release
            | Action::RecordSync { .. }
            | Action::ApplySync(_)
            | Action::ProveSync { .. }
    );
    let idle = matches!(action, Action::Wait);
    let stops = matches!(action, Action::Stop(_));
    let starts = matches!(action, Action::Start(_));
    let primary = matches!(postgres.server, Server::Primary(_));
    let alive = !matches!(postgres.server, Server::Stopped);
    let another_leads = fresh.is_some_and(|it| it.leader.as_ref().is_some_and(|leader| *leader != view.me));
    let is_foreign = matches!(&postgres.data, Data::Present(disk) if disk.system_id != SYSTEM)
        && fresh.is_some_and(|it| matches!(it.initialize, Initialize::Done(_)));
    let half_made = matches!(postgres.data, Data::HalfMade { .. } | Data::Unreadable { .. });
    let rules = [
        ("leading needs the lock of the present term, with time left", needs_lock && !leads),
        (
            "a primary beside another leader is stopped",
            primary && another_leads && !is_foreign && !view.settings.paused && view.job.is_none() && !stops,
        ),
        ("what is half made is never started", half_made && starts),
        ("a foreign system is never touched", is_foreign && !idle),
        (
            "nobody takes a lock that is held",
            matches!(action, Action::Acquire(_)) && fresh.is_none_or(|it| it.leader.is_some()),
        ),
        ("paused means no action", view.settings.paused && !idle),
        ("every decision has a sentence", decision.reason.to_string().is_empty()),
        (
            "the lock is let go only when no write can follow",
            *action == Action::Release && alive && !matches!(postgres.server, Server::Standby(_)),
        ),
        (
            "without etcd a server is stopped or left",
            fresh.is_none() && !idle && !stops && !matches!(action, Action::Cancel),
        ),
        (
            "what runs is not copied over or started again",
            alive && (starts || matches!(action, Action::Clone { .. } | Action::Rewind { .. } | Action::Bootstrap)),
        ),
        ("one job at a time", view.job.is_some() && !idle && !matches!(action, Action::Cancel)),
        (
            "data is never replaced in the cluster's own absence",
            matches!(action, Action::Clone { .. } | Action::Rewind { .. }) && !another_leads,
        ),
        (
            "a database is never created over another",
            *action == Action::Bootstrap && matches!(postgres.data, Data::Present(_) | Data::Unreadable { .. }),
        ),
    ];
    rules.into_iter().find(|(_, broken)| *broken).map(|(rule, _)| rule)
}

#[test]
fn no_view_breaks_a_rule() {
    let mut seen = 0;
    every_view(|view, decision| {
        seen += 1;
        if let Some(rule) = broken(view, decision) {
            panic!("{rule}: {decision:?}\n{view:#?}");
        }
    });
    assert!(seen > 100_000, "only {seen} views");
}

#[test]
fn a_decision_is_a_function_of_its_view_and_survives_the_journal() {
    for (at, view) in clusters().into_iter().map(|cluster| view("pg1").within(cluster)).enumerate() {
        let json = serde_json::to_string(&view).expect("a view is a value");
        let read: View = serde_json::from_str(&json).expect("and reads back");
        assert_eq!(decide(&read), decide(&view), "cluster {at}");
        let decision = serde_json::to_string(&decide(&view)).expect("a decision is a value");
        assert_eq!(serde_json::from_str::<Decision>(&decision).expect("and reads back"), decide(&view));
    }
}
