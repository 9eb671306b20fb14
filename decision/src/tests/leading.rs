//! I hold the lock: primary or not yet, crashed, hung, empty, with voters that come and go.

use super::builders::*;
use crate::action::{Action, StartAs};
use crate::decide;
use crate::names::{Lsn, Term, Timeline};
use crate::settings::Mode;
use crate::view::*;

#[test]
fn a_healthy_leader_does_nothing() {
    check(&view("pg1"), "wait: leading");
    says(&view("pg1"), "leads term 7, writes work");
}

#[test]
fn a_leader_without_its_marker_proves_that_writes_work() {
    let unmarked = Server::Primary(Primary { marked_term: Term(6), ..primary() });
    check(&view("pg1").runs(unmarked), "mark: prove_writes");
}

#[test]
fn a_leader_has_everything_and_clears_its_own_floor() {
    check(&view("pg1").within(cluster().floor("pg1", 900)), "clear_floor: regained");
}

#[test]
fn a_lease_without_time_left_leads_nothing() {
    let over = Lock::Held { term: TERM, left: secs(0) };
    check(&view("pg1").lock(over), "kill: lock_lost");
    check(&view("pg1").lock(over).runs(pledged(1000)), "wait: lock_of_earlier_life");
}

#[test]
fn a_lock_of_another_term_leads_nothing() {
    check(&view("pg1").lock(Lock::Held { term: Term(6), left: secs(4) }), "kill: lock_lost");
}

#[test]
fn a_lock_under_an_unknown_lease_is_waited_out() {
    let view = view("pg1").lock(Lock::NotHeld).stopped(crashed_primary());
    check(&view, "wait: lock_of_earlier_life");
    says(
        &view,
        "the lock names this node, under a lease that it does not hold (an earlier life's): wait until it ends",
    );
}

#[test]
fn without_its_record_a_leader_changes_nothing() {
    let mut lost = cluster();
    lost.sync = None;
    check(&view("pg1").within(lost), "wait: record_missing");
    check(&view("pg1").within(cluster().record(|sync| sync.term = Term(6))), "wait: record_missing");
}

#[test]
fn a_voter_that_acknowledges_nothing_streams_in_name_only() {
    let rests = |who: &[(&str, u64)]| {
        let behind = |name: &str, lsn| {
            if who.iter().any(|(rests, _)| *rests == name) { streaming(name, lsn) } else { streaming(name, 1000) }
        };
        let server = Server::Primary(Primary { standbys: vec![behind("pg2", 900), behind("pg3", 900)], ..primary() });
        view("pg1").runs(server).aged(|ages| {
            ages.voters_resting = who.iter().map(|(who, age)| (name(who), secs(*age))).collect();
        })
    };
    check(&rests(&[("pg2", 1)]), "wait: leading");
    check(&rests(&[("pg2", 2)]), "record_sync: change_durability");
    says(&rests(&[("pg2", 2)]), "commits are to wait for any 1 of pg3; recorded first, so that a takeover heeds both");
    // It votes again once it has moved, and not before, however well it streams.
    let alone = |view: View| {
        let policies = [any(1, &["pg3"])];
        let server = Primary { waits_for: Some((any(1, &["pg3"]), TERM)), ..primary() };
        view.runs(Server::Primary(server)).within(cluster().policies(&policies))
    };
    check(&alone(rests(&[("pg2", 9)])), "wait: leading");
    check(&alone(rests(&[])), "record_sync: change_durability");
    // With all of them at rest commits wait as long as for voters that are gone, and then for nobody.
    check(&rests(&[("pg2", 2), ("pg3", 2)]), "wait: leading");
    check(&rests(&[("pg2", 9), ("pg3", 2)]), "wait: leading");
    says(
        &rests(&[("pg2", 3), ("pg3", 3)]),
        "commits are to wait for nobody; recorded first, so that a takeover heeds both",
    );
    let strict =
        |view: View| view.within(cluster().mode(Mode::Strict)).set(|settings| settings.durability.mode = Mode::Strict);
    check(&strict(rests(&[("pg2", 9), ("pg3", 9)])), "wait: leading");
}

