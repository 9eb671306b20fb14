//! A planned switchover: refused with its reason, waited for, handed over; and what remains when it breaks off half way.

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::durability::{Quorum, may_go_over_ahead};
use crate::names::{Lsn, Term, Timeline};
use crate::view::*;

fn asked_for(to: Option<&str>) -> View {
    view("pg1").within(cluster().asked(RequestKind::Switchover, Some("pg1"), to))
}

fn with_cluster(view: View, change: impl FnOnce(Cluster) -> Cluster) -> View {
    let cluster = view.cluster.last().expect("seen").clone();
    view.within(change(cluster))
}

#[track_caller]
fn refused(view: &View, why: &str) {
    check(view, "refuse_request: request_refused");
    says(view, &format!("refused: {why}"));
}

#[test]
fn the_lock_is_handed_to_a_candidate_that_stands_ready() {
    let ready = with_cluster(asked_for(Some("pg2")), |it| it.member("pg2", |member| member.lock_lease = 9));
    assert_eq!(decide(&ready).action, Action::HandOver { to: name("pg2"), request: 77 });
    says(&ready, "an operator asked pg2 to lead: hand over");
}

#[test]
fn a_candidate_has_one_ttl_to_get_ready() {
    check(&asked_for(Some("pg2")), "wait: awaiting_candidate");
    let late = asked_for(Some("pg2")).aged(|ages| ages.request = Some(secs(6)));
    refused(&late, "pg2 did not get ready to hold the lock");
}

#[test]
fn without_a_name_the_best_standby_is_asked() {
    let server = Primary { standbys: vec![streaming("pg2", 900), streaming("pg3", 1000)], ..primary() };
    says(&asked_for(None).runs(Server::Primary(server)), "pg3 is getting ready to hold the lock");
    let barred = with_cluster(asked_for(None), |it| it.without("pg2").member("pg3", |m| m.tags.nofailover = true));
    refused(&barred, "no standby streams and may lead");
    let unheard = |member: &mut Member| member.not_listening = Some("pg2:5432".to_owned());
    let level = Primary { standbys: vec![streaming("pg2", 1000), streaming("pg3", 1000)], ..primary() };
    let level = |asked: View| with_cluster(asked, |it| it.member("pg2", unheard)).runs(Server::Primary(level.clone()));
    says(&level(asked_for(None)), "pg3 is getting ready to hold the lock");
    refused(&level(asked_for(Some("pg2"))), "Postgres of pg2 does not listen on pg2:5432");
}

#[test]
fn impossible_requests_are_refused_with_their_reason() {
    let from_other = view("pg1").within(cluster().asked(RequestKind::Switchover, Some("pg3"), Some("pg2")));
    refused(&from_other, "it names pg3 as the leader, but pg1 leads");
    refused(&asked_for(Some("pg1")), "pg1 leads already");
    refused(&asked_for(Some("pg9")), "pg9 is not registered: is its agent running?");
    let failover = view("pg1").within(cluster().asked(RequestKind::Failover, None, Some("pg2")));
    refused(&failover, "a failover is for a cluster that nobody leads, but pg1 leads: ask for a switchover");
    let tagged = cluster().policies(&[any(1, &["pg2"])]).member("pg3", |member| member.tags.nofailover = true);
    let waits_for = Some((any(1, &["pg2"]), TERM));
    let server = Server::Primary(Primary { waits_for, ..primary() });
    let barred = view("pg1").within(tagged.asked(RequestKind::Switchover, None, Some("pg3"))).runs(server);
    refused(&barred, "the tags of pg3 bar it from leading");
}

