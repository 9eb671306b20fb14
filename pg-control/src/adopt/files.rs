//! The configuration files of a server that somebody else has made. Some distributions keep them outside the data directory, where no copy of it
//! finds them. They are brought home: copies that count from the next start on, while the server goes on reading the ones that it knows.

use std::fs;
use std::path::{Path, PathBuf};

use super::Stranger;
use crate::conf;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::text;

/// Includes within includes are followed so far, as Postgres does.
const DEPTH_MAX: u32 = 10;
/// Settings that say where files are: at home they are where they are looked for.
const PLACES: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// A file that the server reads, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnFile {
    pub(crate) read_from: PathBuf,
    pub(crate) home: PathBuf,
}

impl OwnFile {
    /// It lies where it belongs.
    pub(super) fn is_at_home(&self) -> bool {
        fs::canonicalize(&self.read_from).ok() == fs::canonicalize(&self.home).ok()
    }

    /// Writes it where it is read, and where it belongs.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        text::write(&self.read_from, text, mode_of(&self.read_from))?;
        if self.is_at_home() { Ok(()) } else { text::write(&self.home, text, 0o600) }
    }
}

impl Instance {
    /// The file that this setting of the server names, and where it belongs.
    pub(super) fn own_file(&self, found: &Stranger, setting: &str, name: &str) -> OwnFile {
        let home = self.data_dir().join(name);
        let read_from = Some(found.setting(setting)).filter(|path| !path.is_empty()).map(PathBuf::from);
        OwnFile { read_from: read_from.unwrap_or_else(|| home.clone()), home }
    }

    /// Makes a copy at home of a main file that lies elsewhere, all that it includes in it.
    pub(super) fn bring_home(&self, main: &OwnFile) -> Result<()> {
        if main.is_at_home() {
            return Ok(());
        }
        let text = format!("# Copied by pgvigil from {}\n{}", main.read_from.display(), whole(&main.read_from, 0)?);
        text::write(&main.home, &text, 0o600)
    }

    /// Lets a server whose main file lies elsewhere read ours as well.
    pub(super) fn include_in(&self, main: &OwnFile) -> Result<bool> {
        if main.is_at_home() {
            return Ok(false);
        }
        let include = format!("include '{}'", self.data_dir().join(conf::FILE).display());
        let text = text::read(&main.read_from)?;
        if text.lines().any(|line| line.trim() == include) {
            return Ok(false);
        }
        let home = main.home.display();
        let text = format!(
            "{}\n# By pgvigil: from the next start on {home} is read instead of this file.\n{include}\n",
            text.trim_end()
        );
        text::write(&main.read_from, &text, mode_of(&main.read_from))?;
        Ok(true)
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o600, |meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777)
}

/// The text of a file with everything that it includes in its place, and without the settings that say where files are.
fn whole(path: &Path, depth: u32) -> Result<String> {
    let beside = path.parent().unwrap_or(Path::new("/"));
    let mut text = String::new();
    for line in text::read(path)?.lines() {
        let (key, value) = key_and_value(line);
        let named = beside.join(text::path(&value));
        match key.as_str() {
            "include" | "include_if_exists" | "include_dir" if depth >= DEPTH_MAX => {
                return Err(Error::Setting(format!("{} includes itself", path.display())));
            }
            "include_if_exists" if !named.exists() => {}
            "include" | "include_if_exists" => text += &whole(&named, depth + 1)?,
            "include_dir" => {
                for file in files_of(&named)? {
                    text += &whole(&file, depth + 1)?;
                }
            }
            key if PLACES.contains(&key) => text += &format!("# {line}\n"),
            _ => text += &format!("{line}\n"),
        }
    }
    Ok(text)
}

/// What Postgres reads of a directory: `*.conf` without a dot in front, in the order of their names.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(|error| Error::io("read", directory, error))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let counts = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".conf") && !name.starts_with('.') && path.is_file()
    };
    files.retain(counts);
    files.sort();
    Ok(files)
}

fn key_and_value(line: &str) -> (String, String) {
    let line = line.trim_start();
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start().trim_start_matches('=').trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next(),
        None => rest.split([' ', '\t', '#']).next(),
    };
    (key.to_ascii_lowercase(), value.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_brought_home_with_what_it_includes_and_without_places() {
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir(at("conf.d")).expect("writable");
        let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("writable");
        write("conf.d/b.conf", "work_mem = 8MB\n");
        write("conf.d/a.conf", "work_mem = 4MB # small\n");
        write("conf.d/.hidden.conf", "work_mem = 1MB\n");
        write("extra", "Port 5433\n");
        let main = "DATA_directory = '/d'\nhba_file='/etc/hba'\ninclude_dir = 'conf.d'\ninclude 'extra'\ninclude_if_exists = 'none'\nfsync = on\n";
        write("main.conf", main);
        let text = whole(&at("main.conf"), 0).expect("readable");
        let expected = "# DATA_directory = '/d'\n# hba_file='/etc/hba'\nwork_mem = 4MB # small\nwork_mem = 8MB\nPort 5433\nfsync = on\n";
        assert_eq!(text, expected);
        write("main.conf", "include 'main.conf'\n");
        assert!(matches!(whole(&at("main.conf"), 0), Err(Error::Setting(_))));
    }
}
