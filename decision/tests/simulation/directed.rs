//! Histories written by hand, each for one broken rule: without it nothing is amiss, with it an invariant must notice. The seed draws
//! the delays, and, where the turn of events is a narrow one, moves a fault a little.

use decision::settings::Mode;

use crate::plan::{Fault, Plan, Who};
use crate::time::MS;

/// `pg1` leads `pg2` and `pg3`, and clients write all the time.
fn busy(seed: u64) -> Plan {
    Plan { write_every: 20 * MS, ..Plan::quiet(seed) }
}

/// A few milliseconds more or less, another number for each seed.
fn about(ms: u64, spread: u64, seed: u64) -> u64 {
    ms + seed.wrapping_mul(37) % spread
}

/// `pg2` has missed commits that `pg3` has acknowledged, and is the only one left.
pub fn the_only_one_left_has_missed_commits(seed: u64) -> Plan {
    busy(seed).with(4_000, 9_000, Fault::Cut(0, 1)).with(4_400, 15_000, Fault::PowerLost(Who::Node(0))).with(
        4_400,
        15_000,
        Fault::PowerLost(Who::Node(2)),
    )
}

/// `pg1`, isolated, writes much that nobody acknowledges, is replaced, and comes back when its successor is dead.
pub fn the_dead_branch_is_longer(seed: u64) -> Plan {
    Plan { wait_for_lease: true, ..busy(seed) }
        .with(3_500, 7_300, Fault::Isolated(Who::Node(0)))
        .with(10_300, 20_000, Fault::PowerLost(Who::Node(1)))
        .with(14_500, 4_500, Fault::AgentFrozen(Who::Node(2)))
}

/// `pg2` takes over with commits that nobody else alive has, and dies before `pg3` has them.
pub fn the_new_leader_dies_before_anybody_follows(seed: u64) -> Plan {
    Plan { wait_for_lease: true, ..busy(seed) }
        .with(3_500, 30_000, Fault::Cut(0, 2))
        .with(3_500, 30_000, Fault::Cut(1, 2))
        .with(5_000, 40_000, Fault::PowerLost(Who::Node(0)))
        .with(11_800, 30_000, Fault::PowerLost(Who::Node(1)))
}

/// `pg3` leads for a moment with commits that only it and `pg1` have, comes back as a standby of `pg1`, and is rewound just before that dies.
pub fn a_rewound_node_is_asked_for_its_ballot(seed: u64) -> Plan {
    busy(seed)
        .with(3_000, 9_000, Fault::PowerLost(Who::Node(1)))
        .with(3_000, 40_000, Fault::Cut(0, 1))
        .with(4_500, 6_000, Fault::PowerLost(Who::Node(0)))
        .with(9_800, 7_200, Fault::PowerLost(Who::Node(2)))
        .with(about(17_400, 900, seed), 25_000, Fault::PowerLost(Who::Node(0)))
}

/// Of two strict nodes one is rewound, and before it has regained what it had the other loses its disk: only an operator's word can let it lead.
pub fn the_only_one_left_has_forgotten_wal(seed: u64) -> Plan {
    let strict = Plan { nodes: 2, drift_ppm: vec![47, 5_536], disks: vec![5, 40], ..Plan::quiet(12_576 + seed) };
    strict
        .in_mode(Mode::Strict)
        .with(3_245, 61, Fault::PostgresKilled(Who::Node(1)))
        .with(3_442, 2_999, Fault::SlowActions(Who::Node(1)))
        .with(3_558, 2_222, Fault::Deaf(Who::Leader))
        .with(7_607, 72, Fault::DiskLost(Who::Leader))
}

/// The postmaster is dead, its backends commit on, and the leader, slow, tells its voters before it has killed them.
pub fn backends_commit_on_while_the_voters_ballot(seed: u64) -> Plan {
    Plan { write_every: 2 * MS, ..Plan::quiet(seed) }.with(3_900, 2_000, Fault::SlowActions(Who::Node(0))).with(
        4_000,
        100,
        Fault::PostmasterKilled(Who::Node(0)),
    )
}

