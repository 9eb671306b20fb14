//! Orders to one node: obeyed as what it is, also in a pause; refused where they would do harm or make no sense.

use super::builders::*;
use crate::action::{Action, StartAs};
use crate::decide;
use crate::order::{Order, OrderKind};
use crate::view::*;

fn ordered(me: &str, kind: OrderKind, only_role: Option<MemberRole>) -> View {
    let mut cluster = cluster();
    cluster.orders.insert(name(me), Order { kind, only_role, ignores_hold: false, revision: 55 });
    view(me).within(cluster)
}

fn cluster_of(view: &View) -> Cluster {
    view.cluster.now().expect("seen").clone()
}

#[test]
fn a_node_is_restarted_as_what_it_is() {
    let leader = ordered("pg1", OrderKind::Restart, None);
    check(&leader, "restart_primary: ordered");
    let quorum = any(1, &["pg2", "pg3"]);
    let then = StartAs::Primary { term: TERM, quorum, record_anew: true };
    assert_eq!(decide(&leader).action, Action::Restart { order: 55, then });
    let standby = ordered("pg2", OrderKind::Restart, None);
    let follows = cluster().upstream(&name("pg2"), &name("pg1"), TERM);
    assert_eq!(decide(&standby).action, Action::Restart { order: 55, then: StartAs::Standby(follows) });
    check(&standby.set(|settings| settings.paused = true), "restart_standby: ordered");
}

#[test]
fn a_primary_is_not_restarted_in_a_pause_for_nothing_would_fence_it() {
    let paused = ordered("pg1", OrderKind::Restart, None).set(|settings| settings.paused = true);
    check(&paused, "refuse_order: order_refused");
}

#[test]
fn whoever_is_needed_by_others_obeys_later() {
    let asked = cluster_of(&ordered("pg2", OrderKind::Restart, None)).asked(RequestKind::Switchover, None, Some("pg3"));
    check(&view("pg2").within(asked), "wait: following");
    let let_go = cluster_of(&ordered("pg2", OrderKind::Restart, None)).record(|sync| sync.released = true);
    check(&view("pg2").within(let_go), "pledge: suspect");
}

#[test]
fn an_order_waits_for_the_end_of_a_hold_unless_it_was_given_against_one() {
    for kind in [OrderKind::Restart, OrderKind::Reinit] {
        let held = ordered("pg2", kind, None).set(|settings| settings.held = true);
        check(&held, "wait: following");
        let mut cluster = cluster_of(&held);
        cluster.orders.get_mut(&name("pg2")).expect("it is there").ignores_hold = true;
        let ignoring = view("pg2").within(cluster).set(|settings| settings.held = true);
        assert_eq!(decide(&ignoring).reason.code(), "ordered");
        assert_eq!(decide(&ordered("pg2", kind, None)).reason.code(), "ordered", "and without a hold");
    }
}

#[test]
fn an_order_to_another_node_is_none_to_me() {
    let other = cluster_of(&ordered("pg3", OrderKind::Restart, None));
    check(&view("pg2").within(other), "wait: following");
}

#[test]
fn an_order_for_a_role_that_the_node_has_not_is_refused() {
    check(&ordered("pg2", OrderKind::Restart, Some(MemberRole::Standby)), "restart_standby: ordered");
    let refused = ordered("pg2", OrderKind::Restart, Some(MemberRole::Primary));
    check(&refused, "refuse_order: order_refused");
    says(&refused, "refused: it was asked of a primary, but pg2 is a standby");
}

#[test]
fn what_does_not_run_is_not_restarted_and_what_leads_is_not_copied() {
    check(&ordered("pg2", OrderKind::Restart, None).runs(Server::Starting { since: secs(1) }), "wait: starting");
    check(
        &ordered("pg2", OrderKind::Restart, None).runs(Server::Hung { since: secs(1) }),
        "refuse_order: order_refused",
    );
    check(&ordered("pg1", OrderKind::Restart, None).lock(Lock::NotHeld), "refuse_order: order_refused");
    check(&ordered("pg1", OrderKind::Reinit, None), "refuse_order: order_refused");
    let vacant = cluster_of(&ordered("pg2", OrderKind::Reinit, None)).vacant();
    check(&view("pg2").within(vacant), "refuse_order: order_refused");
}

#[test]
fn a_standby_is_copied_anew_whatever_is_here() {
    check(&ordered("pg2", OrderKind::Reinit, None), "reinit: ordered");
    check(&ordered("pg2", OrderKind::Reinit, None).stopped(crashed_primary()), "reinit: ordered");
    check(&ordered("pg2", OrderKind::Reinit, None).runs(Server::Starting { since: secs(1) }), "reinit: ordered");
    let starting = ordered("pg2", OrderKind::Reinit, None);
    let not_yet = cluster_of(&starting).member("pg1", |member| member.role = MemberRole::Down);
    check(&view("pg2").within(not_yet), "wait: leader_not_primary");
}
