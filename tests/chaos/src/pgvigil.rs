//! pgvigil on a site: an agent on every database host, etcd beside it or apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::cli::Exit;
use agent::demo::account::Account;
use agent::demo::lookout::{Lookout, Sight, told};
use agent::demo::programs::{self, PostgresPrograms};
use agent::demo::service::Service;
use agent::demo::session::{DATABASE, USER};
use agent::demo::settings::{NodeFacts, toml};
use anyhow::{Context, Result, bail, ensure};
use decision::settings::Mode;
use serde_json::Value;

use crate::net::CLIENTS;
use crate::site::{Layout, Site};
use crate::system::{Parts, Recorded, Spot, System};

const POSTGRES_PORT: u16 = 5432;
const API_PORT: u16 = 8008;
const FORMED_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// How it is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many database nodes.
    pub nodes: usize,
    /// Where etcd is.
    pub layout: Layout,
    /// The durability mode.
    pub mode: Mode,
    /// A volume for each node.
    pub volumes: bool,
    /// More lines of configuration.
    pub settings: Vec<(String, String)>,
    /// The program.
    pub program: PathBuf,
}

/// The system.
pub struct Pgvigil {
    plan: Plan,
    parts: Parts,
    urls: Vec<String>,
    lookout: Lookout,
    postgres: PostgresPrograms,
    program: PathBuf,
    account: Account,
}

impl Pgvigil {
    /// Prepares it; nothing is started yet.
    ///
    /// # Errors
    /// A program is missing.
    pub fn prepare(site: &mut Site, plan: &Plan) -> Result<Self> {
        let (account, postgres) = (site.account(), programs::postgres(None)?);
        let program = site.workdir().copy_pgvigil(&plan.program)?;
        let hosts = site.hosts("n", plan.nodes)?;
        let meeting_place = match plan.layout {
            Layout::Apart => site.hosts("e", 3)?,
            Layout::Together => hosts[..3].to_vec(),
        };
        let (members, urls) = site.etcd(&meeting_place)?;
        let (mut spots, mut agents) = (Vec::new(), Vec::new());
        for host in hosts {
            let home = site.home(host.name(), plan.volumes)?;
            site.workdir().directory(&format!("{}/s", host.name()))?;
            let config = configure(site, plan, &home, &host, &urls, &postgres)?;
            let arguments = vec!["agent".into(), "--config".into(), config.into_os_string()];
            let log = site.workdir().path().join(format!("{}.log", host.name()));
            let agent = Service::new(account, &format!("the agent of {}", host.name()), &program, arguments, log);
            agents.push(agent.on(Arc::clone(&host) as _));
            let (name, data_dir) = (host.name().to_owned(), home.join("data"));
            spots.push(Spot { name, host, data_dir, home, port: POSTGRES_PORT });
        }
        let url = |spot: &Spot| (spot.name.clone(), format!("http://{}:{API_PORT}", spot.host.address()));
        let lookout = Lookout::new(spots.iter().map(url).collect());
        let parts = Parts { spots, agents, members };
        Ok(Self { plan: plan.clone(), parts, urls, lookout, postgres, program, account })
    }

    /// What the agents say.
    pub fn lookout(&self) -> &Lookout {
        &self.lookout
    }

    /// Runs `pgvigil` with the configuration of a node, on its host.
    ///
    /// # Errors
    /// It fails; the error is what it says.
    pub async fn command(&self, node: usize, arguments: &[&str]) -> Result<String> {
        use agent::demo::service::Ground;
        let mut command = self.account.command(&self.program);
        command.args(arguments).env("PGVIGIL_CONFIG", self.parts.spots[node].home.join("pgvigil.toml"));
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = self.parts.spots[node].host.spawn(command).context("running pgvigil")?;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let good = [Exit::Done, Exit::DoneOtherwise].map(|exit| Some(i32::from(exit.code())));
        let done = good.contains(&output.status.code());
        ensure!(done, "pgvigil {}: {}: {said}", arguments.join(" "), output.status);
        Ok(said)
    }

