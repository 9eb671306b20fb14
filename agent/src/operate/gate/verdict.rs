//! What the gate says: one line a check for people, one object for programs that decide by rules of their own. The words of the checks are stable, and
//! every number has its unit in its key.

use decision::names::MemberName;
use serde_json::{Value, json};

use super::Limits;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Not as it should be, and no obstacle.
    Warn,
    /// It forbids the change.
    Fail,
    /// It is not known, which forbids it as well.
    Unknown,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
            Grade::Unknown => "unknown",
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Grade::Ok => "[ok]  ",
            Grade::Warn => "[warn]",
            Grade::Fail => "[FAIL]",
            Grade::Unknown => "[ ? ] ",
        }
    }
}

/// A number and its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Of time.
    Seconds(f64),
    /// Of WAL.
    Bytes(u64),
    /// Of things.
    Count(u64),
}

impl Measure {
    fn put(self, name: &str, body: &mut Value) {
        match self {
            // To the thousandth.
            Measure::Seconds(seconds) => body[format!("{name}_seconds")] = json!((seconds * 1000.0).round() / 1000.0),
            Measure::Bytes(bytes) => body[format!("{name}_bytes")] = json!(bytes),
            Measure::Count(count) => body[format!("{name}_count")] = json!(count),
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its stable word.
    pub word: &'static str,
    /// How it came out.
    pub grade: Grade,
    /// Whom it is about, where it is about one member.
    pub member: Option<MemberName>,
    /// What was found.
    pub text: String,
    /// What was measured.
    pub value: Option<Measure>,
    /// What it was measured by.
    pub limit: Option<Measure>,
}

impl Check {
    /// As it should be.
    pub fn ok(word: &'static str, text: impl Into<String>) -> Self {
        Self { word, grade: Grade::Ok, member: None, text: text.into(), value: None, limit: None }
    }
    /// No obstacle.
    pub fn warn(word: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Warn, ..Self::ok(word, text) }
    }
    /// It forbids the change.
    pub fn fail(word: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Fail, ..Self::ok(word, text) }
    }
    /// It is not known.
    pub fn unknown(word: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Unknown, ..Self::ok(word, text) }
    }
    /// About a member.
    #[must_use]
    pub fn of(self, member: &MemberName) -> Self {
        Self { member: Some(member.clone()), ..self }
    }
    /// With its numbers.
    #[must_use]
    pub fn measured(self, value: Measure, limit: Measure) -> Self {
        Self { value: Some(value), limit: Some(limit), ..self }
    }

    /// `[FAIL] replica_lag pg3: it is more than 2.0 s behind in replay`
    pub fn line(&self) -> String {
        let member = self.member.as_ref().map(|member| format!(" {member}")).unwrap_or_default();
        format!("{} {}{member}: {}", self.grade.mark(), self.word, self.text)
    }

    fn to_json(&self) -> Value {
        let mut body = json!({"check": self.word, "state": self.grade.word(), "text": self.text});
        if let Some(member) = &self.member {
            body["member"] = json!(member);
        }
        for (name, measure) in [("value", self.value), ("limit", self.limit)] {
            if let Some(measure) = measure {
                measure.put(name, &mut body);
            }
        }
        body
    }
}

/// The verdict in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It may begin.
    Go,
    /// It may not.
    NoGo,
    /// It is not known whether it may, so it may not.
    Unknown,
}

impl Word {
    /// For programs.
    pub fn text(self) -> &'static str {
        match self {
            Word::Go => "go",
            Word::NoGo => "no_go",
            Word::Unknown => "unknown",
        }
    }
}

/// What the gate says.
#[derive(Clone, Debug)]
pub struct Verdict {
    cluster: String,
    limits: Limits,
    leader: Option<MemberName>,
    /// Every check.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// Of these checks.
    pub fn new(cluster: &str, limits: &Limits, leader: Option<MemberName>, checks: Vec<Check>) -> Self {
        Self { cluster: cluster.to_owned(), limits: limits.clone(), leader, checks }
    }

    /// In one word. One thing that forbids it suffices, whatever else is not known.
    pub fn word(&self) -> Word {
        let any = |grade| self.checks.iter().any(|check| check.grade == grade);
        match (any(Grade::Fail), any(Grade::Unknown)) {
            (true, _) => Word::NoGo,
            (false, true) => Word::Unknown,
            (false, false) => Word::Go,
        }
    }

    /// `no go: replica_lag pg3, pause`
    pub fn sentence(&self) -> String {
        let about = |grade| {
            let named = self.checks.iter().filter(|check| check.grade == grade).map(|check| match &check.member {
                Some(member) => format!("{} {member}", check.word),
                None => check.word.to_owned(),
            });
            named.collect::<Vec<_>>().join(", ")
        };
        match self.word() {
            Word::Go => "go".to_owned(),
            Word::NoGo => format!("no go: {}", about(Grade::Fail)),
            Word::Unknown => format!("not known, so no go: {}", about(Grade::Unknown)),
        }
    }

    /// For programs: `pgvigil.gate/v1`.
    pub fn to_json(&self) -> Value {
        let with =
            |grade| self.checks.iter().filter(|check| check.grade == grade).map(Check::to_json).collect::<Vec<_>>();
        json!({
            "schema": "pgvigil.gate/v1",
            "gate": "migrate",
            "cluster": self.cluster,
            "leader": self.leader,
            "go": self.word() == Word::Go,
            "verdict": self.word().text(),
            "limits": self.limits.to_json(),
            "checks": self.checks.iter().map(Check::to_json).collect::<Vec<_>>(),
            "failed": with(Grade::Fail),
            "unknown": with(Grade::Unknown),
            "warnings": with(Grade::Warn),
        })
    }
}
