//! The mind of pgvigil: `decide(&View) -> Decision`. It sees one snapshot and says one thing to do and why.
//! It cannot read, wait, fail, log or roll dice, so every rule that data depends on can be tested as a value.

pub mod action;
pub mod durability;
pub mod names;
pub mod settings;
pub mod view;
