//! Until when may this node rely on its leadership? The one place that answers: the fence, the decisions and the health API all read it
//! here, so that whatever extends or ends the claim does so for all of them at once. Counted on the clock that goes on during suspend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use consensus::{BootInstant, Lease};
use tokio::sync::watch;

use crate::promises::Carried;

/// The grounds of this node's claim to the leader lock: the lease that the lock is bound to, and its peers' promises.
#[derive(Clone, Debug)]
pub struct Authority {
    lock: watch::Receiver<Lease>,
    carried: watch::Receiver<Carried>,
    safety_margin: Duration,
    bound: Arc<Mutex<Bound>>,
    rebound: Arc<watch::Sender<Option<i64>>>,
    binding: watch::Receiver<Option<i64>>,
    fence: Option<watch::Receiver<Option<BootInstant>>>,
}

/// The lease that the lock is bound to, as far as is known.
#[derive(Debug, Default)]
struct Bound {
    lease: Option<i64>,
    /// Until when it was certain to live, when it was last looked at.
    until: BootInstant,
    /// When etcd's word that it is gone was first heard.
    gone_at: Option<BootInstant>,
    /// How long after that word the claim may be renewed before Postgres must be dead.
    grace: Duration,
}

impl Authority {
    /// A claim that rests on the lock lease, less the time that it takes to kill Postgres, or on what promises carry.
    pub fn new(lock: watch::Receiver<Lease>, carried: watch::Receiver<Carried>, safety_margin: Duration) -> Self {
        let (rebound, binding) = watch::channel(None);
        let rebound = Arc::new(rebound);
        Self { lock, carried, safety_margin, bound: Arc::default(), rebound, binding, fence: None }
    }

