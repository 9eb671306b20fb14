//! In a pause nothing happens but a switchover to a candidate that an operator has named, and that one is carried to its end; and writes go on.

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::names::{Lsn, Term, Timeline};
use crate::view::*;

fn paused(view: View) -> View {
    view.set(|settings| settings.paused = true)
}

fn asked_for(to: Option<&str>) -> Cluster {
    cluster().asked(RequestKind::Switchover, Some("pg1"), to)
}

/// `pg1` led term 7 until it ended at 1100 and handed over to `pg2`, which takes up timeline 5.
fn handed_over() -> Cluster {
    let handed = cluster().led_by("pg2").record(|sync| {
        (sync.term, sync.timeline, sync.handover_lsn) = (TERM.next(), Timeline(5), Some(Lsn(1100)));
    });
    Cluster { term: TERM.next(), ..handed }
}

fn hand_over_failed(view: View) -> View {
    view.aged(|ages| (ages.last_failure, ages.failed_action) = (Some(secs(0)), Some("hand_over".to_owned())))
}

#[test]
fn the_leader_hands_over_to_a_candidate_with_a_name_and_chooses_nobody() {
    let ready = asked_for(Some("pg2")).member("pg2", |member| member.lock_lease = 9);
    let view_of_pg1 = |cluster| paused(view("pg1").within(cluster));
    assert_eq!(decide(&view_of_pg1(ready)).action, Action::HandOver { to: name("pg2"), request: 77 });
    check(&view_of_pg1(asked_for(Some("pg2"))), "wait: awaiting_candidate");
    says(
        &view_of_pg1(asked_for(None)),
        "refused: in a pause nobody is chosen: name the candidate, or pgvigil resume first",
    );
    check(&view_of_pg1(cluster()), "wait: paused");
}

#[test]
fn the_candidate_stands_ready_and_nobody_else() {
    let asked = |me: &str| paused(view(me).within(asked_for(Some("pg2"))));
    check(&asked("pg2"), "stand_ready: candidate");
    check(&asked("pg3"), "wait: paused");
    let spare = |cluster: Cluster| cluster.member("pg2", |member| member.lock_lease = 9);
    check(&paused(view("pg2").within(spare(asked_for(Some("pg2"))))), "wait: paused");
    check(&paused(view("pg2").within(spare(cluster()))), "stand_down: not_candidate");
    let nobody_leads = asked_for(Some("pg2")).vacant();
    check(&paused(view("pg2").within(nobody_leads)), "wait: paused");
}

#[test]
fn whoever_was_handed_the_lock_is_promoted_and_proves_its_reign() {
    let holds = |server| {
        let lock = Lock::Held { term: TERM.next(), left: secs(4) };
        paused(view("pg2").within(handed_over()).lock(lock).runs(server))
    };
    check(&holds(pledged(1000)), "wait: awaiting_handover");
    check(&holds(pledged(1100)), "promote: promote");
    check(&holds(pledged(1100)).stopped(disk()), "start_standby: promote");
    let waits_for = Some((any(1, &["pg1", "pg3"]), TERM.next()));
    let fresh = Primary { timeline: Timeline(5), control_timeline: Timeline(5), waits_for, ..primary() };
    let proves = decide(&holds(Server::Primary(fresh.clone()))).action;
    assert!(!matches!(proves, Action::Wait), "it does not prove its reign: {proves:?}");
    let reigns = holds(Server::Primary(Primary { marked_term: TERM.next(), ..fresh }));
    check(&reigns, "wait: paused");
    let for_long = |seconds| reigns.clone().aged(|ages| ages.reign = Some(secs(seconds)));
    check(&for_long(29), "wait: paused");
    check(&for_long(30), "record_sync: change_durability");
    let unfenced =
        View { fence: Fence { trouble: Some("no watchdog".to_owned()), covers: None }, ..holds(pledged(1100)) };
    check(&unfenced, "wait: paused");
}

#[test]
fn the_others_and_the_old_leader_follow_whoever_leads_now() {
    check(&paused(view("pg3").within(handed_over())), "follow: repoint");
    let promoted = handed_over().leader_on(5).forked(4, 1100, "pg2");
    let old_leader = |disk| paused(view("pg1").lock(Lock::NotHeld).within(promoted.clone()).stopped(disk));
    check(&old_leader(clean_primary()), "start_standby: clean_rejoin");
    // Whatever else is down is so by somebody's wish, or is left to the end of the pause.
    check(&old_leader(crashed_primary()), "wait: paused");
    check(&old_leader(disk()), "wait: paused");
}

#[test]
fn the_others_go_ahead_to_the_heir_and_come_back() {
    let heir = asked_for(Some("pg2")).record(|sync| sync.heir = Some(name("pg2")));
    let ahead = paused(view("pg3").within(heir.clone()));
    check(&ahead, "follow: repoint");
    let Action::Follow(upstream) = decide(&ahead).action else { panic!("it follows") };
    let gone = Server::Standby(Standby { follows: Some(upstream), ..standby() });
    check(&ahead.clone().runs(gone.clone()), "wait: paused");
    check(&paused(view("pg3")).runs(gone), "follow: repoint");
    let earlier = Server::Standby(Standby {
        follows: cluster().upstream(&name("pg3"), &name("pg1"), Term(TERM.0 - 1)),
        ..standby()
    });
    check(&paused(view("pg3")).runs(earlier), "wait: paused");
}

#[test]
fn a_postgres_that_was_stopped_for_a_hand_over_in_vain_starts_again_and_no_other() {
    let stopped = |cluster| paused(view("pg1").within(cluster).stopped(clean_primary()));
    check(&stopped(cluster()), "wait: paused");
    check(&stopped(asked_for(Some("pg2"))), "refuse_request: request_refused");
    check(&hand_over_failed(stopped(cluster())), "start_primary: restart_in_place");
    let tried_since = stopped(cluster()).aged(|ages| ages.hand_over_undone = true);
    check(&tried_since, "start_primary: restart_in_place");
    let heir = cluster().record(|sync| sync.heir = Some(name("pg2")));
    check(&stopped(heir), "record_sync: change_durability");
}

#[test]
fn a_leader_whose_voters_are_gone_lets_commits_go_on() {
    let gone = |age| {
        let missing = [name("pg2"), name("pg3")].map(|voter| (voter, secs(age)));
        let primary = Primary { standbys: Vec::new(), ..primary() };
        let view = view("pg1").leads().runs(Server::Primary(primary));
        paused(view.within(cluster().without("pg2").without("pg3")).aged(|ages| ages.voters_missing = missing.into()))
    };
    check(&gone(2), "wait: paused");
    check(&gone(60), "record_sync: change_durability");
    check(&gone(60).lock(Lock::NotHeld), "wait: paused");
    let unproven = Server::Primary(Primary { marked_term: Term(6), standbys: Vec::new(), ..primary() });
    check(&gone(60).runs(unproven), "wait: paused");
}

#[test]
fn a_leader_whose_lease_has_lapsed_takes_its_own_lock_again_and_nobody_elses() {
    let lapsed = |me: &str| paused(view(me).lock(Lock::NotHeld).within(cluster().vacant()));
    check(&lapsed("pg1"), "resume: resume");
    check(&lapsed("pg2"), "wait: paused");
    check(&lapsed("pg1").within(cluster().led_before_by("pg2")), "wait: paused");
}
