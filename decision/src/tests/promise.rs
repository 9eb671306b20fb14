//! Promises: who gives one, what it forbids, what it carries, and small worlds over who promises, who has balloted and who is absent: no
//! set of nodes takes the lock from a leader that relies on promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::builders::*;
use crate::action::{Action, StartAs};
use crate::decide;
use crate::durability::{Policies, Quorum};
use crate::names::{MemberName, SystemId, Term, Timeline};
use crate::promise::{Basis, Question, Refusal, Reliance, answer, blocks, carried_for, worth_asking};
use crate::settings::{Mode, Timing};
use crate::view::*;

fn question() -> Question {
    Question { system_id: SYSTEM, leader: name("pg1"), term: TERM }
}

fn asked(view: &View) -> Result<(), Refusal> {
    answer(view, Some(Term(0)), &question())
}

fn silent(me: &str) -> View {
    View { cluster: Seen::Before { value: cluster(), age: secs(3) }, ..view(me) }
}

fn set(names: &[&str]) -> BTreeSet<MemberName> {
    names.iter().map(|text| name(text)).collect()
}

#[test]
fn a_standby_that_knows_nothing_better_promises() {
    assert_eq!(asked(&view("pg2")), Ok(()));
    assert_eq!(asked(&silent("pg2")), Ok(()));
    assert_eq!(asked(&view("pg2").within(cluster().vacant())), Ok(()));
    assert_eq!(asked(&view("pg2").promised()), Ok(()), "again");
    let stopped = silent("pg2").stopped(disk());
    assert_eq!(asked(&stopped), Ok(()), "what runs here does not matter");
    let unseen = View { cluster: Seen::Never { tried_for: secs(9) }, ..view("pg2") };
    assert_eq!(asked(&unseen), Ok(()), "its own notes tell that it has revoked nothing");
}

#[test]
fn whoever_knows_better_refuses() {
    let later = Cluster { term: Term(8), ..cluster() };
    assert_eq!(asked(&view("pg2").within(later)), Err(Refusal::LaterTerm { term: Term(8) }));
    let replayed = Server::Standby(Standby { wal_term: Term(9), ..standby() });
    assert_eq!(asked(&view("pg2").runs(replayed)), Err(Refusal::LaterTerm { term: Term(9) }));
    assert_eq!(asked(&view("pg2").within(cluster().ballot("pg2", 4, 900))), Err(Refusal::Revoked));
    assert_eq!(answer(&view("pg2"), Some(TERM), &question()), Err(Refusal::Revoked));
    assert_eq!(answer(&view("pg2"), Some(Term(6)), &question()), Ok(()));
    assert_eq!(answer(&view("pg2"), None, &question()), Err(Refusal::KnowsTooLittle));
    assert_eq!(asked(&view("pg2").within(cluster().led_by("pg3"))), Err(Refusal::OtherLeader { leader: name("pg3") }));
    let recorded = cluster().led_before_by("pg3");
    assert_eq!(asked(&view("pg2").within(recorded)), Err(Refusal::OtherLeader { leader: name("pg3") }));
    assert_eq!(asked(&view("pg2").runs(Server::Primary(primary()))), Err(Refusal::Primary));
    assert_eq!(
        asked(&view("pg2").stopped(crashed_primary()).runs(Server::Hung { since: secs(9) })),
        Err(Refusal::Primary)
    );
    assert_eq!(asked(&view("pg2").leads()), Err(Refusal::Primary));
    assert_eq!(asked(&view("pg1")), Err(Refusal::Primary));
    let mut later = view("pg2").promised();
    later.promise.as_mut().expect("promised").term = Term(8);
    assert_eq!(asked(&later), Err(Refusal::Promised { leader: name("pg1") }));
    let foreign = Question { system_id: SystemId(1), ..question() };
    assert_eq!(answer(&view("pg2"), Some(Term(0)), &foreign), Err(Refusal::Foreign));
    let empty = View { cluster: Seen::Never { tried_for: secs(9) }, ..view("pg2").on_disk(Data::Empty) };
    assert_eq!(asked(&empty), Err(Refusal::Foreign), "nothing here says which database it belongs to");
}

