//! `pgvigil completions` and `pgvigil man`: what a shell and `man` are told of the command line. What completes is worked out by the program itself
//! at each key (see `complete`), from the same words as `--help`; a shell is only told to ask it.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::env::Shells;

use super::complete::VARIABLE;
use super::screen::{answer, tell};
use crate::cli::{Cli, CompletionsArgs, Exit, ManArgs};

const NAME: &str = "pgvigil";

/// Prints the completions of a shell.
pub fn completions(arguments: &CompletionsArgs) -> Exit {
    answer(script(arguments.shell).trim_end());
    Exit::Done
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    if let Some(shell) = shells.completer(&shell.to_string()) {
        // What is written into memory cannot fail.
        let _ = shell.write_registration(VARIABLE, NAME, NAME, NAME, &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each command.
pub fn man(arguments: &ManArgs) -> Exit {
    match write_pages(&arguments.directory) {
        Ok(pages) => {
            tell(&format!("{pages} pages are in {}: man -l {0}/{NAME}.1", arguments.directory.display()));
            Exit::Done
        }
        Err(error) => {
            tell(&format!("error: cannot write to {}: {error}", arguments.directory.display()));
            Exit::Failed
        }
    }
}

fn write_pages(directory: &Path) -> std::io::Result<usize> {
    let mut program = Cli::command();
    // Gives every subcommand its full name, and its own --help.
    program.build();
    write_page(&program, NAME, directory)
}

fn write_page(command: &clap::Command, name: &str, directory: &Path) -> std::io::Result<usize> {
    let page = clap_mangen::Man::new(command.clone()).title(name);
    let mut file = std::fs::File::create(directory.join(format!("{name}.1")))?;
    page.render(&mut file)?;
    if name != NAME {
        writeln!(file, ".SH \"EXIT STATUS\"\nAs in {NAME}(1).")?;
    }
    file.flush()?;
    let mut written = 1;
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        written += write_page(inner, &format!("{name}-{}", inner.get_name()), directory)?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_to_ask_the_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            assert!(script.contains(VARIABLE) && script.contains(NAME), "{shell}: {script}");
        }
    }

    #[test]
    fn every_command_has_a_page_with_its_options() {
        let directory = tempfile::tempdir().expect("a directory");
        let pages = write_pages(directory.path()).expect("pages");
        assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), pages);
        let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("a page");
        assert!(page("pgvigil.1").contains("pgvigil\\-switchover(1)"), "{}", page("pgvigil.1"));
        assert!(page("pgvigil-switchover.1").contains("expect\\-leader"));
        assert!(page("pgvigil-config-set.1").contains("unset"));
        assert!(page("pgvigil.1").contains("refused by a check") && page("pgvigil-why.1").contains("EXIT STATUS"));
    }
}
