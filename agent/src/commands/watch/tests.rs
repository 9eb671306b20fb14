//! The screen drawn on a terminal of memory, and what it must say.

use std::time::Duration;

use consensus::records::{Phase, Transition};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::status::{MemberStatus, Status};
use super::changes::changes;
use super::draw::draw;
use super::keys::Wish;
use super::scene::{Scene, Sight};
use crate::operate::schedule::shown::Shown as Scheduled;

fn member(name: &str, role: &str, state: &str) -> MemberStatus {
    let may_lead = Some(state != "unreachable");
    MemberStatus { name: name.into(), role: role.into(), state: state.into(), may_lead, ..MemberStatus::default() }
}

fn status(leader: &str) -> Status {
    let role = |name: &str| if name == leader { ("leader", "writable") } else { ("standby", "streaming") };
    let members = ["pg1", "pg2", "pg3"].map(|name| member(name, role(name).0, role(name).1)).to_vec();
    Status {
        cluster: "orders".into(),
        term: Some(7),
        leader: Some(leader.into()),
        writable: Some(true),
        lease_left_ms: Some(2000),
        etcd_reachable: true,
        members,
        ..Status::default()
    }
}

fn failover() -> Transition {
    let phase = |name: &str, duration_ms| Phase { name: name.into(), duration_ms, measured_on: "pg2".into() };
    Transition {
        id: "t-8".into(),
        kind: "failover".into(),
        cause_text: "the leader was not heard".into(),
        from: Some("pg1".into()),
        to: Some("pg2".into()),
        outcome: "done".into(),
        lost: "none".into(),
        phases: vec![phase("detect", 480.0), phase("promote", 60.0), phase("writable", 0.4)],
        write_outage_ms: Some(540.4),
        ..Transition::default()
    }
}

fn watching() -> Scene {
    let mut scene = Scene::new("orders", Duration::from_secs(4), false);
    scene.sees(Sight { status: Ok(status("pg1")), records: vec![] });
    scene
}

/// The screen as lines of text.
fn screen(scene: &Scene, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory does not fail");
    terminal.draw(|frame| draw(frame, scene)).expect("memory does not fail");
    terminal.backend().to_string()
}

#[test]
fn the_screen_has_members_lease_transition_and_events() {
    let mut scene = watching();
    let [id, kind, at] = ["p-70", "switchover", "2026-11-29T02:00:00Z"].map(str::to_owned);
    let scheduled = vec![Scheduled { id, kind, at, ..Scheduled::default() }];
    scene.sees(Sight { status: Ok(Status { scheduled, ..status("pg2") }), records: vec![failover()] });
    let drawn = screen(&scene, (140, 40));
    for told in [
        "pgvigil orders",
        "scheduled p-70: switchover from whoever leads to the best standby at 2026-11-29 02:00:00Z",
        "lease pg2",
        "[##########..........]",
        "RECEIVE LAG",
        "failover t-8  pg1 -> pg2  done",
        "the leader was not heard",
        "480 ms on pg2",
        "no writes for 0.54 s, lost nothing",
        "pg2 holds the lock, term 7",
        "pg1: standby, streaming",
        "q leaves",
    ] {
        assert!(drawn.contains(told), "{told} is not in\n{drawn}");
    }
}

#[test]
fn the_longest_phase_has_the_longest_bar() {
    let mut scene = watching();
    scene.records = vec![failover()];
    let drawn = screen(&scene, (140, 40));
    let bar = |name: &str| {
        let line = drawn.lines().find(|line| line.contains(name) && line.contains(" on pg2"));
        line.map_or(0, |line| line.matches('█').count())
    };
    assert!(bar("detect ") > bar("promote ") && bar("promote ") > bar("writable "), "{drawn}");
    assert_eq!(bar("writable "), 1, "{drawn}");
}

#[test]
fn a_narrow_screen_keeps_what_matters() {
    let drawn = screen(&watching(), (80, 24));
    assert!(drawn.contains("CANDIDATE") && drawn.contains("REPLAY LAG") && !drawn.contains("RECEIVE LAG"), "{drawn}");
    // However small, it draws.
    for size in [(1, 1), (10, 3), (40, 8)] {
        screen(&watching(), size);
    }
}

