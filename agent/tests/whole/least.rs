//! What the agents' roles may do in Postgres, and where their passwords are not: in no statement that a server logs, in no argument and in no
//! environment of any process, from the first initdb to a failover and the rejoin after it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

/// Arguments and environments of all processes, as they were seen in passing.
struct Lookout {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    rounds: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Lookout {
    fn start() -> Self {
        let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let seen: Arc<Mutex<BTreeSet<Vec<u8>>>> = Arc::default();
        let (ends, found, counted) = (Arc::clone(&over), Arc::clone(&seen), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                    for what in ["cmdline", "environ"] {
                        let read = std::fs::read(process.path().join(what)).unwrap_or_default();
                        if !read.is_empty() {
                            found.lock().expect("nobody panics").insert(read);
                        }
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { over, seen, rounds, thread }
    }

    fn ends(self) -> Result<BTreeSet<Vec<u8>>> {
        self.over.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok() && self.rounds.load(Ordering::Relaxed) > 10, "nobody has looked");
        Ok(std::mem::take(&mut *self.seen.lock().expect("nobody panics")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_may_do_what_they_must_and_no_password_is_anywhere_it_can_be_seen() {
    let lookout = Lookout::start();
    let all = options().with("postgres.parameters.log_statement", "\"all\"");
    let all = all.with("postgres.parameters.log_replication_commands", "\"on\"");
    on_stage(&all, async |stage| {
        let leader = stage.leader().await?;
        roles(stage, &leader).await?;
        stage.node(&leader)?.kill_everything()?;
        stage.leader_other_than(&leader).await?;
        stage.start(&leader)?;
        stage.whole().await?;
        let secrets: Value = serde_json::from_str(&etcdctl::get(&stage.cluster, "secrets/replication").await?)?;
        let passwords: Vec<String> = ["replication_password", "rewind_password"]
            .iter()
            .map(|name| secrets[*name].as_str().map(str::to_owned).context("a password"))
            .collect::<Result<_>>()?;
        let seen = lookout.ends()?;
        let starts = seen.iter().filter(|text| contains(text, "pg_basebackup") || contains(text, "initdb")).count();
        ensure!(starts > 0, "nobody saw a program of Postgres begin");
        for password in &passwords {
            ensure!(password.len() >= 16, "it can be guessed");
            let shown = seen.iter().find(|text| contains(text, password));
            ensure!(
                shown.is_none(),
                "in a process: {:?}",
                shown.map(|text| String::from_utf8_lossy(text).into_owned())
            );
            nobody_logs(stage, password)?;
        }
        Ok(())
    })
    .await;
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn nobody_logs(stage: &Stage, password: &str) -> Result<()> {
    for node in stage.cluster.nodes() {
        let statements = std::fs::read(node.postgres_log())?;
        let logs = contains(&statements, "statement: ") || contains(&statements, "execute ");
        ensure!(logs, "{} logs no statements", node.name());
        ensure!(!contains(&statements, password), "the server of {} has logged a password", node.name());
        ensure!(!contains(&std::fs::read(node.agent().log())?, password), "the agent of {} has", node.name());
    }
    Ok(())
}

/// One row a role: whether it is a superuser, may make roles or databases, bypasses policies, replicates, and is let in.
async fn roles(stage: &Stage, leader: &str) -> Result<()> {
    let attributes = "SELECT string_agg(format('%s %s%s%s%s%s%s', rolname, rolsuper::int, rolcreaterole::int, rolcreatedb::int, rolbypassrls::int,
        rolreplication::int, rolcanlogin::int), ',' ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'pgvigil%'";
    let found = stage.cluster.psql(leader, attributes).await?;
    ensure!(found == "pgvigil 000011,pgvigil_replication 000011,pgvigil_rewind 000001", "{found}");
    let memberships = "SELECT string_agg(format('%s in %s', m.rolname, r.rolname), ',' ORDER BY m.rolname, r.rolname) FROM pg_auth_members AS a
        JOIN pg_roles AS m ON m.oid = a.member JOIN pg_roles AS r ON r.oid = a.roleid WHERE m.rolname LIKE 'pgvigil%'";
    let found = stage.cluster.psql(leader, memberships).await?;
    ensure!(found == "pgvigil in pg_checkpoint,pgvigil in pg_monitor,pgvigil in pg_signal_backend", "{found}");
    let verifiers = "SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolname IN ('pgvigil_replication', 'pgvigil_rewind')";
    ensure!(stage.cluster.psql(leader, verifiers).await? == "t", "a password is stored in another way");
    Ok(())
}