/// `pg3` takes its ballot back while `pg2`, slow, counts it.
pub fn a_ballot_is_taken_back_while_it_is_counted(seed: u64) -> Plan {
    let heard_at = about(880, 160, seed);
    Plan { write_every: 5 * MS, ..Plan::quiet(seed) }
        .with(3_500, 4_000, Fault::SlowActions(Who::Node(1)))
        .with(4_000, 3_000, Fault::Cut(0, 1))
        .with(4_000, heard_at, Fault::Cut(0, 2))
        .with(4_000 + heard_at + 140, 2_000, Fault::Cut(0, 2))
}

/// `pg2` hears `pg1` again while its ballot is on its way to etcd, breaks the pledge off and follows; both lose etcd, and `pg3` loses sight of `pg1`.
pub fn a_leader_is_heard_again_while_a_ballot_is_on_its_way(seed: u64) -> Plan {
    let seen_again = Plan::quiet(seed).with(4_000, 580, Fault::Cut(0, 1));
    let cut = seen_again.with(4_570, 6_000, Fault::CutFromEtcd(Who::Node(0)));
    cut.with(4_570, 6_000, Fault::CutFromEtcd(Who::Node(1))).with(7_070, 6_000, Fault::Cut(0, 2))
}

/// `pg3` pledges for a moment, follows `pg1` again, and both are cut off from etcd before `pg2` loses sight of `pg1`.
pub fn a_voter_follows_again_after_its_pledge(seed: u64) -> Plan {
    busy(seed)
        .with(4_000, 800, Fault::Cut(0, 2))
        .with(5_800, 5_000, Fault::CutFromEtcd(Who::Node(2)))
        .with(5_800, 3_000, Fault::CutFromEtcd(Who::Node(0)))
        .with(6_000, 4_000, Fault::Cut(0, 1))
}

/// `pg1` is deposed and knows nothing of it; `pg3` means to follow `pg2`, and its name service leads it to `pg1`.
pub fn an_old_address_leads_back_to_the_old_leader(seed: u64) -> Plan {
    busy(seed)
        .with(4_000, 3_500, Fault::CutFromEtcd(Who::Node(0)))
        .with(4_000, 3_500, Fault::Cut(0, 1))
        .with(4_000, 1_500, Fault::Cut(0, 2))
        .with(4_000, 4_000, Fault::Misled(2, 0))
}

/// `pg1` gives its voters up just as they take over from it.
pub fn the_record_changes_while_it_is_taken_over(seed: u64) -> Plan {
    let until = about(3_100, 700, seed);
    Plan { write_every: 4 * MS, ..Plan::quiet(seed) }
        .with(3_000, 6_000, Fault::SlowActions(Who::Node(1)))
        .with(3_000, 6_000, Fault::SlowActions(Who::Node(0)))
        .with(4_000, 7_000, Fault::Cut(0, 1))
        .with(4_000, 7_000, Fault::Cut(0, 2))
        .with(4_400, until, Fault::CutFromEtcd(Who::Node(1)))
}

/// `pg1` hears no answer of etcd any more, is deposed, and writes its record down all the same.
pub fn a_deposed_leader_writes_its_record(seed: u64) -> Plan {
    let etcd = 3;
    busy(seed).with(4_000, 6_000, Fault::Cut(0, 2)).with(4_500, 6_000, Fault::Cut(0, 1)).with(
        4_700,
        2_500,
        Fault::Cut(etcd, 0),
    )
}

/// The last renewal was answered late, and none comes after it.
pub fn the_last_answer_was_late(seed: u64) -> Plan {
    busy(seed).with(3_000, 3_000, Fault::AnswersLate).with(
        about(5_000, 900, seed),
        9_000,
        Fault::Isolated(Who::Node(0)),
    )
}