    async fn etcd_answers(&self) -> Result<()> {
        let (peers, begin) = (agent::peers::Peers::default(), Instant::now());
        for (member, url) in self.parts.members.iter().zip(&self.urls) {
            loop {
                let answer = peers.get(url, "/health", Duration::from_secs(2)).await;
                if answer.is_ok_and(|body| body["health"] == "true" || body["health"] == true) {
                    break;
                }
                member.service.must_run()?;
                ensure!(begin.elapsed() < Duration::from_secs(30), "{} is not healthy", member.service.name());
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    fn votes_are_due(&self) -> bool {
        self.plan.nodes > 2 && self.plan.mode != Mode::Async
    }
}

fn configure(
    site: &Site,
    plan: &Plan,
    home: &Path,
    host: &crate::host::Host,
    urls: &[String],
    postgres: &PostgresPrograms,
) -> Result<PathBuf> {
    let facts = NodeFacts {
        name: host.name(),
        home,
        address: &host.address().to_string(),
        clients: CLIENTS,
        postgres_port: POSTGRES_PORT,
        api_port: API_PORT,
        etcd: urls,
        programs: postgres,
        ttl: Duration::from_secs(5),
    };
    let mode = match plan.mode {
        Mode::Async => "async",
        Mode::Strict => "strict",
        _ => "quorum",
    };
    let mut more = vec![("durability.mode".to_owned(), format!("{mode:?}"))];
    more.extend(plan.settings.iter().cloned());
    let text = toml(&facts, &more);
    let config = site.workdir().file(&format!("{}/pgvigil.toml", host.name()), &text, 0o600)?;
    agent::config::load(&config, std::iter::empty())?;
    Ok(config)
}

impl System for Pgvigil {
    fn name(&self) -> &str {
        "pgvigil"
    }

    fn needs_no_agreement(&self) -> bool {
        true
    }

    fn parts(&self) -> &Parts {
        &self.parts
    }

    async fn form(&self) -> Result<()> {
        self.parts.members.iter().try_for_each(|member| member.service.start())?;
        self.etcd_answers().await?;
        self.parts.agents.iter().try_for_each(Service::start)?;
        let begin = Instant::now();
        loop {
            match self.content().await {
                Ok(()) => break,
                Err(error) if begin.elapsed() > FORMED_WITHIN => {
                    bail!("not formed: {error:#}{}", told(&self.lookout.survey().await))
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
            self.parts.agents.iter().try_for_each(Service::must_run)?;
        }
        let sights = self.lookout.survey().await;
        let leader = sights.iter().position(|sight| sight.writable).context("nobody leads")?;
        let role = format!("CREATE ROLE {USER} LOGIN; GRANT pg_monitor, pg_signal_backend TO {USER}");
        self.superuser(leader, &role).await?;
        self.superuser(leader, &format!("CREATE DATABASE {DATABASE} OWNER {USER}")).await.map(drop)
    }

    async fn superuser(&self, node: usize, sql: &str) -> Result<String> {
        let spot = &self.parts.spots[node];
        let mut command = self.account.command(self.postgres.bin_dir.join("psql"));
        command.args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-p"]);
        // A unix socket knows no hosts.
        command.arg(spot.port.to_string()).arg("-h").arg(spot.home.join("s")).arg("-c").arg(sql);
        let output =
            tokio::process::Command::from(command).kill_on_drop(true).output().await.context("running psql")?;
        ensure!(output.status.success(), "psql on {}: {}", spot.name, String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    async fn content(&self) -> Result<()> {
        let sights = self.lookout.survey().await;
        let good = |sight: &Sight| sight.writable || (sight.streams() && (sight.votes || !self.votes_are_due()));
        ensure!(sights.iter().filter(|sight| sight.writable).count() == 1, "not one writable leader{}", told(&sights));
        ensure!(sights.iter().all(good), "not every standby streams and votes{}", told(&sights));
        let leader = sights.iter().find(|sight| sight.writable).context("nobody leads")?;
        let why = self.lookout.ask(&leader.name, "/why").await?;
        // Until its lease carries it again the mend of the last fault is not over.
        let by_promises = ["leading_on_promises", "etcd_silent", "resume"];
        ensure!(
            by_promises.iter().all(|code| why["reason"]["code"] != *code),
            "the leader has no lease yet{}",
            told(&sights)
        );
        for standing in why["standings"].as_array().into_iter().flatten() {
            let away = ["agent_down", "not_running", "not_streaming"];
            let bars = standing["bars"].as_array().into_iter().flatten();
            if let Some(bar) = bars.into_iter().find(|bar| away.iter().any(|code| bar["code"] == *code)) {
                bail!("the leader believes of {}: {}", standing["member"], bar["code"]);
            }
        }
        Ok(())
    }

    async fn leading_member(&self) -> Option<usize> {
        crate::meeting::leading(self.account, &self.urls).await
    }

    async fn switch_over(&self, from: usize, to: usize) -> Result<()> {
        let (leader, to) = (&self.parts.spots[from].name, &self.parts.spots[to].name);
        let arguments = ["switchover", "--to", to, "--expect-leader", leader, "--reason", "chaos", "-y"];
        self.command(from, &arguments).await.map(drop)
    }

    async fn recorded(&self) -> Vec<Recorded> {
        for spot in &self.parts.spots {
            let Ok(body) = self.lookout.ask(&spot.name, "/transitions").await else { continue };
            let records = body["transitions"].as_array().into_iter().flatten();
            return records.map(recorded).collect();
        }
        Vec::new()
    }
}

fn recorded(record: &Value) -> Recorded {
    let phases = record["phases"].as_array().into_iter().flatten();
    let phase = |phase: &Value| Some((phase["name"].as_str()?.to_owned(), phase["duration_ms"].as_f64()?));
    Recorded {
        id: record["id"].as_str().unwrap_or_default().to_owned(),
        write_outage_ms: record["write_outage_ms"].as_f64(),
        phases: phases.filter_map(phase).collect(),
        finished: record["outcome"] != "in_progress",
    }
}
