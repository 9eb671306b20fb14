//! Real faults on real clusters: every host is a network namespace, so that it can be cut off, lose power or freeze, and a writer at every
//! node knows each acknowledged row. [`system::System`] is what is broken, pgvigil being the first of several; [`round::play`] breaks it
//! and judges. The program `chaos` enters a world of its own first ([`world`]).

pub mod audit;
pub mod blow;
pub mod campaign;
pub mod course;
pub mod dice;
pub mod fault;
pub mod host;
pub mod ledger;
pub mod load;
pub mod meeting;
pub mod net;
pub mod pgvigil;
pub mod report;
pub mod round;
pub mod site;
pub mod stage;
pub mod system;
pub mod volume;
pub mod world;
pub mod writer;
