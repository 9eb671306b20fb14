//! I lead, and my own server is dead, hangs, recovers, or its disk fails: who is told, what is killed, and what is left alone.

use std::time::Duration;

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::names::Lsn;
use crate::settings::Mode;
use crate::view::*;

#[test]
fn a_hung_leader_is_killed() {
    let hung = |millis| view("pg1").runs(Server::Hung { since: Duration::from_millis(millis) });
    check(&hung(499), "wait: hung");
    check(&hung(500), "abdicate: hung");
    says(&hung(2000), "Postgres is there but has not answered for 2.0 s");
    // A kill that no proven takeover follows is dear: a crash recovery, or data. It takes more silence.
    for unsure in
        [cluster().without("pg3"), cluster().mode(Mode::Async), cluster().record(|sync| sync.reclaimed = true)]
    {
        check(&hung(1999).within(unsure.clone()), "wait: hung");
        check(&hung(2000).within(unsure), "kill: hung");
    }
}

#[test]
fn what_answers_and_takes_no_writes_is_given_longer_and_the_reason_says_what_is_stuck() {
    let hung = |stuck, millis| {
        let mut view = view("pg1").runs(Server::Hung { since: Duration::from_millis(millis) });
        view.signs.stuck = stuck;
        view
    };
    for stuck in [Stuck::Logins, Stuck::Writes] {
        check(&hung(stuck, 1999), "wait: hung");
        check(&hung(stuck, 2000), "abdicate: hung");
        let alone = cluster().without("pg3");
        check(&hung(stuck, 7999).within(alone.clone()), "wait: hung");
        check(&hung(stuck, 8000).within(alone), "kill: hung");
        check(&hung(stuck, 1999).job("prove_sync", None, secs(1)), "wait: busy");
        check(&hung(stuck, 2000).job("prove_sync", None, secs(1)), "cancel: busy");
    }
    check(&hung(Stuck::Door, 4999), "wait: hung");
    check(&hung(Stuck::Door, 5000), "abdicate: hung");
    check(&hung(Stuck::Door, 19_999).within(cluster().mode(Mode::Async)), "wait: hung");
    check(&hung(Stuck::Door, 20_000).within(cluster().mode(Mode::Async)), "kill: hung");
    says(
        &hung(Stuck::Door, 5000),
        "Postgres answers those who are in already, but its postmaster does not: nobody has got in for 5.0 s",
    );
    says(
        &hung(Stuck::Writes, 2000),
        "Postgres answers, but one of its processes holds a lock that every write needs: none has ended for 2.0 s",
    );
    says(
        &hung(Stuck::Logins, 2000),
        "Postgres has answered no question and let nobody in, though its postmaster lives, for 2.0 s",
    );
}

#[test]
fn what_hangs_is_noticed_whatever_is_under_way() {
    let marking = |server| view("pg1").runs(server).job("prove_sync", None, secs(1));
    check(&marking(Server::Primary(primary())), "wait: busy");
    check(&marking(Server::Hung { since: secs(1) }), "cancel: busy");
    check(&view("pg1").runs(Server::Hung { since: secs(9) }).job("abdicate", None, secs(1)), "wait: busy");
    let frozen = |job| on(|disk| disk.frozen_for = Some(secs(3))).job(job, None, secs(1));
    check(&frozen("apply_sync"), "cancel: busy");
    check(&frozen("kill"), "wait: busy");
}

#[test]
fn a_stop_that_never_ends_is_cut_short() {
    let stopping = |seconds| view("pg1").runs(Server::Stopping).aged(|ages| ages.stopping = Some(secs(seconds)));
    check(&stopping(59), "wait: stopping");
    check(&stopping(60), "kill: stop_overdue");
    check(&stopping(60).within(cluster().led_by("pg2")).lock(Lock::NotHeld), "kill: stop_overdue");
    check(&stopping(60).within(cluster().vacant()).lock(Lock::NotHeld), "kill: stop_overdue");
}

