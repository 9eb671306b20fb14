//! How the checks before something are told: they are the answer of a dry run and of a refusal, and chatter before the deed.

use super::screen::{answer, tell};
use super::transitions::exit_word;
use crate::cli::{Exit, Output};
use crate::operate::preflight::Preflight;

/// Tells the checks, and at last what is `ready`, or that it is refused where nothing is.
pub fn report(
    preflight: &Preflight,
    (output, dry_run): (Output, bool),
    ready: Option<&str>,
    expected_pause_ms: Option<f64>,
) {
    let exit = if ready.is_some() { Exit::Done } else { Exit::Refused };
    let final_word = dry_run || exit != Exit::Done;
    if output == Output::Json && final_word {
        answer(&preflight.to_json(expected_pause_ms, exit_word(exit)).to_string());
        return;
    }
    let print = |text: &str| if final_word { _ = answer(text) } else { tell(text) };
    for check in &preflight.checks {
        print(&check.line());
    }
    match ready {
        Some(ready) => print(ready),
        None => print(&preflight.refusal()),
    }
}
