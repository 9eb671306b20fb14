//! Patroni on a site, beside an etcd of three members: with its defaults, or with the shortest time to live that it takes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::demo::account::Account;
use agent::demo::programs::{self, PostgresPrograms};
use agent::demo::service::Service;
use anyhow::{Context, Result, bail, ensure};
use chaos::site::Site;
use chaos::system::{Parts, Recorded, Spot, System};
use serde_json::{Value, json};

use crate::http;
use crate::programs::{Call, client, psql};

const POSTGRES_PORT: u16 = 5432;
const API_PORT: u16 = 8008;
const FORMED_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);
/// The network of a site.
const NETWORK: &str = "10.77.0.0/24";

/// How it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// ttl 30, loop_wait 10, retry_timeout 10, asynchronous: what it does when nobody says otherwise.
    Default,
    /// ttl 20, the least that Patroni takes, with `synchronous_mode: quorum`: the same promise as pgvigil's default.
    Quorum20,
}

/// The system.
pub struct Patroni {
    flavour: Flavour,
    parts: Parts,
    urls: Vec<String>,
    postgres: PostgresPrograms,
    account: Account,
}

impl Patroni {
    /// Prepares it; nothing is started yet. `packages` is the directory of Python packages that holds Patroni.
    ///
    /// # Errors
    /// A program is missing.
    pub fn prepare(site: &mut Site, flavour: Flavour, packages: &Path) -> Result<Self> {
        let (account, postgres) = (site.account(), programs::postgres(None)?);
        ensure!(
            packages.join("patroni").is_dir(),
            "there is no Patroni in {}: run scripts/bench-setup.sh",
            packages.display()
        );
        let packages = copied(site, packages)?;
        let hosts = site.hosts("n", 3)?;
        let meeting_place = site.hosts("e", 3)?;
        let (members, urls) = site.etcd(&meeting_place)?;
        let (mut spots, mut agents) = (Vec::new(), Vec::new());
        for host in hosts {
            let home = site.home(host.name(), false)?;
            site.workdir().directory(&format!("{}/s", host.name()))?;
            let spot = Spot {
                name: host.name().to_owned(),
                data_dir: home.join("data"),
                home,
                port: POSTGRES_PORT,
                host: host.clone(),
            };
            let text = configuration(flavour, &spot, &urls, &postgres).to_string();
            // YAML takes JSON as it is.
            let config = site.workdir().file(&format!("{}/patroni.yml", host.name()), &text, 0o600)?;
            let call = Call {
                environment: vec![
                    format!("PYTHONPATH={}", packages.display()),
                    format!("HOME={}", spot.home.display()),
                ],
                program: "/usr/bin/python3".into(),
                arguments: vec!["-m".into(), "patroni".into(), config.into_os_string()],
            };
            let log = site.workdir().path().join(format!("{}.log", host.name()));
            agents.push(call.service(account, &format!("Patroni on {}", host.name()), &host, log));
            spots.push(spot);
        }
        let parts = Parts { spots, agents, members };
        Ok(Self { flavour, parts, urls, postgres, account })
    }

    fn api(&self, node: usize) -> String {
        format!("{}:{API_PORT}", self.parts.spots[node].host.address())
    }

    /// The cluster as one of the nodes that answer sees it.
    async fn cluster(&self) -> Result<Value> {
        for node in 0..self.parts.spots.len() {
            if let Ok((_, body)) = http::get(&self.api(node), "/cluster", Duration::from_secs(2)).await {
                return Ok(serde_json::from_str(&body)?);
            }
        }
        bail!("no Patroni answers")
    }
}

/// A copy of the packages within the site: the user of Postgres may not reach the original.
fn copied(site: &Site, packages: &Path) -> Result<PathBuf> {
    let to = site.workdir().directory("python")?;
    let copied = std::process::Command::new("cp").arg("-r").arg(packages.join(".")).arg(&to).status();
    ensure!(copied.context("running cp")?.success(), "cannot copy {}", packages.display());
    let opened = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(&to).status();
    ensure!(opened.context("running chmod")?.success(), "cannot open {}", to.display());
    Ok(to)
}

