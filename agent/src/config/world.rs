//! Whether this host agrees with the configuration.
use std::path::Path;
/// x
pub struct Report;
/// x
pub struct Line;
/// x
pub struct Verdict;
/// x
pub fn validate(_: &Path, _: bool) -> Report { Report }
