//! Mistakes, and where they were made. A [`Problem`] names the keys it is about; the [`Origins`] know which line or
//! which environment variable that is, and [`ConfigErrors`] shows all of them the way a compiler does.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its stable code, `E01` and so on; docs/configuration.md lists them.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    place: Place,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// At these bytes of the file.
    Span(Range<usize>),
    /// Where the first of these keys is that was written anywhere.
    Keys(Vec<String>),
    /// Nowhere: something is missing.
    Nowhere,
}

impl Problem {
    /// A mistake about a key.
    pub fn at(code: &'static str, key: &str, message: impl Into<String>) -> Self {
        Self::about(code, &[key], message)
    }

    /// A mistake about several keys; it is shown at the first of them that was written.
    pub fn about(code: &'static str, keys: &[&str], message: impl Into<String>) -> Self {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Self { code, message: message.into(), help: None, place: Place::Keys(keys) }
    }

    /// A mistake at some bytes of the file.
    pub fn in_text(code: &'static str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, place: Place::Span(span) }
    }

    /// A mistake that has no place.
    pub fn nowhere(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, place: Place::Nowhere }
    }

    /// The same with a way out.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// Where each key was written.
#[derive(Debug, Default)]
pub struct Origins {
    /// The name of the file.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The bytes of each key in it.
    pub keys: BTreeMap<String, Range<usize>>,
    /// The environment variable behind each key that has one.
    pub variables: BTreeMap<String, String>,
}

impl Origins {
    /// Of a file that nothing is known of but its name.
    pub fn of_file(path: &Path) -> Self {
        Self { file: path.display().to_string(), ..Self::default() }
    }

    /// Whether anybody wrote this key, so that it does not just have its default.
    pub fn is_written(&self, key: &str) -> bool {
        self.keys.contains_key(key) || self.variables.contains_key(key)
    }

    /// Gives each problem its place.
    pub fn errors(&self, problems: Vec<Problem>) -> ConfigErrors {
        let mut errors: Vec<_> = problems.into_iter().map(|problem| self.locate(problem)).collect();
        errors.sort_by_key(|located| located.span.as_ref().map_or(usize::MAX, |span| span.start));
        ConfigErrors { errors }
    }

    fn locate(&self, problem: Problem) -> Located {
        let mut blamed = None;
        let span = match &problem.place {
            Place::Span(span) => Some(span.clone()),
            Place::Nowhere => None,
            Place::Keys(keys) => {
                // The environment wins over the file, so it is to blame where it has spoken.
                if let Some(variable) = keys.iter().find_map(|key| self.variables.get(key)) {
                    blamed = Some(variable);
                    None
                } else {
                    keys.iter().find_map(|key| self.keys.get(key)).cloned()
                }
            }
        };
        let place = match (&span, blamed) {
            (Some(span), _) => {
                let (line, column) = line_and_column(&self.text, span.start);
                format!("{}:{line}:{column}", self.file)
            }
            (None, Some(variable)) => format!("the environment variable {variable}"),
            (None, None) => self.file.clone(),
        };
        Located { problem, place, span, source: NamedSource::new(&self.file, self.text.clone()) }
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Every mistake of a configuration. Its `Display` shows them all, each with its line.
#[derive(Debug)]
pub struct ConfigErrors {
    errors: Vec<Located>,
}

/// A mistake and the text it is in.
#[derive(Debug)]
struct Located {
    problem: Problem,
    place: String,
    span: Option<Range<usize>>,
    source: NamedSource<String>,
}

impl ConfigErrors {
    /// The mistakes in the order of the file, each with `file:line:column`, the environment variable, or the file alone
    /// where something is missing.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &Problem)> {
        self.errors.iter().map(|located| (located.place.as_str(), &located.problem))
    }

    /// All of them as text, with the lines of the file, in colour for terminals.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(120).with_links(false);
        let mut text = String::new();
        for located in &self.errors {
            if handler.render_report(&mut text, located).is_err() {
                text.push_str(&located.problem.message);
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.errors.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "{count} {noun} in the configuration\n{}", self.render(false))
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)?;
        // Without a snippet nothing else would name the file.
        if self.span.is_none() { write!(f, ", in {}", self.place) } else { Ok(()) }
    }
}

impl std::error::Error for Located {}

impl Diagnostic for Located {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!("error[{}]", self.problem.code)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.span.as_ref().map(|_| &self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, span))))
    }
}
