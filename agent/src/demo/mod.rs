//! `pgvigil demo`.

use crate::cli::{DemoArgs, Exit};

/// Runs the demonstration.
pub fn run(_arguments: &DemoArgs) -> Exit {
    Exit::Failed
}
