//! The parameters of Postgres as a running server describes them, and whether a value would do for one. A value is brought into one form,
//! so that `8192kB` and `8MB` are the same, and a name that does not exist is answered with the one that was probably meant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a server knows, by the name in lower case.
pub type Catalogue = BTreeMap<String, Parameter>;

/// One parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// What its values are.
    pub kind: Kind,
    /// What a bare number counts, as Postgres writes it (`8kB`, `ms`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The least value, in that unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The words that it may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// What a change of it takes.
    pub takes: Takes,
}

/// What values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// On or off.
    Switch,
    /// Whole numbers, with a unit where there is one.
    Whole,
    /// Numbers, with a unit where there is one.
    Number,
    /// One of some words.
    Choice,
    /// Anything.
    Text,
}

/// What a change takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// The configuration is read again.
    Reload,
    /// A restart.
    Restart,
    /// It cannot be changed.
    Never,
}

/// Units of memory and of time, in bytes and microseconds, the greatest first.
const MEMORY: [(&str, f64); 5] =
    [("TB", 1_099_511_627_776.0), ("GB", 1_073_741_824.0), ("MB", 1_048_576.0), ("kB", 1024.0), ("B", 1.0)];
const TIME: [(&str, f64); 6] = [
    ("d", 86_400_000_000.0),
    ("h", 3_600_000_000.0),
    ("min", 60_000_000.0),
    ("s", 1_000_000.0),
    ("ms", 1000.0),
    ("us", 1.0),
];

/// The value in the form in which it is kept, or what is wrong.
///
/// # Errors
/// A sentence for whoever has written it.
pub fn check(catalogue: &Catalogue, name: &str, value: &str) -> Result<String, String> {
    let Some(parameter) = catalogue.get(&name.to_ascii_lowercase()) else { return unknown(catalogue, name, value) };
    let value = value.trim();
    if parameter.takes == Takes::Never {
        return Err(format!("\"{name}\" cannot be changed in a database that exists"));
    }
    let good = match parameter.kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::Switch => switch(value).map(str::to_owned).ok_or_else(|| "on or off".to_owned()),
        Kind::Choice => choice(&parameter.choices, value),
        Kind::Whole | Kind::Number => number(parameter, value),
    };
    good.map_err(|expected| format!("{name} = \"{value}\": expected {expected}"))
}

/// A name with a dot may be of an extension that is not loaded yet; one that is loaded has told all its names.
fn unknown(catalogue: &Catalogue, name: &str, value: &str) -> Result<String, String> {
    let lower = name.to_ascii_lowercase();
    let loaded = |prefix: &str| {
        catalogue.keys().any(|known| known.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
    };
    if lower.split_once('.').is_some_and(|(prefix, rest)| !prefix.is_empty() && !rest.is_empty() && !loaded(prefix)) {
        return Ok(value.trim().to_owned());
    }
    let nearest = catalogue.keys().map(|known| (edits(known, &lower), known)).min();
    let advice = match nearest.filter(|(edits, known)| *edits <= (known.len() / 3).max(1)) {
        Some((_, meant)) => format!("did you mean `{meant}`?"),
        None => "see pg_settings for what there is".to_owned(),
    };
    Err(format!("Postgres has no parameter \"{name}\"; {advice}"))
}

fn switch(value: &str) -> Option<&'static str> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some("on"),
        "off" | "false" | "no" | "0" => Some("off"),
        _ => None,
    }
}

fn choice(choices: &[String], value: &str) -> Result<String, String> {
    let is = |word: &str| choices.iter().find(|choice| choice.eq_ignore_ascii_case(word));
    let found = is(value).or_else(|| is(switch(value)?));
    found.cloned().ok_or_else(|| format!("one of {}", choices.join(", ")))
}

/// A number in the parameter's own unit.
struct Measure {
    /// How many of the smallest units the parameter's own has.
    own: f64,
    /// All that are of its kind.
    units: &'static [(&'static str, f64)],
}

fn measure(unit: &str) -> Option<Measure> {
    let digits = unit.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(unit.len());
    let (count, name) = unit.split_at(digits);
    let count: f64 = count.parse().unwrap_or(1.0);
    [&MEMORY[..], &TIME[..]].into_iter().find_map(|units| {
        let (_, size) = units.iter().find(|(known, _)| *known == name)?;
        Some(Measure { own: count * size, units })
    })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(parameter: &Parameter, value: &str) -> Result<String, String> {
    let measure = parameter.unit.as_deref().and_then(measure);
    let kind = if parameter.kind == Kind::Whole { "a whole number" } else { "a number" };
    let expected = || match &measure {
        None => kind.to_owned(),
        Some(measure) => {
            let units: Vec<&str> = measure.units.iter().rev().map(|(unit, _)| *unit).collect();
            format!("{kind}, or one with a unit ({})", units.join(", "))
        }
    };
    let end = value.find(|letter: char| !(letter.is_ascii_digit() || "+-.".contains(letter))).unwrap_or(value.len());
    let (amount, unit) = (&value[..end], value[end..].trim());
    let amount = match amount.strip_prefix('0') {
        // As in C.
        Some(octal) if parameter.kind == Kind::Whole && is_digits(octal) => {
            u32::from_str_radix(octal, 8).ok().map(f64::from)
        }
        _ => amount.parse().ok(),
    };
    let amount = amount.ok_or_else(expected)?;
    let own = match (unit, &measure) {
        ("", _) => amount,
        (unit, Some(measure)) => {
            let (_, size) = measure.units.iter().find(|(known, _)| *known == unit).ok_or_else(expected)?;
            amount * size / measure.own
        }
        (_, None) => return Err(expected()),
    };
    let own = if parameter.kind == Kind::Whole { own.round() } else { own };
    let shown = |number: f64| shown(number, measure.as_ref());
    let (min, max) = (parameter.min.unwrap_or(f64::MIN), parameter.max.unwrap_or(f64::MAX));
    if own < min || own > max {
        return Err(format!("{kind} from {} to {}", shown(min), shown(max)));
    }
    Ok(shown(own))
}

/// As Postgres itself shows it: with the greatest unit of which it is a whole multiple. What is not above zero has a meaning of its own.
fn shown(own: f64, measure: Option<&Measure>) -> String {
    let Some(measure) = measure.filter(|_| own > 0.0) else { return own.to_string() };
    let smallest = own * measure.own;
    let fits = measure.units.iter().find(|(_, size)| (smallest / size).fract() == 0.0);
    fits.map_or_else(|| own.to_string(), |(unit, size)| format!("{}{unit}", smallest / size))
}

/// How many letters must be changed, added or removed to make `b` of `a` (Levenshtein's distance, row by row).
pub fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
