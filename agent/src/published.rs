//! What the outside may see: one immutable picture, made by the loop and swapped in whole, so that a health check is answered from
//! memory while Postgres, etcd or the loop itself hangs. Every answer expires: with the lease, or with the picture's age.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use consensus::{BootInstant, ClusterWatch, Lease, Snapshot};
use decision::Decision;
use decision::durability::Policies;
use decision::names::{Lsn, MemberName, Term, Timeline};
use decision::view::{Cluster, Lock, Postgres, Primary, Server, Standby, View};
use pg_control::{Extras, Overruled, Progress};
use tokio::sync::Notify;

use crate::access;
use crate::certificates;
use crate::configure::Known;
use crate::exposure::Exposed;
use crate::hands::Hands;
use crate::http::unhealthy::{self, Unhealthy};
use crate::look::LastLook;
use crate::slots;
use crate::state_dir::Missing;
use crate::task::Failed;

/// Patroni's word for a node whose data is being copied.
pub const COPYING: &str = "creating replica";

/// The shared, always current picture, and a bell that rings when it is replaced.
pub struct Board {
    picture: ArcSwap<Picture>,
    replaced: Notify,
}

impl Board {
    /// A board with a first picture.
    pub fn new(picture: Picture) -> Self {
        Self { picture: ArcSwap::from_pointee(picture), replaced: Notify::new() }
    }

    /// The picture.
    pub fn load(&self) -> Guard<Arc<Picture>> {
        self.picture.load()
    }

    /// Replaces the picture, and wakes whoever waits for another answer.
    pub fn store(&self, picture: Picture) {
        self.picture.store(Arc::new(picture));
        self.replaced.notify_waiters();
    }

    /// The picture that comes after the one made at `made_at`; the same one where none comes within `within`.
    pub async fn after(&self, made_at: BootInstant, within: Duration) -> Arc<Picture> {
        let replaced = self.replaced.notified();
        tokio::pin!(replaced);
        replaced.as_mut().enable();
        if self.load().made_at == made_at {
            _ = tokio::time::timeout(within, replaced).await;
        }
        self.picture.load_full()
    }

