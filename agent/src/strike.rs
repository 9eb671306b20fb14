//! What must not leave the house is struck from every text of a bundle, and from what everybody may ask for, in two ways at once: each secret that
//! this node knows, wherever it stands; and whatever stands where secrets do: after a name such as `password`, in a URL before the `@`, in a
//! command that Postgres runs.

use serde_json::Value;

/// In place of a secret.
pub const STRUCK: &str = "***";
/// A secret that is shorter would strike half of every text.
const SHORTEST: usize = 4;
/// What has one of these in its name is secret, unless it names a file.
const NAMES: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "api_key",
    "access_key",
    "private_key",
    "cipher_pass",
    "sslkey_pass",
    "authorization",
    "passcode",
    "_dsn",
    "jwt",
];
/// What begins like this is the shadow of a password.
const VERIFIERS: [&str; 1] = ["SCRAM-SHA-256$"];

/// What is struck.
pub struct Strike {
    known: Vec<String>,
}

impl Strike {
    /// With these secrets, as they are and as JSON and URLs write them.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut known: Vec<String> = Vec::new();
        for secret in secrets.into_iter().filter(|secret| secret.len() >= SHORTEST) {
            let json = Value::from(secret.as_str()).to_string();
            known.extend([json.trim_matches('"').to_owned(), in_url(&secret), secret]);
        }
        // The longest first: a secret may begin with another.
        known.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        known.dedup();
        Self { known }
    }

    /// A text without secrets.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            text = text.replace(secret.as_str(), STRUCK);
        }
        lines(&without_keys(&text)).join("\n")
    }

    /// The same of JSON, by the names of its fields as well.
    pub fn json(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(name, value)| (self.text(name), self.field(name, value))).collect())
            }
            Value::Array(values) => values.iter().map(|value| self.json(value)).collect(),
            Value::String(text) => Value::from(self.text(text)),
            other => other.clone(),
        }
    }

    fn field(&self, name: &str, value: &Value) -> Value {
        match value {
            Value::Null | Value::Bool(_) => value.clone(),
            _ if is_secret(name) => Value::from(STRUCK),
            Value::String(text) if is_command(name) => Value::from(command(&self.text(text))),
            value => self.json(value),
        }
    }
}

/// Private keys in PEM, whatever they are part of.
fn without_keys(text: &str) -> String {
    let (mut told, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("PRIVATE KEY-----") {
        let begin = at + "PRIVATE KEY-----".len();
        let end = rest[begin..].find("-----END").map_or(rest.len(), |length| begin + length);
        told.push_str(&rest[..begin]);
        told.push_str(STRUCK);
        rest = &rest[end..];
        // The words of its end are those of its beginning.
        let over = rest.find("PRIVATE KEY-----").map_or(0, |at| at + "PRIVATE KEY-----".len());
        told.push_str(&rest[..over]);
        rest = &rest[over..];
    }
    told.push_str(rest);
    told
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|secret| name.contains(secret)) && !names_a_file(&name)
}

/// A path is no secret; neither is how passwords are encrypted.
fn names_a_file(name: &str) -> bool {
    name.ends_with("_file") || name.ends_with("_files") || name == "password_encryption"
}

fn is_command(name: &str) -> bool {
    name == "command" || name.ends_with("_command")
}

/// The program, and nothing that it is told.
fn command(text: &str) -> String {
    match text.trim_start().split_once(char::is_whitespace) {
        Some((program, _)) if program.contains('=') => STRUCK.to_owned(),
        Some((program, _)) => format!("{program} {STRUCK}"),
        None => text.to_owned(),
    }
}

/// Line by line; a list of what is secret may go on for several.
fn lines(text: &str) -> Vec<String> {
    let mut in_list = false;
    let struck = |line: &str| match (in_list, line.split_once(']')) {
        (true, None) => STRUCK.to_owned(),
        (true, Some((_, after))) => {
            in_list = false;
            format!("{STRUCK}]{after}")
        }
        (false, _) => {
            let (told, goes_on) = assignments(line);
            in_list = goes_on;
            verifiers(&urls(&told))
        }
    };
    text.lines().map(struck).collect()
}

