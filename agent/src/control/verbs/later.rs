//! Patroni's way of saying when: a time with its zone, in one text. What will not do is said in Patroni's sentences and with its codes.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use crate::control::access::Caller;
use crate::control::answer::Answer;
use crate::operate::schedule::Plan;
use crate::operate::schedule::when::{Mistake, read, window};

/// A later time, as somebody has written it. What it means is found out last: what is wrong beside it is said before.
pub struct Later {
    /// The time.
    pub text: String,
    window_s: u32,
}

/// Whether something is asked for at a later time. Nothing at all is at once.
///
/// # Errors
/// 400: the window will not do, or there is one without a time; 422: it is no text.
pub fn later(field: &str, at: Option<&Value>, window_s: Option<u32>) -> Result<Option<Later>, Answer> {
    let bad = |why: String| Answer::error(StatusCode::BAD_REQUEST, format!("`window_s`: {why}"));
    match at {
        None | Some(Value::Null) if window_s.is_some() => Err(bad(format!("it goes with `{field}`"))),
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => {
            Ok(Some(Later { text: text.clone(), window_s: window(window_s.map(u64::from)).map_err(bad)? }))
        }
        Some(_) => Err(unreadable(&format!("`{field}` is no text"))),
    }
}

fn unreadable(why: &str) -> Answer {
    let why =
        format!("Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601 ({why})");
    Answer::error(StatusCode::UNPROCESSABLE_ENTITY, why)
}

impl Later {
    /// What is planned by it, of a `switchover` or a `restart`.
    ///
    /// # Errors
    /// 400: it does not say in which time zone; 422: it has passed, or is no time.
    pub fn plan(
        &self,
        action: &str,
        caller: &Caller,
        (ignore_hold, reason): (bool, Option<String>),
    ) -> Result<Plan, Answer> {
        let at = read(&self.text, Timestamp::now()).map_err(|mistake| match mistake {
            Mistake::Ambiguous(why) => {
                let why = format!("Timezone information is mandatory for the scheduled {action} ({why})");
                Answer::error(StatusCode::BAD_REQUEST, why)
            }
            Mistake::Past(why) => {
                Answer::error(StatusCode::UNPROCESSABLE_ENTITY, format!("Cannot schedule {action} in the past ({why})"))
            }
            Mistake::NoTime(why) => unreadable(&why),
        })?;
        Ok(Plan { at, window_s: self.window_s, ignore_hold, by: caller.who(), reason })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_time_is_at_once_and_a_window_goes_with_one() {
        let read =
            |at: Value, window_s| later("scheduled_at", Some(&at), window_s).map(|later| later.map(|l| l.window_s));
        for at in [json!(null), json!("")] {
            assert!(matches!(read(at.clone(), None), Ok(None)), "{at}");
        }
        assert!(matches!(read(json!("soon"), None), Ok(Some(600))));
        assert!(matches!(read(json!("soon"), Some(60)), Ok(Some(60))));
        for (at, window_s) in [(json!(null), Some(60)), (json!("soon"), Some(0)), (json!(17), None), (json!([]), None)]
        {
            assert!(read(at.clone(), window_s).is_err(), "{at} {window_s:?}");
        }
    }
}
