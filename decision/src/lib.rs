//! The mind of pgvigil: `decide(&View) -> Decision`. It sees one snapshot and says one thing to do and why.
//! It cannot read, wait, fail, log or roll dice, so every rule that data depends on can be tested as a value.

pub mod action;
pub mod candidacy;
pub mod cascade;
pub mod catalogue;
pub mod cluster;
mod decide;
pub mod departure;
pub mod durability;
mod firsthand;
mod following;
mod isolation;
mod leading;
pub mod names;
pub mod order;
pub mod parameters;
mod pause;
pub mod postgres;
pub mod promise;
pub mod reason;
pub mod recovery;
pub mod refusal;
mod rejoin;
pub mod remote;
pub mod rolling;
pub mod schedule;
pub mod settings;
pub mod site;
pub mod slots;
mod suspicion;
mod takeover;
#[cfg(test)]
mod tests;
mod unreadable;
mod vacancy;
pub mod view;

pub use decide::{Decision, decide};
pub use rejoin::shared_up_to;