    /// The answer to `question`, as soon as it is another than `known`; when that does not happen within `within`, the answer then.
    /// A lease that ends changes answers without a new picture.
    pub async fn another_answer(&self, known: bool, within: Duration, question: impl Fn(&Picture) -> bool) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let replaced = self.replaced.notified();
            tokio::pin!(replaced);
            replaced.as_mut().enable();
            let (answer, lease_left) = {
                let picture = self.load();
                (question(&picture), picture.lock_until.map(BootInstant::remaining))
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if answer != known || left.is_zero() {
                return answer;
            }
            let nap = lease_left.filter(|left| !left.is_zero()).map_or(left, |lease| left.min(lease));
            tokio::select! {
                () = replaced => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The name of the cluster.
    pub cluster_name: String,
    /// What the decision was made from.
    pub view: View,
    /// The decision.
    pub decision: Decision,
    /// Since when the decision has had this reason.
    pub reason_since: BootInstant,
    /// etcd's state with its raw records.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Facts about Postgres that no decision needs.
    pub extras: Option<Extras>,
    /// What only this leader has, while it leads without a voter in a mode that promises one.
    pub exposed: Option<Exposed>,
    /// What is set here by SQL against what is promised.
    pub overruled: Vec<Overruled>,
    /// The address at which Postgres here does not listen, though everybody looks for it there.
    pub not_listening: Option<String>,
    /// What of the agent's own directory was deleted and cannot be put back.
    pub missing: Option<Missing>,
    /// The action that has failed last, unless another has succeeded since.
    pub failed: Option<Failed>,
    /// Who has not promised to let this leader go on without etcd, and why.
    pub refused: Vec<(MemberName, String)>,
    /// What is known of the parameters of Postgres here.
    pub parameters: Arc<Known>,
    /// When a commit could last be acknowledged, where they have waited for voters since.
    pub acknowledged_at: Option<Instant>,
    /// What is known of the rules for connections here.
    pub access: Arc<access::Known>,
    /// When certificates end.
    pub certificates: Arc<certificates::Known>,
    /// What is known of the replication slots here.
    pub slots: Arc<slots::Known>,
    /// How far a copy of the data is that is being made here.
    pub copying: Option<Progress>,
    /// A restarted primary has yet to prove that writes work.
    pub proof_pending: bool,
    /// Whether the kernel's watchdog can be used behind the fencer; `None`: it is off.
    pub watchdog: Option<bool>,
    /// Until when the leader lock is certainly mine; `None`: it is not.
    pub lock_until: Option<BootInstant>,
    /// When the picture was made.
    pub made_at: BootInstant,
    /// When etcd last confirmed the cluster view.
    pub etcd_seen_at: Option<BootInstant>,
    /// When the renewal of a lease of this node was last sent that etcd has confirmed.
    pub renewed_at: Option<BootInstant>,
    /// When etcd was last seen, in seconds since the epoch, for people.
    pub etcd_seen_epoch_s: i64,
}

/// Which kind of standby this is for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Every acknowledged commit is here.
    Sync,
    /// Every acknowledged commit is on k of the voters, of which this is one.
    Quorum,
    /// It may lag.
    Async,
}

/// The last renewal of either lease: it is answered by the same etcd that is read, and may go on where reading fails.
fn renewed_at(hands: &Hands) -> Option<BootInstant> {
    let sent = |lease: &Lease| lease.alive().map(|state| state.expires_at.minus(state.ttl));
    sent(&hands.leases.member().borrow()).max(sent(&hands.leases.lock().borrow()))
}

/// What a standby is by a record: while a change is under way each of its promises may be the one that was kept.
fn sync_kind(policies: &Policies, me: &MemberName) -> SyncKind {
    if policies.is_empty() || !policies.iter().all(|quorum| quorum.voters.contains(me)) {
        SyncKind::Async
    } else if policies.iter().all(|quorum| quorum.k as usize == quorum.voters.len()) {
        SyncKind::Sync
    } else {
        SyncKind::Quorum
    }
}

impl Picture {
    /// What is known now, for a decision that was made from `view`.
    pub fn new(
        hands: &Hands,
        cluster: &ClusterWatch,
        look: &LastLook,
        view: View,
        decision: Decision,
        reason_since: BootInstant,
    ) -> Self {
        let now = cluster.views().borrow().clone();
        let etcd_seen_at = now.snapshot.is_some().then_some(now.confirmed_at);
        let age = etcd_seen_at.map_or(Duration::ZERO, BootInstant::elapsed);
        let epoch = jiff::Timestamp::now().as_second() - i64::try_from(age.as_secs()).unwrap_or(0);
        Self {
            cluster_name: hands.config.cluster.clone(),
            proof_pending: hands.recorder.awaits_proof(),
            watchdog: hands.fence.standing().watchdog,
            exposed: None,
            overruled: Vec::new(),
            not_listening: None,
            parameters: hands.known.load_full(),
            acknowledged_at: None,
            access: hands.access.load_full(),
            slots: hands.slots.load_full(),
            certificates: hands.certificates.load_full(),
            copying: hands.copying.now(),
            missing: None,
            refused: hands.promises.refused.now(),
            failed: None,
            lock_until: hands.lock_until(&now.snapshot.clone().unwrap_or_default()).map(|(_, until)| until),
            view,
            decision,
            reason_since,
            extras: look.extras.clone(),
            made_at: BootInstant::now(),
            etcd_seen_at,
            renewed_at: renewed_at(hands),
            etcd_seen_epoch_s: if etcd_seen_at.is_some() { epoch } else { 0 },
            snapshot: now.snapshot,
        }
    }

    /// Postgres as last seen.
    pub fn postgres(&self) -> Option<&Postgres> {
        self.view.postgres.last()
    }

    /// The cluster as last seen.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.view.cluster.last()
    }