fn configuration(flavour: Flavour, spot: &Spot, urls: &[String], postgres: &PostgresPrograms) -> Value {
    let address = spot.host.address();
    let hosts: Vec<&str> = urls.iter().map(|url| url.trim_start_matches("http://")).collect();
    let mut dcs = json!({
        "postgresql": {"use_pg_rewind": true, "parameters": {"shared_buffers": "32MB"}},
    });
    if flavour == Flavour::Quorum20 {
        // loop_wait + 2 * retry_timeout may not exceed the ttl.
        for (key, value) in [("ttl", json!(20)), ("loop_wait", json!(5)), ("retry_timeout", json!(5))] {
            dcs[key] = value;
        }
        dcs["synchronous_mode"] = json!("quorum");
    }
    let user = |name: &str| json!({"username": name, "password": "bench"});
    json!({
        "scope": "bench",
        "name": spot.name,
        "restapi": {"listen": format!("{address}:{API_PORT}"), "connect_address": format!("{address}:{API_PORT}")},
        "etcd3": {"hosts": hosts},
        "bootstrap": {"dcs": dcs, "initdb": [{"encoding": "UTF8"}, "data-checksums"]},
        "postgresql": {
            "listen": format!("{address}:{POSTGRES_PORT}"),
            "connect_address": format!("{address}:{POSTGRES_PORT}"),
            "data_dir": spot.data_dir,
            "bin_dir": postgres.bin_dir,
            "authentication": {"superuser": user("postgres"), "replication": user("replicator"), "rewind": user("rewinder")},
            "parameters": {"unix_socket_directories": spot.home.join("s")},
            "pg_hba": [
                "local all all trust",
                format!("host all all {NETWORK} trust"),
                format!("host replication all {NETWORK} trust"),
            ],
        },
        // The hosts are namespaces of one machine, and its watchdog would end them all.
        "watchdog": {"mode": "off"},
    })
}

impl System for Patroni {
    fn name(&self) -> &str {
        match self.flavour {
            Flavour::Default => "patroni",
            Flavour::Quorum20 => "patroni-20",
        }
    }

    fn parts(&self) -> &Parts {
        &self.parts
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }

    async fn form(&self) -> Result<()> {
        self.parts.members.iter().try_for_each(|member| member.service.start())?;
        crate::crowd::ready(&self.urls).await?;
        self.parts.agents.iter().try_for_each(Service::start)?;
        let begin = Instant::now();
        while let Err(error) = self.content().await {
            ensure!(begin.elapsed() < FORMED_WITHIN, "Patroni has not formed: {error:#}");
            self.parts.agents.iter().try_for_each(Service::must_run)?;
            tokio::time::sleep(POLL).await;
        }
        let cluster = self.cluster().await?;
        let leader = self.parts.spots.iter().position(|spot| member(&cluster, &spot.name)["role"] == "leader");
        for sql in client() {
            self.superuser(leader.context("nobody leads")?, &sql).await?;
        }
        Ok(())
    }

    async fn superuser(&self, node: usize, sql: &str) -> Result<String> {
        psql(self.account, &self.postgres, &self.parts.spots[node], sql).await
    }

    async fn content(&self) -> Result<()> {
        let cluster = self.cluster().await?;
        let replica = if self.flavour == Flavour::Quorum20 { "quorum_standby" } else { "replica" };
        let mut leaders = 0;
        for spot in &self.parts.spots {
            let member = member(&cluster, &spot.name);
            let (role, state) = (member["role"].as_str(), member["state"].as_str());
            match (role, state) {
                (Some("leader"), Some("running")) => leaders += 1,
                (Some(role), Some("streaming")) if role == replica => {}
                other => bail!("{} is {other:?}", spot.name),
            }
        }
        ensure!(leaders == 1, "{leaders} nodes lead");
        Ok(())
    }

    async fn leading_member(&self) -> Option<usize> {
        chaos::meeting::leading(self.account, &self.urls).await
    }

    async fn switch_over(&self, from: usize, to: usize) -> Result<()> {
        let wanted = json!({"leader": self.parts.spots[from].name, "candidate": self.parts.spots[to].name}).to_string();
        let (status, said) = http::post(&self.api(from), "/switchover", &wanted, self.patience()).await?;
        ensure!(status == 200, "Patroni answers {status}: {said}");
        Ok(())
    }

    async fn recorded(&self) -> Vec<Recorded> {
        Vec::new()
    }
}

fn member<'a>(cluster: &'a Value, name: &str) -> &'a Value {
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().find(|member| member["name"] == name).unwrap_or(&Value::Null)
}
