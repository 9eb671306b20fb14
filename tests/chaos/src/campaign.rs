//! All that was asked for: faults, settings, repeats. Clusters are used for as many faults as they survive whole, since forming one takes
//! seconds.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use decision::settings::Mode;

use crate::course::course;
use crate::dice::Dice;
use crate::fault::{self, Fault};
use crate::pgvigil::{Pgvigil, Plan};
use crate::report::{Line, table};
use crate::round::{Outcome, play};
use crate::site::{Layout, Site};
use crate::stage::Stage;
use crate::system::System;

/// What to play. Every option can be given in the environment as well, as `make chaos FAULT=isolated` does.
#[derive(Clone, Debug, Parser)]
#[command(name = "chaos", about = "Real faults on real clusters of pgvigil", version)]
pub struct Options {
    /// Which faults: names, or nothing for all
    #[arg(long, env = "FAULT", value_delimiter = ',')]
    pub fault: Vec<String>,
    /// How often each
    #[arg(long, env = "REPEATS", default_value_t = 5)]
    pub repeats: usize,
    /// How many database nodes
    #[arg(long, env = "NODES", value_delimiter = ',', default_value = "3")]
    pub nodes: Vec<usize>,
    /// Where etcd is
    #[arg(long, env = "LAYOUT", value_delimiter = ',', default_value = "apart")]
    pub layout: Vec<Layout>,
    /// The durability mode
    #[arg(long, env = "MODE", value_delimiter = ',', default_value = "quorum")]
    pub mode: Vec<ModeName>,
    /// What else writes
    #[arg(long, env = "LOAD", value_delimiter = ',', default_value = "idle")]
    pub load: Vec<LoadName>,
    /// A storm instead: faults and pairs of them in an order from this seed
    #[arg(long, env = "SEED")]
    pub seed: Option<u64>,
    /// How many faults a storm has
    #[arg(long, env = "BLOWS", default_value_t = 30)]
    pub blows: usize,
    /// One more line of every node's configuration, as KEY=VALUE
    #[arg(long)]
    pub set: Vec<String>,
    /// Where the table goes
    #[arg(long, env = "REPORT", default_value = "target/chaos.md")]
    pub report: PathBuf,
    /// The program to test, if not the one that this was built with
    #[arg(long, env = "PGVIGIL")]
    pub pgvigil: Option<PathBuf>,
    /// Prints the names of all faults
    #[arg(long)]
    pub list: bool,
}

/// Durability modes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// Commits wait for nobody.
    Async,
    /// Commits wait for a quorum, and for nobody where none is left.
    Quorum,
    /// Commits wait.
    Strict,
}

/// Loads by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadName {
    /// Nothing but the writers.
    Idle,
    /// pgbench as well.
    Pgbench,
}

/// One kind of cluster, with what is played on it.
#[derive(Clone, Copy, Debug)]
struct Setting {
    nodes: usize,
    layout: Layout,
    mode: ModeName,
    load: LoadName,
}

/// A campaign.
pub struct Campaign {
    options: Options,
    program: PathBuf,
    began: Instant,
    lines: Vec<Line>,
    kept: Vec<String>,
}

impl Campaign {
    /// Prepares one.
    ///
    /// # Errors
    /// A fault has no such name.
    pub fn new(options: &Options) -> Result<Self> {
        let me = || std::env::current_exe().context("finding this program");
        let program = options.pgvigil.clone().map_or_else(me, Ok)?;
        for name in &options.fault {
            if fault::named(name).is_none() {
                let names: Vec<String> = fault::all().into_iter().map(|fault| fault.name).collect();
                bail!("there is no fault {name}; there are {}", names.join(", "));
            }
        }
        Ok(Self { options: options.clone(), program, began: Instant::now(), lines: Vec::new(), kept: Vec::new() })
    }

    /// Plays everything. Says whether all was good.
    ///
    /// # Errors
    /// The machine has not what it takes.
    pub async fn run(&mut self) -> Result<bool> {
        if self.options.list {
            fault::all().iter().for_each(|fault| println!("{}", fault.name));
            return Ok(true);
        }
        for setting in self.settings() {
            match self.options.seed {
                Some(seed) => self.storm(setting, seed).await?,
                None => self.faults(setting).await?,
            }
        }
        let good = self.lines.iter().all(Line::is_good);
        println!("\n{}", table(&self.lines));
        self.kept.iter().for_each(|kept| println!("{kept}"));
        Ok(good)
    }

    fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for nodes in self.options.nodes.iter().copied() {
            for layout in self.options.layout.iter().copied() {
                for mode in self.options.mode.iter().copied() {
                    let load = self.options.load.iter().copied();
                    settings.extend(load.map(|load| Setting { nodes, layout, mode, load }));
                }
            }
        }
        settings
    }

    async fn faults(&mut self, setting: Setting) -> Result<()> {
        let named: Vec<Fault> = self.options.fault.iter().filter_map(|name| fault::named(name)).collect();
        let wanted = if named.is_empty() { fault::all() } else { named };
        let (on_volumes, on_disk): (Vec<Fault>, Vec<Fault>) = wanted.into_iter().partition(Fault::needs_volumes);
        for (volumes, faults) in [(false, on_disk), (true, on_volumes)] {
            let repeats = self.options.repeats;
            let course: Vec<Fault> = faults.into_iter().flat_map(|fault| std::iter::repeat_n(fault, repeats)).collect();
            self.play_all(setting, volumes, &course, Dice(1)).await?;
        }
        Ok(())
    }

    async fn storm(&mut self, setting: Setting, seed: u64) -> Result<()> {
        let volumes = nix::unistd::Uid::effective().is_root();
        let course: Vec<Fault> = course(seed, volumes).take(self.options.blows).collect();
        self.play_all(setting, volumes, &course, Dice(seed)).await
    }

    /// Plays the faults one after another, on a new cluster whenever one is not whole again.
    async fn play_all(&mut self, setting: Setting, volumes: bool, course: &[Fault], mut dice: Dice) -> Result<()> {
        let mut left = course.iter();
        while !left.as_slice().is_empty() {
            let mut site = Site::new()?;
            let system = Pgvigil::prepare(&mut site, &self.plan(setting, volumes))?;
            if let Err(error) = system.form().await {
                site.keep();
                bail!("{error:#}\nthe logs stay in {}", site.workdir().path().display());
            }
            let stage = Stage::begin(&site, &system, setting.load == LoadName::Pgbench).await?;
            self.say(&format!("{} nodes formed in {}", setting.nodes, site.workdir().path().display()));
            let mut usable = true;
            while usable && let Some(fault) = left.next() {
                let played = play(&stage, fault, setting.mode.mode(), &mut dice).await;
                usable = played.is_ok();
                let good = played.as_ref().is_ok_and(|outcome| outcome.violations.is_empty());
                self.tell(fault, &played);
                self.enter(setting, fault, played);
                if !good {
                    site.keep();
                    self.kept.push(format!("{}: the logs are in {}", fault.name, site.workdir().path().display()));
                }
            }
        }
        Ok(())
    }

    fn plan(&self, setting: Setting, volumes: bool) -> Plan {
        let pairs = self.options.set.iter().filter_map(|pair| pair.split_once('='));
        Plan {
            nodes: setting.nodes,
            layout: setting.layout,
            mode: setting.mode.mode(),
            volumes,
            settings: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            program: self.program.clone(),
        }
    }

    fn say(&self, what: &str) {
        println!("{:7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn tell(&self, fault: &Fault, played: &Result<Outcome>) {
        let outcome = match played {
            Ok(outcome) => outcome,
            Err(error) => return self.say(&format!("{}: {error:#}", fault.name)),
        };
        let (old, new) = &outcome.led;
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        let mut text = format!("{}: {old} -> {new}, outage {:.0} ms", fault.name, ms(outcome.outage));
        for record in &outcome.recorded {
            let phases = record.phases.iter().map(|(name, took)| format!(" {name} {took:.0}"));
            let outage = record.write_outage_ms.map_or_else(|| "-".to_owned(), |outage| format!("{outage:.0}"));
            let _ = write!(text, "; {} {outage}:{}", record.id, phases.collect::<String>());
        }
        let _ = write!(text, "; later {:.0}, {} rows", ms(outcome.later), outcome.acknowledged);
        self.say(&text);
        outcome.violations.iter().for_each(|violation| self.say(&format!("    VIOLATION: {violation}")));
    }

    fn enter(&mut self, setting: Setting, fault: &Fault, played: Result<Outcome>) {
        let word = |name: Option<clap::builder::PossibleValue>| {
            name.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let (mode, load) = (word(setting.mode.to_possible_value()), word(setting.load.to_possible_value()));
        let layout = setting.layout.word().to_owned();
        let same = |line: &Line| {
            (&line.fault, line.nodes, &line.layout, &line.mode, &line.load)
                == (&fault.name, setting.nodes, &layout, &mode, &load)
        };
        let index = self.lines.iter().position(same).unwrap_or_else(|| {
            let (fault, nodes) = (fault.name.clone(), setting.nodes);
            self.lines.push(Line { fault, nodes, layout, mode, load, outcomes: Vec::new(), failed: 0 });
            self.lines.len() - 1
        });
        match played {
            Ok(outcome) => self.lines[index].outcomes.push(outcome),
            Err(_) => self.lines[index].failed += 1,
        }
        // Whoever ends the run early has the table of what was played until then.
        if let Some(above) = self.options.report.parent() {
            let _ = std::fs::create_dir_all(above);
        }
        let _ = std::fs::write(&self.options.report, table(&self.lines));
    }
}

impl ModeName {
    fn mode(self) -> Mode {
        match self {
            Self::Async => Mode::Async,
            Self::Quorum => Mode::Quorum,
            Self::Strict => Mode::Strict,
        }
    }
}
