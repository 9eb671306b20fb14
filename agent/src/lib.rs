//! The body of pgvigil: the daemon that gathers what is seen, asks the mind, carries out one action and tells what it did; and the
//! command line that people and programs use. Read `run.rs` first: it is the loop.

mod ages;
mod authority;
mod ballots;
mod beats;
mod body;
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
mod discard;
mod events;
mod execute;
mod exposure;
mod feed;
mod fence;
mod handover;
mod hands;
mod http;
mod lock;
mod logging;
mod look;
mod metrics;
mod notes;
mod overruled;
pub mod peers;
mod promises;
mod published;
mod recorder;
mod registrar;
pub mod run;
pub mod secret;
pub mod show;
mod task;
mod transitions;
mod upkeep;
mod worked;
