//! Whole clusters in no time at all: agents that run the real `decide` on a modelled etcd and a modelled Postgres, under random faults from
//! a seed, with invariants looked at after every event. `make storm SEEDS=100000` plays more of them, `FROM=17 SEEDS=1` plays one.

mod agent;
mod ages;
mod broken;
mod carry;
mod chores;
mod claims;
mod copies;
mod directed;
mod etcd;
mod faults;
mod fence;
mod handover;
mod hearing;
mod invariants;
mod jobs;
mod leases;
mod ledger;
mod links;
mod look;
mod mutations;
mod plan;
mod postgres;
mod promises;
mod reigning;
mod reliance;
mod requests;
mod run;
mod scenarios;
mod shrink;
mod storm;
mod story;
mod streaming;
mod time;
mod wal;
mod world;
