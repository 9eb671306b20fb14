//! The meeting place: the leader lock and the state of the cluster, in etcd. Start with [`store`], which reads the whole cluster at
//! one revision and writes only under guards; [`lease`] keeps this agent's claims alive, [`watch`] keeps the latest picture at hand.
//! etcd may fail, freeze or answer late at any call: what is not known is reported as not known, never guessed.

mod adopt;
mod alarms;
mod attempt;
pub mod claims;
pub mod clock;
mod condition;
mod departures;
pub mod dump;
pub mod endpoints;
pub mod error;
pub mod fleet;
pub mod guards;
mod holds;
pub mod keys;
pub mod lease;
mod login;
mod mending;
mod orders;
mod recall;
pub mod records;
mod renewal;
mod scheduled;
pub mod settings;
pub mod snapshot;
pub mod store;
pub mod transitions;
pub mod watch;

pub use adopt::Adoption;
pub use claims::{Bootstrap, HandOver};
pub use clock::BootInstant;
pub use condition::{Condition, Lead};
pub use endpoints::{Endpoints, EtcdOptions, TlsFiles};
pub use error::Error;
pub use guards::{Guard, Outcome, Write};
pub use keys::Keys;
pub use lease::{Adopted, Lease, LeaseKeeper, LeaseState};
pub use mending::{Holder, Mend, Nonsense};
pub use recall::SettingsFrom;
pub use records::Problem;
pub use scheduled::{Begin, Subject};
pub use settings::ConfigChange;
pub use snapshot::Snapshot;
pub use store::{BulkFingerprint, Store};
pub use watch::{ClusterView, ClusterWatch};
