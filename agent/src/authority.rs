//! Until when may this node rely on its leadership? The one place that answers: the fence, the decisions and the health API all read it
//! here, so that whatever extends or ends the claim does so for all of them at once. Counted on the clock that goes on during suspend.

use std::time::Duration;

use consensus::{BootInstant, Lease};
use tokio::sync::watch;

/// The grounds of this node's claim to the leader lock.
#[derive(Clone, Debug)]
pub struct Authority {
    lock: watch::Receiver<Lease>,
    safety_margin: Duration,
    fence: Option<watch::Receiver<Option<BootInstant>>>,
}

impl Authority {
    /// A claim that rests on the lock lease, less the time that it takes to kill Postgres.
    pub fn new(lock: watch::Receiver<Lease>, safety_margin: Duration) -> Self {
        Self { lock, safety_margin, fence: None }
    }

    /// The same claim, which now reaches no further than the fence has confirmed: what nobody would stop is not relied upon.
    pub fn fenced_by(self, fence: watch::Receiver<Option<BootInstant>>) -> Self {
        Self { fence: Some(fence), ..self }
    }

    /// The lock lease that is kept alive now.
    pub fn lease(&self) -> Option<i64> {
        self.lock.borrow().id()
    }

    /// The instant to which this node has been granted the lead, less what the kill takes: the deadline for the fence.
    pub fn granted(&self) -> Option<BootInstant> {
        self.lock.borrow().alive().map(|state| state.expires_at.minus(self.safety_margin))
    }

    /// The instant at which Postgres must be dead, unless the claim is renewed before. `None`: there is no claim.
    pub fn until(&self) -> Option<BootInstant> {
        let confirmed = self.fence.as_ref().and_then(|fence| *fence.borrow());
        self.granted().map(|granted| confirmed.map_or(granted, |confirmed| granted.min(confirmed)))
    }

    /// Time until Postgres must be dead. No claim: none.
    pub fn left(&self) -> Duration {
        self.until().map_or(Duration::ZERO, BootInstant::remaining)
    }

    /// Resolves when [`Authority::granted`] may have changed; never again once the lease keeper is gone.
    pub async fn changed(&mut self) {
        if self.lock.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::LeaseState;

    fn alive(expires_at: BootInstant) -> Lease {
        let ttl = Duration::from_secs(5);
        Lease::Alive(LeaseState { id: 7, ttl, expires_at, renewal_latency: Duration::ZERO, renewals: 1, failures: 0 })
    }

    #[test]
    fn a_claim_ends_the_safety_margin_before_its_lease() {
        let end = BootInstant::now() + Duration::from_secs(5);
        let authority = Authority::new(watch::channel(alive(end)).1, Duration::from_millis(500));
        assert_eq!(authority.until(), Some(end.minus(Duration::from_millis(500))));
        assert_eq!(authority.lease(), Some(7));
        assert!(authority.left() > Duration::from_secs(4));
    }

    #[test]
    fn a_claim_reaches_no_further_than_the_fence_has_confirmed() {
        let end = BootInstant::now() + Duration::from_secs(5);
        let (fence, bound) = watch::channel(None);
        let authority = Authority::new(watch::channel(alive(end)).1, Duration::ZERO).fenced_by(bound);
        assert_eq!(authority.until(), Some(end));
        let sooner = end.minus(Duration::from_secs(1));
        fence.send_replace(Some(sooner));
        assert_eq!((authority.until(), authority.granted()), (Some(sooner), Some(end)));
        fence.send_replace(Some(end + Duration::from_secs(1)));
        assert_eq!(authority.until(), Some(end));
    }

    #[test]
    fn without_a_confirmed_lease_there_is_no_claim() {
        for lease in [Lease::Idle, Lease::Asking, Lease::Lost(7)] {
            let authority = Authority::new(watch::channel(lease).1, Duration::from_millis(500));
            assert_eq!((authority.until(), authority.left()), (None, Duration::ZERO), "{lease:?}");
        }
    }
}
