//! pg_auto_failover on a site: a monitor on a host of its own in place of etcd, and three nodes. It is tuned: with its defaults a lost host
//! is noticed after 20 s and replaced after 30 s more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::demo::account::Account;
use agent::demo::processes::signal;
use agent::demo::programs::{self, PostgresPrograms};
use anyhow::{Context, Result, bail, ensure};
use chaos::host::Host;
use chaos::site::Site;
use chaos::system::{Member, Parts, Recorded, Spot, System};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::programs::{Call, client, psql};

const POSTGRES_PORT: u16 = 5432;
const FORMED_WITHIN: Duration = Duration::from_secs(180);
const COMMAND_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(500);
/// The network of a site.
const NETWORK: &str = "10.77.0.0/24";
/// Shorter ones let a busy machine fail over for nothing; a primary ends itself within the time after which it is replaced.
const MONITOR_TUNING: &str = "
pgautofailover.health_check_period = 1000
pgautofailover.health_check_timeout = 1000
pgautofailover.health_check_max_retries = 1
pgautofailover.health_check_retry_delay = 500
pgautofailover.node_considered_unhealthy_timeout = 5000
pgautofailover.primary_demote_timeout = 5000
pgautofailover.startup_grace_period = 5000
";
const PARTITION_TIMEOUT_S: &str = "5";

/// The system.
pub struct AutoFailover {
    parts: Parts,
    monitor_home: PathBuf,
    postgres: PostgresPrograms,
    account: Account,
}

impl AutoFailover {
    /// Prepares it; nothing is started yet.
    ///
    /// # Errors
    /// A program is missing.
    pub fn prepare(site: &mut Site) -> Result<Self> {
        let (account, postgres) = (site.account(), programs::postgres(None)?);
        programs::program("pg_autoctl", "pg-auto-failover-cli")?;
        let monitor = site.hosts("m", 1)?.remove(0);
        let monitor_home = made(site, &monitor)?;
        let log = |name: &str| site.workdir().path().join(format!("{name}.log"));
        let run = |home: &Path| call(&postgres, home, &["run", "--pgdata", &text(&home.join("data"))]);
        let service = run(&monitor_home).service(account, "the monitor", &monitor, log("m1"));
        let members = vec![Member { host: Arc::clone(&monitor), service }];
        let (mut spots, mut agents) = (Vec::new(), Vec::new());
        for host in site.hosts("n", 3)? {
            let home = made(site, &host)?;
            let name = host.name().to_owned();
            let log = site.workdir().path().join(format!("{name}.log"));
            agents.push(run(&home).service(account, &format!("pg_autoctl on {name}"), &host, log));
            spots.push(Spot { name, data_dir: home.join("data"), home, port: POSTGRES_PORT, host });
        }
        let parts = Parts { spots, agents, members };
        Ok(Self { parts, monitor_home, postgres, account })
    }

    fn monitor(&self) -> &Host {
        &self.parts.members[0].host
    }

    async fn create_monitor(&self) -> Result<()> {
        let (data, address) = (self.monitor_home.join("data"), self.monitor().address().to_string());
        let arguments = ["create", "monitor", "--pgdata", &text(&data), "--pgport", "5432", "--hostname", &address];
        let create =
            call(&self.postgres, &self.monitor_home, &[&arguments[..], &["--auth", "trust", "--no-ssl"]].concat());
        create.run(self.account, self.monitor(), COMMAND_WITHIN).await?;
        append(&data.join("postgresql.conf"), MONITOR_TUNING)?;
        append(&data.join("pg_hba.conf"), &format!("host all all {NETWORK} trust\n"))?;
        self.parts.members[0].service.start()
    }

    async fn create_node(&self, node: usize) -> Result<()> {
        let spot = &self.parts.spots[node];
        let (data, address) = (text(&spot.data_dir), spot.host.address().to_string());
        let monitor = format!("postgres://autoctl_node@{}:5432/pg_auto_failover", self.monitor().address());
        let arguments = ["create", "postgres", "--pgdata", &data, "--pgport", "5432", "--hostname", &address];
        let more = ["--name", &spot.name, "--auth", "trust", "--no-ssl", "--monitor", &monitor];
        let create = call(&self.postgres, &spot.home, &[&arguments[..], &more].concat());
        create.run(self.account, &spot.host, COMMAND_WITHIN).await.with_context(|| spot.name.clone())?;
        let setting = ["config", "set", "--pgdata", &data, "timeout.network_partition_timeout", PARTITION_TIMEOUT_S];
        call(&self.postgres, &spot.home, &setting).run(self.account, &spot.host, COMMAND_WITHIN).await?;
        self.parts.agents[node].start()
    }

