//! What goes on at the doors: how many connections each listener has, and how many it has closed or turned away.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which listener.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    listener: &'static str,
}

/// The numbers of one listener.
#[derive(Clone, Default)]
pub struct ListenerNumbers {
    /// Those that are open.
    pub connections: Gauge<i64, AtomicI64>,
    /// Those that had to make room.
    pub evicted: Counter,
    /// Those that found none.
    pub refused: Counter,
    /// Requests that nobody could understand, or that were turned away.
    pub invalid: Counter,
}

/// All listeners.
#[derive(Default)]
pub(super) struct Listeners {
    connections: Family<Labels, Gauge<i64, AtomicI64>>,
    evicted: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    invalid: Family<Labels, Counter>,
}

impl Listeners {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register(
            "pgvigil_http_connections",
            "Connections of clients that are open, by listener: health, control, socket",
            it.connections.clone(),
        );
        registry.register(
            "pgvigil_http_evicted",
            "Connections that were closed to make room, the longest silent first",
            it.evicted.clone(),
        );
        registry.register(
            "pgvigil_http_refused",
            "Connections that were turned away: everybody who was there had a request under way, or file descriptors had run out",
            it.refused.clone(),
        );
        registry.register(
            "pgvigil_http_invalid",
            "What clients did wrong: no HTTP, no TLS where it takes TLS, or an answer of 4xx",
            it.invalid.clone(),
        );
        it
    }

    pub(super) fn of(&self, listener: &'static str) -> ListenerNumbers {
        let labels = Labels { listener };
        ListenerNumbers {
            connections: self.connections.get_or_create(&labels).clone(),
            evicted: self.evicted.get_or_create(&labels).clone(),
            refused: self.refused.get_or_create(&labels).clone(),
            invalid: self.invalid.get_or_create(&labels).clone(),
        }
    }
}
