//! An empty database: `initdb`, with the options that the agent needs and those that the operator wants.

use std::ffi::OsString;

use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::tool;

impl Instance {
    pub(super) async fn initdb(&self, cancel: &CancellationToken) -> Result<()> {
        let config = self.config();
        let mut arguments: Vec<OsString> =
            ["--data-checksums", "--auth-local=peer", "--auth-host=scram-sha-256"].map(OsString::from).into();
        arguments.extend([
            format!("--encoding={}", config.encoding).into(),
            format!("--locale={}", config.locale).into(),
            format!("--username={}", config.superuser).into(),
            "-D".into(),
            self.data_dir().into(),
        ]);
        arguments.extend(config.initdb_args.iter().map(OsString::from));
        let said = self.run("initdb", &arguments, cancel).await?;
        if !said.ok {
            return Err(tool::failed("initdb", &said));
        }
        let path = self.data_dir().join("postgresql.conf");
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
        durable::write(&path, with_usual_wal_sizes(&text).as_bytes(), 0o600)
    }
}

/// initdb takes 64 and 5 segments for `max_wal_size` and `min_wal_size`, however small they are. Small segments are no reason for more
/// checkpoints, so what is less than usual is raised to that.
fn with_usual_wal_sizes(text: &str) -> String {
    let usual = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        let at_least_mb = match key {
            "max_wal_size" => 1024,
            "min_wal_size" => 80,
            _ => return None,
        };
        let less = value.trim().strip_suffix("MB")?.parse::<u32>().ok()? < at_least_mb;
        less.then(|| format!("{key} = {at_least_mb}MB"))
    };
    text.lines().map(|line| usual(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_segments_are_no_reason_for_more_checkpoints() {
        let written = "max_wal_size = 256MB\nmin_wal_size = 20MB\n#wal_keep_size = 0\n";
        assert_eq!(with_usual_wal_sizes(written), "max_wal_size = 1024MB\nmin_wal_size = 80MB\n#wal_keep_size = 0\n");
        let large = "max_wal_size = 4GB\nmin_wal_size = 320MB\n";
        assert_eq!(with_usual_wal_sizes(large), large);
    }
}