    /// Lets the clients in. Standbys are copies of the primary, its rules included.
    async fn let_clients_in(&self) -> Result<()> {
        append(&self.parts.spots[0].data_dir.join("pg_hba.conf"), &format!("host all all {NETWORK} trust\n"))?;
        let begin = Instant::now();
        while let Err(error) = self.superuser(0, "SELECT pg_reload_conf()").await {
            ensure!(begin.elapsed() < COMMAND_WITHIN, "{error:#}");
            tokio::time::sleep(POLL).await;
        }
        for sql in client() {
            self.superuser(0, &sql).await?;
        }
        // A standby begins with a checkpoint that takes its time over every page that the new database has left behind.
        self.superuser(0, "CHECKPOINT").await.map(drop)
    }

    async fn state(&self) -> Result<Vec<Value>> {
        let arguments = ["show", "state", "--json", "--pgdata", &text(&self.monitor_home.join("data"))];
        let show = call(&self.postgres, &self.monitor_home, &arguments);
        let said = show.run(self.account, self.monitor(), Duration::from_secs(10)).await?;
        let json = said.find('[').map(|at| &said[at..]).context("the monitor tells nothing")?;
        Ok(serde_json::from_str(json)?)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn made(site: &mut Site, host: &Host) -> Result<PathBuf> {
    let home = site.home(host.name(), false)?;
    site.workdir().directory(&format!("{}/s", host.name()))?;
    site.workdir().directory(&format!("{}/run", host.name()))?;
    Ok(home)
}

/// pg_autoctl keeps its configuration under HOME, its process id where XDG says, and its socket where its tests want it.
fn call(postgres: &PostgresPrograms, home: &Path, arguments: &[&str]) -> Call {
    let home = home.display();
    Call {
        environment: vec![
            format!("HOME={home}"),
            format!("XDG_RUNTIME_DIR={home}/run"),
            format!("PG_REGRESS_SOCK_DIR={home}/s"),
            format!("PGHOST={home}/s"),
            format!("PATH=/usr/bin:/bin:{}", postgres.bin_dir.display()),
        ],
        program: "pg_autoctl".into(),
        arguments: arguments.iter().map(Into::into).collect(),
    }
}

fn append(file: &Path, lines: &str) -> Result<()> {
    use std::io::Write;
    let opened = std::fs::OpenOptions::new().append(true).open(file);
    opened.and_then(|mut file| file.write_all(lines.as_bytes())).with_context(|| format!("writing {}", file.display()))
}

impl System for AutoFailover {
    fn name(&self) -> &str {
        "auto-failover"
    }

    fn parts(&self) -> &Parts {
        &self.parts
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }

    /// It is a family of processes, and the one that is started watches over the others.
    fn kill_agent(&self, node: usize) {
        let family = crate::costs::agents_on(&self.parts.spots[node].host);
        family.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        family.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        self.parts.agents[node].kill();
    }

    /// The monitor is a Postgres with its family.
    fn kill_member(&self, _member: usize) -> Result<()> {
        self.monitor().kill_everything()?;
        self.parts.members[0].service.kill();
        Ok(())
    }

    async fn form(&self) -> Result<()> {
        self.create_monitor().await?;
        self.create_node(0).await?;
        self.let_clients_in().await?;
        tokio::try_join!(self.create_node(1), self.create_node(2))?;
        let begin = Instant::now();
        while let Err(error) = self.content().await {
            ensure!(begin.elapsed() < FORMED_WITHIN, "pg_auto_failover has not formed: {error:#}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn superuser(&self, node: usize, sql: &str) -> Result<String> {
        psql(self.account, &self.postgres, &self.parts.spots[node], sql).await
    }

    async fn content(&self) -> Result<()> {
        let state = self.state().await?;
        ensure!(state.len() == self.parts.spots.len(), "the monitor knows of {} nodes", state.len());
        let is = |node: &Value, what: &str| node["current_group_state"] == what && node["assigned_group_state"] == what;
        let primaries = state.iter().filter(|node| is(node, "primary")).count();
        ensure!(primaries == 1, "{primaries} nodes are settled as primary");
        for node in &state {
            if !(is(node, "primary") || is(node, "secondary")) || node["health"] != 1 {
                bail!(
                    "{} is {}, to be {}",
                    node["nodename"],
                    node["current_group_state"],
                    node["assigned_group_state"]
                );
            }
        }
        Ok(())
    }

    async fn leading_member(&self) -> Option<usize> {
        Some(0)
    }

    async fn switch_over(&self, _from: usize, to: usize) -> Result<()> {
        let spot = &self.parts.spots[to];
        let arguments =
            ["perform", "promotion", "--pgdata", &text(&self.monitor_home.join("data")), "--name", &spot.name];
        call(&self.postgres, &self.monitor_home, &arguments)
            .run(self.account, self.monitor(), COMMAND_WITHIN)
            .await
            .map(drop)
    }

    async fn recorded(&self) -> Vec<Recorded> {
        Vec::new()
    }
}
