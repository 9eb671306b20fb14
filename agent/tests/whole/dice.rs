//! Chance that can be repeated: whoever finds a bad throw in the output of a failed test sets `PGVIGIL_SEED` to it.

use std::hash::{BuildHasher, RandomState};

/// Dice, thrown one after another.
pub struct Dice {
    state: u64,
}

impl Dice {
    /// New dice, or those of `PGVIGIL_SEED`.
    pub fn thrown() -> Self {
        let wanted = std::env::var("PGVIGIL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = wanted.unwrap_or_else(|| RandomState::new().hash_one("dice") >> 32);
        eprintln!("PGVIGIL_SEED={seed}");
        Self { state: seed }
    }

    /// A number from 0 to below `end`, by SplitMix64.
    pub fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % end.max(1) as u64).unwrap_or_default()
    }

    /// The same things in another order.
    pub fn shuffled<T>(&mut self, mut things: Vec<T>) -> Vec<T> {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
        things
    }
}
