//! The records of transitions as they lie in etcd: completed, read back, and told in the log. Each may be tried again after an attempt whose answer was lost.

use consensus::Store;
use consensus::records::{Phase, Transition};

use crate::metrics::Metrics;
use crate::transitions::{Ledger, hands_over, write_outage_ms};

/// Adds what was measured here to the record that the old leader has begun, and ends it.
pub(super) async fn complete_switchover(
    store: &Store,
    ledger: &Ledger,
    metrics: &Metrics,
    mine: &Transition,
) -> Result<(), consensus::Error> {
    let (records, _) = store.transitions().await?;
    let mine_begun = |record: &&Transition| hands_over(record) && record.term_after == mine.term_after;
    let begun = records.iter().rev().find(mine_begun);
    let Some(id) = begun.map(|record| record.id.clone()) else {
        let own = Transition { id: format!("t-{}", mine.term_after), ..mine.clone() };
        return store.create_transition(&own).await.map(|_| ());
    };
    let complete = |record: &mut Transition| {
        add_phases(record, &mine.phases);
        record.write_outage_ms = Some(write_outage_ms(&record.phases));
        record.outcome = "done".into();
    };
    store.amend_transition(&id, complete).await?;
    reload(store, ledger).await?;
    if let Some(record) = ledger.all().iter().find(|record| record.id == id) {
        log_done(record);
        metrics.finished(record);
    }
    Ok(())
}

/// Adds what was measured here, unless an attempt whose answer was lost has done so.
pub(super) fn add_phases(record: &mut Transition, phases: &[Phase]) {
    if !phases.iter().all(|phase| record.phases.contains(phase)) {
        record.phases.extend_from_slice(phases);
    }
}

/// The id of the newest.
pub(super) async fn last_switchover(store: &Store) -> Result<Option<String>, consensus::Error> {
    let (records, _) = store.transitions().await?;
    Ok(records.iter().rev().find(|record| hands_over(record)).map(|record| record.id.clone()))
}

/// Reads all records into the ledger, and what else lies beside the picture of the cluster and cannot be understood, unless it is as it was.
pub async fn reload(store: &Store, ledger: &Ledger) -> Result<(), consensus::Error> {
    // A position that is published every second changes none of it.
    let now = store.fingerprint_of_bulk().await?;
    if ledger.is_of(&now) {
        return Ok(());
    }
    let (records, mut problems) = store.transitions().await?;
    // The records are needed, whatever becomes of the rest.
    let beside = store.problems_beside().await;
    let is_whole = beside.is_ok();
    match beside {
        Ok(beside) => problems.extend(beside),
        Err(error) => tracing::debug!(%error, "what lies beside the picture could not be read"),
    }
    for problem in problems.iter().filter(|problem| !ledger.problems().contains(problem)) {
        tracing::warn!(key = problem.key, why = problem.why, "value in etcd cannot be understood");
    }
    ledger.replace(records, problems);
    if is_whole {
        ledger.read_as_of(now);
    }
    Ok(())
}

/// One line of the log for each that is over.
pub(super) fn log_done(record: &Transition) {
    let phases: Vec<String> =
        record.phases.iter().map(|phase| format!("{} {:.0} ms", phase.name, phase.duration_ms)).collect();
    tracing::info!(
        id = record.id,
        kind = record.kind,
        cause = record.cause,
        from = record.from,
        to = record.to,
        term = record.term_after,
        lost = record.lost,
        write_outage_ms = record.write_outage_ms,
        phases = phases.join(", "),
        "transition done"
    );
}
