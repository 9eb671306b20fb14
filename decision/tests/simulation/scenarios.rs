//! Single histories with a known course: a cluster that nothing befalls, and what the storms once found, each kept as a plan.

use decision::settings::Mode;

use crate::directed::{etcd_comes_back_from_a_backup, the_only_one_left_has_forgotten_wal};
use crate::plan::{Fault, Plan, Who};
use crate::run::tell;

/// Whatever the delays, this plan breaks no promise.
#[track_caller]
fn survives(plan: &Plan) {
    for seed in 0..30 {
        let told = tell(&Plan { seed, ..plan.clone() }, &[]);
        assert_eq!(told.violation, None, "{}", told.story);
    }
}

fn of_two(mode: Mode) -> Plan {
    Plan { nodes: 2, drift_ppm: vec![0; 2], disks: vec![1; 2], ..Plan::quiet(0).in_mode(mode) }
}

#[test]
fn a_cluster_that_nothing_befalls_keeps_its_leader() {
    for seed in 0..20 {
        let told = tell(&Plan::quiet(seed), &[]);
        assert_eq!(told.violation, None, "{}", told.story);
        assert_eq!(told.reigns, 1, "{}", told.story);
    }
}

/// The new leader's marker waits for the old leader, which waits for the history that the new leader publishes.
#[test]
fn a_switchover_between_two_strict_nodes_comes_to_an_end() {
    survives(&of_two(Mode::Strict).with(4_000, 100, Fault::Switchover(None)));
}

/// As above, and the old leader has WAL that must be rewound, from a source whose checkpoint is done.
#[test]
fn a_takeover_between_two_strict_nodes_comes_to_an_end() {
    survives(&of_two(Mode::Strict).with(4_000, 3_000, Fault::Mute(Who::Leader)));
}

/// Answers of etcd are lost while a change of the voters goes through: the picture that the leader decides the next one from is older than
/// its own last write, and what it has given up as lost may still be on its way.
#[test]
fn a_change_of_the_voters_whose_answers_are_lost_is_covered() {
    let plan = Plan { write_every: 200_000, ..Plan::quiet(0) };
    let cut = plan.with(3_161, 1_371, Fault::CutFromEtcd(Who::Node(1)));
    let lossy = cut.with(4_425, 1_809, Fault::AnswersLost(24));
    let plan = lossy.with(4_775, 80, Fault::PostgresKilled(Who::Leader));
    for seed in 0..200 {
        let told = tell(&Plan { seed, ..plan.clone() }, &[]);
        assert_eq!(told.violation, None, "{}", told.story);
    }
}

/// The lock was taken, the answer was lost: that is no failure to start Postgres, and no reason to let go.
#[test]
fn a_lost_answer_to_a_claim_does_not_cost_the_lead() {
    survives(&Plan::quiet(4016));
    let told = tell(&Plan::quiet(4016), &[]);
    assert_eq!(told.violation, None, "{}", told.story);
    survives(&Plan::quiet(0).with(0, 2_500, Fault::AnswersLost(60)));
}

/// The only node that has everything has lost its disk, and somebody asks for a switchover: it must not stand in the way of the failover
/// that an operator has to ask for.
#[test]
fn a_switchover_that_nobody_can_carry_out_does_not_bar_a_failover() {
    let lost = of_two(Mode::Quorum).with(4_000, 77, Fault::DiskLost(Who::Leader));
    let alone = lost.with(1_000, 8_000, Fault::Leaves(1));
    survives(&alone.with(12_000, 97, Fault::Switchover(Some(0))));
}

/// The word is given, and whoever is left has forgotten WAL: it is let lead all the same.
#[test]
fn an_operators_word_lets_a_node_lead_that_has_forgotten_wal_where_nobody_else_is_left() {
    survives(&the_only_one_left_has_forgotten_wal(0));
    let told = tell(&the_only_one_left_has_forgotten_wal(0), &[]);
    assert_eq!(told.violation, None, "{}", told.story);
}

/// The leader's disk is lost, and the only other that can ballot recovers for a long time: the lead moves for that reason still.
#[test]
fn a_lead_that_was_lost_long_before_it_is_taken_has_a_cause() {
    let strict = Plan {
        write_every: 20_000,
        drift_ppm: vec![-47, -49, 24],
        disks: vec![1, 5, 1],
        ..Plan::quiet(16_983).in_mode(Mode::Strict)
    };
    let killed = strict.with(3_129, 74, Fault::PostgresKilled(Who::Node(0))).with(3_325, 64, Fault::AnswersLost(95));
    let paused = killed.with(3_748, 2_558, Fault::MachinePaused(Who::Leader));
    let plan = paused.with(4_001, 331, Fault::Reader(Who::Node(2))).with(4_475, 81, Fault::DiskLost(Who::Leader));
    survives(&plan);
    let told = tell(&plan, &[]);
    assert_eq!(told.violation, None, "{}", told.story);
}

/// A voter that comes back while the others count their ballots has not been asked, and hears the leader all the same.
#[test]
fn a_voter_that_has_only_just_come_back_does_not_veto() {
    let frozen = Plan::quiet(39_421).with(4_393, 6_771, Fault::HostFrozen(Who::Leader));
    let cut = |at_ms| frozen.clone().with(at_ms, 785, Fault::Cut(1, 2));
    (0..40).for_each(|later| survives(&cut(10_900 + later * 5)));
}

/// Losing all of etcd costs no write, in any mode: the leader goes on by its peers' promises, under the same term.
#[test]
fn a_leader_goes_on_while_all_of_etcd_is_lost() {
    for mode in [Mode::Quorum, Mode::Strict, Mode::Async] {
        for seed in 0..10 {
            let told = tell(&Plan::quiet(seed).in_mode(mode).with(6_000, 30_000, Fault::EtcdGone), &[]);
            assert_eq!((told.violation, told.reigns), (None, 1), "{}", told.story);
            assert!(!told.story.contains("Postgres process is killed"), "{}", told.story);
        }
    }
}

/// Writes of member records that etcd carries out when it is back, the oldest last: were what the leader says of itself not written again,
/// whoever waits for its checkpoint would wait in vain.
#[test]
fn a_member_record_that_went_back_is_written_again() {
    let isolated = Plan::quiet(0).with(3_068, 3_718, Fault::Isolated(Who::Leader));
    let plan = isolated.with(3_752, 10_330, Fault::EtcdGone);
    for seed in 0..2_000 {
        let told = tell(&Plan { seed, ..plan.clone() }, &[]);
        assert_eq!(told.violation, None, "{}", told.story);
    }
}

/// An etcd that comes back from a backup knows nothing of the reigns since. The last leader that it remembers must not take its lock back
/// and give a term out twice.
#[test]
fn a_restored_etcd_does_not_give_a_term_out_twice() {
    survives(&etcd_comes_back_from_a_backup(0));
}