    /// Postgres, if it is a running primary.
    pub fn primary(&self) -> Option<&Primary> {
        match &self.postgres()?.server {
            Server::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    /// Postgres, if it is a running standby.
    pub fn standby(&self) -> Option<&Standby> {
        match &self.postgres()?.server {
            Server::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    /// The term under which the lock is mine at this instant, by my own clock.
    pub fn leads(&self) -> Option<Term> {
        self.holds_the_lock().ok()
    }

    /// The same, or why it is not mine.
    pub fn holds_the_lock(&self) -> Result<Term, Unhealthy> {
        let Lock::Held { term, .. } = self.view.lock else {
            let leader = self.cluster().and_then(|cluster| cluster.leader.as_ref());
            let mine = leader == Some(&self.view.me);
            return Err(if mine { Unhealthy::LeaseOver } else { Unhealthy::NoLock(leader.map(ToString::to_string)) });
        };
        self.lock_until.filter(|until| *until > BootInstant::now()).ok_or(Unhealthy::LeaseOver)?;
        self.fresh()?;
        Ok(term)
    }

    /// What Postgres is, for whoever expected something else.
    pub fn server(&self) -> unhealthy::Server {
        unhealthy::Server { state: self.state(), role: self.role(), paused: self.view.settings.paused }
    }

    /// Whether this site follows another, by its record.
    pub fn follows_a_site(&self) -> bool {
        self.cluster().is_some_and(Cluster::follows)
    }

    /// I lead a site that follows another, and my Postgres is the standby that streams from there.
    pub fn leads_a_follower(&self) -> bool {
        self.leads().is_some() && self.follows_a_site() && self.standby().is_some()
    }

    /// I lead without etcd, by what my peers have promised.
    pub fn leads_on_promises(&self) -> bool {
        self.leads().is_some() && self.view.reliance.as_ref().is_some_and(|reliance| !reliance.left.is_zero())
    }

    /// Writes work here: I lead, Postgres is primary, and the marker of this term has been acknowledged.
    pub fn writable(&self) -> bool {
        self.takes_writes().is_ok()
    }

    /// The same, or why they do not.
    pub fn takes_writes(&self) -> Result<(), Unhealthy> {
        let term = self.holds_the_lock()?;
        if self.follows_a_site() {
            return Err(Unhealthy::SiteFollows);
        }
        let primary = self.primary().ok_or_else(|| Unhealthy::NotPrimary(self.server()))?;
        if primary.marked_term != term || self.proof_pending {
            return Err(Unhealthy::Unproven);
        }
        self.listens()?;
        (self.sees_etcd() || self.has_its_quorum()).then_some(()).ok_or(Unhealthy::CutOff)
    }

    /// Postgres listens where clients look for it, as far as is known.
    fn listens(&self) -> Result<(), Unhealthy> {
        self.not_listening.as_ref().map_or(Ok(()), |address| Err(Unhealthy::NotListening(address.clone())))
    }

    /// etcd has confirmed the cluster lately.
    fn sees_etcd(&self) -> bool {
        self.etcd_seen_at.is_some_and(|seen| seen.elapsed() <= crate::look::fresh_for(&self.view.settings))
    }

    /// Enough voters stream that commits can be acknowledged. An isolated primary that has lost these and etcd is no place for clients,
    /// although its lease has not ended yet.
    fn has_its_quorum(&self) -> bool {
        let needed = self.cluster().and_then(|cluster| cluster.sync.as_ref()).and_then(|sync| sync.policies.last());
        let streaming = |primary: &Primary| primary.standbys.iter().filter(|standby| standby.caught_up).count();
        needed.is_none_or(|quorum| self.primary().is_some_and(|primary| streaming(primary) >= quorum.k as usize))
    }

    /// The loop still makes pictures; or how long it has not.
    pub fn fresh(&self) -> Result<(), Unhealthy> {
        let age = self.made_at.elapsed();
        if age < self.view.settings.timing.ttl { Ok(()) } else { Err(Unhealthy::Stale(age)) }
    }

    /// This leader gives up: its Postgres is dead, hangs, or has no disk to write to. Said first hand, so that nobody need wait.
    pub fn is_done_for(&self) -> bool {
        let gives_up = |code: &str| code == "abdicate";
        let under_way = self.view.job.as_ref().is_some_and(|job| gives_up(&job.action));
        self.leads().is_some() && (under_way || gives_up(self.decision.action.code()))
    }

    /// A standby that may serve reads, running and not excused by its tag; or why it is none.
    pub fn serves_reads(&self) -> Result<&Standby, Unhealthy> {
        self.fresh()?;
        let standby = self.standby().ok_or_else(|| Unhealthy::NotStandby(self.server()))?;
        self.listens()?;
        if self.member_tags_noloadbalance() { Err(Unhealthy::NoLoadBalance) } else { Ok(standby) }
    }

    fn member_tags_noloadbalance(&self) -> bool {
        let me = &self.view.me;
        self.cluster().and_then(|cluster| cluster.members.get(me)).is_some_and(|member| member.tags.noloadbalance)
    }

    /// The furthest position of the leader that is known here.
    pub fn leader_lsn(&self) -> Option<Lsn> {
        // A site that follows another publishes none: what is there is of the time when it led.
        let published = self.cluster().filter(|cluster| !cluster.follows()).and_then(|cluster| cluster.leader_lsn);
        published.max(self.extras.as_ref().and_then(|extras| extras.upstream_latest_end_lsn))
    }

    /// How many bytes this standby's replay is behind the leader.
    pub fn replay_lag_bytes(&self) -> Option<u64> {
        let standby = self.standby()?;
        Some(standby.replayed.bytes_behind(self.leader_lsn()?))
    }

    /// What kind of standby this is.
    pub fn sync_kind(&self) -> SyncKind {
        let record = self.cluster().and_then(|cluster| cluster.sync.as_ref());
        let streams = self.standby().is_some_and(|standby| standby.streaming);
        record.filter(|_| streams).map_or(SyncKind::Async, |sync| sync_kind(&sync.policies, &self.view.me))
    }

    /// Patroni's word for the state of Postgres.
    pub fn state(&self) -> &'static str {
        use decision::view::Data;
        match self.view.job.as_ref().map(|job| job.action.as_str()) {
            Some("bootstrap") => return "initializing new cluster",
            Some("clone") => return COPYING,
            Some("reinit") if self.copying.is_some() => return COPYING,
            _ => {}
        }
        match self.postgres() {
            None => "unknown",
            Some(postgres) => match (&postgres.server, &postgres.data) {
                (Server::Primary(_) | Server::Standby(_), _) => "running",
                (Server::Starting { .. }, _) => "starting",
                (Server::Stopping, _) => "stopping",
                (Server::Hung { .. }, _) => "unknown",
                // A fresh copy looks like a crashed primary but for the signal file.
                (Server::Stopped, Data::Present(disk)) if was_running(disk.state) && !disk.standby_signal => "crashed",
                (Server::Stopped, _) => "stopped",
            },
        }
    }

    /// Patroni's word for the role.
    pub fn role(&self) -> &'static str {
        match self.postgres().map(|postgres| &postgres.server) {
            Some(Server::Primary(_)) => "primary",
            Some(Server::Standby(_)) if self.leads_a_follower() => "standby_leader",
            Some(Server::Standby(_)) => "replica",
            _ if self.leads().is_some() && self.follows_a_site() => "standby_leader",
            _ if self.leads().is_some() => "primary",
            _ => "replica",
        }
    }

    /// The timeline, when known.
    pub fn timeline(&self) -> Option<Timeline> {
        self.primary().map(|primary| primary.timeline).or_else(|| self.standby().map(|standby| standby.timeline))
    }

    /// How long ago the decision got its present reason.
    pub fn reason_age(&self) -> Duration {
        self.reason_since.elapsed()
    }
}

fn was_running(state: decision::view::ControlState) -> bool {
    use decision::view::ControlState;
    matches!(state, ControlState::InProduction | ControlState::InArchiveRecovery | ControlState::InCrashRecovery)
}

#[cfg(test)]
mod tests {
    use decision::durability::Quorum;

    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a good name")
    }

    #[test]
    fn while_a_change_is_under_way_a_standby_is_no_more_than_the_least_of_what_was_promised() {
        let any = |k: u32, voters: &[&str]| Quorum { k, voters: voters.iter().map(|text| name(text)).collect() };
        let kind = |policies: &[Quorum], me: &str| sync_kind(&policies.to_vec(), &name(me));
        let (one, either, nobody) = (any(1, &["pg2"]), any(1, &["pg2", "pg3"]), Quorum::none());
        for (expected, policies, me) in [
            (SyncKind::Sync, vec![one.clone()], "pg2"),
            (SyncKind::Async, vec![one.clone()], "pg3"),
            (SyncKind::Quorum, vec![either.clone()], "pg3"),
            (SyncKind::Sync, vec![any(2, &["pg2", "pg3"])], "pg3"),
            (SyncKind::Quorum, vec![one.clone(), either.clone()], "pg2"),
            (SyncKind::Async, vec![one.clone(), either], "pg3"),
            (SyncKind::Async, vec![nobody, one], "pg2"),
            (SyncKind::Async, vec![], "pg2"),
        ] {
            assert_eq!(kind(&policies, me), expected, "{policies:?} {me}");
        }
    }
}
