//! Nobody leads: creating a cluster, taking one's own lock back, pledging, forcing.

use super::builders::*;
use crate::action::{Action, ClaimKind};
use crate::decide;
use crate::names::{Lsn, Term, Timeline};
use crate::view::*;

fn vacant(me: &str) -> View {
    view(me).within(cluster().vacant()).lock(Lock::NotHeld)
}

fn uninitialized(me: &str, data: Data) -> View {
    view(me).within(Cluster::default()).lock(Lock::NotHeld).on_disk(data).runs(Server::Stopped)
}

#[test]
fn an_empty_node_creates_the_cluster() {
    check(&uninitialized("pg1", Data::Empty), "bootstrap: create_cluster");
    check(&uninitialized("pg1", Data::HalfMade { by: "bootstrap".to_owned() }), "bootstrap: create_cluster");
    let failed = uninitialized("pg1", Data::Empty).aged(|ages| ages.last_failure = Some(secs(1)));
    check(&failed, "wait: retrying");
    says(&failed, "the last attempt failed; the next one follows in 2.0 s");
}

#[test]
fn no_cluster_is_created_over_data_or_beside_another_creator() {
    check(&uninitialized("pg1", Data::Present(disk())), "wait: not_initialized");
    check(&uninitialized("pg1", Data::Unreadable { why: "torn".to_owned() }), "wait: data_unreadable");
    let in_progress = Cluster { initialize: Initialize::InProgress, ..Cluster::default() };
    let waiting = uninitialized("pg1", Data::Empty).within(in_progress);
    check(&waiting, "wait: not_initialized");
    says(&waiting, "another node is creating the cluster");
    let mine = waiting.aged(|ages| {
        (ages.last_failure, ages.failed_action) = (Some(secs(1)), Some("bootstrap".to_owned()));
    });
    check(&mine, "wait: retrying");
    check(&mine.aged(|ages| ages.last_failure = Some(secs(3))), "wait: not_initialized");
}

#[test]
fn a_cluster_that_another_system_keeps_is_left_alone() {
    let led_by = |leader: Option<&str>| Cluster { term: Term(0), sync: None, leader: leader.map(name), ..cluster() };
    let unmarked = || Server::Primary(Primary { marked_term: Term(0), waits_for: None, ..primary() });
    let copied = Server::Standby(Standby { wal_term: Term(0), ..standby() });
    for theirs in [led_by(Some("pg1")), led_by(Some("pg9")), led_by(None)] {
        for server in [unmarked(), copied.clone(), Server::Stopped, Server::Hung { since: secs(99) }] {
            let seen = view("pg1").within(theirs.clone()).lock(Lock::NotHeld).runs(server.clone());
            check(&seen, "wait: not_ours");
            let silent = View { cluster: Seen::Before { value: theirs.clone(), age: secs(9) }, ..seen };
            check(&silent, "wait: etcd_silent");
        }
        let unseen = View { cluster: Seen::Never { tried_for: secs(99) }, ..view("pg1").lock(Lock::NotHeld) };
        check(&unseen.clone().runs(unmarked()), "wait: etcd_never_seen");
        check(&unseen.runs(Server::Primary(primary())), "kill: lock_lost");
    }
}

#[test]
fn an_empty_node_creates_no_cluster_beside_a_member_that_has_a_database() {
    let mut wiped = cluster().vacant();
    (wiped.initialize, wiped.sync) = (Initialize::Absent, None);
    check(&uninitialized("pg3", Data::Empty).within(wiped), "wait: not_initialized");
}

#[test]
fn a_node_that_never_leads_creates_nothing() {
    let mut only_me = Cluster::default();
    let tags = crate::settings::Tags { nofailover: true, ..Default::default() };
    only_me.members.insert(name("pg1"), Member { tags, timeline: None, ..member(MemberRole::Down) });
    check(&uninitialized("pg1", Data::Empty).within(only_me), "wait: never_leads");
}