/// The leader is cut off from everybody, and its clock is slow.
pub fn a_leader_is_isolated(seed: u64) -> Plan {
    Plan { drift_ppm: vec![-10_000, 0, 0], ..busy(seed) }.with(4_000, 9_000, Fault::Isolated(Who::Node(0)))
}

/// Commits wait for nobody, and the leader is out of sight of everybody but its clients.
pub fn an_isolated_leader_whose_commits_wait_for_nobody(seed: u64) -> Plan {
    busy(seed).in_mode(Mode::Async).with(4_000, 9_000, Fault::Isolated(Who::Node(0)))
}

/// Commits wait for nobody, Postgres stands still until the leader gives it up, and then the agent stands still as well.
pub fn a_leader_lets_go_and_stands_still(seed: u64) -> Plan {
    busy(seed)
        .in_mode(Mode::Async)
        .with(3_800, 6_000, Fault::SlowActions(Who::Node(0)))
        .with(4_000, 2_900, Fault::PostgresFrozen(Who::Node(0)))
        .with(about(6_050, 400, seed), 2_500, Fault::AgentFrozen(Who::Node(0)))
}

/// The leader's agent is restarted, and its Postgres notices nothing.
pub fn the_leaders_agent_is_restarted(seed: u64) -> Plan {
    busy(seed).with(4_000, 1_500, Fault::AgentKilled(Who::Node(0)))
}

/// A short hiccup of the network.
pub fn a_hiccup(seed: u64) -> Plan {
    busy(seed).with(4_000, 230, Fault::Isolated(Who::Node(0)))
}

/// Of four voters, two of whom acknowledge, three lose sight of the leader and one does not.
pub fn one_of_four_still_hears_the_leader(seed: u64) -> Plan {
    let five = Plan { nodes: 5, acknowledgers: 2, drift_ppm: vec![0; 5], disks: vec![1; 5], ..busy(seed) };
    (1..4).fold(five, |plan, at| plan.with(4_000, 3_000, Fault::Cut(0, at)))
}

/// The candidate of a switchover is cut off from the WAL just before the end.
pub fn the_candidate_misses_the_end_of_the_wal(seed: u64) -> Plan {
    Plan { write_every: 4 * MS, ..Plan::quiet(seed) }.with(4_000, 100, Fault::Switchover(Some(1))).with(
        about(4_060, 240, seed),
        3_000,
        Fault::Cut(0, 1),
    )
}

/// The order to hand the lock over arrives when nobody waits for its answer any more and the old leader has started again. The candidate's
/// agent stands still, and has not given its lease back.
pub fn the_order_to_hand_over_comes_late(seed: u64) -> Plan {
    let when = about(4_090, 60, seed);
    busy(seed).with(4_000, 100, Fault::Switchover(Some(1))).with(when, 60, Fault::QuestionsLate(Who::Node(0))).with(
        when + 70,
        1_700,
        Fault::AgentFrozen(Who::Node(1)),
    )
}

/// Commits wait for nobody. `pg1` cannot start its Postgres again, hears from etcd, and lets go of the lock, but that is held up on its way; it
/// tries once more, and hears nothing of etcd any more when the lock goes.
pub fn the_release_comes_late(seed: u64) -> Plan {
    let etcd = 3;
    let when = about(4_080, 40, seed);
    Plan { disks: vec![5, 1, 1], ..busy(seed).in_mode(Mode::Async) }
        .with(4_000, 100, Fault::PostgresKilled(Who::Node(0)))
        .with(when, 20, Fault::PostgresKilled(Who::Node(0)))
        .with(about(when, 120, seed / 40), 60, Fault::QuestionsHeldUp(Who::Node(0), 6))
        .with(9_000, 4_000, Fault::Cut(etcd, 0))
}

