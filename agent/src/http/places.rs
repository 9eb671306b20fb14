//! The places of a listener: a bounded number of connections. When all are taken, whoever has been silent longest makes room, and first of those
//! whose address has the most; a connection with a request under way stays, unless its address crowds the place out with such. So whoever connects
//! ten thousand times and says nothing costs nobody else an answer. Nothing here knows of sockets: a connection holds its seat, and goes when told.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::ListenerNumbers;

/// An address with so many places or fewer is not looked at askance: among such the longest silence alone decides, and none loses a request.
const FEW: usize = 32;
/// How often it is told that there are too many.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Whose {
    /// A host's: its address, or the network of 64 bits that is one customer's in IPv6.
    Host(IpAddr),
    /// A user's of this host.
    User(u32),
}

impl Whose {
    /// By the address of the other end.
    pub fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V6(address) => Self::Host(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address => Self::Host(address),
        }
    }
}

/// The places of one listener.
pub struct Places {
    listener: &'static str,
    most: usize,
    leaving_most: usize,
    held: Mutex<Held>,
    given_back: Condvar,
    numbers: ListenerNumbers,
}

#[derive(Default)]
struct Held {
    /// Counts up, so that whoever has the lower number came, or fell silent, earlier.
    turn: u64,
    /// With those that have been told to leave and have not yet.
    open: usize,
    places: HashMap<u64, Place>,
    holders: HashMap<Whose, Holder>,
    told_at: Option<Instant>,
}

struct Place {
    whose: Whose,
    requests: usize,
    /// The turn in which it fell silent, or its first request came.
    since: u64,
    leave: Arc<Notify>,
}

/// The places of one, by the turn.
#[derive(Default)]
struct Holder {
    silent: BTreeMap<u64, u64>,
    busy: BTreeMap<u64, u64>,
}

impl Holder {
    fn all(&self) -> usize {
        self.silent.len() + self.busy.len()
    }
}

/// Who connected.
pub struct Seat {
    places: Arc<Places>,
    id: u64,
    leave: Arc<Notify>,
}

/// A request is under way, until this is dropped.
pub struct Busy(Arc<Seat>);

impl Places {
    /// So many places, and so many who may be on their way out beside them before it is crowded.
    pub fn new(listener: &'static str, most: usize, leaving_most: usize, numbers: ListenerNumbers) -> Arc<Self> {
        Arc::new(Self { listener, most, leaving_most, held: Mutex::default(), given_back: Condvar::new(), numbers })
    }

    /// A place for a connection. `None`: all are taken by those who wait for answers.
    pub fn take(self: &Arc<Self>, whose: Whose) -> Option<Seat> {
        let mut held = self.held();
        if held.places.len() >= self.most && !self.make_room_in(&mut held) {
            self.refused_in(&mut held);
            return None;
        }
        held.turn += 1;
        held.open += 1;
        let (id, leave) = (held.turn, Arc::new(Notify::new()));
        held.holders.entry(whose).or_default().silent.insert(id, id);
        held.places.insert(id, Place { whose, requests: 0, since: id, leave: Arc::clone(&leave) });
        self.numbers.connections.inc();
        Some(Seat { places: Arc::clone(self), id, leave })
    }

    /// Has somebody leave whom nobody misses. False: there is no such.
    pub fn make_room(&self) -> bool {
        self.make_room_in(&mut self.held())
    }

    /// A newcomer was turned away for want of something else than a place.
    pub fn refused(&self) {
        self.refused_in(&mut self.held());
    }

    /// Whether so many are on their way out that newcomers wait.
    pub fn is_crowded(&self) -> bool {
        self.held().open >= self.most + self.leaving_most
    }

