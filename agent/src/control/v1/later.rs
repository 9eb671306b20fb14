//! For when something is asked for over the native API: `at`, with its time zone, and `window_s` after it.

use axum::http::StatusCode;
use jiff::Timestamp;

use super::answers::accepted;
use crate::control::answer::Answer;
use crate::operate::actions::Action;
use crate::operate::schedule::Plan;
use crate::operate::schedule::shown::Shown;
use crate::operate::schedule::when::{Mistake, read, window};

/// What is planned by `at` and `window_s`; `None`: it is asked for at once.
///
/// # Errors
/// 400: the window, or a time that may mean several instants; 422: it has passed, or is no time.
pub fn plan(
    at: Option<&str>,
    window_s: Option<u32>,
    ignore_hold: bool,
    (by, reason): (String, Option<String>),
) -> Result<Option<Plan>, Answer> {
    let bad = |why: String| Answer::error(StatusCode::BAD_REQUEST, format!("`window_s`: {why}"));
    let Some(at) = at else {
        return window_s.map_or(Ok(None), |_| Err(bad("it goes with `at`".to_owned())));
    };
    let at = read(at, Timestamp::now()).map_err(|mistake| {
        let status = match &mistake {
            Mistake::Ambiguous(_) => StatusCode::BAD_REQUEST,
            Mistake::Past(_) | Mistake::NoTime(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Answer::error(status, format!("`at`: {}", mistake.text()))
    })?;
    let window_s = window(window_s.map(u64::from)).map_err(bad)?;
    Ok(Some(Plan { at, window_s, ignore_hold, by, reason }))
}

/// It is scheduled.
pub fn scheduled(shown: &Shown) -> Answer {
    accepted(&Action::of_planned(shown)).about(shown.in_words())
}