#[test]
fn while_it_runs_a_promise_stands_in_for_the_lock() {
    let vacant = || view("pg2").within(cluster().vacant());
    check(&vacant(), "pledge: vacant");
    check(&vacant().promised(), "wait: promised");
    says(&vacant().promised(), "pg1 still leads term 7 without etcd: this node has promised to let it, for 3.0 s more");
    check(&vacant().promised().within(cluster().vacant().without("pg1")), "wait: promised");
    let follows_nobody = Server::Standby(Standby { follows: None, ..standby() });
    check(&vacant().promised().runs(follows_nobody), "follow: repoint");
    check(&vacant().promised().stopped(disk()), "start_standby: clean_rejoin");
    let forced = cluster().vacant().asked(RequestKind::Failover, None, Some("pg2"));
    check(&vacant().promised().within(forced), "wait: promised");
    let mut over = vacant().promised();
    over.promise.as_mut().expect("promised").left = secs(0);
    check(&over, "pledge: vacant");
    let released = cluster().vacant().record(|sync| sync.released = true);
    check(&vacant().promised().within(released), "pledge: vacant");
    let passed = Cluster { term: Term(8), ..cluster().led_before_by("pg3").record(|sync| sync.term = Term(8)) };
    check(&vacant().promised().within(passed), "pledge: vacant");
}

#[test]
fn the_voters_do_not_depose_a_leader_that_they_have_promised_to_let_go_on() {
    let gone = |view: View| View { hearing: Hearing { agent: Sound::Gone, postgres: Sound::Gone }, ..view };
    check(&gone(view("pg2")), "pledge: suspect");
    check(&gone(view("pg2").promised()), "wait: promised");
}

#[test]
fn a_leader_that_says_that_it_is_done_for_frees_whoever_has_promised_and_is_promised_nothing_more() {
    let done_for = cluster().record(|sync| sync.released = true);
    check(&view("pg2").promised().within(done_for.clone()), "pledge: suspect");
    assert_eq!(asked(&view("pg2").within(done_for.clone())), Err(Refusal::LetGo));
    assert_eq!(asked(&view("pg2").within(done_for.vacant())), Err(Refusal::LetGo));
    let of_an_earlier_term = cluster().record(|sync| (sync.released, sync.term) = (true, Term(6)));
    assert_eq!(asked(&view("pg2").within(of_an_earlier_term.clone())), Ok(()));
    check(&view("pg2").promised().within(of_an_earlier_term.vacant()), "wait: promised");
}

#[test]
fn nobody_asks_for_the_sake_of_a_postgres_that_will_take_no_writes() {
    let limit = Timing::default().hang_after;
    let disk = |disk: Disk| {
        let mut view = view("pg1").leads();
        view.signs.disk = disk;
        view
    };
    let full = || disk(Disk { full: true, low: true, ..Disk::default() });
    let nowhere = |member: &mut Member| member.disk_low = true;
    let failed = View { ages: Ages { last_failure: Some(secs(1)), ..Ages::default() }, ..view("pg1") };
    for (worth, what, view) in [
        (true, "a primary", view("pg1").leads()),
        (true, "never seen", View { postgres: Seen::Never { tried_for: secs(1) }, ..view("pg1") }),
        (true, "it starts", view("pg1").runs(Server::Starting { since: secs(1) })),
        (false, "it starts for ever", view("pg1").runs(Server::Starting { since: secs(9999) })),
        (true, "it says nothing for a moment", view("pg1").runs(Server::Hung { since: limit * 4 })),
        (false, "it hangs", view("pg1").runs(Server::Hung { since: limit * 6 })),
        (true, "it has died", view("pg1").stopped(crashed_primary())),
        (false, "it has died, and does not start", failed.stopped(crashed_primary())),
        (false, "a standby", view("pg2")),
        (false, "its disk is read-only", disk(Disk { fault: Some(DiskFault::ReadOnly), ..Disk::default() })),
        (false, "its disk is frozen", disk(Disk { frozen_for: Some(secs(60)), ..Disk::default() })),
        (true, "its disk is about to fill", disk(Disk { low: true, ..Disk::default() })),
        (false, "its disk is full, and others have room", full()),
        (true, "no disk has room", full().within(cluster().member("pg2", nowhere).member("pg3", nowhere))),
        (false, "it has died on a full disk", disk(Disk { full: true, ..Disk::default() }).stopped(crashed_primary())),
    ] {
        assert_eq!(worth_asking(&view), worth, "{what}");
    }
}

