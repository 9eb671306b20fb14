//! The binary `pgvigil-fencer`: everything is in the crate `fencer`. It stands in this package so that whatever builds the agent builds
//! the fencer beside it, and it uses nothing else of it, so that it stays small enough to be kept in locked memory.

use std::process::ExitCode;

fn main() -> ExitCode {
    fencer::main()
}
