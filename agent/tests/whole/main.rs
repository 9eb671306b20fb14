//! Whole agents on loopback: real clusters, broken in every way that one machine allows, under a client that knows every acknowledged
//! row. They assert order and safety, never tight timings: a slow machine may take longer, and nothing may get lost on it either.

mod alone;
mod bootstrap;
mod copies;
mod crashes;
mod dice;
mod direct;
mod disks;
mod divergence;
mod doomed;
mod etcdctl;
mod failover;
mod fencing;
mod hangs;
mod http;
mod lagging;
mod leaving;
mod links;
mod meeting_place;
mod operators;
mod orders;
mod outages;
mod overruled;
mod parameters;
mod promises;
mod race;
mod rest;
mod restarts;
mod restored;
mod settings;
mod slots;
mod stage;
mod state_dir;
mod stray;
mod switchover;
mod volume;
