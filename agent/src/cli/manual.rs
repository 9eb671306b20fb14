//! Arguments of the commands that tell of the command line itself.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// An existing directory, for instance /usr/local/share/man/man1.
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}