#[test]
fn a_voter_that_is_away_for_a_moment_stays_a_voter() {
    let server = Server::Primary(Primary { standbys: vec![streaming("pg2", 1000)], ..primary() });
    let away = |millis| {
        let age = std::time::Duration::from_millis(millis);
        view("pg1").runs(server.clone()).aged(|ages| ages.voters_missing = [(name("pg3"), age)].into())
    };
    check(&away(999), "wait: leading");
    check(&away(1000), "record_sync: change_durability");
    says(&away(1000), "commits are to wait for any 1 of pg2; recorded first, so that a takeover heeds both");
}

#[test]
fn commits_wait_for_voters_that_are_all_away_until_the_degrade_time_is_over() {
    let away = |seconds| {
        view("pg1").runs(Server::Primary(Primary { standbys: Vec::new(), ..primary() })).aged(|ages| {
            ages.voters_missing = [(name("pg2"), secs(seconds)), (name("pg3"), secs(seconds))].into();
        })
    };
    check(&away(2), "wait: leading");
    check(&away(3), "record_sync: change_durability");
    says(&away(3), "commits are to wait for nobody; recorded first, so that a takeover heeds both");
    let strict = away(3600).within(cluster().mode(Mode::Strict));
    check(&strict.set(|settings| settings.durability.mode = Mode::Strict), "wait: leading");
}

#[test]
fn a_change_is_recorded_then_applied_then_proven() {
    let both = [any(1, &["pg2"]), any(1, &["pg2", "pg3"])];
    let waits_for = |quorum| Server::Primary(Primary { waits_for: Some((quorum, TERM)), ..primary() });
    let recorded = view("pg1").within(cluster().policies(&both[..1]));
    check(&recorded.clone().runs(waits_for(both[0].clone())), "record_sync: change_durability");
    let listed = view("pg1").within(cluster().policies(&both));
    check(&listed.clone().runs(waits_for(both[0].clone())), "apply_sync: change_durability");
    says(&listed.clone().runs(waits_for(both[0].clone())), "let commits wait for any 1 of pg2, pg3");
    check(&listed.clone().runs(waits_for(both[1].clone())), "prove_sync: change_durability");
    says(
        &listed.runs(waits_for(both[1].clone())),
        "prove with a commit that any 1 of pg2, pg3 acknowledges, then record it alone",
    );
}

#[test]
fn names_of_an_older_term_are_set_anew() {
    let waits_for = Some((any(1, &["pg2", "pg3"]), Term(6)));
    check(&view("pg1").runs(Server::Primary(Primary { waits_for, ..primary() })), "apply_sync: change_durability");
    let foreign = Server::Primary(Primary { waits_for: None, ..primary() });
    check(&view("pg1").runs(foreign), "apply_sync: change_durability");
}

#[test]
fn a_changed_mode_reaches_the_record_although_the_quorum_is_the_same() {
    let degraded = cluster().policies(&[any(0, &[])]);
    let alone = Primary { waits_for: Some((any(0, &[]), TERM)), standbys: Vec::new(), ..primary() };
    let view = view("pg1").within(degraded).runs(Server::Primary(alone));
    check(&view, "wait: leading");
    let asynchronous = view.set(|settings| settings.durability.mode = Mode::Async);
    check(&asynchronous, "record_sync: change_durability");
    says(&asynchronous, "the mode is async from here on");
}

#[test]
fn auto_becomes_quorum_with_the_second_standby_and_never_goes_back() {
    let auto = |cluster: Cluster| {
        let server = Server::Primary(Primary { waits_for: Some((any(0, &[]), TERM)), ..primary() });
        view("pg1").within(cluster).runs(server).set(|settings| settings.durability.mode = Mode::Auto)
    };
    let asynchronous = cluster().policies(&[any(0, &[])]).mode(Mode::Async);
    check(&auto(asynchronous.clone().without("pg3")), "wait: leading");
    check(&auto(asynchronous), "record_sync: change_durability");
    check(&auto(cluster().without("pg3")), "record_sync: change_durability");
}

