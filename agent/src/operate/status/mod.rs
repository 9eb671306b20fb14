//! How a cluster stands: the members, their roles and lag, what is wrong and what to do about it, and one sentence on it all. `pgvigil status` prints
//! it, and the control API answers with it.

pub mod facts;
pub mod member;
pub mod problems;
mod told;
mod vacancy;
pub mod verdict;
