//! `pgvigil switchover --cancel`: takes an operator's request back, that of a failover as well.

use crate::cli::Exit;
use crate::commands::operator::who;
use crate::commands::screen::{answer, tell};
use crate::commands::told;
use crate::commands::world::Reach;
use crate::operate::switchover;

/// Takes back what waits.
pub async fn run(reach: &Reach) -> Result<Exit, Exit> {
    match switchover::cancel(reach, &who()).await.map_err(told)? {
        None => answer("no request waits: nothing to take back"),
        Some(cancelled) => {
            if let Some(why) = cancelled.unrecorded {
                tell(&format!("that it was taken back is not on record: {why}"));
            }
            answer(&format!("taken back: {}", cancelled.what))
        }
    };
    Ok(Exit::Done)
}