#[test]
fn a_crash_that_postgres_mends_itself_is_left_to_it_unless_that_takes_longer_than_a_hand_over() {
    let recovering = |millis, wal_mb: u64| {
        let since = Duration::from_millis(millis);
        let mut view = view("pg1").on_disk(Data::Present(crashed_primary())).runs(Server::Starting { since });
        view.signs.last_primary = Some(Primary { flushed: Lsn(880 + (wal_mb << 20)), ..primary() });
        view
    };
    check(&recovering(20, 16), "wait: starting");
    check(&recovering(20, 200), "abdicate: slow_recovery");
    says(
        &recovering(20, 200),
        "Postgres has been recovering for 20 ms of about 1.0 s; a standby can take over in about 200 ms: let go of the lock",
    );
    check(&recovering(900, 200), "wait: starting");
    check(&recovering(2000, 16), "abdicate: slow_recovery");
    check(&recovering(2000, 200).within(cluster().without("pg3")), "wait: starting");
    check(&recovering(2000, 200).within(cluster().mode(Mode::Async)), "wait: starting");
}

#[test]
fn a_dead_primary_is_started_again_where_its_standbys_have_more_to_replay() {
    let mut view = view("pg1").stopped(crashed_primary());
    let behind = Streaming { replayed: Lsn(880), ..streaming("pg2", 880 + (500 << 20)) };
    let last = Primary { flushed: Lsn(880 + (100 << 20)), standbys: vec![behind], ..primary() };
    view.signs.last_primary = Some(last);
    check(&view, "start_primary: restart_in_place");
    says(&view, "Postgres is down: start it again here, for recovery takes about 600 ms, a hand-over about 2.2 s");
}

#[test]
fn without_proof_only_a_recovery_beyond_the_start_timeout_is_left_to_others() {
    let died = |wal_mb: u64| {
        let mut view = view("pg1").stopped(crashed_primary()).within(cluster().mode(Mode::Async));
        view.signs.last_primary = Some(Primary { flushed: Lsn(880 + (wal_mb << 20)), ..primary() });
        view
    };
    check(&died(7000), "start_primary: restart_in_place");
    check(&died(8000), "release: cannot_start");
    says(&died(8000), "this primary cannot be started (its recovery would take about 32.2 s): let another try");
}

#[test]
fn who_has_let_go_and_still_leads_says_so_before_anything_else() {
    let released = cluster().record(|sync| sync.released = true);
    check(&view("pg1").within(released.clone()), "record_sync: change_durability");
    check(&view("pg1").stopped(crashed_primary()).within(released.clone()), "abdicate: primary_died");
    check(&view("pg1").stopped(crashed_primary()).within(released.without("pg3")), "record_sync: change_durability");
}

fn on(change: impl FnOnce(&mut Disk)) -> View {
    let mut view = view("pg1");
    change(&mut view.signs.disk);
    view
}

#[test]
fn a_primary_on_a_dead_disk_lets_its_voters_lead() {
    let dead = |view: View, sentence: &str| {
        check(&view, "abdicate: disk_failed");
        says(&view, sentence);
    };
    dead(
        on(|disk| disk.frozen_for = Some(secs(3))),
        "the disk of this primary has taken no write for 3.0 s: let a standby lead",
    );
    dead(
        on(|disk| disk.fault = Some(DiskFault::ReadOnly)),
        "the disk of this primary is read-only: let a standby lead",
    );
    dead(
        on(|disk| disk.fault = Some(DiskFault::InputOutput)),
        "the disk of this primary reports errors: let a standby lead",
    );
    check(&on(|disk| disk.frozen_for = Some(secs(2))), "wait: leading");
    let busy = on(|disk| disk.frozen_for = Some(secs(9))).aged(|ages| ages.wal_still = Some(secs(1)));
    check(&busy, "wait: leading");
}

#[test]
fn without_proof_a_dead_disk_is_left_only_once_it_has_been_dead_for_long() {
    let frozen = |seconds, cluster| on(|disk| disk.frozen_for = Some(secs(seconds))).within(cluster);
    let alone = frozen(4, cluster().mode(Mode::Async)).set(|settings| settings.durability.mode = Mode::Async);
    check(&alone, "record_sync: change_durability");
    check(&frozen(5, cluster().mode(Mode::Async)), "kill: disk_failed");
    check(&frozen(5, cluster().mode(Mode::Async)).stopped(crashed_primary()), "release: disk_failed");
    check(&on(|disk| disk.fault = Some(DiskFault::ReadOnly)).within(cluster().mode(Mode::Async)), "kill: disk_failed");
    // Nobody to let lead: what still works goes on, what does not is not started.
    let last_voter_away = frozen(9, cluster().member("pg3", |member| member.role = MemberRole::Down));
    check(&last_voter_away, "wait: leading");
    check(&frozen(9, cluster().without("pg3")).stopped(crashed_primary()), "wait: disk_unfit");
}

