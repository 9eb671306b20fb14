//! The leader is not heard any more, though its lease still runs: its voters depose it, all of them or none.

use super::builders::*;
use crate::action::{Action, ClaimKind};
use crate::decide;
use crate::names::Term;
use crate::settings::Mode;
use crate::view::*;

/// Neither the leader's agent nor its Postgres is heard.
fn deaf(cluster: Cluster, server: Server) -> View {
    let hearing = Hearing { agent: Sound::Gone, postgres: Sound::Silent { since: secs(1) } };
    View { hearing, ..view("pg2").within(cluster).runs(server) }
}

fn follows() -> Server {
    Server::Standby(Standby { streaming: false, ..standby() })
}

#[test]
fn a_voter_that_hears_nothing_of_the_leader_pledges() {
    check(&deaf(cluster(), follows()), "pledge: suspect");
    says(
        &deaf(cluster(), follows()),
        "pg1 is not heard any more (its agent refuses connections, its Postgres silent for 1.0 s): stop following it and report what is here",
    );
}

#[test]
fn the_leaders_own_word_is_enough_and_needs_no_silence() {
    let let_go = view("pg2").within(cluster().record(|sync| sync.released = true));
    check(&let_go, "pledge: suspect");
    says(
        &let_go,
        "pg1 is not heard any more (it says itself that its Postgres is dead): stop following it and report what is here",
    );
    let told = View { hearing: Hearing { agent: Sound::Fine, postgres: Sound::ReportedDead }, ..view("pg2") };
    check(&told, "pledge: suspect");
    let agreed = cluster().record(|sync| sync.released = true).ballot("pg2", 4, 1000).ballot("pg3", 4, 990);
    check(&view("pg2").within(agreed).runs(pledged(1000)), "acquire: elected");
    // What another leader said of itself says nothing of this one.
    check(
        &view("pg2").within(cluster().record(|sync| (sync.released, sync.term) = (true, Term(6)))),
        "wait: following",
    );
}

#[test]
fn nobody_pledges_where_a_takeover_could_not_be_proven() {
    check(&deaf(cluster().without("pg3"), follows()), "wait: following");
    check(&deaf(cluster().mode(Mode::Async), follows()), "wait: following");
    check(&deaf(cluster().policies(&[any(0, &[])]), follows()), "wait: following");
    check(&deaf(cluster(), follows()).set(|settings| settings.wait_for_lease = true), "wait: following");
}

#[test]
fn one_voter_that_still_hears_the_leader_vetoes() {
    check(&deaf(cluster().ballot("pg2", 4, 1000), pledged(1000)), "wait: awaiting_ballots");
}

#[test]
fn all_voters_together_depose_the_leader() {
    let agreed = cluster().ballot("pg2", 4, 1000).ballot("pg3", 4, 990);
    let view = deaf(agreed.clone(), pledged(1000));
    check(&view, "acquire: elected");
    let Action::Acquire(claim) = decide(&view).action else { panic!("no claim") };
    assert_eq!((claim.kind, claim.depose), (ClaimKind::Takeover, Some(name("pg1"))));
    check(&deaf(agreed.ballot("pg3", 4, 1010), pledged(1000)), "wait: outranked");
}

#[test]
fn a_leader_that_is_heard_again_is_followed_again() {
    let pledged = deaf(cluster().ballot("pg2", 4, 1000), pledged(1000));
    check(&View { hearing: Hearing::default(), ..pledged }, "withdraw: leader_is_back");
}

#[test]
fn a_takeover_without_a_ballot_of_its_own_does_not_exist() {
    check(&deaf(cluster().ballot("pg3", 4, 990), follows()), "pledge: suspect");
}

#[test]
fn a_dead_agent_over_a_living_postgres_is_no_reason() {
    let hears = |agent, postgres| View { hearing: Hearing { agent, postgres }, ..view("pg2") };
    check(&hears(Sound::Gone, Sound::Fine), "wait: following");
    check(&hears(Sound::Fine, Sound::Gone), "wait: following");
}

#[test]
fn a_pledge_under_way_is_not_broken_off_while_the_leader_is_silent() {
    check(&deaf(cluster(), follows()).job("pledge", None, secs(1)), "wait: busy");
    check(&view("pg2").job("pledge", None, secs(1)), "cancel: busy");
}
