//! A moment as somebody writes it. It is read only where it can mean one instant and no other: a time without its zone is one thing at the keyboard and
//! another on the host that acts on it.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::{Disambiguation, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// For how long after its time something may begin unless somebody says otherwise, in seconds.
pub const USUAL_WINDOW_S: u32 = 600;
/// The longest window, in seconds: a week.
pub const LONGEST_WINDOW_S: u32 = 7 * 86_400;

/// What is wrong with a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It does not say in which time zone it is, or there are two such instants in that zone; with a sentence that names the mend.
    Ambiguous(String),
    /// It is no time.
    NoTime(String),
    /// It has passed.
    Past(String),
}

impl Mistake {
    /// In one sentence.
    pub fn text(&self) -> &str {
        match self {
            Mistake::Ambiguous(text) | Mistake::NoTime(text) | Mistake::Past(text) => text,
        }
    }
}

/// The instant that a text means, which is not before `now`.
///
/// # Errors
/// It means none, or more than one, or one that has passed.
pub fn read(text: &str, now: Timestamp) -> Result<Timestamp, Mistake> {
    let text = text.trim();
    let at = instant(text)?;
    if at < now {
        return Err(Mistake::Past(format!("{text} has passed: it is {}", to_the_second(now))));
    }
    Ok(at)
}

fn instant(text: &str) -> Result<Timestamp, Mistake> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    // With the name of a zone and no offset there may be two such instants in a night in autumn, or none in spring.
    let strict = DateTimeParser::new().disambiguation(Disambiguation::Reject);
    match (strict.parse_zoned(text), text.contains('['), text.parse::<DateTime>()) {
        (Ok(zoned), ..) => Ok(zoned.timestamp()),
        (Err(error), true, _) => {
            Err(Mistake::Ambiguous(format!("{text}: {error}; say the offset from UTC, such as {EXAMPLE}")))
        }
        (Err(_), false, Ok(civil)) => Err(without_zone(text, civil)),
        (Err(_), false, Err(_)) => Err(Mistake::NoTime(format!("{text} is no time such as {EXAMPLE}"))),
    }
}

const EXAMPLE: &str = "2026-11-29T03:00:00+01:00";

/// The mend is written out, for both zones that somebody is likely to have meant.
fn without_zone(text: &str, civil: DateTime) -> Mistake {
    let here = civil.to_zoned(TimeZone::system()).map(|here| here.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
    let utc = civil.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mend = match here {
        Ok(here) if !here.ends_with("+00:00") => format!("{here} (as on this host) or {utc} (UTC)"),
        _ => format!("{utc} (UTC) or {}+01:00", utc.trim_end_matches('Z')),
    };
    Mistake::Ambiguous(format!("{text} does not say in which time zone: say {mend}"))
}

/// So long from now.
pub fn after(now: Timestamp, within: Duration) -> Timestamp {
    SignedDuration::try_from(within).ok().and_then(|within| now.saturating_add(within).ok()).unwrap_or(Timestamp::MAX)
}

/// A window in seconds, or the usual one.
///
/// # Errors
/// It is none, or too long.
pub fn window(wanted: Option<u64>) -> Result<u32, String> {
    let wanted = wanted.unwrap_or(USUAL_WINDOW_S.into());
    let fits = u32::try_from(wanted).ok().filter(|seconds| (1..=LONGEST_WINDOW_S).contains(seconds));
    fits.ok_or_else(|| format!("a window is from 1 second to {} days, not {wanted} s", LONGEST_WINDOW_S / 86_400))
}

fn to_the_second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_time_with_its_zone_is_one_instant() {
        for text in [
            "2026-11-29T02:00:00Z",
            "2026-11-29T03:00:00+01:00",
            "2026-11-29 03:00+01:00",
            " 2026-11-29T03:00+01 ",
            "2026-11-29T03:00:00.000000+01:00",
            "2026-11-29T03:00:00+01:00[Europe/Berlin]",
            "2026-11-29T03:00[Europe/Berlin]",
        ] {
            assert_eq!(read(text, now()).map(|at| at.to_string()), Ok("2026-11-29T02:00:00Z".to_owned()), "{text}");
        }
        assert!(read("2026-11-22T10:00:00Z", now()).is_ok(), "this instant has not passed");
    }

    #[test]
    fn a_time_that_may_mean_several_instants_is_refused_with_what_to_say_instead() {
        for text in ["2026-11-29T03:00:00", "2026-11-29 03:00", "2026-11-29"] {
            let Err(Mistake::Ambiguous(told)) = read(text, now()) else { panic!("{text} is taken") };
            assert!(told.contains("time zone: say 2026-11-29T") && told.contains(":00:00Z (UTC)"), "{told}");
        }
        // Twice in the night in which summer time ends, and never in that in which it begins.
        for text in ["2026-10-25T02:30[Europe/Berlin]", "2027-03-28T02:30[Europe/Berlin]", "2026-11-29T03:00[Nowhere]"]
        {
            assert!(matches!(read(text, now()), Err(Mistake::Ambiguous(_))), "{text}: {:?}", read(text, now()));
        }
    }

    #[test]
    fn what_has_passed_or_is_no_time_is_refused() {
        let past = read("2026-11-22T09:59:59Z", now());
        assert!(past == Err(Mistake::Past("2026-11-22T09:59:59Z has passed: it is 2026-11-22T10:00:00Z".to_owned())));
        for text in ["", "soon", "03:00", "2026-13-01T00:00:00Z", "1764000000", "tomorrow 03:00"] {
            assert!(matches!(read(text, now()), Err(Mistake::NoTime(_))), "{text}: {:?}", read(text, now()));
        }
        assert_eq!(after(now(), Duration::from_secs(60)).to_string(), "2026-11-22T10:01:00Z");
        assert_eq!(after(now(), Duration::MAX), Timestamp::MAX);
    }

    #[test]
    fn a_window_has_its_bounds() {
        assert_eq!((window(None), window(Some(1))), (Ok(600), Ok(1)));
        for wanted in [0, u64::from(LONGEST_WINDOW_S) + 1, u64::MAX] {
            assert!(window(Some(wanted)).is_err_and(|why| why.contains("7 days")), "{wanted}");
        }
    }
}