/// As above, and what `pg1` writes before it starts never reaches etcd.
pub fn the_release_comes_late_and_the_record_stays_as_it_was(seed: u64) -> Plan {
    let etcd = 3;
    the_release_comes_late(seed).with(7_700, 600, Fault::Cut(0, etcd))
}

/// `pg1` sends the order to hand over to `pg2`, and its agent begins another life while Postgres still waits for `pg3`, which stands still. It
/// sees etcd for a moment, is promised to go on without it, and starts Postgres again before the order arrives.
pub fn another_life_goes_on_before_the_order_to_hand_over_arrives(seed: u64) -> Plan {
    a_life_ends_with_a_hand_over(3_300, about(4_060, 100, seed), seed)
}

/// As above, and `pg2` was named as the heir, which the next life takes back.
pub fn another_life_takes_the_heir_back(seed: u64) -> Plan {
    a_life_ends_with_a_hand_over(3_900, about(4_480, 160, seed), seed)
}

fn a_life_ends_with_a_hand_over(frozen_ms: u64, ordered_ms: u64, seed: u64) -> Plan {
    let etcd = 3;
    busy(seed)
        .with(frozen_ms, 9_000, Fault::PostgresFrozen(Who::Node(2)))
        .with(4_000, 100, Fault::Switchover(Some(1)))
        .with(ordered_ms, 40, Fault::QuestionsHeldUp(Who::Node(0), 6))
        .with(ordered_ms + 45, 80, Fault::AgentKilled(Who::Node(0)))
        .with(ordered_ms + 500, 9_000, Fault::Cut(etcd, 0))
}

/// `pg2` is away, `pg1` proves with a commit that it does without, and the record that says so is held up until `pg2` is a voter again.
pub fn a_proof_is_recorded_late(seed: u64) -> Plan {
    let when = about(4_990, 80, seed);
    busy(seed).with(4_000, 1_200, Fault::PowerLost(Who::Node(1))).with(
        when,
        30,
        Fault::QuestionsHeldUp(Who::Node(0), 2),
    )
}

/// etcd comes back from a backup of before the reign of the present leader, with its member record of then.
pub fn etcd_comes_back_from_a_backup(seed: u64) -> Plan {
    let killed = Plan::quiet(seed).with(3_866, 3_000, Fault::PowerLost(Who::Leader));
    killed.with(9_000, 100, Fault::EtcdRestored)
}

/// Commits wait for nobody. `pg1` is to start its Postgres again when its disk freezes, and it loses sight of everybody until others lead.
pub fn a_start_hangs_with_its_disk(seed: u64) -> Plan {
    let when = about(4_003, 12, seed);
    busy(seed)
        .in_mode(Mode::Async)
        .with(4_000, 100, Fault::PostgresKilled(Who::Node(0)))
        .with(when, 9_500, Fault::DiskFrozen(Who::Node(0)))
        .with(4_100, 12_000, Fault::Isolated(Who::Node(0)))
}

/// For a moment commits are to wait for nobody. The record that says so is held up, and `pg1`'s agent begins another life, for which nothing
/// has changed, and loses etcd and `pg3` before the record arrives.
pub fn another_life_does_not_know_what_is_on_its_way(seed: u64) -> Plan {
    let when = about(4_000, 12, seed);
    busy(seed)
        .with(4_000, 100, Fault::Policy(Mode::Async, 1))
        .with(when, 40, Fault::QuestionsHeldUp(Who::Node(0), 3))
        .with(4_045, 60, Fault::AgentKilled(Who::Node(0)))
        .with(4_090, 100, Fault::Policy(Mode::Quorum, 1))
        .with(6_300, 12_000, Fault::CutFromEtcd(Who::Node(0)))
        .with(6_300, 12_000, Fault::Cut(0, 2))
        .with(6_300, 12_000, Fault::Cut(2, 0))
}

