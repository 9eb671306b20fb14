//! What nobody can read in the place of the lock, the term or the record stops nobody, and elects nobody.

use std::time::Duration;

use super::builders::*;
use crate::names::Term;
use crate::view::*;

/// The healthy cluster with nonsense in the place of these keys, as the picture shows it then.
fn nonsense(keys: &str) -> Cluster {
    let has = |key| keys.split('+').any(|one| one == key);
    let unreadable = Unreadable { leader: has("leader"), term: has("term"), sync: has("sync") };
    let mut cluster = Cluster { unreadable, ..cluster() };
    cluster.leader = cluster.leader.filter(|_| !unreadable.leader);
    if unreadable.sync {
        cluster = cluster.policies(&[]).record(|sync| sync.leader = name("nobody"));
    }
    if unreadable.term && unreadable.sync {
        // An agent that has just been started knows of none.
        cluster.term = Term(0);
    }
    cluster
}

fn held() -> Lock {
    Lock::Held { term: TERM, left: secs(4) }
}

fn covered(left: u64, mut view: View) -> View {
    view.fence.covers = Some(secs(left));
    view
}

const BESIDE_THE_LOCK: [&str; 3] = ["leader+term", "leader+sync", "leader+term+sync"];

#[test]
fn a_primary_whose_keys_nobody_can_read_goes_on_while_its_lease_lasts() {
    for keys in ["sync", "term+sync"].iter().chain(&BESIDE_THE_LOCK) {
        check(&view("pg1").within(nonsense(keys)).lock(held()), "wait: keys_unreadable");
    }
    check(&view("pg1").within(nonsense("term")).lock(held()), "wait: leading");
    check(&view("pg1").within(nonsense("leader")).lock(held()), "resume: resume");
    let begun = Server::Primary(Primary { marked_term: Term(6), ..primary() });
    check(&view("pg1").within(nonsense("leader")).lock(held()).runs(begun), "wait: keys_unreadable");
    says(
        &view("pg1").within(nonsense("leader+sync")),
        "somebody has put what nobody can read in the place of leader, sync in etcd: nothing is changed here until it is put right",
    );
}

#[test]
fn a_primary_that_an_agent_has_just_found_goes_on_while_its_fence_lasts() {
    for keys in BESIDE_THE_LOCK {
        let found = view("pg1").within(nonsense(keys)).lock(Lock::NotHeld);
        check(&covered(3, found.clone()), "wait: keys_unreadable");
        if keys != "leader+term" {
            check(&covered(0, found.clone()), "kill: lock_lost");
            check(&found, "kill: lock_lost");
        }
    }
}

#[test]
fn a_primary_after_which_another_has_led_is_stopped_all_the_same() {
    let over = Lock::Held { term: TERM, left: Duration::ZERO };
    check(&view("pg1").within(nonsense("leader+sync")).lock(over), "kill: lock_lost");
    let later = Cluster { term: Term(8), ..nonsense("leader+sync") };
    check(&covered(3, view("pg1").within(later).lock(held())), "kill: lock_lost");
    for keys in ["leader+term", "leader"] {
        let of_another = nonsense(keys).record(|sync| sync.leader = name("pg2"));
        check(&covered(3, view("pg1").within(of_another).lock(held())), "kill: lock_lost");
    }
    let led_by_another = nonsense("term+sync").led_by("pg2");
    check(&view("pg1").within(led_by_another).lock(Lock::NotHeld), "kill: deposed_primary");
}

#[test]
fn nobody_ballots_starts_or_leads_over_what_nobody_can_read() {
    for keys in ["leader", "term+sync"].iter().chain(&BESIDE_THE_LOCK) {
        check(&view("pg2").within(nonsense(keys)), "wait: keys_unreadable");
        check(&view("pg1").within(nonsense(keys)).lock(held()).stopped(crashed_primary()), "wait: keys_unreadable");
    }
    for keys in ["term", "sync"] {
        check(&view("pg2").within(nonsense(keys)), "wait: following");
    }
    let forced = nonsense("leader+sync").asked(RequestKind::Failover, None, Some("pg2"));
    check(&view("pg2").within(forced).runs(pledged(1000)), "wait: keys_unreadable");
}

#[test]
fn a_job_of_a_primary_is_not_broken_off_for_what_nobody_can_read() {
    let busy = |keys| view("pg1").within(nonsense(keys)).lock(held()).job("prove_sync", None, secs(1));
    for keys in BESIDE_THE_LOCK {
        check(&busy(keys), "wait: busy");
    }
    check(&busy("leader+sync").lock(Lock::NotHeld), "cancel: busy");
}