#[test]
fn a_primary_goes_on_by_promises_until_they_end_or_a_peer_knows_a_later_term() {
    let carried = |seconds, deposed_by| {
        let left = secs(seconds);
        let reliance = Some(Reliance { left, promised_by: vec![name("pg2")], deposed_by });
        View { reliance, ..silent("pg1").lock(Lock::Held { term: TERM, left }) }
    };
    check(&carried(4, None), "wait: leading_on_promises");
    says(
        &carried(4, None),
        "etcd has been silent for 3.0 s; this primary goes on by the promises of pg2, for 4.0 s more unless they are renewed",
    );
    check(&carried(0, None), "kill: lock_lost");
    check(&carried(4, Some(Term(8))), "kill: lock_lost");
}

#[test]
fn a_primary_that_dies_while_promises_carry_it_is_started_again() {
    let carried = |seconds| {
        let reliance = Some(Reliance { left: secs(seconds), promised_by: vec![name("pg2")], deposed_by: None });
        View { reliance, ..silent("pg1").stopped(crashed_primary()) }
    };
    check(&carried(4), "start_primary: restart_in_place");
    let Action::Start(start) = decide(&carried(4)).action else { panic!("not started") };
    assert_eq!(start, StartAs::Primary { term: TERM, quorum: any(1, &["pg2", "pg3"]), record_anew: false });
    check(&carried(0), "wait: etcd_silent");
    check(&carried(4).lock(Lock::NotHeld), "wait: etcd_silent");
    check(&carried(4).stopped(disk()), "wait: leading_on_promises");
    check(&carried(4).aged(|ages| ages.last_failure = Some(secs(1))), "wait: leading_on_promises");
    let mut full = carried(4);
    full.signs.disk.full = true;
    check(&full, "wait: leading_on_promises");
}

#[test]
fn a_primary_that_hangs_while_promises_carry_it_is_killed_to_be_started_again() {
    let hung = |seconds, for_ms| {
        let reliance = Some(Reliance { left: secs(seconds), promised_by: vec![name("pg2")], deposed_by: None });
        let lock = Lock::Held { term: TERM, left: secs(4) };
        let since = Duration::from_millis(for_ms);
        View { reliance, ..silent("pg1").lock(lock).stopped(crashed_primary()).runs(Server::Hung { since }) }
    };
    check(&hung(4, 1999), "wait: leading_on_promises");
    check(&hung(4, 2000), "kill: hung");
    check(&hung(0, 2000), "wait: etcd_silent");
    check(&hung(4, 2000).job("stop", None, secs(1)), "wait: leading_on_promises");
}

#[test]
fn a_primary_that_nobody_acknowledges_and_that_cannot_read_etcd_gives_way_to_voters_that_are_there() {
    let behind = |promised: &[&str], unheard: &[(&str, u64)]| {
        let reliance =
            Some(Reliance { left: secs(3), promised_by: names(promised).into_iter().collect(), deposed_by: None });
        let resting = unheard.iter().map(|(who, since)| (name(who), secs(*since))).collect();
        View { reliance, ..silent("pg1").leads().aged(|ages| ages.voters_resting = resting) }
    };
    let both = ["pg2", "pg3"];
    check(&behind(&both, &[("pg2", 3), ("pg3", 9)]), "abdicate: unheard");
    check(&behind(&both, &[("pg2", 2), ("pg3", 9)]), "wait: leading_on_promises");
    check(&behind(&both, &[("pg3", 9)]), "wait: leading_on_promises");
    check(&behind(&["pg2"], &[("pg2", 3), ("pg3", 9)]), "wait: leading_on_promises");
    check(&behind(&[], &[("pg2", 3), ("pg3", 9)]), "wait: leading_on_promises");
    let missing = behind(&both, &[("pg2", 3)]).aged(|ages| ages.voters_missing = [(name("pg3"), secs(4))].into());
    check(&missing, "abdicate: unheard");
    let other = |mode| View {
        cluster: Seen::Before { value: cluster().mode(mode), age: secs(3) },
        ..behind(&both, &[("pg2", 3), ("pg3", 9)])
    };
    check(&other(Mode::Strict), "abdicate: unheard");
    check(&other(Mode::Async), "wait: leading_on_promises");
}

