//! A node whose fence cannot be armed never becomes primary, says why, and leaves the lead to others.

use super::builders::*;
use crate::names::Term;
use crate::settings::Mode;
use crate::view::*;

const WHY: &str = "/usr/bin/pgvigil-fencer is missing";

fn unfenced(view: View) -> View {
    View { fence: Fence { trouble: Some(WHY.to_owned()), covers: None }, ..view }
}

#[test]
fn a_node_without_a_fence_creates_no_cluster() {
    let empty = view("pg1").within(Cluster::default()).lock(Lock::NotHeld).on_disk(Data::Empty).runs(Server::Stopped);
    check(&empty, "bootstrap: create_cluster");
    check(&unfenced(empty.clone()), "wait: unfenced");
    says(
        &unfenced(empty),
        "this node must not become primary, for its fence cannot be armed: /usr/bin/pgvigil-fencer is missing",
    );
}

#[test]
fn the_last_leader_without_a_fence_leaves_its_lock_to_others() {
    let vacant = view("pg1").within(cluster().vacant()).lock(Lock::NotHeld);
    check(&unfenced(vacant.clone().stopped(crashed_primary())), "start_standby: vacant");
    check(&unfenced(vacant), "wait: unfenced");
}

#[test]
fn a_leader_that_is_not_primary_lets_go_when_its_fence_is_gone() {
    let promoting = view("pg1").runs(pledged(1000)).leads();
    check(&promoting, "promote: promote");
    check(&unfenced(promoting), "release: unfenced");
    check(&unfenced(view("pg1").stopped(crashed_primary()).leads()), "release: unfenced");
}

#[test]
fn a_running_primary_goes_on_until_its_last_confirmed_deadline_and_then_lets_go() {
    check(&unfenced(view("pg1")), "wait: leading");
    let over = |view: View| unfenced(view.lock(Lock::Held { term: TERM, left: secs(0) }));
    check(&over(view("pg1")), "kill: lock_lost");
    check(&over(view("pg1").stopped(crashed_primary())), "release: unfenced");
    // The lock of another term is not this node's to give.
    check(
        &unfenced(view("pg1").stopped(crashed_primary()).lock(Lock::Held { term: Term(6), left: secs(0) })),
        "wait: lock_of_earlier_life",
    );
}

#[test]
fn others_do_not_count_on_a_node_without_a_fence() {
    let no_fence = |member: &mut Member| member.no_fence = Some(WHY.to_owned());
    let barred = cluster().member("pg2", no_fence);
    assert_eq!(barred.eligible(), names(&["pg1", "pg3"]));
    let vacant = cluster().vacant().without("pg1").ballot("pg2", 4, 2000).ballot("pg3", 4, 1000);
    let pg3 = |cluster: Cluster| view("pg3").within(cluster).lock(Lock::NotHeld).runs(pledged(1000));
    check(&pg3(vacant.clone().mode(Mode::Quorum)), "wait: outranked");
    let bars = |view: &View| {
        crate::decide(view).standings.into_iter().find(|it| it.member == name("pg2")).expect("listed").bars
    };
    let without = pg3(vacant.member("pg2", no_fence));
    assert!(bars(&without).iter().any(|bar| bar.code() == "no_fence"), "{:?}", bars(&without));
    // What only the barred node has is not given up for want of its fence.
    check(&without, "wait: barred_is_ahead");
}
