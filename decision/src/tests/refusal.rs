//! What counts as a failover that was refused, from when on, and when it is over.

use super::builders::*;
use crate::decide;
use crate::names::Lsn;
use crate::reason::Reason;
use crate::refusal::{Refusal, Refused, refusal};
use crate::settings::Mode;
use crate::view::*;

fn of(view: &View) -> Refusal {
    refusal(view, &decide(view))
}

fn refused(view: &View) -> Refused {
    match of(view) {
        Refusal::Lasts(refused) => refused,
        other => panic!("{other:?}"),
    }
}

/// The leader `pg1` and the voter `pg3` are gone; `pg2` has pledged, and sees it for so long.
fn alone_for(seconds: u64) -> View {
    let left = cluster().vacant().without("pg1").without("pg3").ballot("pg2", 4, 1000);
    let ages = |ages: &mut Ages| ages.vacancy = Some(secs(seconds));
    view("pg2").within(left).lock(Lock::NotHeld).runs(pledged(1000)).aged(ages)
}

#[test]
fn a_promotion_that_cannot_be_proven_is_refused_and_the_evidence_says_who_has_what() {
    let told = refused(&alone_for(2));
    assert_eq!((told.term, told.last_leader, told.since), (TERM, Some(name("pg1")), secs(2)));
    assert!(matches!(told.reason, Reason::NotProven { .. }) && told.is_worth_telling, "{:?}", told.reason);
    assert!(
        told.evidence.iter().any(|line| line.starts_with("pg2 had received 0/3E8 on timeline 4")),
        "{:?}",
        told.evidence
    );
    assert!(told.evidence.iter().any(|line| line.starts_with("commits had waited for ")), "{:?}", told.evidence);
}

#[test]
fn a_pause_for_breath_is_no_refusal_yet() {
    assert!(!refused(&alone_for(0)).is_worth_telling, "ballots are still on their way");
    let waits = cluster().vacant().without("pg1").ballot("pg2", 4, 1000);
    let waits = |seconds| {
        view("pg2").within(waits.clone()).lock(Lock::NotHeld).runs(pledged(1000)).aged(|ages| {
            ages.vacancy = Some(secs(seconds));
        })
    };
    assert!(matches!(refused(&waits(2)).reason, Reason::AwaitingBallots { .. }));
    assert!(!refused(&waits(2)).is_worth_telling, "pg3 is alive and may answer");
    assert!(refused(&waits(6)).is_worth_telling, "it has not for longer than a lease lasts");
}

#[test]
fn too_far_behind_and_paused_are_refusals() {
    let behind = Cluster { leader_lsn: Some(Lsn(1 << 40)), ..alone_for(2).cluster.now().expect("seen").clone() };
    let behind = alone_for(2).within(behind.mode(Mode::Async));
    assert!(matches!(refused(&behind).reason, Reason::TooFarBehind { .. }), "{:?}", of(&behind));
    let paused = alone_for(2).set(|settings| settings.paused = true);
    assert_eq!(refused(&paused).reason, Reason::Paused {});
    let down = |seconds| {
        let down = view("pg1").leads().stopped(crashed_primary()).set(|settings| settings.paused = true);
        down.aged(|ages| ages.down = Some(secs(seconds)))
    };
    assert!(refused(&down(2)).is_worth_telling, "it holds the lock and nothing is started");
    assert!(!refused(&down(0)).is_worth_telling, "somebody restarts it by hand");
    assert_eq!(of(&view("pg1").leads().set(|settings| settings.paused = true)), Refusal::Over(name("pg1")));
}

#[test]
fn it_is_over_once_somebody_leads_who_takes_writes() {
    let role = |role| cluster().member("pg1", |member| member.role = role);
    assert_eq!(of(&view("pg2").within(role(MemberRole::Primary))), Refusal::Over(name("pg1")));
    assert_eq!(of(&view("pg2").within(role(MemberRole::Standby))), Refusal::Unclear, "it is being promoted");
    let unseen = View { cluster: Seen::Never { tried_for: secs(9) }, ..alone_for(9) };
    assert_eq!(of(&unseen), Refusal::Unclear, "without etcd nothing is known of anybody");
}

#[test]
fn what_is_no_cluster_yet_or_acts_or_follows_another_site_refuses_nothing() {
    let none = view("pg1").within(Cluster::default()).lock(Lock::NotHeld).on_disk(Data::Empty).runs(Server::Stopped);
    assert_eq!(of(&none), Refusal::Unclear);
    let elected = cluster().vacant().without("pg1").ballot("pg2", 4, 1000).ballot("pg3", 4, 990);
    assert_eq!(of(&alone_for(2).within(elected)), Refusal::Unclear, "it takes the lock");
    let follows = alone_for(2).cluster.now().expect("seen").clone().record(|sync| sync.follows = true);
    assert_eq!(of(&alone_for(2).within(follows)), Refusal::Unclear);
}