/// `pg1` alone has lost etcd, and goes on by the promises of the others.
pub fn a_leader_goes_on_by_promises(seed: u64) -> Plan {
    busy(seed).with(4_000, 12_000, Fault::CutFromEtcd(Who::Node(0)))
}

/// As above, and those who have promised begin another life.
pub fn those_who_promised_begin_another_life(seed: u64) -> Plan {
    let when = about(9_500, 3_000, seed);
    let killed = a_leader_goes_on_by_promises(seed).with(when, 80, Fault::AgentKilled(Who::Node(1)));
    killed.with(when, 80, Fault::AgentKilled(Who::Node(2)))
}

/// All of etcd is lost, `pg1` goes on by promises, and is out of sight when etcd is back.
pub fn a_leader_on_promises_is_out_of_sight(seed: u64) -> Plan {
    let lost = about(9_000, 1_000, seed);
    busy(seed).with(4_000, lost - 3_800, Fault::EtcdGone).with(lost, 9_000, Fault::Isolated(Who::Node(0)))
}

/// Of four voters, two of whom acknowledge, the leader reaches one when etcd is lost.
pub fn a_leader_reaches_one_of_four(seed: u64) -> Plan {
    let five = Plan { nodes: 5, acknowledgers: 2, drift_ppm: vec![0; 5], disks: vec![1; 5], ..busy(seed) };
    let lonely = (1..4).fold(five, |plan, at| plan.with(4_000, 9_000, Fault::Cut(0, at)));
    lonely.with(4_000, 9_000, Fault::CutFromEtcd(Who::Node(0)))
}

/// `pg2` has balloted against `pg1`, hears it again, and cannot take its ballot back, for both have lost etcd.
pub fn a_voter_that_has_balloted_is_asked_for_a_promise(seed: u64) -> Plan {
    busy(seed)
        .with(4_000, 620, Fault::Cut(0, 1))
        .with(4_605, 6_000, Fault::CutFromEtcd(Who::Node(0)))
        .with(4_605, 6_000, Fault::CutFromEtcd(Who::Node(1)))
        .with(7_000, 6_000, Fault::Cut(0, 2))
}

/// `pg2` is barred from leading, `pg1`, slow, takes it out of the record, and never hears that this was written: `pg2` could not hold up
/// a takeover any more.
pub fn etcd_is_lost_while_the_record_changes(seed: u64) -> Plan {
    let etcd = 3;
    let when = about(5_700, 300, seed);
    busy(seed)
        .with(4_500, 3_500, Fault::SlowActions(Who::Node(0)))
        .with(5_000, 20_000, Fault::MayNotLead(1))
        .with(when, 12_000, Fault::Cut(etcd, 0))
        .with(when + 1_000, 11_000, Fault::Cut(0, etcd))
        .with(when + 1_000, 11_000, Fault::Cut(0, 2))
}

/// `pg2` is promoted while its agent stands still, and is rewound; later the leader dies.
pub fn a_standby_is_promoted_by_hand(seed: u64) -> Plan {
    busy(seed).with(3_900, 600, Fault::AgentFrozen(Who::Node(1))).with(4_000, 100, Fault::PromotedByHand(1)).with(
        about(9_500, 500, seed),
        4_000,
        Fault::PowerLost(Who::Node(0)),
    )
}

/// The same, but the leader dies before `pg2` can be rewound, and after `pg3` alone has acknowledged more.
pub fn the_leader_dies_beside_a_standby_that_was_promoted_by_hand(seed: u64) -> Plan {
    let soon = about(4_080, 300, seed);
    busy(seed).with(4_000, 100, Fault::PromotedByHand(1)).with(soon, 9_000, Fault::PowerLost(Who::Node(0)))
}

/// `pg3` dies, is taken out of the cluster before the leader has stopped counting on it, and comes back.
pub fn a_voter_is_taken_out_and_comes_back(seed: u64) -> Plan {
    busy(seed).with(about(4_000, 900, seed), 5_000, Fault::Removed(2))
}
