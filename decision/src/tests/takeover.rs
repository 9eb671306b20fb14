//! Ballots: how many are needed, who is the best, what is said when they do not suffice.

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::durability::Policies;
use crate::names::{Lsn, Term, Timeline};
use crate::settings::Mode;
use crate::view::*;

/// `pg2` has pledged with 1000, and sees this.
fn pg2_sees(cluster: Cluster) -> View {
    view("pg2").within(cluster.ballot("pg2", 4, 1000)).runs(pledged(1000))
}

fn pg1_died() -> Cluster {
    cluster().vacant().without("pg1")
}

#[test]
fn without_the_record_of_a_reign_nobody_leads_unless_somebody_accepts_the_loss() {
    let lost = || Cluster { sync: None, ..cluster().vacant().ballot("pg2", 4, 1000).ballot("pg3", 4, 1000) };
    let waited = |who: &str| view(who).within(lost()).runs(pledged(1000)).aged(|ages| ages.vacancy = Some(secs(60)));
    for who in ["pg2", "pg3"] {
        check(&waited(who), "wait: record_missing");
    }
    let mut forced = lost().asked(RequestKind::Failover, None, Some("pg2"));
    forced.request.as_mut().expect("asked").accept_data_loss = true;
    check(&waited("pg2").within(forced), "acquire: forced");
}

#[test]
fn the_best_of_a_sufficient_set_takes_the_lock() {
    let view = pg2_sees(pg1_died().ballot("pg3", 4, 990));
    check(&view, "acquire: elected");
    says(&view, "best of the ballots of pg2, pg3; nothing acknowledged is lost, proven");
    let Action::Acquire(claim) = decide(&view).action else { panic!("no claim") };
    assert_eq!((claim.term, claim.after, claim.timeline), (Term(8), TERM, Timeline(5)));
    assert_eq!(claim.ballots, vec![(name("pg2"), 1000), (name("pg3"), 990)]);
    assert_eq!(claim.policies, vec![any(2, &["pg1", "pg2", "pg3"]), any(1, &["pg3"])]);
    assert_eq!(claim.lost_bytes_bound, Some(0));
}

#[test]
fn the_others_stand_back() {
    let view = pg2_sees(pg1_died().ballot("pg3", 4, 1010));
    check(&view, "wait: outranked");
    says(&view, "pg3 is the better candidate");
}

#[test]
fn a_claim_goes_above_every_term_and_timeline_ever_seen() {
    let mut cluster = pg1_died().ballot("pg3", 4, 990);
    cluster.ballots.get_mut(&name("pg3")).expect("put").wal_term = Term(30);
    cluster = cluster.member("pg3", |member| member.timeline = Some(Timeline(9))).mode(Mode::Async);
    let Action::Acquire(claim) = decide(&pg2_sees(cluster)).action else { panic!("no claim") };
    assert_eq!((claim.term, claim.timeline), (Term(31), Timeline(10)));
}

fn somebody_is_to_lead(cluster: Cluster) -> Cluster {
    cluster.without("pg3").asked(RequestKind::Failover, None, None)
}

#[test]
fn a_timeline_that_a_hand_made_promotion_began_is_no_later_reign_and_is_never_taken_again() {
    let by_hand = pg1_died().ballot("pg3", 5, 1010);
    check(&pg2_sees(by_hand.clone()), "wait: not_proven");
    let Server::Standby(standby) = pledged(1010) else { panic!("no standby") };
    let branch = Server::Standby(Standby { timeline: Timeline(5), ..standby });
    let pg3 = view("pg3").within(by_hand.ballot("pg2", 4, 1000)).runs(branch);
    check(&pg3, "wait: not_proven");
    let alone = pg1_died().policies(&[any(2, &["pg2", "pg3"])]);
    let claim = |view: View| match decide(&view).action {
        Action::Acquire(claim) => Some(claim),
        _ => None,
    };
    let elected = claim(pg2_sees(alone.clone().ballot("pg3", 5, 1010))).expect("the branch does not outrank it");
    assert_eq!((elected.ballots.len(), elected.timeline), (1, Timeline(6)), "above the number of the branch");
    let unreadable =
        somebody_is_to_lead(pg1_died().record(|sync| (sync.timeline, sync.policies) = (Timeline(0), Vec::new())));
    check(&pg2_sees(unreadable), "acquire: forced");
    let later = Cluster { stray_timeline: Timeline(8), ..alone };
    assert_eq!(claim(pg2_sees(later)).expect("alone is enough").timeline, Timeline(9), "nor one that is gone");
}

#[test]
fn too_few_ballots_prove_nothing() {
    let view = pg2_sees(pg1_died());
    check(&view, "wait: awaiting_ballots");
    says(&view, "nobody leads; 1 ballots are in, waiting for pg3");
    let view = pg2_sees(pg1_died().without("pg3"));
    check(&view, "wait: not_proven");
    says(
        &view,
        "nobody is promoted: acknowledged writes may be only on pg1, pg3, which cannot be asked; needed 2 of pg2, pg3 (or pg1 itself), heard pg2",
    );
}

