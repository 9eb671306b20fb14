//! Our own gauges, each read off the picture at the moment of a scrape: what it is called, what it says, and how it is read. docs/metrics.md
//! has a line for each.

use decision::durability::proven;
use decision::names::MemberName;
use decision::recovery::predicted;
use decision::settings::Mode;
use decision::view::Seen;
use pg_control::Undoes;

use super::{Row, yes};
use crate::operate::hold::Shown;
use crate::published::Picture;

fn undone(picture: &Picture, of: fn(Undoes) -> bool) -> f64 {
    picture.overruled.iter().filter(|one| of(one.undoes)).count() as f64
}

/// What `status` promises with "a failover now would lose nothing": somebody may lead, and whoever may can prove what was acknowledged.
fn would_lose_nothing(picture: &Picture) -> bool {
    let sync = picture.view.cluster.now().and_then(|cluster| cluster.sync.as_ref());
    let Some(sync) = sync.filter(|sync| sync.mode != Mode::Async && picture.leads().is_some()) else { return false };
    let able = picture.decision.standings.iter().filter(|standing| standing.bars.is_empty());
    let able = able.map(|standing| standing.member.clone()).collect();
    undone(picture, |undoes| undoes != Undoes::Writes) == 0.0 && proven(&sync.policies, &able)
}

/// How many of those that commits wait for stream.
fn voters_there(picture: &Picture) -> usize {
    let last = picture.cluster().and_then(|cluster| cluster.sync.as_ref()).and_then(|sync| sync.policies.last());
    let (Some(quorum), Some(primary)) = (last, picture.primary()) else { return 0 };
    let counts = |member: &MemberName| quorum.voters.contains(member);
    primary.standbys.iter().filter(|standby| standby.caught_up && counts(&standby.member)).count()
}