#[test]
fn a_standby_that_is_not_level_is_refused_with_its_lag() {
    let late = |view: View| view.aged(|ages| ages.request = Some(secs(3)));
    let with = |standbys| late(asked_for(Some("pg3")).runs(Server::Primary(Primary { standbys, ..primary() })));
    let pg2 = || streaming("pg2", 1000);
    refused(&with(vec![pg2()]), "pg3 does not stream from pg1");
    let catching_up = Streaming { caught_up: false, ..streaming("pg3", 1000) };
    refused(&with(vec![pg2(), catching_up]), "pg3 is still catching up");
    let slow = Streaming { replayed: Lsn(0), ..streaming("pg3", 48 << 20) };
    let far = Primary { flushed: Lsn(48 << 20), standbys: vec![pg2(), slow], ..primary() };
    let far = late(asked_for(Some("pg3")).runs(Server::Primary(far)));
    refused(&far, "pg3 has 48.0 MB left to replay, the limit is 16.0 MB");
}

#[test]
fn a_standby_that_has_just_come_back_is_waited_for_a_moment() {
    let with = |standbys| asked_for(Some("pg3")).runs(Server::Primary(Primary { standbys, ..primary() }));
    says(&with(vec![streaming("pg2", 1000)]), "pg3 is getting ready to hold the lock");
    let of_the_last_term = Streaming { term: Term(TERM.0 - 1), ..streaming("pg3", 1000) };
    check(&with(vec![streaming("pg2", 1000), of_the_last_term]), "wait: awaiting_candidate");
    check(&asked_for(Some("pg9")), "refuse_request: request_refused");
}

/// `pg1` leads and is about to hand over to `pg2`.
fn with_heir() -> Cluster {
    cluster().record(|sync| sync.heir = Some(name("pg2")))
}

#[test]
fn the_others_go_over_to_the_heir_ahead_under_the_name_of_the_next_term() {
    let upstream = Upstream {
        member: name("pg2"),
        term: TERM.next(),
        ..cluster().upstream(&name("pg3"), &name("pg2"), TERM).expect("there")
    };
    let bystander = view("pg3").within(with_heir());
    assert_eq!(decide(&bystander).action, Action::Follow(upstream.clone()));
    let gone_over = Server::Standby(Standby { follows: Some(upstream), ..standby() });
    check(&bystander.clone().runs(gone_over.clone()), "wait: following");
    check(&view("pg2").within(with_heir()), "wait: following");
    // The heir leads now; nobody has to move.
    let handed = cluster().led_by("pg2").record(|sync| sync.term = TERM.next());
    let handed = Cluster { term: TERM.next(), ..handed };
    check(&view("pg3").within(handed).runs(gone_over.clone()), "wait: following");
    // It was broken off, or the heir's agent is gone: back to the leader.
    check(&view("pg3").within(cluster()).runs(gone_over.clone()), "follow: repoint");
    check(&view("pg3").within(with_heir().without("pg2")).runs(gone_over), "follow: repoint");
}

#[test]
fn an_heir_of_an_earlier_life_is_forgotten_before_anything_else() {
    check(&view("pg1").within(with_heir()), "record_sync: change_durability");
    check(&view("pg1").within(with_heir()).stopped(clean_primary()), "record_sync: change_durability");
}

#[test]
fn nobody_goes_over_ahead_where_commits_could_not_go_on() {
    let pg2 = name("pg2");
    assert!(may_go_over_ahead(&vec![any(1, &["pg2", "pg3"])], &pg2));
    assert!(may_go_over_ahead(&vec![Quorum::none()], &pg2));
    assert!(!may_go_over_ahead(&vec![any(2, &["pg2", "pg3"])], &pg2));
    assert!(!may_go_over_ahead(&vec![any(1, &["pg3"])], &pg2));
    assert!(!may_go_over_ahead(&vec![any(1, &["pg2", "pg3"]), any(2, &["pg2", "pg3"])], &pg2));
}