#[test]
fn the_last_leader_takes_its_own_lock_again() {
    let crashed = vacant("pg1").stopped(crashed_primary());
    check(&crashed, "acquire: last_leader");
    says(&crashed, "this node led term 7 and nobody has led since: everything acknowledged is here");
    let Action::Acquire(claim) = decide(&crashed).action else { panic!("no claim") };
    assert_eq!((claim.kind, claim.term, claim.after, claim.timeline), (ClaimKind::Reclaim, Term(8), TERM, TIMELINE));
    assert_eq!((claim.policies, claim.ballots), (vec![any(1, &["pg2", "pg3"])], Vec::new()));
}

#[test]
fn a_primary_that_has_proven_its_term_goes_on_under_it_when_its_lease_alone_has_lapsed() {
    check(&vacant("pg1"), "resume: resume");
    says(&vacant("pg1"), "this node still leads term 7 and nobody has led since: bind the lock to its lease again");
    let with = |change: fn(&mut Primary)| {
        let mut changed = primary();
        change(&mut changed);
        vacant("pg1").runs(Server::Primary(changed))
    };
    check(&with(|primary| primary.marked_term = Term(6)), "acquire: last_leader");
    check(&with(|primary| primary.timeline = Timeline(3)), "acquire: last_leader");
    let released = cluster().vacant().record(|sync| sync.released = true);
    check(&vacant("pg1").within(released), "acquire: last_leader");
}

#[test]
fn a_stale_primary_never_takes_the_lock() {
    check(&vacant("pg2").runs(Server::Primary(primary())), "kill: lock_lost");
    check(&vacant("pg2").stopped(crashed_primary()), "start_standby: vacant");
    let led_since = cluster().vacant().record(|sync| sync.term = Term(6));
    check(&view("pg1").within(led_since).lock(Lock::NotHeld), "kill: lock_lost");
}

#[test]
fn a_leader_that_let_go_leaves_the_lock_to_others_for_a_while() {
    let released = cluster().vacant().record(|sync| sync.released = true);
    let waiting = |seconds| {
        let view = view("pg1").within(released.clone()).lock(Lock::NotHeld).stopped(crashed_primary());
        view.aged(|ages| ages.vacancy = Some(secs(seconds)))
    };
    check(&waiting(1), "wait: leaving_it_to_others");
    says(&waiting(1), "let go of the lock so that a standby may lead; it has 1.0 s more");
    check(&waiting(2), "acquire: last_leader");
}

#[test]
fn a_last_leader_whose_disk_has_failed_leaves_the_lock_to_others() {
    let on = |change: fn(&mut Disk)| {
        let mut view = vacant("pg1").stopped(crashed_primary());
        change(&mut view.signs.disk);
        view
    };
    check(&on(|disk| disk.fault = Some(DiskFault::ReadOnly)), "wait: disk_unfit");
    check(&on(|disk| disk.frozen_for = Some(secs(3))), "wait: disk_unfit");
    check(&on(|disk| disk.full = true), "wait: disk_unfit");
    check(&on(|disk| disk.frozen_for = Some(secs(2))), "acquire: last_leader");
    check(&on(|disk| disk.low = true), "acquire: last_leader");
}

#[test]
fn a_standby_stops_following_and_reports_what_it_has() {
    check(&vacant("pg2"), "pledge: vacant");
    says(&vacant("pg2"), "nobody holds the lock of term 7: stop following it and report what is here");
    check(&vacant("pg2").runs(pledged(1000)), "pledge: vacant");
    let balloted = |cluster: Cluster| view("pg2").within(cluster).runs(pledged(1000));
    check(&balloted(cluster().vacant().ballot("pg2", 4, 990)), "pledge: vacant");
    check(&balloted(cluster().vacant().ballot("pg2", 3, 1000)), "pledge: vacant");
    check(&balloted(cluster().vacant().ballot("pg2", 4, 1000)), "wait: awaiting_ballots");
    let mut of_older_term = cluster().vacant().ballot("pg2", 4, 1000);
    of_older_term.ballots.get_mut(&name("pg2")).expect("just put").revoked = Term(6);
    check(&balloted(of_older_term), "pledge: vacant");
}

