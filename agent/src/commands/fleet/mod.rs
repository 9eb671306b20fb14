//! `pgvigil fleet`: every cluster that has its place in the same etcd. What is said of each is what `status` and `switchover` say of one; here
//! it is only gathered, put in order and done in turns.

mod facts;
mod gather;
mod plan;
mod status;
mod switchover;
mod turns;

use crate::cli::{Exit, FleetCommand};

/// Carries out one of its commands.
pub async fn run(command: &FleetCommand) -> Exit {
    match command {
        FleetCommand::Status(arguments) => status::run(arguments).await,
        FleetCommand::Switchover(arguments) => switchover::run(arguments).await,
    }
}
