//! The programs a cluster is made of, and where they were found. What is missing is told with the package that brings it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

/// Where Debian keeps one directory for each major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Programs for administrators are not in everybody's PATH.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/usr/bin"];

/// The programs of PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresPrograms {
    /// Their directory.
    pub bin_dir: PathBuf,
    /// Their major version.
    pub version: u32,
}

/// Where tests are told to take PostgreSQL from (`make test PG=17`).
const TOLD: &str = "PGVIGIL_TEST_BIN_DIR";

/// PostgreSQL in `wanted`, or else in `$PGVIGIL_TEST_BIN_DIR`, or else the newest under `/usr/lib/postgresql`, or else in PATH.
///
/// # Errors
/// There is none; the message says where it was looked for, and which package it comes in.
pub fn postgres(wanted: Option<&Path>) -> Result<PostgresPrograms> {
    let told = std::env::var_os(TOLD).map(PathBuf::from);
    let bin_dir = match wanted.or(told.as_deref()) {
        Some(directory) if directory.join("postgres").is_file() => directory.to_owned(),
        Some(directory) => bail!("there is no `postgres` in {}: name its directory with --bin-dir", directory.display()),
        None => newest_of_debian(Path::new(DEBIAN)).or_else(|| in_path("postgres")?.parent().map(Path::to_owned)).ok_or_else(
            || anyhow!("no PostgreSQL found, neither in {DEBIAN}/*/bin nor in PATH: apt-get install postgresql-15, or name its directory with --bin-dir"),
        )?,
    };
    for program in ["initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "psql"] {
        if !bin_dir.join(program).is_file() {
            bail!("{} has `postgres` but no `{program}`: apt-get install postgresql-client-15", bin_dir.display());
        }
    }
    let version = version(&bin_dir.join("postgres"))?;
    Ok(PostgresPrograms { bin_dir, version })
}

/// A program by its name.
///
/// # Errors
/// It is not installed.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    let found = in_path(name).or_else(|| SYSTEM.iter().map(|at| Path::new(at).join(name)).find(|path| path.is_file()));
    found.ok_or_else(|| anyhow!("there is no `{name}`, neither in PATH nor in /usr/sbin: apt-get install {package}"))
}

fn newest_of_debian(directory: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let complete = versions.filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin_dir = entry.path().join("bin");
        bin_dir.join("postgres").is_file().then_some((version, bin_dir))
    });
    complete.max().map(|(_, bin_dir)| bin_dir)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn version(postgres: &Path) -> Result<u32> {
    let output = Command::new(postgres).arg("--version").output();
    let said = output.with_context(|| format!("cannot run {}", postgres.display()))?.stdout;
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let said = String::from_utf8_lossy(&said).into_owned();
    let digits = |word: &str| word.chars().take_while(char::is_ascii_digit).collect::<String>();
    let version = said.split_whitespace().nth(2).map(digits).and_then(|digits| digits.parse().ok());
    version.ok_or_else(|| anyhow!("{} does not tell its version, but \"{}\"", postgres.display(), said.trim()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_taken_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16", "17"] {
            std::fs::create_dir_all(directory.path().join(version).join("bin")).unwrap();
        }
        for version in ["9", "15", "16"] {
            std::fs::write(directory.path().join(version).join("bin/postgres"), "").unwrap();
        }
        assert_eq!(newest_of_debian(directory.path()), Some(directory.path().join("16/bin")));
    }

    #[test]
    fn what_is_missing_is_told_with_its_package() {
        let directory = tempfile::tempdir().unwrap();
        let told = postgres(Some(directory.path())).unwrap_err().to_string();
        assert!(told.contains("--bin-dir"), "{told}");
        let told = program("no-such-program", "etcd-server").unwrap_err().to_string();
        assert!(told.contains("apt-get install etcd-server"), "{told}");
    }
}