#[test]
fn a_ballot_that_its_node_cannot_stand_by_is_withdrawn() {
    let balloted = |server| view("pg2").within(cluster().vacant().ballot("pg2", 4, 1000)).runs(server);
    check(&balloted(Server::Stopped), "withdraw: vacant");
    check(&balloted(Server::Starting { since: secs(1) }), "withdraw: vacant");
    check(&balloted(Server::Hung { since: secs(1) }), "withdraw: vacant");
    check(&balloted(Server::Stopped).on_disk(Data::Empty), "withdraw: vacant");
}

#[test]
fn what_is_not_ready_is_waited_for() {
    check(&vacant("pg2").runs(Server::Starting { since: secs(1) }), "wait: starting");
    check(&vacant("pg2").runs(Server::Stopping), "wait: stopping");
    check(&vacant("pg2").runs(Server::Hung { since: secs(1) }), "wait: hung");
    check(&vacant("pg2").runs(Server::Hung { since: secs(2) }), "kill: hung");
    let as_primary = vacant("pg2").on_disk(Data::Present(crashed_primary()));
    check(&as_primary.runs(Server::Starting { since: secs(1) }), "kill: lock_lost");
}

#[test]
fn without_a_leader_there_is_nothing_to_copy_from() {
    let with = |data| vacant("pg2").on_disk(data).runs(Server::Stopped);
    check(&with(Data::Empty), "wait: nothing_to_copy");
    check(&with(Data::HalfMade { by: "clone".to_owned() }), "wait: half_made");
    check(&with(Data::Unreadable { why: "torn".to_owned() }), "wait: data_unreadable");
    says(&with(Data::Unreadable { why: "torn".to_owned() }), "the data directory cannot be used: torn");
    let failed = vacant("pg2").stopped(disk()).aged(|ages| ages.last_failure = Some(secs(1)));
    check(&failed, "wait: retrying");
}

fn forced(from: Option<&str>, to: Option<&str>) -> View {
    let cluster = cluster().vacant().without("pg1").without("pg3").ballot("pg2", 4, 900);
    view("pg2").within(cluster.asked(RequestKind::Failover, from, to)).runs(pledged(900))
}

#[test]
fn an_operators_word_stands_in_for_the_proof() {
    let view = forced(Some("pg1"), Some("pg2"));
    check(&view, "acquire: forced");
    says(
        &view,
        "an operator accepts the loss of data and wants this node to lead; 100 bytes or more of acknowledged writes may be lost",
    );
    let Action::Acquire(claim) = decide(&view).action else { panic!("no claim") };
    assert_eq!((claim.kind, claim.request, claim.lost_bytes_bound), (ClaimKind::Forced, Some(77), Some(100)));
    assert_eq!(claim.timeline, Timeline(5));
}

#[test]
fn an_operators_word_is_for_the_node_and_the_leader_that_it_names() {
    check(&forced(None, Some("pg3")), "wait: not_proven");
    check(&forced(Some("pg3"), Some("pg2")), "wait: not_proven");
    let mut careful = forced(None, Some("pg2"));
    let Seen::Now(cluster) = &mut careful.cluster else { panic!("seen") };
    cluster.request.as_mut().expect("asked").accept_data_loss = false;
    check(&careful, "wait: not_proven");
}

#[test]
fn an_operators_word_without_a_name_is_for_the_best_ballot_once_all_were_heard() {
    check(&forced(None, None), "acquire: forced");
    let both = |pg3| {
        let cluster = cluster().vacant().without("pg1").ballot("pg2", 4, 900);
        let cluster = if pg3 > 0 { cluster.ballot("pg3", 4, pg3) } else { cluster };
        let quorum_of_two = cluster.policies(&[any(1, &["pg2", "pg3", "pg4"])]);
        view("pg2").within(quorum_of_two.asked(RequestKind::Failover, None, None)).runs(pledged(900))
    };
    check(&both(890), "acquire: forced");
    check(&both(910), "wait: not_proven");
    check(&both(0), "wait: not_proven");
    check(&both(0).aged(|ages| ages.vacancy = Some(secs(1))), "acquire: forced");
}

