//! The words everybody uses: members, positions in the WAL, timelines, terms, system identifiers.
//! Each is a type of its own, so that a term can never be compared with a timeline by mistake.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of one node of a cluster: ASCII letters, digits, `-`, `.` and `_`, 1 to 48 characters, never ending in `_t` and digits.
///
/// It becomes part of etcd keys and, together with a term, of Postgres' `application_name`, which holds 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName(String);

/// Why a text is no member name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName(pub String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is no member name: use 1 to 48 ASCII letters, digits, '-', '.' or '_', beginning with a letter or digit and not ending in \"_t\" and a number",
            self.0
        )
    }
}

impl std::error::Error for BadName {}

impl MemberName {
    /// Checks and wraps a name.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let good_characters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let good_start = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let ends_like_a_term = split_term(&text).is_some();
        if text.len() > 48 || !good_characters || !good_start || ends_like_a_term {
            return Err(BadName(text));
        }
        Ok(Self(text))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MemberName {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::new(text)
    }
}

impl FromStr for MemberName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::new(text)
    }
}

impl From<MemberName> for String {
    fn from(name: MemberName) -> Self {
        name.0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A position in the WAL, in bytes; printed as Postgres does (`0/3000148`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes `self` is behind `other`; 0 when it is level or ahead.
    pub fn bytes_behind(self, other: Lsn) -> u64 {
        other.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Why a text is no WAL position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLsn(pub String);

impl fmt::Display for BadLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no WAL position of the form 0/3000148", self.0)
    }
}

impl std::error::Error for BadLsn {}

impl FromStr for Lsn {
    type Err = BadLsn;
    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.trim().split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Self((u64::from(high) << 32) | u64::from(low)))
    }
}

/// A Postgres timeline: raised by one with every promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a reign: raised in the very transaction that gives the leader lock to a new holder, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl Term {
    /// The highest that is taken for one. So many reigns there will never be: a higher number was put there by somebody, and no term could
    /// be given out above it.
    pub const MAX: Term = Term(i64::MAX as u64 / 2);

    /// The term of this text: a number above 0 as it is written by [`Term`]'s `Display`, and no other way. Claims compare the text.
    pub fn from_text(text: &str) -> Option<Term> {
        let term = text.parse().map(Term).ok().filter(Term::is_one)?;
        (term.to_string() == text).then_some(term)
    }

    /// Whether it can have been given out.
    pub fn is_one(&self) -> bool {
        (1..=Self::MAX.0).contains(&self.0)
    }

    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity that `initdb` gave to a database system; two clusters never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name under which a standby streams: `<member>_t<term>`.
///
/// The term is part of it, so that a standby that has gone over to a newer term is a stranger to the old leader,
/// whose `synchronous_standby_names` lists the names of its own term only: nothing it acknowledges releases a commit there.
pub fn application_name(member: &MemberName, term: Term) -> String {
    format!("{member}_t{term}")
}

/// Reads `<member>_t<term>` back; `None` for anything else, such as a foreign `pg_receivewal`.
pub fn parse_application_name(text: &str) -> Option<(MemberName, Term)> {
    let (name, term) = split_term(text)?;
    Some((MemberName::new(name).ok()?, term))
}

fn split_term(text: &str) -> Option<(&str, Term)> {
    let (name, digits) = text.rsplit_once("_t")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((name, Term(digits.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_and_print_as_postgres_does() {
        let lsn: Lsn = "1/3000148".parse().expect("good text");
        assert_eq!(lsn, Lsn(0x1_0300_0148));
        assert_eq!(lsn.to_string(), "1/3000148");
        assert!("3000148".parse::<Lsn>().is_err());
        assert!("0/XYZ".parse::<Lsn>().is_err());
    }

    #[test]
    fn names_that_would_break_keys_or_application_names_are_refused() {
        for bad in ["", "a/b", "a b", "pg1_t7", "-x", "é", &"x".repeat(49)] {
            assert!(MemberName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["pg1", "db-01.example.org", "a_t", "a_tx7"] {
            assert!(MemberName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_application_name_carries_member_and_term() {
        let pg1 = MemberName::new("pg1").expect("good name");
        assert_eq!(application_name(&pg1, Term(7)), "pg1_t7");
        assert_eq!(parse_application_name("pg1_t7"), Some((pg1, Term(7))));
        assert_eq!(parse_application_name("pg_receivewal"), None);
        assert_eq!(parse_application_name("pg1_t"), None);
    }

    #[test]
    fn being_ahead_is_no_lag() {
        assert_eq!(Lsn(10).bytes_behind(Lsn(25)), 15);
        assert_eq!(Lsn(25).bytes_behind(Lsn(10)), 0);
    }
}