    /// The same claim, which now reaches no further than the fence has confirmed: what nobody would stop is not relied upon.
    pub fn fenced_by(self, fence: watch::Receiver<Option<BootInstant>>) -> Self {
        Self { fence: Some(fence), ..self }
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock lease that is kept alive now.
    pub fn lease(&self) -> Option<i64> {
        self.lock.borrow().id()
    }

    /// The lock is bound to this lease from now on, or is about to be. Another one, though it lives, is no claim.
    pub fn bind(&self, lease: i64) {
        self.rebind(Some(lease));
    }

    /// The lock is not mine.
    pub fn unbind(&self) {
        self.rebind(None);
    }

    fn rebind(&self, lease: Option<i64>) {
        let mut bound = self.bound();
        if bound.lease != lease {
            *bound = Bound { lease, grace: bound.grace, ..Bound::default() };
            drop(bound);
            self.rebound.send_replace(lease);
        }
    }

    /// How long a leader whose lease etcd has revoked may try to get its lock back. Where commits wait for voters nobody else can
    /// acknowledge any meanwhile, so it is as long as the lease would have lasted; elsewhere shorter than any takeover.
    pub fn set_grace(&self, grace: Duration) {
        self.bound().grace = grace;
    }

    /// What the promises of peers carry.
    pub fn carried(&self) -> Carried {
        self.carried.borrow().clone()
    }

    /// The instant to which this node has been granted the lead, less what the kill takes: the deadline for the fence.
    pub fn granted(&self) -> Option<BootInstant> {
        let carried = self.carried.borrow().until;
        self.by_lease().max((!carried.remaining().is_zero()).then_some(carried))
    }

    fn by_lease(&self) -> Option<BootInstant> {
        let mut bound = self.bound();
        let alive = self.lock.borrow().alive().filter(|state| bound.lease == Some(state.id));
        if let Some(state) = alive {
            (bound.until, bound.gone_at) = (state.expires_at.minus(self.safety_margin), None);
            return Some(bound.until);
        }
        if bound.until == BootInstant::default() {
            return None;
        }
        let grace = bound.grace;
        let gone_at = *bound.gone_at.get_or_insert_with(BootInstant::now);
        Some(bound.until.min(gone_at + grace))
    }

    /// The instant at which Postgres must be dead, unless the claim is renewed before. `None`: there is no claim.
    pub fn until(&self) -> Option<BootInstant> {
        let confirmed = self.fence.as_ref().and_then(|fence| *fence.borrow());
        self.granted().map(|granted| confirmed.map_or(granted, |confirmed| granted.min(confirmed)))
    }

    /// Whether the fence is known to strike no later than at the end of what has been granted; it lags behind by a moment when that has
    /// become less.
    pub fn is_fenced(&self) -> bool {
        let confirmed = self.fence.as_ref().and_then(|fence| *fence.borrow());
        confirmed.is_none_or(|confirmed| self.granted().is_some_and(|granted| confirmed <= granted))
    }

    /// Time until Postgres must be dead. No claim: none.
    pub fn left(&self) -> Duration {
        self.until().map_or(Duration::ZERO, BootInstant::remaining)
    }

    /// Resolves when [`Authority::granted`] may have changed; never again once the lease keeper is gone.
    pub async fn changed(&mut self) {
        let heard = tokio::select! {
            lock = self.lock.changed() => lock.is_ok(),
            carried = self.carried.changed() => carried.is_ok(),
            binding = self.binding.changed() => binding.is_ok(),
        };
        if !heard {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::LeaseState;

    const MARGIN: Duration = Duration::from_millis(500);

    fn alive(id: i64, expires_at: BootInstant) -> Lease {
        let ttl = Duration::from_secs(5);
        Lease::Alive(LeaseState { id, ttl, expires_at, renewal_latency: Duration::ZERO, renewals: 1, failures: 0 })
    }

    fn authority(lease: Lease) -> (Authority, watch::Sender<Lease>, watch::Sender<Carried>) {
        let ((lock, leases), (promise, carried)) = (watch::channel(lease), watch::channel(Carried::default()));
        (Authority::new(leases, carried, MARGIN), lock, promise)
    }

    #[test]
    fn a_claim_ends_the_safety_margin_before_the_lease_that_the_lock_is_bound_to() {
        let end = BootInstant::now() + Duration::from_secs(5);
        let (authority, _lock, _promise) = authority(alive(7, end));
        assert_eq!((authority.until(), authority.lease()), (None, Some(7)), "a lease alone is no lock");
        authority.bind(7);
        assert_eq!(authority.until(), Some(end.minus(MARGIN)));
        assert!(authority.left() > Duration::from_secs(4));
    }

    #[test]
    fn without_a_confirmed_lease_there_is_no_claim() {
        for lease in [Lease::Idle, Lease::Asking, Lease::Lost(7)] {
            let (authority, _lock, _promise) = authority(lease);
            authority.bind(7);
            assert_eq!((authority.until(), authority.left()), (None, Duration::ZERO), "{lease:?}");
        }
    }

    #[test]
    fn a_lease_that_etcd_has_revoked_leaves_the_grace_and_another_lease_none() {
        let end = BootInstant::now() + Duration::from_secs(5);
        for (grace, least, most) in [(0, 0, 0), (60_000, 4_000, 4_500), (200, 1, 200)] {
            let (authority, lock, _promise) = authority(alive(7, end));
            authority.bind(7);
            authority.set_grace(Duration::from_millis(grace));
            assert!(authority.left() > Duration::from_secs(4));
            for gone in [Lease::Lost(7), alive(8, end)] {
                lock.send_replace(gone);
                let left = authority.left();
                assert!(
                    left >= Duration::from_millis(least) && left <= Duration::from_millis(most),
                    "{gone:?} {left:?}"
                );
            }
            authority.bind(8);
            assert_eq!(authority.until(), Some(end.minus(MARGIN)));
        }
    }

    #[test]
    fn promises_carry_a_claim_whose_lease_is_over() {
        let past = BootInstant::now();
        let (authority, _lock, promise) = authority(alive(7, past));
        authority.bind(7);
        assert_eq!(authority.left(), Duration::ZERO);
        let until = BootInstant::now() + Duration::from_secs(3);
        promise.send_replace(Carried { until, ..Carried::default() });
        assert_eq!(authority.until(), Some(until));
    }

    #[test]
    fn a_claim_reaches_no_further_than_the_fence_has_confirmed() {
        let end = BootInstant::now() + Duration::from_secs(5);
        let (fence, confirmed) = watch::channel(None);
        let (authority, _lock, _promise) = authority(alive(7, end));
        let authority = authority.fenced_by(confirmed);
        authority.bind(7);
        assert_eq!(authority.until(), Some(end.minus(MARGIN)), "nothing to fence");
        let sooner = BootInstant::now() + Duration::from_secs(1);
        fence.send_replace(Some(sooner));
        assert_eq!((authority.until(), authority.granted()), (Some(sooner), Some(end.minus(MARGIN))));
        assert!(authority.is_fenced());
        fence.send_replace(Some(end + Duration::from_secs(1)));
        assert_eq!(authority.until(), Some(end.minus(MARGIN)));
        assert!(!authority.is_fenced(), "it would strike too late");
    }

    #[tokio::test]
    async fn whoever_keeps_the_fence_hears_of_every_ground() {
        let end = BootInstant::now() + Duration::from_secs(5);
        let (authority, lock, promise) = authority(alive(7, end));
        let lose = || {
            lock.send_replace(Lease::Lost(7));
        };
        let carry = || {
            promise.send_replace(Carried { until: end, ..Carried::default() });
        };
        let changes: [&dyn Fn(); 3] = [&|| authority.bind(7), &lose, &carry];
        let mut kept = authority.clone();
        for change in changes {
            change();
            tokio::time::timeout(Duration::from_secs(5), kept.changed()).await.expect("heard of");
        }
    }
}
