//! The mind's tests: tables (one file a situation, a few lines a case), small worlds (every value of a small domain against the safety
//! rules) and a walk of a tiny cluster through faults. Builders give a healthy cluster of three; a case says only what differs.

pub(crate) mod builders;
mod candidacy;
mod cascade;
mod catalogue;
mod departure;
mod deposing;
mod durability;
mod fencing;
mod firsthand;
mod following;
mod handover;
mod isolation;
mod leading;
mod order;
mod parameters;
mod pause;
mod promise;
mod quorum_worlds;
mod refusal;
mod rejoin;
mod rolling;
mod schedule;
mod site;
mod site_walk;
mod site_worlds;
mod slots;
mod slots_logical;
mod takeover;
mod takeover_worlds;
mod unreadable;
mod vacancy;
mod view_worlds;
mod walk;
mod world;
mod world_acts;
