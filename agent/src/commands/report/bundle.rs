//! The bundle itself: texts by their names, each without secrets, and what could not be had and why; written as one `.tgz` that only its owner reads.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::strike::Strike;

/// No single text is longer; the end of it is kept.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// What is gathered.
pub struct Bundle {
    strike: Strike,
    files: BTreeMap<String, String>,
    missing: BTreeMap<String, String>,
}

impl Bundle {
    /// Of which everything is struck that `strike` knows.
    pub fn new(strike: Strike) -> Self {
        Self { strike, files: BTreeMap::new(), missing: BTreeMap::new() }
    }

    /// Puts a text in, or why it could not be had.
    pub fn text(&mut self, name: &str, text: Result<String, impl Display>) {
        match text {
            Ok(text) => {
                // Cut afterwards: of a key whose first line is gone nobody could tell what it is.
                let struck = self.strike.text(&text);
                self.files.insert(name.to_owned(), tail(&struck).to_owned() + "\n");
            }
            Err(why) => {
                let why = self.strike.text(&why.to_string());
                self.missing.insert(name.to_owned(), why);
            }
        }
    }

    /// The same for JSON, of which the names of fields are heeded as well.
    pub fn json(&mut self, name: &str, value: Result<Value, impl Display>) {
        let text = value.map(|value| serde_json::to_string_pretty(&self.strike.json(&value)).unwrap_or_default());
        self.text(name, text);
    }

    /// A value that may be JSON.
    pub fn value(&self, text: &str) -> Value {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => self.strike.json(&value),
            Err(_) => Value::from(self.strike.text(text)),
        }
    }

    /// What could not be had, and why.
    pub fn missing(&self) -> &BTreeMap<String, String> {
        &self.missing
    }

    /// What is in it and what is not, for whoever opens it.
    fn contents(&self) -> String {
        let mut lines = vec![
            "Made by `pgvigil report`. Passwords, tokens and what commands are told are struck (***); look through it before you pass it on."
                .to_owned(),
            String::new(),
        ];
        lines.extend(self.files.iter().map(|(name, text)| format!("{name}  {} bytes", text.len())));
        lines.extend(self.missing.iter().map(|(name, why)| format!("{name}  MISSING: {}", why.replace('\n', " "))));
        lines.join("\n") + "\n"
    }

    /// Writes it. An existing file is not touched.
    ///
    /// # Errors
    /// The file is there already, or cannot be written.
    pub fn write(mut self, path: &Path, directory: &str) -> std::io::Result<()> {
        let contents = self.contents();
        self.files.insert("CONTENTS.txt".to_owned(), contents);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, text) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default());
            archive.append_data(&mut header, format!("{directory}/{name}"), text.as_bytes())?;
        }
        let mut file = archive.into_inner()?.finish()?;
        file.flush()
    }
}

/// The end of what is too long.
fn tail(text: &str) -> &str {
    let mut begin = text.len().saturating_sub(TEXT_BYTES_MAX);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    &text[begin..]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_has_no_secret() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("bundle.tgz");
        let mut bundle = Bundle::new(Strike::new(["hunter2".to_owned()]));
        bundle.text("a/text.txt", Ok::<_, String>("it is hunter2".to_owned()));
        bundle.json("b.json", Ok::<_, String>(json!({"password": "other", "n": 1})));
        bundle.text("c.txt", Err::<String, _>("no hunter2 here"));
        bundle.write(&path, "report").unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()));
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(found["report/a/text.txt"], "it is ***\n");
        assert_eq!(found["report/b.json"], "{\n  \"n\": 1,\n  \"password\": \"***\"\n}\n");
        assert!(found["report/CONTENTS.txt"].contains("c.txt  MISSING: no *** here"));
        let again = Bundle::new(Strike::new([])).write(&path, "report");
        assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    }
}
