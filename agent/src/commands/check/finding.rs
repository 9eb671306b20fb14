//! What one check found, and the line that it becomes: `PGVIGIL REPLICATION OK - 2 of 2 standbys stream | streaming=2;;;0;2`.

/// How bad it is. Where several are found the worst counts, and what is not known is worse than a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth a look.
    Warning,
    /// It cannot be told.
    Unknown,
    /// Worth waking somebody.
    Critical,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Unknown => "UNKNOWN",
            Level::Critical => "CRITICAL",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of what.
    pub what: &'static str,
    /// How bad.
    pub level: Level,
    /// In words.
    pub text: String,
    /// Performance data, each `name=value;warning;critical;lowest;highest`.
    pub perf: Vec<String>,
}

impl Finding {
    /// Without performance data.
    pub fn new(what: &'static str, level: Level, text: impl Into<String>) -> Self {
        Self { what, level, text: text.into(), perf: Vec::new() }
    }

    /// The worst of several things that are wrong; `well` where none is.
    pub fn of_all(what: &'static str, wrong: Vec<(Level, String)>, well: String) -> Self {
        let level = wrong.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok);
        let mut texts: Vec<(Level, String)> = wrong;
        texts.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
        let texts: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
        let text = if texts.is_empty() { well } else { texts.join("; ") };
        Self::new(what, level, text)
    }

    /// With one more number.
    #[must_use]
    pub fn with(mut self, perf: String) -> Self {
        self.perf.push(perf);
        self
    }
}

/// One line for all of it. Of several, those that are well are not told where others are not.
pub fn line(label: &str, findings: &[Finding]) -> String {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Unknown);
    let told = |finding: &&Finding| worst == Level::Ok || finding.level != Level::Ok;
    let several = findings.len() > 1;
    let texts: Vec<String> = findings
        .iter()
        .filter(told)
        .map(|finding| match several {
            true => format!("{}: {}", finding.what, finding.text),
            false => finding.text.clone(),
        })
        .collect();
    // A bar would begin the numbers, and a line break the end.
    let text = texts.join("; ").replace('|', "/").replace('\n', " ");
    let perf: Vec<&str> = findings.iter().flat_map(|finding| &finding.perf).map(String::as_str).collect();
    let perf = if perf.is_empty() { String::new() } else { format!(" | {}", perf.join(" ")) };
    format!("PGVIGIL {label} {} - {text}{perf}", worst.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_the_worst_first_and_the_numbers_last() {
        let well = Finding::new("leader", Level::Ok, "writes work on pg1").with("term=7".to_owned());
        assert_eq!(line("LEADER", std::slice::from_ref(&well)), "PGVIGIL LEADER OK - writes work on pg1 | term=7");
        let wrong = vec![(Level::Warning, "pg3 is down".to_owned()), (Level::Critical, "a | b".to_owned())];
        let bad = Finding::of_all("replication", wrong, "well".to_owned());
        assert_eq!(bad.level, Level::Critical);
        assert_eq!(
            line("ALL", &[well.clone(), bad]),
            "PGVIGIL ALL CRITICAL - replication: a / b; pg3 is down | term=7"
        );
        let both = [well.clone(), Finding::of_all("config", Vec::new(), "in force".to_owned())];
        assert_eq!(line("ALL", &both), "PGVIGIL ALL OK - leader: writes work on pg1; config: in force | term=7");
        assert_eq!(line("ALL", &[]), "PGVIGIL ALL UNKNOWN - ");
    }
}