#[test]
fn a_primary_that_died_of_a_full_disk_is_never_started_on_it() {
    let full = || on(|disk| (disk.full, disk.low, disk.free_bytes) = (true, true, Some(0))).stopped(crashed_primary());
    check(&full(), "release: disk_failed");
    check(&full().within(cluster().mode(Mode::Async)), "release: disk_failed");
    check(&full().within(cluster().without("pg3")), "wait: disk_unfit");
    says(
        &full().within(cluster().without("pg3")),
        "the disk here is full (0 bytes free): Postgres is not started on it before that is over",
    );
}

#[test]
fn a_disk_about_to_fill_is_handed_over_to_somebody_with_room_and_never_to_and_fro() {
    let low = || on(|disk| (disk.low, disk.free_bytes) = (true, Some(50 << 20)));
    let cramped = |who: &str, cluster: Cluster| cluster.member(who, |member| member.disk_low = true);
    check(&low(), "ask_switchover: disk_filling");
    says(&low(), "the disk here is about to fill (50.0 MB free): ask pg2 to lead");
    let Action::AskSwitchover { to, .. } = decide(&low().within(cramped("pg2", cluster()))).action else { panic!() };
    assert_eq!(to, name("pg3"));
    check(&low().within(cramped("pg3", cramped("pg2", cluster()))), "wait: disk_low");
    check(&low().aged(|ages| ages.asked_switchover = Some(secs(299))), "wait: disk_low");
    check(&low().aged(|ages| ages.asked_switchover = Some(secs(300))), "ask_switchover: disk_filling");
    let asked = low().within(cluster().asked(RequestKind::Switchover, None, Some("pg2")));
    check(&asked, "wait: awaiting_candidate");
}

#[test]
fn a_full_disk_that_could_not_be_handed_over_is_left_to_the_voters_where_nothing_is_lost() {
    let full = |age| {
        on(|disk| (disk.low, disk.full, disk.free_bytes) = (true, true, Some(0)))
            .aged(|ages| ages.asked_switchover = Some(secs(age)))
    };
    check(&full(1), "wait: disk_low");
    check(&full(2), "abdicate: disk_failed");
    let none_has_room =
        ["pg2", "pg3"].into_iter().fold(cluster(), |cluster, who| cluster.member(who, |member| member.disk_low = true));
    check(&full(2).within(none_has_room), "wait: disk_low");
    let asked = full(2).within(cluster().asked(RequestKind::Switchover, None, Some("pg2")));
    check(&asked, "wait: awaiting_candidate");
    let low = on(|disk| (disk.low, disk.free_bytes) = (true, Some(50 << 20)));
    check(&low.aged(|ages| ages.asked_switchover = Some(secs(2))), "wait: disk_low");
    let failed = |view: View| {
        view.aged(|ages| {
            (ages.last_failure, ages.failed_action) = (Some(Duration::ZERO), Some("hand_over".to_owned()));
        })
    };
    let at_once = full(1).within(cluster().asked(RequestKind::Switchover, None, Some("pg2")));
    check(&failed(at_once), "abdicate: disk_failed");
}

#[test]
fn a_disk_that_fills_while_a_hand_over_is_prepared_ends_the_preparation() {
    let full = || on(|disk| (disk.low, disk.full, disk.free_bytes) = (true, true, Some(0)));
    let prepares = |age_ms| full().job("hand_over", None, Duration::from_millis(age_ms));
    check(&prepares(299), "wait: busy");
    check(&prepares(300), "cancel: busy");
    check(&prepares(300).stopped(clean_primary()), "wait: busy");
    let mut roomy = prepares(300);
    roomy.signs.disk.full = false;
    check(&roomy, "wait: busy");
}

#[test]
fn a_primary_that_recovers_on_a_full_disk_is_not_waited_for_where_nothing_is_lost() {
    let full = || on(|disk| (disk.low, disk.full, disk.free_bytes) = (true, true, Some(0)));
    let crashed = || full().on_disk(Data::Present(crashed_primary()));
    let recovers = || crashed().runs(Server::Starting { since: Duration::from_millis(50) });
    check(&recovers(), "abdicate: disk_failed");
    check(&recovers().within(cluster().mode(Mode::Async)), "wait: starting");
    check(&recovers().within(cluster().without("pg3")), "wait: starting");
}