#[test]
fn before_postgres_starts_again_the_hand_over_is_made_impossible() {
    let stopped = asked_for(Some("pg2")).stopped(clean_primary());
    check(&stopped, "refuse_request: request_refused");
    let settled = view("pg1").within(cluster()).stopped(clean_primary());
    check(&settled, "start_primary: restart_in_place");
    // And it is not waited for: nothing is broken here.
    let failed =
        settled.aged(|ages| (ages.last_failure, ages.failed_action) = (Some(secs(0)), Some("hand_over".to_owned())));
    check(&failed, "start_primary: restart_in_place");
}

#[test]
fn a_hand_over_that_failed_is_not_tried_again_by_itself() {
    let ready = with_cluster(asked_for(Some("pg2")), |it| it.member("pg2", |member| member.lock_lease = 9));
    let failed =
        |failure| ready.clone().aged(|ages| (ages.last_failure, ages.request) = (Some(secs(failure)), Some(secs(4))));
    refused(&failed(1), "the hand-over failed; see the log, and ask again");
    check(&failed(5), "hand_over: switchover");
}

#[test]
fn a_candidate_stands_ready_while_it_is_asked_for_and_down_afterwards() {
    let asked = |to| cluster().asked(RequestKind::Switchover, None, to);
    check(&view("pg2").within(asked(Some("pg2"))), "stand_ready: candidate");
    check(&view("pg2").within(asked(None)), "stand_ready: candidate");
    check(&view("pg2").within(asked(Some("pg3"))), "wait: following");
    let ready = |cluster: Cluster| view("pg2").within(cluster.member("pg2", |member| member.lock_lease = 9));
    check(&ready(asked(Some("pg2"))), "wait: following");
    check(&ready(cluster()), "stand_down: not_candidate");
}

/// `pg1` ended at 1100 and handed over to `pg2`, which has 1000.
fn handed_over() -> Cluster {
    cluster().led_by("pg2").record(|sync| sync.handover_lsn = Some(Lsn(1100)))
}

#[test]
fn the_new_leader_promotes_only_with_everything_the_old_one_had() {
    let new_leader = |received| view("pg2").within(handed_over()).leads().runs(pledged(received));
    check(&new_leader(1000), "wait: awaiting_handover");
    says(&new_leader(1000), "the lock was handed over; replayed 0/3E8, the old leader ended at 0/44C");
    check(&new_leader(1000).aged(|ages| ages.reign = Some(secs(6))), "release: awaiting_handover");
    check(&new_leader(1100), "promote: promote");
}

#[test]
fn a_leader_by_hand_over_that_never_had_everything_reclaims_nothing() {
    let vacant = handed_over().vacant();
    check(&view("pg2").within(vacant.clone()).stopped(disk()), "start_standby: vacant");
    let promoted = view("pg2").within(vacant.clone()).stopped(crashed_primary());
    check(&promoted, "acquire: last_leader");
    let unpromoted = vacant.record(|sync| sync.timeline = Timeline(5));
    check(&view("pg2").within(unpromoted).stopped(crashed_primary()), "start_standby: vacant");
}

#[test]
fn the_ballot_of_a_leader_that_was_still_waiting_for_the_hand_over_proves_nothing() {
    let waiting = handed_over().vacant().ballot("pg2", 4, 1000);
    let balloted = view("pg2").within(waiting.clone()).runs(pledged(1000));
    check(&balloted, "wait: awaiting_handover");
    let with_the_old_leader = view("pg1").within(waiting.ballot("pg1", 4, 1100)).runs(pledged(1100));
    check(&with_the_old_leader.lock(Lock::NotHeld), "acquire: elected");
}

#[test]
fn the_old_leader_comes_back_by_itself_after_a_clean_hand_over() {
    let new = cluster().led_by("pg2").leader_on(5).forked(4, 950, "pg2");
    let back = view("pg1").lock(Lock::NotHeld).within(new).stopped(clean_primary());
    check(&back, "start_standby: clean_rejoin");
    says(&back, "all WAL here (to 0/384) is in pg2's history: start and stream, no rewind");
}