    /// Waits until it is not crowded, or somebody has left, for a moment at most.
    pub fn wait_for_leavers(&self, within: Duration) {
        let held = self.held();
        let before = held.open;
        let waits = |held: &mut Held| held.open >= before && held.open > 0;
        drop(self.given_back.wait_timeout_while(held, within, waits));
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room_in(&self, held: &mut Held) -> bool {
        let Some(id) = held.who_leaves(self.most / 4) else { return false };
        if let Some(place) = held.forget(id) {
            place.leave.notify_one();
        }
        self.numbers.evicted.inc();
        if held.is_time_to_tell() {
            tracing::warn!(
                listener = self.listener,
                places = self.most,
                "more connections than there is room for: those that have been silent longest are closed"
            );
        }
        true
    }

    fn refused_in(&self, held: &mut Held) {
        self.numbers.refused.inc();
        if held.is_time_to_tell() {
            let places = self.most;
            tracing::warn!(listener = self.listener, places, "too many connections at work: new ones are closed");
        }
    }
}

impl Held {
    /// The silent one that has been so longest, of the holder with the most places; or the longest at work of a holder with too many of those. The
    /// latter goes first while no more than `just_come` are silent: those have not had the time to ask.
    fn who_leaves(&self, just_come: usize) -> Option<u64> {
        let first = |of: &BTreeMap<u64, u64>| of.first_key_value().map(|(since, id)| (*since, *id));
        let silent = self.holders.values().filter_map(|holder| Some((holder.all().max(FEW), first(&holder.silent)?)));
        let busy = self.holders.values().filter_map(|holder| Some((holder.busy.len(), first(&holder.busy)?)));
        let crowding = busy.filter(|(count, _)| *count > FEW);
        let worst = |(count, (since, _)): &(usize, (u64, u64))| (*count, std::cmp::Reverse(*since));
        let (silent, crowding) = (silent.max_by_key(worst), crowding.max_by_key(worst));
        let are_silent: usize = self.holders.values().map(|holder| holder.silent.len()).sum();
        let leaves = if are_silent > just_come { silent.or(crowding) } else { crowding.or(silent) };
        leaves.map(|(_, (_, id))| id)
    }

    /// It has no place any more.
    fn forget(&mut self, id: u64) -> Option<Place> {
        let place = self.places.remove(&id)?;
        if let Some(holder) = self.holders.get_mut(&place.whose) {
            let of = if place.requests == 0 { &mut holder.silent } else { &mut holder.busy };
            of.remove(&place.since);
            if holder.all() == 0 {
                self.holders.remove(&place.whose);
            }
        }
        Some(place)
    }

    /// Its requests have become more or fewer.
    fn change(&mut self, id: u64, requests: impl FnOnce(usize) -> usize) {
        let Some(mut place) = self.forget(id) else { return };
        let requests = requests(place.requests);
        if (requests == 0) != (place.requests == 0) {
            self.turn += 1;
            place.since = self.turn;
        }
        place.requests = requests;
        let holder = self.holders.entry(place.whose).or_default();
        let of = if requests == 0 { &mut holder.silent } else { &mut holder.busy };
        of.insert(place.since, id);
        self.places.insert(id, place);
    }

    fn is_time_to_tell(&mut self) -> bool {
        let now = Instant::now();
        let is = self.told_at.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        if is {
            self.told_at = Some(now);
        }
        is
    }
}

impl Seat {
    /// Returns once this connection is to go.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// The other end has sent what nobody understands, or what it may not.
    pub fn is_invalid(&self) {
        self.places.numbers.invalid.inc();
    }

    /// A request has come.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.places.held().change(self.id, |requests| requests + 1);
        Busy(Arc::clone(self))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.places.held().change(self.0.id, |requests| requests.saturating_sub(1));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.forget(self.id);
        held.open -= 1;
        self.places.numbers.connections.dec();
        self.places.given_back.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LEAVING: usize = 20;

    fn places(most: usize) -> Arc<Places> {
        Places::new("test", most, LEAVING, ListenerNumbers::default())
    }

    fn host(last: u8) -> Whose {
        Whose::Host(IpAddr::from([10, 0, 0, last]))
    }

    fn leaves(seat: &Seat) -> bool {
        seat.told_to_leave().now_or_never().is_some()
    }

    #[test]
    fn whoever_has_been_silent_longest_makes_room() {
        let places = places(3);
        let seats: Vec<Seat> = (0..3).map(|last| places.take(host(last)).unwrap()).collect();
        assert!(seats.iter().all(|seat| !leaves(seat)));
        let newest = places.take(host(9)).unwrap();
        assert_eq!(seats.iter().map(leaves).collect::<Vec<_>>(), [true, false, false]);
        assert!(!leaves(&newest));
    }

