//! A storm of an operator's work: random operations, one after another and sometimes one into the next, on one cluster that is written to all
//! the while. It ends as every play does: all nodes stream, one leads, and every acknowledged row is on every node. `make operations` plays a
//! hundred; what it prints first (`PGVIGIL_SEED`) repeats them.

mod operations;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::dice::Dice;
use crate::stage::{Stage, on_stage, options};
use operations::{Cast, Operation, play};

/// So many are enough for every day; `OPS` says otherwise.
const USUALLY: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_operators_do_in_whatever_order_nothing_is_lost_and_all_are_there_at_the_end() {
    let wanted = std::env::var("OPS").ok().and_then(|count| count.parse().ok()).unwrap_or(USUALLY);
    let mut dice = Dice::thrown();
    on_stage(&options(), async |stage| {
        for number in 1..=wanted {
            one(stage, &mut dice, number).await?;
        }
        Ok(())
    })
    .await;
}

/// Plays one on a cluster that is whole, and leaves it whole.
async fn one(stage: &mut Stage, dice: &mut Dice, number: usize) -> Result<()> {
    let all = Operation::value_variants();
    let operation = all[dice.below(all.len())];
    let leader = stage.leader().await?;
    let standbys = dice.shuffled(stage.others(&leader));
    let cast = Cast { leader, standbys, throw: dice.below(1000) };
    stage.say(&format!("{number}. {operation:?}: {} leads, {} is taken", cast.leader, cast.standbys[0]));
    let told = || format!("operation {number}, {operation:?} with {cast:?}");
    play(stage, operation, &cast).await.with_context(told)?;
    stage.whole().await.with_context(|| format!("after {}", told()))?;
    stage.writes_go_on().await.with_context(told)
}