#[test]
fn whoever_has_promised_goes_on_following_without_etcd_and_without_the_leaders_member_record() {
    let upstream = cluster().upstream(&name("pg2"), &name("pg1"), TERM).expect("a member");
    let start = Action::Start(StartAs::Standby(Some(upstream.clone())));
    for view in [silent("pg2"), view("pg2").within(cluster().vacant().without("pg1"))] {
        let mut promised = view.promised();
        promised.promise.as_mut().expect("promised").upstream = Some(upstream.clone());
        let (stopped, pledged) = (promised.clone().stopped(disk()), promised.clone().runs(pledged(900)));
        assert_eq!(decide(&stopped).action, start);
        assert_eq!(decide(&pledged).action, Action::Follow(upstream.clone()));
        let stays = [
            stopped.clone().aged(|ages| ages.last_failure = Some(secs(1))),
            pledged.aged(|ages| ages.last_failure = Some(secs(1))),
            stopped.job("start_standby", None, secs(1)),
            promised.clone().stopped(OnDisk { timeline: Timeline(9), ..disk() }),
            promised,
        ];
        stays.iter().for_each(|view| assert_eq!(decide(view).action, Action::Wait, "{:?}", decide(view)));
    }
    // Nobody who has not promised is started without etcd: the leader may be another by now.
    check(&silent("pg2").stopped(disk()), "wait: etcd_silent");
}

#[test]
fn a_pledge_that_never_became_a_ballot_is_forgotten_once_its_leader_is_followed_again() {
    let noted = |term| View { pledged: Some(term), ..view("pg2") };
    check(&noted(TERM), "follow: leader_is_back");
    check(&noted(Term(TERM.0 - 1)), "wait: following");
    check(&noted(TERM).aged(|ages| ages.last_failure = Some(secs(1))), "wait: following");
    check(&noted(TERM).within(cluster().ballot("pg2", 4, 900)), "withdraw: leader_is_back");
}

#[test]
fn when_etcd_is_back_the_leader_resumes_and_its_peers_wait_for_it() {
    check(&view("pg1").within(cluster().vacant()), "resume: resume");
    check(&view("pg2").within(cluster().vacant()).promised(), "wait: promised");
    check(&view("pg2").promised(), "wait: following");
}

#[test]
fn an_etcd_that_was_restored_from_an_old_backup_gets_a_term_above_all() {
    let old = || Cluster { term: Term(5), ..cluster().vacant().record(|sync| sync.term = Term(5)) };
    check(&view("pg1").within(old()), "acquire: etcd_went_back");
    let Action::Acquire(claim) = decide(&view("pg1").within(old())).action else { panic!("no claim") };
    assert_eq!((claim.term, claim.after, claim.depose), (Term(8), Term(5), None));
    assert!(claim.policies.contains(&any(1, &["pg2", "pg3"])), "what Postgres waits for is recorded");
    let of_another = || old().record(|sync| sync.leader = name("pg3"));
    check(&view("pg1").within(of_another()), "acquire: etcd_went_back");
    check(&view("pg1").within(of_another()).lock(Lock::NotHeld), "kill: lock_lost");
    let held = |who: &str| Cluster { leader: Some(name(who)), ..old() };
    check(&view("pg1").within(held("pg3")), "wait: etcd_went_back");
    check(&view("pg1").within(held("pg3")).lock(Lock::NotHeld), "kill: deposed_primary");
    let lease_of_backup = view("pg1").within(held("pg1")).lock(Lock::Held { term: Term(5), left: secs(4) });
    check(&lease_of_backup, "acquire: etcd_went_back");
    let of_backup = || Lock::Held { term: Term(5), left: secs(4) };
    check(
        &view("pg3").within(held("pg3").record(|sync| sync.leader = name("pg3"))).lock(of_backup()),
        "release: etcd_went_back",
    );
    check(&view("pg2").within(old()), "wait: etcd_went_back");
    check(&view("pg2").within(held("pg1")), "wait: etcd_went_back");
    let ballots = Cluster { term: Term(5), ..cluster().vacant().ballot("pg2", 4, 900).ballot("pg3", 4, 900) };
    let ballots = ballots.record(|sync| sync.term = Term(5));
    let revoked = |mut cluster: Cluster| {
        cluster.ballots.values_mut().for_each(|ballot| ballot.revoked = Term(5));
        cluster
    };
    check(&view("pg2").within(revoked(ballots)).runs(pledged(900)), "wait: etcd_went_back");
}

// Small worlds: `pg1` leads; pg2, pg3 and pg4 may promise, ballot, be away, or not be listed.

const OTHERS: [&str; 3] = ["pg2", "pg3", "pg4"];