#[test]
fn a_standby_below_its_floor_or_under_an_old_name_becomes_no_voter() {
    let only_pg2 = cluster().policies(&[any(1, &["pg2"])]);
    let server = |third: Streaming| {
        let waits_for = Some((any(1, &["pg2"]), TERM));
        Server::Primary(Primary { waits_for, standbys: vec![streaming("pg2", 1000), third], ..primary() })
    };
    let pg3 = || streaming("pg3", 1000);
    check(&view("pg1").within(only_pg2.clone()).runs(server(pg3())), "record_sync: change_durability");
    check(&view("pg1").within(only_pg2.clone().floor("pg3", 1001)).runs(server(pg3())), "wait: leading");
    for unfit in [Streaming { term: Term(6), ..pg3() }, Streaming { caught_up: false, ..pg3() }] {
        check(&view("pg1").within(only_pg2.clone()).runs(server(unfit)), "wait: leading");
    }
    let excused = only_pg2.clone().member("pg3", |member| member.tags.nosync = true);
    check(&view("pg1").within(excused).runs(server(pg3())), "wait: leading");
    let barred = only_pg2.member("pg3", |member| member.tags.nofailover = true);
    check(&view("pg1").within(barred).runs(server(pg3())), "wait: leading");
}

#[test]
fn an_elected_standby_is_promoted_to_the_timeline_of_its_claim() {
    let claimed = view("pg1").within(cluster().leader_on(5)).runs(pledged(1000));
    check(&claimed, "promote: promote");
    let Action::Promote { term, timeline, quorum } = decide(&claimed).action else { panic!("no promotion") };
    assert_eq!((term, timeline, quorum), (TERM, Timeline(5), any(1, &["pg2", "pg3"])));
    check(&claimed.aged(|ages| ages.last_failure = Some(secs(0))), "wait: retrying");
}

#[test]
fn a_crashed_leader_lets_go_where_the_voters_can_prove_that_they_have_everything() {
    let crashed = view("pg1").stopped(crashed_primary());
    check(&crashed, "abdicate: primary_died");
    // Nobody is left for those whom no client would reach.
    let unheard = |member: &mut Member| member.not_listening = Some("pg2:5432".to_owned());
    let unheard = cluster().member("pg2", unheard).member("pg3", unheard);
    check(&crashed.clone().within(unheard), "start_primary: restart_in_place");
    says(
        &crashed,
        "Postgres died; pg2, pg3 can take over in about 200 ms, a restart here would take about 200 ms: let go of the lock",
    );
    check(&crashed.clone().within(cluster().without("pg3")), "start_primary: restart_in_place");
    check(&crashed.clone().within(cluster().mode(Mode::Async)), "start_primary: restart_in_place");
    says(
        &crashed.clone().within(cluster().without("pg3")),
        "Postgres is down: start it again here, for no standby can prove that it has everything (recovery takes about 200 ms)",
    );
    let barred = cluster().member("pg3", |member| member.tags.nofailover = true);
    check(&crashed.clone().within(barred), "start_primary: restart_in_place");
    let down = cluster().member("pg3", |member| member.role = MemberRole::Down);
    check(&crashed.within(down), "start_primary: restart_in_place");
}

#[test]
fn voters_below_their_floor_can_prove_nothing_to_a_crashed_leader() {
    let crashed = view("pg1").stopped(crashed_primary()).within(cluster().floor("pg3", 2000));
    check(&crashed, "start_primary: restart_in_place");
}

#[test]
fn a_cleanly_stopped_leader_starts_again() {
    let clean = view("pg1").stopped(clean_primary());
    check(&clean, "start_primary: restart_in_place");
    says(&clean, "Postgres is down: start it again here, for its data is here and intact");
}

#[test]
fn a_reclaimed_lock_is_not_let_go_at_once() {
    let reclaimed = cluster().record(|sync| sync.reclaimed = true);
    let crashed = view("pg1").stopped(crashed_primary()).within(reclaimed);
    check(&crashed, "start_primary: restart_in_place");
}