/// Strikes what is assigned to a name that is secret: `password = "x"`, `password=x`, `"token": "x"`, `PASSWORD 'x'`; and what a command is told.
/// Tells whether a list of such begins here and goes on in the next line.
fn assignments(text: &str) -> (String, bool) {
    let (mut told, mut rest, mut goes_on) = (String::new(), text, false);
    while let Some(begin) = rest.find(is_of_name) {
        let length = rest[begin..].find(|c| !is_of_name(c)).unwrap_or(rest.len() - begin);
        let (name, after) = (&rest[begin..begin + length], &rest[begin + length..]);
        told.push_str(&rest[..begin + length]);
        rest = after;
        if !is_secret(name) && !is_command(name) {
            continue;
        }
        let Some((between, value, quote)) = assigned(after) else { continue };
        told.push_str(between);
        rest = &after[between.len() + value.len()..];
        // A list, of words or of secrets: all of it, as far as this line has it.
        if value.starts_with('[') {
            told.push_str(STRUCK);
            if value.contains(']') {
                continue;
            }
            let end = rest.find(']');
            goes_on = end.is_none();
            rest = end.map_or("", |end| &rest[end + 1..]);
            continue;
        }
        told.push_str(&match is_command(name) {
            true => command(value),
            false if value.is_empty() && quote => String::new(),
            false => STRUCK.to_owned(),
        });
    }
    told.push_str(rest);
    (told, goes_on)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// What stands between a name and its value, the value as far as its quotes or the next blank reach, and whether it has quotes.
fn assigned(after: &str) -> Option<(&str, &str, bool)> {
    let mut length = filling(after);
    // As Rust prints what may be missing.
    while after[length..].starts_with("Some(") {
        length += "Some(".len();
        length += filling(&after[length..]);
    }
    let (between, value) = after.split_at(length);
    // `radiussecrets="""one"",""two"""`: a list in quotes, of what is in quotes as well.
    if between.replace('\\', "").ends_with("=\"\"\"") {
        let close = if between.contains('\\') { "\\\"\\\"\\\"" } else { "\"\"\"" };
        return Some((between, &value[..value.find(close).unwrap_or(value.len())], true));
    }
    let sign = between.rfind(['=', ':']);
    let last_quote = between.rfind(['"', '\'']);
    // In a sentence ("password authentication failed") nothing is assigned.
    if sign.is_none() && last_quote.is_none() {
        return None;
    }
    let open = last_quote.filter(|at| sign.is_none_or(|sign| sign < *at));
    let (end, quoted) = match open.map(|at| between.as_bytes()[at]) {
        Some(_) if between.ends_with("''") => (value.find("''").unwrap_or(value.len()), true),
        Some(quote) => (closing(value, quote), true),
        None => (blank(value), false),
    };
    Some((between, &value[..end], quoted))
}

fn filling(text: &str) -> usize {
    text.find(|c: char| !c.is_whitespace() && !"\"'\\=:>(".contains(c)).unwrap_or(text.len())
}

/// Where a value without quotes ends: whatever a password may have in it belongs to it. `Bearer` and `Basic` come before it.
fn blank(value: &str) -> usize {
    let word = |text: &str| text.find(|c: char| c.is_whitespace() || "\"'".contains(c)).unwrap_or(text.len());
    let end = word(value);
    match value[..end].to_ascii_lowercase().as_str() {
        "bearer" | "basic" if end < value.len() => end + 1 + word(&value[end + 1..]),
        _ => end,
    }
}

/// Where a quoted value ends: at its quote, or at the backslash before it where the whole is quoted once more. Doubled quotes belong to it.
fn closing(value: &str, quote: u8) -> usize {
    let bytes = value.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if bytes.get(at + 1) != Some(&quote) => at += 2,
            b'\'' if quote == b'\'' && bytes.get(at + 1) == Some(&b'\'') => at += 2,
            byte if byte == quote || byte == b'\\' => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `postgres://user:***@host`
fn urls(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        told.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/\"'".contains(c)).unwrap_or(after.len());
        let authority = &after[..end];
        match authority.rsplit_once('@').map(|(login, host)| (login.split_once(':'), host)) {
            Some((Some((user, _)), host)) => told.push_str(&format!("{user}:{STRUCK}@{host}")),
            // Without a password the name may be a token, unless it is that of a server's role.
            Some((None, host)) if before.ends_with("https://") => told.push_str(&format!("{STRUCK}@{host}")),
            Some((None, _)) | None => told.push_str(authority),
        }
        rest = &after[end..];
    }
    told.push_str(rest);
    told
}

fn verifiers(text: &str) -> String {
    let mut text = hashes(text);
    for verifier in VERIFIERS {
        let mut parts = text.split(verifier);
        let mut told = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| c.is_whitespace() || "\"',;".contains(c)).unwrap_or(part.len());
            told.push_str(verifier);
            told.push_str(STRUCK);
            told.push_str(&part[end..]);
        }
        text = told;
    }
    text
}

/// `md5` and 32 hexadecimal digits.
fn hashes(text: &str) -> String {
    let (mut told, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("md5") {
        let (before, after) = rest.split_at(at + 3);
        told.push_str(before);
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 32 {
            told.push_str(STRUCK);
        }
        rest = if digits == 32 { &after[digits..] } else { after };
    }
    told.push_str(rest);
    told
}

fn in_url(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
#[path = "strike_tests.rs"]
mod tests;
