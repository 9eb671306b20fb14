//! What nobody may read: whoever lists the processes of a host, or reads its logs, finds no secret there. Every process that agents start is looked at
//! while it lives, again and again, for most live for a moment only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::etcdctl::etcdctl;
use crate::stage::Stage;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at what each process of this host tells of itself.
pub struct Lookout {
    over: Arc<AtomicBool>,
    looks: JoinHandle<(usize, Vec<String>)>,
}

impl Lookout {
    /// For these secrets, in the arguments and the environment of all that belongs to this cluster.
    pub fn begin(home: PathBuf, secrets: Vec<String>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let looks = thread::spawn(move || {
            let (mut seen, mut found) = (0, Vec::new());
            while !until.load(Ordering::Relaxed) {
                for told in processes(&home.display().to_string()) {
                    seen += 1;
                    if secrets.iter().any(|secret| told.contains(secret)) && !found.contains(&told) {
                        found.push(told);
                    }
                }
                thread::sleep(LOOK_EVERY);
            }
            (seen, found)
        });
        Self { over, looks }
    }

    /// Whether any was seen.
    pub fn saw_none(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let (seen, found) = self.looks.join().map_err(|_| anyhow!("the lookout has panicked"))?;
        ensure!(seen > 100, "only {seen} processes were seen");
        ensure!(found.is_empty(), "a secret in the arguments or the environment of: {found:#?}");
        Ok(())
    }
}

/// Arguments and environment of the processes that name this directory there.
fn processes(home: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let told = entries.filter_map(|entry| {
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let all = [read("cmdline"), b"\n".to_vec(), read("environ")].concat();
        Some(String::from_utf8_lossy(&all).replace('\0', " ")).filter(|told| told.contains(home))
    });
    told.collect()
}

/// The passwords that the members have among each other, read by a user of etcd.
pub async fn of_members(stage: &Stage, user: &str) -> Result<Vec<String>> {
    let get = ["--user", user, "get", "--print-value-only", "/service/demo/secrets/replication"];
    let record: BTreeMap<String, String> = serde_json::from_str(&etcdctl(&stage.cluster, &get).await?)?;
    let found: Vec<String> =
        record.into_iter().filter(|(name, _)| name.contains("password")).map(|(_, value)| value).collect();
    ensure!(found.len() == 2 && found.iter().all(|one| one.len() > 10), "{} passwords", found.len());
    Ok(found)
}

/// Neither agents nor servers have written any of these down.
pub fn are_in_no_log(stage: &Stage, secrets: &[String]) -> Result<()> {
    for node in stage.cluster.nodes() {
        for log in [node.agent().log().to_owned(), node.postgres_log()] {
            let told = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
            let line = told.lines().find(|line| secrets.iter().any(|secret| line.contains(secret)));
            ensure!(line.is_none(), "a secret is in {}: {line:?}", log.display());
        }
    }
    Ok(())
}
