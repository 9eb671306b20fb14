//! `pgvigil switchover --cancel`: takes back what was asked for, a failover as well, and what is scheduled.

use crate::cli::Exit;
use crate::commands::operator::who;
use crate::commands::screen::{answer, tell};
use crate::commands::told;
use crate::commands::world::Reach;
use crate::operate::switchover;

/// Takes back what waits.
pub async fn run(reach: &Reach) -> Result<Exit, Exit> {
    let taken = switchover::cancel(reach, &who()).await.map_err(told)?;
    if taken.is_empty() {
        answer("no request waits and no switchover is scheduled: nothing to take back");
    }
    for cancelled in taken {
        if let Some(why) = cancelled.unrecorded {
            tell(&format!("that it was taken back is not on record: {why}"));
        }
        answer(&format!("taken back: {}", cancelled.what));
    }
    Ok(Exit::Done)
}
