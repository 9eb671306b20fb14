//! Does the postmaster still let people in? Where it alone is stopped, whoever is in already goes on, and no probe on a kept connection
//! notices. A knock costs a process of the server and, where connections are logged, a line: so it is looked each second whether somebody has
//! stopped the postmaster, which costs nothing, and knocked only then, and now and then in any case.

use std::cell::Cell;
use std::time::Duration;

use procfs::process::Process;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{DOOR_WITHIN, Shared, knock, socket_of};
use crate::instance::Instance;
use crate::process;

/// How often it is looked whether the postmaster is stopped.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is knocked at a door that seems to be open.
const KNOCK_EVERY: Duration = Duration::from_secs(10);
/// How soon after a knock that nobody answered the next one follows.
const KNOCK_AGAIN: Duration = Duration::from_millis(250);

/// Goes on for as long as anybody may want it. `backend`: the process behind the kept connection, whose parent the postmaster is.
pub(super) async fn keep_watch(
    instance: &Instance,
    mut told: watch::Receiver<bool>,
    shared: &Shared,
    backend: &Cell<Option<i32>>,
) {
    let mut knocked = Instant::now();
    loop {
        if *told.borrow_and_update() {
            tokio::select! {
                () = look(instance, shared, backend, &mut knocked) => continue,
                changed = told.changed() => if changed.is_err() { return },
            }
        }
        shared.change(|beat| beat.door_shut_for = Duration::ZERO);
        if !*told.borrow() && told.changed().await.is_err() {
            return;
        }
    }
}

async fn look(instance: &Instance, shared: &Shared, backend: &Cell<Option<i32>>, knocked: &mut Instant) {
    sleep(LOOK_EVERY).await;
    let postmaster = backend.get().and_then(|pid| Process::new(pid).and_then(|process| process.stat()).ok());
    let stopped = postmaster.is_some_and(|backend| process::is_stopped(backend.ppid));
    if !stopped && knocked.elapsed() < KNOCK_EVERY {
        return;
    }
    let mut shut_for = Duration::ZERO;
    let mut looked = Instant::now();
    while !knock(&socket_of(instance)).await {
        sleep(KNOCK_AGAIN).await;
        // A knock that took much longer than it was given tells that this process did not run.
        shut_for += looked.elapsed().min(DOOR_WITHIN + KNOCK_AGAIN * 2);
        looked = Instant::now();
        shared.change(|beat| beat.door_shut_for = shut_for);
        shared.news.notify_one();
    }
    *knocked = Instant::now();
    shared.change(|beat| beat.door_shut_for = Duration::ZERO);
}