    #[test]
    fn a_request_under_way_stays_and_after_it_the_silence_begins_anew() {
        let places = places(2);
        let (asks, silent) = (Arc::new(places.take(host(1)).unwrap()), places.take(host(2)).unwrap());
        let busy = asks.busy();
        let third = places.take(host(3)).unwrap();
        assert!(leaves(&silent) && !leaves(&asks));
        drop(busy);
        let _fourth = places.take(host(4)).unwrap();
        assert!(leaves(&third) && !leaves(&asks), "it has been silent for a shorter time than the third");
    }

    #[test]
    fn the_address_with_the_most_places_makes_room_first() {
        let places = places(100);
        let balancer = places.take(host(1)).unwrap();
        let crowd: Vec<Seat> = (0..99).map(|_| places.take(host(2)).unwrap()).collect();
        let more: Vec<Seat> = (0..500).map(|_| places.take(host(3)).unwrap()).collect();
        assert!(!leaves(&balancer), "the oldest, and of an address that has one place");
        let kept = |seats: &[Seat]| seats.iter().filter(|seat| !leaves(seat)).count();
        assert_eq!((kept(&crowd), kept(&more)), (49, 50), "both have as many");
    }

    #[test]
    fn a_few_places_more_than_others_have_is_no_crowd() {
        let places = places(20);
        let crowd: Vec<Seat> = (0..10).map(|last| places.take(host(100 + last)).unwrap()).collect();
        let monitoring: Vec<Seat> = (0..10).map(|_| places.take(host(1)).unwrap()).collect();
        let _newest = places.take(host(2)).unwrap();
        assert!(leaves(&crowd[0]) && monitoring.iter().all(|seat| !leaves(seat)));
    }

    #[test]
    fn when_all_are_at_work_only_a_crowd_of_one_address_loses_a_request() {
        let places = places(FEW + 2);
        let seats: Vec<Arc<Seat>> = (0..FEW + 2).map(|_| Arc::new(places.take(host(1)).unwrap())).collect();
        let mut at_work: Vec<Busy> = seats.iter().map(|seat| seat.busy()).collect();
        let balancer = places.take(host(2)).unwrap();
        assert!(leaves(&seats[0]) && !leaves(&seats[1]));
        let member = Arc::new(balancer);
        at_work.push(member.busy());
        let other = Arc::new(places.take(host(3)).unwrap());
        assert!(leaves(&seats[1]));
        at_work.push(other.busy());
        assert!(places.take(host(4)).is_none(), "nobody has more than a few any more");
        assert_eq!((places.numbers.evicted.get(), places.numbers.refused.get()), (2, 1));
    }

    #[test]
    fn whoever_has_just_come_is_not_sent_away_for_a_crowd_at_work() {
        let places = places(4 * FEW);
        let crowd: Vec<Arc<Seat>> = (0..4 * FEW).map(|_| Arc::new(places.take(host(1)).unwrap())).collect();
        let _at_work: Vec<Busy> = crowd.iter().map(|seat| seat.busy()).collect();
        let newcomers: Vec<Seat> = (0..5).map(|_| places.take(host(1)).unwrap()).collect();
        assert!(newcomers.iter().all(|seat| !leaves(seat)), "each has come before the next, and asked nothing yet");
        assert_eq!(crowd.iter().filter(|seat| leaves(seat)).count(), 5);
    }

    #[test]
    fn a_place_is_given_back_once_and_those_on_their_way_out_count_until_they_have_gone() {
        let places = places(1);
        let mut leaving: Vec<Seat> = (0..=LEAVING).map(|_| places.take(host(1)).unwrap()).collect();
        assert!(places.is_crowded());
        leaving.remove(0);
        assert!(!places.is_crowded());
        assert_eq!(places.numbers.connections.get(), i64::try_from(LEAVING).unwrap());
        drop(leaving);
        assert_eq!(places.numbers.connections.get(), 0);
        let held = places.held();
        assert!(held.places.is_empty() && held.holders.is_empty() && held.open == 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_host() {
        let whose = |text: &str| Whose::of(text.parse().unwrap());
        assert_eq!(whose("[2001:db8:1:2::3]:1"), whose("[2001:db8:1:2:ffff::4]:2"));
        assert_ne!(whose("[2001:db8:1:2::3]:1"), whose("[2001:db8:1:3::3]:1"));
        assert_eq!(whose("[::ffff:10.0.0.1]:1"), whose("10.0.0.1:2"));
    }
}
