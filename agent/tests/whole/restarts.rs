//! Restarts of each part while the others run: an agent, killed or told to end, leaves Postgres alone and finds it again; etcd members
//! come and go; a standby's Postgres is brought back. Nobody else comes to lead, and nobody but HAProxy's clients blink.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::etcdctl::etcdctl;
use crate::stage::{Stage, on_stage, options};

/// HAProxy cuts clients off when an agent does not answer, and the agent needs a moment to come back, on a busy machine too.
const BLINK: Duration = Duration::from_secs(5);
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn each_part_can_be_restarted_without_a_change_of_leader() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let standby = stage.standby().await?;
        let term = term(stage, &leader).await?;
        for name in [&leader, &standby] {
            agent_restarts(stage, name, Ending::Told).await?;
            agent_restarts(stage, name, Ending::Killed).await?;
        }
        with_a_log_that_nobody_reads(stage, &leader).await?;
        members_of_etcd_restart(stage).await?;
        postgres_of_a_standby_dies(stage, &standby).await?;
        postgres_of_a_standby_cannot_start(stage, &standby).await?;
        let (after, now) = (self::term(stage, &leader).await?, stage.leader().await?);
        ensure!((after, &now) == (term, &leader), "{leader} led term {term}, now {now} leads term {after}");
        Ok(())
    })
    .await;
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Told,
    Killed,
}

async fn agent_restarts(stage: &Stage, name: &str, ending: Ending) -> Result<()> {
    let began = Instant::now();
    let postmaster = stage.node(name)?.postmaster_pid();
    match ending {
        Ending::Told => stage.stop(name).await?,
        Ending::Killed => stage.node(name)?.agent().kill(),
    }
    stage.start(name)?;
    stage.whole().await?;
    stage.writes_go_on().await?;
    let silence = stage.silence_since(began)?;
    stage.say(&format!("the agent of {name} was restarted ({ending:?}): {} ms without writes", silence.as_millis()));
    ensure!(silence < BLINK, "no write for {silence:?} while the agent of {name} was restarted ({ending:?})");
    let now = stage.node(name)?.postmaster_pid();
    ensure!(postmaster.is_some() && now == postmaster, "the postmaster was {postmaster:?} and is {now:?}");
    Ok(())
}

/// A journal that hangs: the agent leads on, and ends when it is told to.
async fn with_a_log_that_nobody_reads(stage: &Stage, name: &str) -> Result<()> {
    let log = stage.node(name)?.agent().log();
    let kept = log.with_extension("kept");
    stage.stop(name).await?;
    std::fs::rename(log, &kept)?;
    mkfifo(log, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut pipe = File::options().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(log)?;
    for size in [4096, 1] {
        while pipe.write(&[b'x'; 4096][..size]).is_ok() {}
    }
    let started = stage.start(name);
    std::fs::rename(&kept, log)?;
    started?;
    stage.say(&format!("the agent of {name} has a log that nobody reads"));
    stage.whole().await?;
    tokio::time::sleep(LONGER_THAN_A_LEASE).await;
    stage.writes_go_on().await?;
    agent_restarts(stage, name, Ending::Told).await
}

async fn members_of_etcd_restart(stage: &Stage) -> Result<()> {
    let began = Instant::now();
    for member in stage.cluster.etcd() {
        member.stop(Duration::from_secs(30)).await?;
        stage.writes_go_on().await?;
        member.start()?;
        stage
            .eventually("etcd does not answer", async || {
                etcdctl(&stage.cluster, &["endpoint", "health"]).await.map(|_| true)
            })
            .await?;
        stage.writes_go_on().await?;
        stage.say(&format!("{} was restarted", member.name()));
    }
    let silence = stage.silence_since(began)?;
    ensure!(silence < BLINK, "no write for {silence:?} while etcd was restarted");
    Ok(())
}

async fn postgres_of_a_standby_dies(stage: &Stage, name: &str) -> Result<()> {
    let before = stage.node(name)?.postmaster_pid().context("the standby runs")?;
    stage.node(name)?.kill_postgres()?;
    let again = async || Ok(stage.node(name)?.postmaster_pid().is_some_and(|now| now != before));
    stage.eventually("Postgres of the standby is not started again", again).await?;
    stage.whole().await
}

/// Whoever asks why it is tried again hears what Postgres said last, and it comes back by itself when that is mended.
async fn postgres_of_a_standby_cannot_start(stage: &Stage, name: &str) -> Result<()> {
    let conf = stage.node(name)?.data_dir().join("postgresql.conf");
    let before = std::fs::read_to_string(&conf)?;
    std::fs::write(&conf, format!("shared_preload_libraries = 'not_there'\n{before}"))?;
    stage.node(name)?.kill_postgres()?;
    let told = async || {
        let failed = stage.ask(name, "/why").await?["failed"].clone();
        Ok(failed["action"] == "start_standby"
            && failed["error"].as_str().is_some_and(|error| error.contains("not_there")))
    };
    stage.eventually("nobody tells why Postgres does not start", told).await?;
    let said = stage.pgvigil(name, &["why"]).await?;
    ensure!(said.contains("not_there"), "{said}");
    std::fs::write(&conf, before)?;
    stage.whole().await
}

async fn term(stage: &Stage, leader: &str) -> Result<u64> {
    stage.ask(leader, "/beat").await?["term"].as_u64().context("the leader tells its term")
}
