//! What a person or a program sees. Standard output carries the answer, standard error the chatter; a reader that goes away
//! (`pgvigil status | head -1`) ends the output quietly, and nobody is asked anything where there is no terminal to answer from.

use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

/// Something could not be written although somebody wanted it, so the exit code must not say that all is well.
static OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Writes a piece of the answer, with its end of line; false when nobody reads any more.
pub fn answer(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != ErrorKind::BrokenPipe && !OUTPUT_LOST.swap(true, Ordering::Relaxed) {
                tell(&format!("error: the answer cannot be written: {error}"));
            }
            false
        }
    }
}

/// Whether part of an answer was lost for another reason than that nobody reads it.
pub fn output_lost() -> bool {
    OUTPUT_LOST.load(Ordering::Relaxed)
}

/// One line of chatter.
pub fn tell(text: &str) {
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether the answer goes to a terminal, which can be redrawn.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether somebody can watch: a terminal to draw on, and one to read keys from.
pub fn can_watch() -> bool {
    is_terminal() && std::io::stdin().is_terminal()
}

/// Whether somebody can be asked: a terminal to read from, and one to ask on.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and returns what was typed; `None` when the terminal goes away, or is told Ctrl-C.
pub fn ask(question: &str) -> Option<String> {
    {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{question}").and_then(|()| stderr.flush()).ok()?;
    }
    let (typed, answer) = mpsc::channel();
    let interrupted = typed.clone();
    // Neither of the two can be called off; both end with the process.
    thread::spawn(move || typed.send(read_line()));
    thread::spawn(move || {
        if wait_for_interrupt() {
            tell("");
            let _ = interrupted.send(None);
        }
    });
    answer.recv().ok().flatten()
}

fn read_line() -> Option<String> {
    let mut typed = String::new();
    let read = std::io::stdin().lock().read_line(&mut typed).ok()?;
    (read > 0).then(|| typed.trim().to_owned())
}

fn wait_for_interrupt() -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.is_ok_and(|runtime| runtime.block_on(tokio::signal::ctrl_c()).is_ok())
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// It works, with a drawback.
    Doubtful,
    /// It does not work.
    Bad,
    /// Headings.
    Strong,
}

/// Whether colours are wanted on standard output: a terminal, and no `NO_COLOR` (<https://no-color.org>).
pub fn has_colours() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal() && !forbidden && !dumb
}

/// The text in the colour of its tone, where colours are wanted.
pub fn paint(text: &str, tone: Tone, colours: bool) -> String {
    if !colours {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Doubtful => "33",
        Tone::Bad => "31",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Columns under their headings, two spaces apart, without borders, so that `grep` and `awk` have an easy time.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).fold(width(heading), usize::max)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, wide)| format!("{cell}{}", " ".repeat(wide - width(cell)))).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() {
        let rows = vec![vec!["pg1".into(), "–".into(), "yes".into()], vec!["a-long-name".into(), "12".into()]];
        assert_eq!(table(&["MEMBER", "TL", "X"], &rows), "MEMBER       TL  X\npg1          –   yes\na-long-name  12");
    }

    #[test]
    fn colours_come_only_where_they_are_wanted() {
        assert_eq!(paint("OK", Tone::Good, false), "OK");
        assert_eq!(paint("OK", Tone::Good, true), "\x1b[32mOK\x1b[0m");
    }
}