#[test]
fn a_term_that_somebody_has_raised_by_hand_does_not_stop_the_leader() {
    let raised = |by: u64| Cluster { term: Term(TERM.0 + by), ..cluster() };
    let holds = |by| view("pg1").within(raised(by)).lock(Lock::Held { term: Term(TERM.0 + by), left: secs(4) });
    check(&holds(0), "wait: leading");
    check(&holds(998), "acquire: term_raised");
    let Action::Acquire(claim) = decide(&holds(998)).action else { panic!("a claim") };
    assert_eq!((claim.term, claim.after, claim.depose), (Term(TERM.0 + 999), Term(TERM.0 + 998), Some(name("pg1"))));
    let of_another = raised(998).record(|sync| sync.leader = name("pg3"));
    check(&holds(998).within(of_another), "wait: record_missing");
    check(&holds(998).stopped(crashed_primary()), "wait: record_missing");
}

#[test]
fn a_former_leader_does_not_take_back_a_lock_that_others_have_held_since() {
    let mine = cluster().led_before_by("pg1");
    check(&view("pg1").within(mine.clone()).stopped(crashed_primary()), "acquire: last_leader");
    let mut later = mine.clone().ballot("pg2", 4, 900);
    later.ballots.get_mut(&name("pg2")).expect("balloted").wal_term = Term(8);
    check(&view("pg1").within(later).stopped(crashed_primary()), "start_standby: vacant");
    let recorded = mine.sync.as_ref().expect("recorded").timeline;
    let disk = OnDisk { timeline: Timeline(recorded.0 + 1), ..crashed_primary() };
    check(&view("pg1").within(mine).stopped(disk), "start_standby: vacant");
}

fn subset(bits: u32) -> Vec<&'static str> {
    OTHERS.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, other)| other).collect()
}

/// Every quorum over the others, and nobody.
fn quorums() -> Vec<Quorum> {
    let of = |bits: u32| (1..=bits.count_ones()).map(move |k| any(k, &subset(bits)));
    std::iter::once(Quorum::none()).chain((1..8).flat_map(of)).collect()
}

/// Every record: each quorum alone, and every change from one to another, in both modes.
fn records() -> Vec<(Mode, Policies)> {
    let quorums = quorums();
    let alone = quorums.iter().map(|quorum| vec![quorum.clone()]);
    let after = |at: usize| &quorums[at + 1..];
    let changes =
        quorums.iter().enumerate().flat_map(|(at, one)| after(at).iter().map(|other| vec![one.clone(), other.clone()]));
    let all: Vec<Policies> = alone.chain(changes).collect();
    let of = |mode: Mode| all.iter().map(move |policies| (mode, policies.clone())).collect::<Vec<_>>();
    [of(Mode::Quorum), of(Mode::Async)].concat()
}

/// The lock is free in etcd, and those in `balloters` have revoked the term.
fn vacancy((mode, policies): &(Mode, Policies), listed: u32, present: u32, balloters: u32) -> Cluster {
    let mut cluster = cluster().vacant().mode(*mode).policies(policies);
    for other in OTHERS {
        cluster.members.insert(name(other), member(MemberRole::Standby));
    }
    for absent in subset(!present & 7) {
        cluster = cluster.without(absent);
    }
    for balloter in subset(balloters) {
        cluster = cluster.ballot(balloter, 4, 1000);
    }
    cluster.failsafe = Some(subset(listed).into_iter().chain(["pg1"]).map(name).collect());
    cluster
}

fn takes(who: &str, cluster: &Cluster) -> bool {
    let waited = view(who).within(cluster.clone()).runs(pledged(1000)).aged(|ages| ages.vacancy = Some(secs(60)));
    matches!(decide(&waited).action, Action::Acquire(_))
}

#[test]
fn whoever_relies_on_promises_loses_the_lock_to_no_set_of_others() {
    let (mut relied, mut taken) = (0, 0);
    for record in records() {
        // Where every step asks for a proof the list does not matter.
        let asks_no_proof = record.0 == Mode::Async || record.1.iter().any(|quorum| quorum.k == 0);
        for listed in if asks_no_proof { 0..8 } else { 7..8 } {
            let basis = Basis {
                mode: record.0,
                policies: record.1.clone(),
                listed: Some(subset(listed).into_iter().chain(["pg1"]).map(name).collect()),
            };
            for promised in 0..8_u32 {
                let relies = blocks(std::slice::from_ref(&basis), &name("pg1"), &set(&subset(promised)));
                relied += usize::from(relies);
                // Whoever has promised does not ballot; everybody else may, be there or come back.
                let free = !promised & 7;
                let mut lost = false;
                for balloters in (0..8).filter(|balloters| balloters & promised == 0) {
                    for present in (0..8).filter(|present| present & balloters == balloters) {
                        let cluster = vacancy(&record, listed, present, balloters);
                        for who in subset(balloters) {
                            let takes = takes(who, &cluster);
                            assert!(
                                !(relies && takes),
                                "{who} takes the lock, {promised:03b} have promised: {cluster:#?}"
                            );
                            lost |= takes;
                        }
                    }
                }
                taken += usize::from(lost);
                // With proofs the rule is exact: where it does not rely, somebody could take the lock.
                assert!(asks_no_proof || relies != lost, "{record:?} {promised:03b} of {free:03b}");
            }
        }
    }
    assert!(relied > 1000 && taken > 1000, "{relied} {taken}");
}

