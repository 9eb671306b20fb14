//! etcd is out of sight: a standby stays as it is, a primary goes on only as long as its lease.

use super::builders::*;
use crate::view::*;

fn silent(me: &str) -> View {
    View { cluster: Seen::Before { value: cluster(), age: secs(3) }, ..view(me) }
}

#[test]
fn a_standby_stays_as_it_is() {
    check(&silent("pg2"), "wait: etcd_silent");
    says(&silent("pg2"), "etcd has been silent for 3.0 s");
}

#[test]
fn a_primary_goes_on_under_its_lease_and_not_an_instant_longer() {
    check(&silent("pg1"), "wait: etcd_silent");
    says(&silent("pg1"), "etcd has been silent for 3.0 s; the lease still covers this primary for 4.0 s");
    check(&silent("pg1").lock(Lock::Held { term: TERM, left: secs(0) }), "kill: lock_lost");
    check(&silent("pg1").lock(Lock::NotHeld), "kill: lock_lost");
}

#[test]
fn work_under_way_does_not_prolong_a_lease_that_is_over() {
    let over = silent("pg1").lock(Lock::Held { term: TERM, left: secs(0) });
    check(&over.clone().job("mark", None, secs(1)), "cancel: lock_lost");
    check(&over.clone().job("kill", None, secs(1)), "wait: etcd_silent");
    check(&silent("pg1").job("mark", None, secs(1)), "wait: etcd_silent");
}

#[test]
fn an_agent_that_has_just_started_asks_etcd_before_it_kills_what_it_found() {
    let started = |millis| {
        let tried_for = std::time::Duration::from_millis(millis);
        View { cluster: Seen::Never { tried_for }, ..view("pg1").lock(Lock::NotHeld) }
    };
    check(&started(1399), "wait: etcd_never_seen");
    says(&started(1000), "etcd has not answered since this agent started 1.0 s ago");
    check(&started(1400), "kill: lock_lost");
}

#[test]
fn an_armed_fence_tells_how_long_etcd_may_be_asked_for() {
    let covered = |tried_for, left| {
        let fence = Fence { trouble: None, covers: Some(left) };
        View { cluster: Seen::Never { tried_for }, fence, ..view("pg1").lock(Lock::NotHeld) }
    };
    check(&covered(secs(3), secs(1)), "wait: etcd_never_seen");
    check(&covered(secs(1), secs(0)), "kill: lock_lost");
    let lost = View { fence: Fence { trouble: None, covers: Some(secs(1)) }, ..silent("pg1").lock(Lock::NotHeld) };
    check(&lost, "kill: lock_lost");
}

#[test]
fn a_stopped_server_stays_stopped() {
    check(&silent("pg1").lock(Lock::NotHeld).stopped(crashed_primary()), "wait: etcd_silent");
}

#[test]
fn a_start_that_hangs_does_not_outlast_the_lease() {
    for job in ["start_primary", "promote"] {
        for server in [Server::Stopped, Server::Starting { since: secs(1) }, pledged(1000)] {
            let hangs = silent("pg1").runs(server).job(job, None, secs(5));
            check(&hangs, "wait: etcd_silent");
            check(&hangs.clone().lock(Lock::NotHeld), "cancel: lock_lost");
            let over = hangs.lock(Lock::Held { term: TERM, left: secs(0) });
            check(&over, "cancel: lock_lost");
            check(&over.clone().set(|settings| settings.paused = true), "wait: etcd_silent");
            check(&over.job("start_standby", None, secs(5)), "wait: etcd_silent");
        }
    }
}

#[test]
fn a_paused_primary_is_left_alone() {
    check(&silent("pg1").lock(Lock::NotHeld).set(|settings| settings.paused = true), "wait: etcd_silent");
}
