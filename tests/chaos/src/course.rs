//! The course of a storm: which fault comes next, from a seed. The clock has no part in it, so a course can be read and repeated.

use std::fmt;
use std::time::Duration;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The leader's agent and Postgres, SIGKILL; started again later.
    KillLeaderNode,
    /// The leader's postmaster alone, SIGKILL.
    KillLeaderPostgres,
    /// The leader's agent alone, SIGKILL; started again at once.
    KillLeaderAgent,
    /// The leader's agent and Postgres are frozen for a while, then go on as if nothing had happened.
    FreezeLeaderNode,
    /// A standby's postmaster, SIGKILL.
    KillStandbyPostgres,
    /// A standby's agent and Postgres, SIGKILL; started again later.
    KillStandbyNode,
    /// One etcd member is frozen for a while.
    FreezeEtcdMember,
    /// One etcd member, SIGKILL; started again later.
    KillEtcdMember,
    /// An operator's switchover.
    Switchover,
}

const ALL: [Fault; 9] = [
    Fault::KillLeaderNode,
    Fault::KillLeaderPostgres,
    Fault::KillLeaderAgent,
    Fault::FreezeLeaderNode,
    Fault::KillStandbyPostgres,
    Fault::KillStandbyNode,
    Fault::FreezeEtcdMember,
    Fault::KillEtcdMember,
    Fault::Switchover,
];

/// A fault, which of several victims it hits, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    /// What.
    pub fault: Fault,
    /// Which of the possible victims, counted modulo their number.
    pub victim: usize,
    /// How long a frozen or killed process stays so.
    pub lasting: Duration,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (victim {}, {} ms)", self.fault, self.victim, self.lasting.as_millis())
    }
}

/// The blows of the storm `seed`, without end.
pub fn course(seed: u64) -> impl Iterator<Item = Blow> {
    let mut dice = Dice(seed);
    std::iter::repeat_with(move || Blow {
        fault: ALL[dice.below(ALL.len())],
        victim: dice.below(6),
        lasting: Duration::from_millis(200 + dice.below(80) as u64 * 100),
    })
}

/// SplitMix64: small, and the same on every machine for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_brings_the_same_storm() {
        let first: Vec<Blow> = course(7).take(50).collect();
        assert!(first.iter().copied().eq(course(7).take(50)));
        assert!(!first.iter().copied().eq(course(8).take(50)));
    }

    #[test]
    fn every_fault_comes_up() {
        let storm: Vec<Blow> = course(1).take(200).collect();
        for fault in ALL {
            assert!(storm.iter().any(|blow| blow.fault == fault), "{fault:?}");
        }
    }
}
