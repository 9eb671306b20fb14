//! The crate against real etcd: every test starts its own, on free loopback ports, and ends it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod departures;
mod etcd;
mod faults;
mod fleet;
mod hedging;
mod holds;
mod leadership;
mod leases;
mod mending;
mod proxy;
mod quota;
mod recall;
mod resume;
mod scheduled;
mod settings;
mod stored;
mod unknown_outcomes;
mod watching;