#[test]
fn the_last_leader_in_recovery_has_everything() {
    check(&pg2_sees(cluster().vacant().without("pg3").ballot("pg1", 4, 990)), "acquire: elected");
    check(&pg2_sees(cluster().vacant().without("pg3").ballot("pg1", 4, 1010)), "wait: outranked");
}

#[test]
fn a_degraded_leader_is_the_only_one_that_has_everything() {
    let degraded = pg1_died().policies(&[any(0, &[])]).ballot("pg3", 4, 990);
    check(&pg2_sees(degraded.clone()), "wait: not_proven");
    says(
        &pg2_sees(degraded),
        "nobody is promoted: acknowledged writes may be only on pg1, which cannot be asked; needed pg1 itself, for it had degraded to waiting for nobody, heard pg2, pg3",
    );
}

#[test]
fn every_quorum_of_the_record_must_be_satisfied() {
    let changing = pg1_died().policies(&[any(1, &["pg2"]), any(1, &["pg3"])]);
    check(&pg2_sees(changing.clone()), "wait: awaiting_ballots");
    check(&pg2_sees(changing.ballot("pg3", 4, 990)), "acquire: elected");
}

#[test]
fn a_voter_that_may_not_lead_is_heard_and_nobody_leads_who_has_less() {
    let barred = |received| pg1_died().ballot("pg3", 4, received).member("pg3", |member| member.tags.nofailover = true);
    check(&pg2_sees(barred(990)), "acquire: elected");
    check(&pg2_sees(barred(1000)), "acquire: elected");
    check(&pg2_sees(barred(1010)), "wait: barred_is_ahead");
    check(&pg2_sees(barred(1010).policies(&[any(1, &["pg2"])])), "acquire: elected");
    check(&pg2_sees(barred(990).floor("pg3", 991)), "wait: awaiting_ballots");
    let last_leader = |received, needs: Policies| {
        let barred = cluster().vacant().without("pg3").member("pg1", |member| member.tags.nofailover = true);
        barred.ballot("pg1", 4, received).policies(&needs)
    };
    check(&pg2_sees(last_leader(1000, vec![any(1, &["pg2", "pg3"])])), "acquire: elected");
    check(&pg2_sees(last_leader(1010, vec![any(1, &["pg2", "pg3"])])), "wait: barred_is_ahead");
    check(&pg2_sees(last_leader(1000, vec![any(0, &[])])), "acquire: elected");
    let unfenced = |received| {
        pg1_died().ballot("pg3", 4, received).member("pg3", |member| member.no_fence = Some("no fencer".to_owned()))
    };
    check(&pg2_sees(unfenced(1000)), "acquire: elected");
    check(&pg2_sees(unfenced(1010)), "wait: barred_is_ahead");
}

#[test]
fn among_equals_whoever_has_replayed_everything_leads() {
    let late = |who: &str, received| {
        let mut cluster = pg1_died().ballot("pg2", 4, 1000).ballot("pg3", 4, received);
        cluster.ballots.get_mut(&name(who)).expect("it has balloted").late = true;
        view("pg2").within(cluster).runs(pledged(1000))
    };
    check(&late("pg2", 1000), "wait: outranked");
    check(&late("pg3", 1000), "acquire: elected");
    check(&late("pg2", 990), "acquire: elected");
    check(&late("pg3", 1010), "wait: outranked");
}

#[test]
fn among_equals_one_whom_no_client_would_reach_or_whose_disk_is_low_comes_last_and_elsewhere_it_is_barred_by_nothing() {
    let unheard = |received| {
        let at = |member: &mut Member| member.not_listening = Some("pg2:5432".to_owned());
        pg1_died().ballot("pg3", 4, received).member("pg2", at)
    };
    check(&pg2_sees(pg1_died().ballot("pg3", 4, 1000)), "acquire: elected");
    let low = |received| pg1_died().ballot("pg3", 4, received).member("pg2", |member| member.disk_low = true);
    for barred in [unheard, low] {
        check(&pg2_sees(barred(1000)), "wait: outranked");
        check(&pg2_sees(barred(990)), "acquire: elected");
    }
}

#[test]
fn ballots_of_an_older_term_or_of_the_dead_or_forgetful_do_not_count() {
    let good = || pg1_died().ballot("pg3", 4, 990);
    check(&pg2_sees(good()), "acquire: elected");
    let mut older = good();
    older.ballots.get_mut(&name("pg3")).expect("put").revoked = Term(6);
    check(&pg2_sees(older), "wait: awaiting_ballots");
    check(&pg2_sees(good().without("pg3")), "wait: not_proven");
    check(&pg2_sees(good().floor("pg3", 991)), "wait: awaiting_ballots");
    check(&pg2_sees(good().floor("pg3", 990)), "acquire: elected");
}

#[test]
fn a_longer_dead_branch_is_outranked_by_the_living_one() {
    check(&pg2_sees(pg1_died().ballot("pg3", 3, 5000)), "acquire: elected");
    let promoted = pg1_died().record(|sync| sync.timeline = Timeline(5));
    check(&pg2_sees(promoted.ballot("pg3", 5, 10)), "wait: outranked");
}

