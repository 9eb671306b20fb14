//! A leader that is not heard any more, its lease still running: who pledges, who vetoes, who takes the lock, and when it is taken back.

use super::builders::*;
use crate::action::{Action, ClaimKind};
use crate::settings::Mode;
use crate::view::*;

const GONE: Hearing = Hearing { agent: Sound::Gone, postgres: Sound::Gone };

/// `me`, a voter that follows `pg1`, hears this.
fn hears(me: &str, hearing: Hearing) -> View {
    View { hearing, ..view(me) }
}

/// Both voters have pledged against `pg1`, which still holds the lock; `pg2` has more.
fn both_pledged() -> Cluster {
    cluster().ballot("pg2", 4, 1000).ballot("pg3", 4, 900)
}

#[test]
fn a_voter_that_hears_neither_the_agent_nor_postgres_pledges() {
    check(&hears("pg2", GONE), "pledge: suspect");
    let silent = |ms| Sound::Silent { since: std::time::Duration::from_millis(ms) };
    check(&hears("pg2", Hearing { agent: silent(600), postgres: silent(400) }), "pledge: suspect");
    says(
        &hears("pg2", Hearing { agent: silent(600), postgres: Sound::Gone }),
        "pg1 is not heard any more (its agent silent for 600 ms, its Postgres refuses connections): stop following it and report what is here",
    );
}

#[test]
fn a_dead_agent_over_a_living_postgres_is_no_reason() {
    check(&hears("pg2", Hearing { agent: Sound::Gone, postgres: Sound::Fine }), "wait: following");
    check(&hears("pg2", Hearing { agent: Sound::Fine, postgres: Sound::Gone }), "wait: following");
}

#[test]
fn where_the_voters_could_prove_nothing_nobody_pledges() {
    check(&hears("pg2", GONE).within(cluster().without("pg3")), "wait: following");
    check(&hears("pg2", GONE).within(cluster().mode(Mode::Async)), "wait: following");
    check(&hears("pg2", GONE).set(|settings| settings.wait_for_lease = true), "wait: following");
}

#[test]
fn one_voter_that_still_hears_the_leader_vetoes() {
    let one = cluster().ballot("pg2", 4, 1000);
    check(&hears("pg2", GONE).within(one).runs(pledged(1000)), "wait: awaiting_ballots");
}

#[test]
fn the_best_of_all_voters_takes_the_lock_of_the_silent_leader() {
    let view = hears("pg2", GONE).within(both_pledged()).runs(pledged(1000));
    let Action::Acquire(claim) = crate::decide(&view).action else { panic!("{}", verdict(&view)) };
    assert_eq!(claim.depose, Some(name("pg1")));
    assert_eq!((claim.kind, claim.ballots.len(), claim.lost_bytes_bound), (ClaimKind::Takeover, 2, Some(0)));
    check(&hears("pg3", GONE).within(both_pledged()).runs(pledged(900)), "wait: outranked");
}

#[test]
fn a_leader_that_is_heard_again_gets_its_voters_back() {
    let fine = Hearing { agent: Sound::Fine, postgres: Sound::Fine };
    check(&hears("pg2", fine).within(both_pledged()).runs(pledged(1000)), "withdraw: leader_is_back");
}

#[test]
fn a_pledge_under_way_is_not_broken_off_while_the_leader_is_silent() {
    let secs = std::time::Duration::from_millis(20);
    check(&hears("pg2", GONE).job("pledge", None, secs), "wait: busy");
    check(&view("pg2").job("pledge", None, secs), "cancel: busy");
}