#[test]
fn whoever_has_promised_does_nothing_against_the_leader_whatever_the_others_do() {
    for record in records() {
        for balloters in 0..8_u32 {
            for who in subset(!balloters & 7) {
                for request in [None, Some(who)] {
                    let mut cluster = vacancy(&record, 7, 7, balloters);
                    if let Some(to) = request {
                        cluster = cluster.asked(RequestKind::Failover, None, Some(to));
                    }
                    for server in [Server::Standby(standby()), pledged(1000), Server::Stopped] {
                        let view = view(who).within(cluster.clone()).runs(server).promised();
                        let action = decide(&view).action;
                        assert!(
                            !matches!(action, Action::Pledge { .. } | Action::Acquire(_) | Action::Promote { .. }),
                            "{action:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_record_that_may_or_may_not_have_been_written_is_blocked_both_ways() {
    let records = records();
    let basis = |(mode, policies): &(Mode, Policies)| Basis {
        mode: *mode,
        policies: policies.clone(),
        listed: Some(set(&["pg1", "pg2", "pg3", "pg4"])),
    };
    for one in records.iter().step_by(3) {
        for other in records.iter().step_by(5) {
            for promised in 0..8 {
                let names = set(&subset(promised));
                let both = blocks(&[basis(one), basis(other)], &name("pg1"), &names);
                let each = [one, other].iter().all(|record| blocks(&[basis(record)], &name("pg1"), &names));
                assert_eq!(both, each);
            }
        }
    }
    assert!(!blocks(&[], &name("pg1"), &set(&["pg2"])), "without any record nothing is known");
}

#[test]
fn promises_carry_a_leader_until_too_few_are_left() {
    let basis = |k, voters: &[&str]| Basis { mode: Mode::Quorum, policies: vec![any(k, voters)], listed: None };
    let promises = |ends: &[(&str, u64)]| -> BTreeMap<MemberName, std::time::Duration> {
        ends.iter().map(|(who, seconds)| (name(who), secs(*seconds))).collect()
    };
    let carried = |bases: &[Basis], ends: &[(&str, u64)]| carried_for(bases, &name("pg1"), &promises(ends));
    let one = [basis(1, &["pg2", "pg3"])];
    assert_eq!(carried(&one, &[]), Some(secs(0)));
    assert_eq!(carried(&one, &[("pg4", 9)]), Some(secs(0)), "not a voter");
    assert_eq!(carried(&one, &[("pg2", 3), ("pg3", 5)]), Some(secs(5)));
    let two = [basis(2, &["pg2", "pg3", "pg4"])];
    assert_eq!(carried(&two, &[("pg2", 3), ("pg3", 5), ("pg4", 1)]), Some(secs(3)));
    assert_eq!(carried(&[one[0].clone(), two[0].clone()], &[("pg2", 3), ("pg3", 5)]), Some(secs(3)));
    let listed = |names: &[&str]| Basis { mode: Mode::Async, policies: vec![Quorum::none()], listed: Some(set(names)) };
    assert_eq!(carried(&[listed(&["pg1"])], &[]), None, "nobody else may lead");
    assert_eq!(carried(&[listed(&["pg1", "pg2", "pg3"])], &[("pg2", 3)]), Some(secs(0)), "each of them must promise");
    assert_eq!(carried(&[listed(&["pg1", "pg2", "pg3"])], &[("pg2", 3), ("pg3", 2)]), Some(secs(2)));
    let unlisted = Basis { listed: None, ..listed(&[]) };
    assert_eq!(carried(&[unlisted], &[("pg2", 3)]), Some(secs(0)), "who may lead is not known");
}