#[test]
fn within_one_timeline_the_position_decides_even_if_a_marker_is_not_replayed_yet() {
    let mut cluster = pg1_died().ballot("pg3", 4, 1010);
    cluster.ballots.get_mut(&name("pg3")).expect("put").wal_term = Term(1);
    check(&pg2_sees(cluster), "wait: outranked");
}

#[test]
fn among_equals_priority_decides_and_then_the_name() {
    let level = || pg1_died().ballot("pg3", 4, 1000);
    check(&pg2_sees(level()), "acquire: elected");
    check(&pg2_sees(level().member("pg3", |member| member.tags.failover_priority = 2)), "wait: outranked");
}

#[test]
fn nobody_that_may_lead_is_said_so() {
    let barred = cluster().vacant().without("pg1").without("pg3");
    let barred = barred.member("pg2", |member| member.tags.failover_priority = 0);
    check(&pg2_sees(barred), "wait: no_candidate");
    let floored = pg1_died().floor("pg2", 2000);
    check(&pg2_sees(floored), "wait: awaiting_ballots");
}

#[test]
fn without_proof_everybody_alive_is_heard_first() {
    let asynchronous = || pg1_died().mode(Mode::Async).policies(&[any(0, &[])]);
    let late = |view: View| view.aged(|ages| ages.vacancy = Some(secs(1)));
    check(&pg2_sees(asynchronous()), "wait: awaiting_ballots");
    check(&late(pg2_sees(asynchronous())), "acquire: elected");
    check(&pg2_sees(asynchronous().without("pg3")), "acquire: elected");
    says(
        &pg2_sees(Cluster { leader_lsn: Some(Lsn(1000 + (512 << 10))), ..asynchronous().without("pg3") }),
        "best of the ballots of pg2; 512.0 kB or more of acknowledged writes may be lost",
    );
    says(&pg2_sees(asynchronous().without("pg3")), "best of the ballots of pg2; how much may be lost is unknown");
}

#[test]
fn without_proof_nobody_leads_beside_a_last_leader_that_nothing_has_fenced() {
    let answers = |view: View| View { hearing: Hearing { agent: Sound::Gone, postgres: Sound::Fine }, ..view };
    let unproven = || pg1_died().mode(Mode::Async).policies(&[any(0, &[])]).without("pg3");
    let streams = || answers(view("pg2").within(unproven()));
    check(&streams(), "wait: last_leader_answers");
    says(
        &streams(),
        "nobody is promoted: the agent of pg1, which led last, is away, and its Postgres still answers: nothing has fenced it, and it may go on accepting writes",
    );
    check(&answers(pg2_sees(unproven())), "wait: last_leader_answers");
    let silent =
        View { hearing: Hearing { agent: Sound::Gone, postgres: Sound::Silent { since: secs(3) } }, ..streams() };
    check(&silent, "pledge: vacant");
    // Silence, or its agent, or its own word, or an operator's, is enough; and so is proof.
    check(&view("pg2").within(unproven()), "pledge: vacant");
    let registered = || cluster().vacant().mode(Mode::Async).policies(&[any(0, &[])]).without("pg3");
    check(&answers(view("pg2").within(registered())), "wait: last_leader_answers");
    let standby = registered().member("pg1", |member| member.role = MemberRole::Standby);
    check(&answers(view("pg2").within(standby)), "pledge: vacant");
    check(&answers(view("pg2").within(unproven().record(|sync| sync.released = true))), "pledge: vacant");
    let forced = unproven().asked(RequestKind::Failover, None, Some("pg2"));
    check(&answers(pg2_sees(forced)), "acquire: forced");
    check(&answers(pg2_sees(pg1_died().ballot("pg3", 4, 990))), "acquire: elected");
}

#[test]
fn without_proof_whoever_streams_from_the_last_leader_is_waited_for() {
    let late = |cluster| pg2_sees(cluster).aged(|ages| ages.vacancy = Some(secs(60)));
    let unproven = || pg1_died().mode(Mode::Async).policies(&[any(0, &[])]);
    let from = |upstream: &str| unproven().member("pg3", |member| member.streams_from = Some(name(upstream)));
    check(&late(from("pg1")), "wait: awaiting_ballots");
    check(&late(from("pg2")), "acquire: elected");
    check(&late(unproven()), "acquire: elected");
    check(&late(from("pg1").ballot("pg3", 4, 990)), "acquire: elected");
}

#[test]
fn without_proof_nobody_far_behind_leads() {
    let asynchronous = pg1_died().mode(Mode::Async).without("pg3");
    let far = pg2_sees(Cluster { leader_lsn: Some(Lsn(1000 + (48 << 20))), ..asynchronous });
    check(&far, "wait: too_far_behind");
    says(&far, "nobody is promoted: the best candidate pg2 is 48.0 MB behind the last leader, the limit is 1.0 MB");
}