#[test]
fn a_start_that_failed_in_this_reign_lets_others_try_and_one_of_an_earlier_reign_does_not() {
    let failed = |failure, reign| {
        view("pg1").stopped(clean_primary()).aged(|ages| {
            (ages.last_failure, ages.reign) = (Some(secs(failure)), Some(secs(reign)));
        })
    };
    check(&failed(1, 5), "release: cannot_start");
    check(&failed(5, 1), "start_primary: restart_in_place");
    check(&failed(2, 1), "wait: retrying");
    check(&failed(1, 5).within(cluster().without("pg3")), "wait: retrying");
    check(&failed(3, 5).within(cluster().without("pg3")), "start_primary: restart_in_place");
    // The lock was taken and etcd's answer was lost: Postgres has not been tried yet.
    let claimed = |failure| failed(failure, 5).aged(|ages| ages.failed_action = Some("acquire".to_owned()));
    check(&claimed(1), "wait: retrying");
    check(&claimed(3), "start_primary: restart_in_place");
    // A planned switchover that failed must not cost writes that no standby has.
    check(&failed(1, 5).within(cluster().mode(Mode::Async)), "wait: retrying");
    check(&failed(3, 5).within(cluster().mode(Mode::Async)), "start_primary: restart_in_place");
}

#[test]
fn an_elected_standby_that_cannot_start_lets_others_try() {
    let failed = view("pg1").stopped(disk()).aged(|ages| {
        (ages.last_failure, ages.reign) = (Some(secs(1)), Some(secs(5)));
    });
    check(&failed, "release: cannot_start");
    check(&failed.clone().within(cluster().without("pg3")), "wait: retrying");
    check(&view("pg1").stopped(disk()), "start_standby: promote");
}

#[test]
fn a_promotion_that_was_cut_off_is_promoted_again_and_never_started_on_its_old_timeline() {
    let cut_off = view("pg1").stopped(crashed_primary()).within(cluster().leader_on(5).without("pg3"));
    check(&cut_off, "start_standby: promote");
}

#[test]
fn a_leader_without_usable_data_lets_go() {
    let with = |data| view("pg1").on_disk(data).runs(Server::Stopped);
    check(&with(Data::Empty), "release: cannot_start");
    says(&with(Data::Empty), "this primary cannot be started (its data directory is empty): let another try");
    check(&with(Data::HalfMade { by: "rewind".to_owned() }), "release: half_made");
    check(&with(Data::Unreadable { why: "no pg_control".to_owned() }), "release: cannot_start");
}

#[test]
fn a_started_leader_tells_postgres_the_recorded_quorum() {
    let view = view("pg1").stopped(clean_primary()).within(cluster().policies(&[any(1, &["pg2"]), any(1, &["pg3"])]));
    let expected = Action::Start(StartAs::Primary { term: TERM, quorum: any(1, &["pg3"]), record_anew: true });
    assert_eq!(decide(&view).action, expected);
}

#[test]
fn a_slow_start_is_cut_off_only_where_somebody_could_take_over() {
    let starting = |seconds| view("pg1").runs(Server::Starting { since: secs(seconds) });
    check(&starting(29), "wait: starting");
    check(&starting(30), "kill: starting");
    check(&starting(30).within(cluster().without("pg3")), "wait: starting");
}

#[test]
fn only_a_sight_of_this_moment_changes_anything() {
    let old = |view: View| {
        let value = view.postgres.last().expect("seen").clone();
        View { postgres: Seen::Before { value, age: secs(9) }, ..view }
    };
    check(&old(view("pg1").stopped(crashed_primary())), "wait: postgres_unseen");
    check(&old(view("pg2").on_disk(Data::Empty).runs(Server::Stopped)), "wait: postgres_unseen");
    check(&old(view("pg1")), "wait: leading");
    check(&old(view("pg1").within(cluster().led_by("pg2"))), "kill: deposed_primary");
    let never = View { postgres: Seen::Never { tried_for: secs(1) }, ..view("pg1") };
    check(&never, "wait: postgres_unseen");
}

#[test]
fn a_reclaimed_primary_is_not_taken_for_marked_by_a_term_that_etcd_forgot() {
    let restored = view("pg1").within(cluster().vacant()).lock(Lock::NotHeld);
    let ahead = restored.runs(Server::Primary(Primary { marked_term: Term(20), flushed: Lsn(2000), ..primary() }));
    let Action::Acquire(claim) = decide(&ahead).action else { panic!("no claim") };
    assert_eq!(claim.term, Term(21));
}