#[test]
fn a_look_that_sees_nothing_says_so_and_keeps_what_was_seen() {
    let mut scene = Scene::new("orders", Duration::from_secs(4), false);
    scene.sees(Sight { status: Err("neither etcd nor the agent answers".into()), records: vec![] });
    assert!(screen(&scene, (100, 30)).contains("neither etcd nor the agent answers"));
    let mut scene = watching();
    scene.sees(Sight { status: Err("neither etcd nor the agent answers".into()), records: vec![] });
    let drawn = screen(&scene, (100, 30));
    assert!(drawn.contains("! neither etcd nor the agent answers") && drawn.contains("pg3"), "{drawn}");
}

#[test]
fn keys_choose_a_member_and_show_why_it_may_not_lead() {
    let mut scene = watching();
    let mut seen = status("pg1");
    seen.members[1] = MemberStatus {
        bars: vec![super::super::status::BarStatus { code: "silent".into(), sentence: "its agent is silent".into() }],
        error: Some("connection refused".into()),
        ..member("pg2", "unknown", "unreachable")
    };
    scene.sees(Sight { status: Ok(seen), records: vec![] });
    scene.obeys(Wish::Previous);
    scene.obeys(Wish::Next);
    scene.obeys(Wish::Details);
    let drawn = screen(&scene, (120, 40));
    assert!(drawn.contains("may not lead (silent): its agent is silent"), "{drawn}");
    assert!(drawn.contains("its agent does not answer: connection refused"), "{drawn}");
    scene.obeys(Wish::Help);
    assert!(screen(&scene, (120, 40)).contains("what bars it from leading"));
    for _ in 0..9 {
        scene.obeys(Wish::Next);
    }
    assert_eq!(scene.chosen().map(|member| member.name.as_str()), Some("pg3"));
}

#[test]
fn changes_are_told_once_and_numbers_are_none() {
    let copying = |percent: u32| {
        let mut status = status("pg1");
        status.members[2] = member("pg3", "none", &format!("copying {percent} %, 1.0 MB/s, 59s left"));
        status
    };
    assert_eq!(changes(&status("pg1"), &status("pg1")), Vec::<String>::new());
    assert_eq!(changes(&copying(10), &copying(20)), Vec::<String>::new());
    assert_eq!(changes(&status("pg1"), &copying(10)), ["pg3: copying 10 %, 1.0 MB/s, 59s left"]);
    let gone = Status { leader: None, writable: Some(false), etcd_reachable: false, ..status("pg1") };
    assert_eq!(changes(&status("pg1"), &gone), ["nobody holds the lock", "writes do not work", "etcd does not answer"]);
    let fewer = Status { members: status("pg1").members[..2].to_vec(), ..status("pg1") };
    assert_eq!(changes(&status("pg1"), &fewer), ["pg3 is no member any more"]);
    assert_eq!(changes(&fewer, &status("pg1")), ["pg3 is there: streaming"]);
}

#[test]
fn a_narrow_screen_cuts_off_nothing_that_matters() {
    let mut scene = watching();
    let mut status = status("pg1");
    status.verdict.sentence = "writes work on pg1; no failover is possible now: acknowledged writes may be only on pg2, which cannot be asked at all".into();
    status.members[1] = MemberStatus { may_lead: Some(false), ..member("pg2", "standby", "unreachable") };
    let trouble = "the agent of pg2 does not answer: Connection refused (os error 111), and it has not since a while";
    status.problems = vec![super::super::status::Trouble::new(
        "agent_silent",
        trouble,
        "is the host of pg2 up, and its port 8008 open?",
    )];
    scene.sees(Sight { status: Ok(status), records: vec![] });
    for size in [(110, 30), (80, 24)] {
        let drawn = screen(&scene, size);
        let words = drawn.replace(['"', '│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        for told in [
            "which cannot be asked at all",
            "HINT: is the host of pg2 up, and its port 8008 open?",
            "unreachable",
            "lease left [##########..........]",
        ] {
            assert!(words.contains(told), "{told:?} is cut off at {size:?}:\n{drawn}");
        }
    }
}
