//! How amounts, times and losses are written for people. Programs get the bare numbers, with their unit in the key.

use std::time::Duration;

use consensus::records::{Discarded, Transition};
use decision::durability::Quorum;
use decision::reason::bytes;

/// A pause in writes, in seconds with two digits, as everybody compares it.
pub fn outage(milliseconds: f64) -> String {
    format!("{:.2} s", milliseconds / 1000.0)
}

/// The pause in writes that a record tells of, `≥` where nobody has seen its beginning.
pub fn outage_of(record: &Transition) -> Option<String> {
    let sign = if record.write_outage_at_least { "≥ " } else { "" };
    record.write_outage_ms.map(|milliseconds| format!("{sign}{}", outage(milliseconds)))
}

/// How long a phase took.
pub fn phase(milliseconds: f64) -> String {
    if milliseconds < 1000.0 { format!("{milliseconds:.0} ms") } else { format!("{:.2} s", milliseconds / 1000.0) }
}

/// How long ago something was: `0.2 s`, `12 s`, `4 min`, `3 h`, `2 days`.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", age.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A length of time as it was asked for: `1h`, `90s` as `1m 30s`, without fractions.
pub fn length(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// A moment, to the second, in UTC; what is no time is shown as it is.
pub fn moment(rfc3339: &str) -> String {
    match rfc3339.parse::<jiff::Timestamp>() {
        Ok(moment) => moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

/// What a transition may have lost, in one word or two. The number is what was missing of the last position that the old leader had published, and
/// that is seconds old: whatever it is, it may have been more.
pub fn lost(record: &Transition) -> String {
    match (record.lost.as_str(), record.lost_bytes_bound) {
        ("none", _) | (_, Some(0)) => "nothing".to_owned(),
        // It was counted before it went.
        (_, Some(count)) if record.kind == "discard" => bytes(count),
        (_, Some(count)) => format!("{} or more", bytes(count)),
        (_, None) => "unknown".to_owned(),
    }
}

/// The same, or what members that came back have counted and thrown away, where they have: no estimate any more, though another may still come. All
/// of them had the same timeline, which the transition ended, so that whoever had most of it had what the others had.
pub fn lost_or_discarded(record: &Transition) -> String {
    let most = record.discarded.iter().max_by_key(|one| one.bytes).filter(|one| one.bytes > 0);
    match (lost(record).as_str(), most) {
        // What was thrown away there had not been acknowledged.
        ("nothing", _) => "nothing".to_owned(),
        (_, Some(most)) => format!("{}, {}", counted(most.transactions), bytes(most.bytes)),
        (bound, None) => bound.to_owned(),
    }
}

/// `67 transactions, 5.7 MB on pg3`
pub fn discarded(one: &Discarded) -> String {
    format!("{}, {} on {}", counted(one.transactions), bytes(one.bytes), one.member)
}

fn counted(transactions: u64) -> String {
    format!("{transactions} {}", if transactions == 1 { "transaction" } else { "transactions" })
}

/// The same as the end of a sentence.
pub fn lost_sentence(record: &Transition) -> String {
    match lost(record).as_str() {
        "nothing" => "nothing lost".to_owned(),
        "unknown" => "how much was lost is unknown".to_owned(),
        bound => format!("{bound} of acknowledged writes may be lost"),
    }
}

/// What commits wait for: `quorum: any 1 of pg2, pg3`.
pub fn durability(mode: &str, policies: &[Quorum]) -> String {
    let policies: Vec<String> = policies.iter().map(Quorum::to_string).collect();
    match policies.as_slice() {
        [] => format!("{mode}: not recorded"),
        [only] if only == "nobody" && mode == "async" => "async: commits wait for nobody".to_owned(),
        [only] => format!("{mode}: {only}"),
        several => format!("{mode}: changing, {}", several.join(" and ")),
    }
}

/// A list for a sentence.
pub fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use decision::names::MemberName;

    use super::*;

    #[test]
    fn ages_have_one_unit_each() {
        let ages = [200, 12_000, 245_000, 3 * 3_600_000, 5 * 86_400_000].map(|ms| age(Duration::from_millis(ms)));
        assert_eq!(ages, ["0.2 s", "12 s", "4 min", "3 h", "5 days"]);
        assert_eq!(phase(64.4), "64 ms");
        assert_eq!(phase(1640.0), "1.64 s");
        assert_eq!(outage(131.2), "0.13 s");
        let of = |write_outage_at_least| {
            outage_of(&Transition { write_outage_ms: Some(300.0), write_outage_at_least, ..Transition::default() })
        };
        assert_eq!([of(false).as_deref(), of(true).as_deref()], [Some("0.30 s"), Some("≥ 0.30 s")]);
        assert_eq!(length(Duration::from_millis(5_400_900)), "1h 30m");
    }

    #[test]
    fn a_moment_is_told_to_the_second() {
        assert_eq!(moment("2026-11-22T10:37:43.123456Z"), "2026-11-22 10:37:43Z");
        assert_eq!(moment("soon"), "soon");
    }

    #[test]
    fn losses_are_named() {
        let record =
            |lost: &str, bound| Transition { lost: lost.into(), lost_bytes_bound: bound, ..Transition::default() };
        assert_eq!(lost(&record("none", None)), "nothing");
        assert_eq!(
            lost_sentence(&record("bounded", Some(16 << 20))),
            "16.0 MB or more of acknowledged writes may be lost"
        );
        assert_eq!(lost_sentence(&record("unknown", None)), "how much was lost is unknown");
    }

    #[test]
    fn what_several_have_thrown_away_of_one_timeline_is_counted_once() {
        let of = |member: &str, bytes, transactions| Discarded { member: member.into(), bytes, transactions };
        let bounded = Transition { lost: "bounded".into(), lost_bytes_bound: Some(100), ..Transition::default() };
        let discarded = vec![of("pg1", 2048, 3), of("pg3", 5120, 7), of("pg4", 0, 0)];
        let told = lost_or_discarded(&Transition { discarded, ..bounded.clone() });
        assert_eq!(told, "7 transactions, 5.0 kB", "pg3 had what pg1 had");
        let nothing = vec![of("pg3", 0, 0)];
        assert_eq!(lost_or_discarded(&Transition { discarded: nothing, ..bounded }), "100 bytes or more");
    }

    #[test]
    fn durability_is_told_in_words() {
        let voters: BTreeSet<_> = ["pg2", "pg3"].into_iter().filter_map(|name| MemberName::new(name).ok()).collect();
        let quorum = Quorum::of(1, voters);
        assert_eq!(durability("quorum", std::slice::from_ref(&quorum)), "quorum: any 1 of pg2, pg3");
        assert_eq!(durability("async", &[Quorum::none()]), "async: commits wait for nobody");
        assert_eq!(durability("quorum", &[Quorum::none()]), "quorum: nobody");
        assert_eq!(durability("quorum", &[Quorum::none(), quorum]), "quorum: changing, nobody and any 1 of pg2, pg3");
    }
}