/// All of them.
pub(super) const OURS: &[Row] = &[
    ("pgvigil_leader", "1 while this member holds the leader lock", |p| yes(p.leads().is_some())),
    ("pgvigil_writable", "1 while writes are proven to work here", |p| yes(p.writable())),
    ("pgvigil_leader_term", "The highest term this agent has seen", |p| p.cluster().map_or(0.0, |c| c.term.0 as f64)),
    ("pgvigil_fence_armed", "1 while a fencer has confirmed that it kills Postgres at the deadline", |p| {
        yes(p.view.fence.covers.is_some())
    }),
    ("pgvigil_fence_usable", "0 while this member must not become primary for want of a fence", |p| {
        yes(p.view.fence.trouble.is_none())
    }),
    ("pgvigil_lease_remaining_seconds", "Time until Postgres must be dead unless the lease is renewed", |p| {
        p.lock_until.map_or(0.0, |until| until.remaining().as_secs_f64())
    }),
    ("pgvigil_leading_on_promises", "1 while this leader goes on without etcd, by its peers' promises", |p| {
        yes(p.leads_on_promises())
    }),
    ("pgvigil_promised", "1 while this member has promised a leader without etcd to let it go on", |p| {
        yes(p.view.promise.is_some())
    }),
    ("pgvigil_etcd_problems", "Values in etcd that cannot be understood, and alarms of etcd", |p| {
        p.snapshot.as_ref().map_or(0.0, |snapshot| snapshot.problems.len() as f64)
    }),
    ("pgvigil_postgres_up", "1 while Postgres answers", |p| yes(p.primary().is_some() || p.standby().is_some())),
    ("pgvigil_copying", "1 while a copy of the data is made here, and Postgres is down for it", |p| {
        yes(p.copying.is_some())
    }),
    ("pgvigil_timeline", "The timeline of Postgres", |p| p.timeline().map_or(0.0, |t| f64::from(t.0))),
    (
        "pgvigil_etcd_last_contact_age_seconds",
        "Since etcd last confirmed the cluster view, or since the agent first asked for it in vain",
        |p| match (&p.view.cluster, p.etcd_seen_at) {
            (_, Some(seen)) => seen.elapsed().as_secs_f64(),
            (Seen::Never { tried_for }, None) => (*tried_for + p.made_at.elapsed()).as_secs_f64(),
            (_, None) => f64::NAN,
        },
    ),
    ("pgvigil_replay_lag_bytes", "How far replay is behind the leader", |p| {
        p.replay_lag_bytes().map_or(0.0, |b| b as f64)
    }),
    ("pgvigil_streaming", "1 while this standby streams", |p| yes(p.standby().is_some_and(|s| s.streaming))),
    ("pgvigil_nostream", "1 on a member that takes WAL from the archive alone", |p| {
        let me = p.cluster().and_then(|cluster| cluster.members.get(&p.view.me));
        yes(me.is_some_and(|member| member.tags.nostream))
    }),
    ("pgvigil_paused", "1 while automatic actions are paused", |p| yes(p.view.settings.paused)),
    ("pgvigil_hold_active", "1 while planned actions are held", |p| {
        p.snapshot.as_ref().map_or(0.0, |snapshot| yes(Shown::of(snapshot, jiff::Timestamp::now()).is_some()))
    }),
    ("pgvigil_hold_until_timestamp_seconds", "When the hold ends by itself, 0 where there is none", |p| {
        let hold = p.snapshot.as_ref().and_then(|snapshot| snapshot.hold.in_force(jiff::Timestamp::now()));
        hold.map_or(0.0, |hold| hold.until.as_duration().as_secs_f64())
    }),
    ("pgvigil_failover_candidates", "Members that nothing bars from leading", |p| {
        p.decision.standings.iter().filter(|standing| standing.bars.is_empty()).count() as f64
    }),
    ("pgvigil_exposure_seconds", "Since when acknowledged commits are on this leader alone, against its mode", |p| {
        p.exposed.map_or(0.0, |exposed| exposed.since.elapsed().as_secs_f64())
    }),
    ("pgvigil_exposure_bytes", "WAL that is on this leader alone while its mode promises a second copy", |p| {
        p.exposed.map_or(0.0, |exposed| exposed.bytes as f64)
    }),
    ("pgvigil_durability_overruled", "Settings made by SQL under which acknowledged commits may be lost", |p| {
        undone(p, |undoes| undoes != Undoes::Writes)
    }),
    ("pgvigil_writes_forbidden", "1 while a setting made by SQL forbids every client to write", |p| {
        undone(p, |undoes| undoes == Undoes::Writes)
    }),
    ("pgvigil_sync_required", "Standbys that must acknowledge a commit", |p| {
        p.cluster().and_then(|c| c.sync.as_ref()).and_then(|s| s.policies.last()).map_or(0.0, |q| f64::from(q.k))
    }),
    ("pgvigil_primary", "1 while Postgres here runs as a primary, whether it may or not", |p| {
        yes(p.primary().is_some())
    }),
    ("pgvigil_site_follows", "1 while this site follows another, where nobody is to accept writes", |p| {
        yes(p.follows_a_site())
    }),
    ("pgvigil_members", "Members that are registered in etcd", |p| p.cluster().map_or(0.0, |c| c.members.len() as f64)),
    ("pgvigil_lease_ttl_seconds", "How long a lease lasts that is not renewed", |p| {
        p.view.settings.timing.ttl.as_secs_f64()
    }),
    (
        "pgvigil_lease_renewal_age_seconds",
        "Since a renewal of this member's leases was sent that etcd has confirmed, NaN: never",
        |p| p.renewed_at.map_or(f64::NAN, |renewed| renewed.elapsed().as_secs_f64()),
    ),
    ("pgvigil_loop_age_seconds", "Since the agent's loop last went round", |p| p.made_at.elapsed().as_secs_f64()),
    (
        "pgvigil_watchdog_usable",
        "1 while the kernel's watchdog stands behind the fencer, 0: it cannot, NaN: it is off",
        |p| p.watchdog.map_or(f64::NAN, yes),
    ),
    ("pgvigil_failover_without_loss", "1 on a leader whose failover now would be proven to lose nothing", |p| {
        yes(would_lose_nothing(p))
    }),
    (
        "pgvigil_predicted_handover_seconds",
        "Without writes if this primary died now and another node took over, NaN: no primary here",
        |p| predicted(&p.view).map_or(f64::NAN, |forecast| forecast.handover.as_secs_f64()),
    ),
    (
        "pgvigil_predicted_restart_seconds",
        "Without writes if this primary died now and was started again here, NaN: no primary here",
        |p| predicted(&p.view).map_or(f64::NAN, |forecast| forecast.restart.as_secs_f64()),
    ),
    ("pgvigil_sync_acknowledgers", "Voters that stream from this leader, of those that commits wait for", |p| {
        voters_there(p) as f64
    }),
    (
        "pgvigil_commits_waiting_seconds",
        "Since when no commit could be acknowledged here for want of voters, 0: they can",
        |p| p.acknowledged_at.map_or(0.0, |at| at.elapsed().as_secs_f64()),
    ),
    ("pgvigil_pending_restart", "1 if a parameter of Postgres waits for a restart", |p| {
        yes(!p.parameters.pending().is_empty())
    }),
    ("pgvigil_disk_free_bytes", "Free for Postgres on the fuller of its disks, NaN: not known", |p| {
        p.view.signs.disk.free_bytes.map_or(f64::NAN, |bytes| bytes as f64)
    }),
    ("pgvigil_disk_low", "1 while the disk is short of what is to be kept free, or soon will be", |p| {
        yes(p.view.signs.disk.low)
    }),
    ("pgvigil_disk_full", "1 while nothing can be written that needs new space", |p| yes(p.view.signs.disk.full)),
];