#[test]
fn an_operators_word_without_a_name_is_for_a_node_that_has_forgotten_wal_only_where_nobody_else_is_there_for_it() {
    let floored = |pg3: u64| {
        let cluster = cluster().vacant().without("pg1").ballot("pg2", 4, 890).floor("pg2", 950);
        let cluster = if pg3 > 0 { cluster.ballot("pg3", 4, pg3) } else { cluster };
        let quorum_of_two = cluster.policies(&[any(1, &["pg2", "pg3", "pg4"])]);
        quorum_of_two.asked(RequestKind::Failover, None, None)
    };
    let pg2 = |cluster: Cluster| view("pg2").within(cluster).runs(pledged(890));
    let alone = pg2(floored(0).without("pg3"));
    check(&alone, "acquire: forced");
    let mut unpublished = floored(0).without("pg3");
    unpublished.leader_lsn = Some(Lsn(900));
    let Action::Acquire(claim) = decide(&pg2(unpublished)).action else { panic!("no claim") };
    assert_eq!(claim.lost_bytes_bound, Some(60), "the floor says that there was more than the leader had published");
    // One that has forgotten nothing leads with less, and is given more time to speak than a ballot takes.
    check(&pg2(floored(100)), "wait: not_proven");
    check(&view("pg3").within(floored(100)).runs(pledged(100)), "acquire: forced");
    check(&pg2(floored(0)).aged(|ages| ages.vacancy = Some(secs(4))), "wait: awaiting_ballots");
    check(&pg2(floored(0)).aged(|ages| ages.vacancy = Some(secs(5))), "acquire: forced");
}

#[test]
fn a_switchover_that_nobody_can_carry_out_makes_room_for_a_failover() {
    let alone = cluster().vacant().without("pg1").without("pg3").ballot("pg2", 4, 900);
    let asked = view("pg2").within(alone.asked(RequestKind::Switchover, None, None)).runs(pledged(900));
    check(&asked.clone().aged(|ages| ages.vacancy = Some(secs(4))), "wait: not_proven");
    let late = asked.aged(|ages| ages.vacancy = Some(secs(5)));
    check(&late, "refuse_request: request_refused");
    says(&late, "refused: nobody leads, so there is nobody to hand over: ask for a failover");
}

#[test]
fn a_failover_that_nobody_can_carry_out_is_refused_after_a_while() {
    let asked = |from, to, careful: bool| {
        let mut view = forced(from, to);
        let Seen::Now(cluster) = &mut view.cluster else { panic!("seen") };
        cluster.request.as_mut().expect("asked").accept_data_loss = !careful;
        (view.ages.vacancy, view.ages.request) = (Some(secs(60)), Some(secs(5)));
        view
    };
    let refused = |view: &View, before: &str, why: &str| {
        check(view, "refuse_request: request_refused");
        says(view, &format!("refused: {why}"));
        check(&view.clone().aged(|ages| ages.request = Some(secs(4))), before);
        check(&view.clone().aged(|ages| ages.vacancy = Some(secs(4))), before);
    };
    let unproven = "wait: not_proven";
    refused(&asked(None, Some("pg3"), false), unproven, "pg3 is not registered: is its agent running?");
    refused(&asked(Some("pg3"), Some("pg2"), false), unproven, "it names pg3 as the leader, but pg1 led last");
    let careful = asked(None, Some("pg2"), true);
    check(&careful, "refuse_request: request_refused");
    let fenceless = |member: &mut Member| member.no_fence = Some("no fencer".to_owned());
    let mut unfenced = asked(None, Some("pg3"), false);
    let Seen::Now(there) = &mut unfenced.cluster else { panic!("seen") };
    there.members.insert(name("pg3"), Member { no_fence: None, ..cluster().members[&name("pg3")].clone() });
    check(&unfenced, "wait: awaiting_ballots");
    let Seen::Now(there) = &mut unfenced.cluster else { panic!("seen") };
    fenceless(there.members.get_mut(&name("pg3")).expect("there"));
    refused(&unfenced, "wait: awaiting_ballots", "the fence of pg3 cannot be armed: no fencer");
}
