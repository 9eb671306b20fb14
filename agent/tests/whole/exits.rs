//! What a command ends with where nothing was done: 7 where whoever asked took it back, on a real terminal; 8 where etcd does not know who asks.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::processes;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

/// A person at a terminal is asked, and types this; what it ended with, and what was on the screen.
fn at_a_terminal(config: &Path, words: &str, prompt: &str, typed: &[u8]) -> Result<(Option<i32>, String)> {
    // A shell that waits for its last command, as dash does, would die of Ctrl-C itself and hide what the command ended with.
    let command = format!("exec {} {words}", env!("CARGO_BIN_EXE_pgvigil"));
    let mut child = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .env("PGVIGIL_CONFIG", config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("script (util-linux)")?;
    let (mut stdin, mut stdout) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
    let (mut screen, mut some, began) = (String::new(), [0; 4096], Instant::now());
    while !screen.contains(prompt) {
        let read = stdout.read(&mut some)?;
        if read == 0 {
            return Ok((child.wait()?.code(), screen));
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "nothing was asked: {screen}");
        screen.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    // The question is written before the answer is waited for.
    std::thread::sleep(Duration::from_millis(300));
    stdin.write_all(typed)?;
    stdin.flush()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > Duration::from_secs(60) {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stdout.read_to_string(&mut screen)?;
    eprintln!("{words}: {status}\n{screen}");
    Ok((status.code(), screen))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_it_back_at_a_terminal_has_changed_nothing() {
    let options = ClusterOptions { nodes: 2, ..options() };
    on_stage(&options, async |stage: &mut Stage| {
        let leader = stage.leader().await?;
        let config = stage.node(&leader)?.config().to_owned();
        for (words, prompt, typed) in [
            ("switchover", "[y/N]", &b"n\n"[..]),
            ("switchover", "[y/N]", b"\x03"),
            ("fleet switchover --from-zone nowhere", "no member of any cluster", b""),
            ("config set durability.mode=async", "[y/N]", b"\n"),
        ] {
            let expected = if words.starts_with("fleet") { 3 } else { 7 };
            // A check may fail for a moment on a machine that is busy, and then nothing is asked.
            let taken_back = async || {
                let config = config.clone();
                let at = move || at_a_terminal(&config, words, prompt, typed);
                let (code, screen) = tokio::task::spawn_blocking(at).await?.with_context(|| words.to_owned())?;
                ensure!(!screen.contains(prompt) || code == Some(expected), "{words}: {code:?}, {screen}");
                Ok(screen.contains(prompt))
            };
            stage.eventually(&format!("{words} asks nothing"), taken_back).await?;
        }
        nothing_is_changed_where_another_leads(stage, &leader).await?;
        nothing_is_written_for_a_cluster_that_is_not_there(stage, &leader).await?;
        what_was_asked_for_stands_when_its_asker_goes(stage, &leader).await?;
        ensure!(stage.leader().await? == leader, "somebody else leads");
        ensure!(etcdctl::get(&stage.cluster, "failover").await?.is_empty(), "a request was left");
        ensure!(etcdctl::get(&stage.cluster, "config").await?.find("\"async\"").is_none(), "a setting was changed");
        Ok(())
    })
    .await;
}

/// A cluster whose name is misspelt in a file is none, and what is said of it is not what this host's agent says of another one.
async fn nothing_is_written_for_a_cluster_that_is_not_there(stage: &Stage, leader: &str) -> Result<()> {
    let file = stage.node(leader)?.config().with_file_name("misspelt.toml");
    let text = std::fs::read_to_string(stage.node(leader)?.config())?;
    ensure!(text.contains("cluster = \"demo\""), "another name is used: {text}");
    std::fs::write(&file, text.replace("cluster = \"demo\"", "cluster = \"dmeo\""))?;
    let file = file.to_string_lossy().into_owned();
    for (words, code, told) in [
        (&["pause"][..], 3, "no such cluster"),
        (&["resume"], 3, "no such cluster"),
        (&["config", "set", "-y", "durability.mode=async"], 3, "no such cluster"),
        (&["hold", "--reason", "test", "--for", "1m"], 3, "no such cluster"),
        (&["hold", "--reason", "test", "--", "true"], 125, "no such cluster"),
        (&["reload"], 3, "no such cluster"),
        (&["status", "--exit-code"], 11, "cluster dmeo is not in this etcd"),
        (&["why"], 6, "an agent of cluster demo"),
    ] {
        let place = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let words = [&words[..place], &["-c", &file], &words[place..]].concat();
        let output = stage.cluster.pgvigil(leader, &words).await?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.code() == Some(code) && said.contains(told), "{words:?}: {}, {said}", output.status);
    }
    let written = etcdctl::etcdctl(&stage.cluster, &["get", "--prefix", "--keys-only", "/service/dmeo/"]).await?;
    ensure!(written.is_empty(), "{written}");
    Ok(())
}

/// Whatever is asked for under another leader is refused with who leads, and under the right one it is done.
async fn nothing_is_changed_where_another_leads(stage: &Stage, leader: &str) -> Result<()> {
    let other = stage.others(leader)[0].clone();
    let told = format!("{leader} leads, not {other}");
    let before = (etcdctl::get(&stage.cluster, "config").await?, etcdctl::get(&stage.cluster, "hold").await?);
    for words in [
        &["switchover", "-y"][..],
        &["failover", "--to", &other, "-y"],
        &["restart", &other, "-y"],
        &["restart", &other, "--pending", "-y"],
        &["restart", "--rolling", "-y"],
        &["reload"],
        &["reinit", &other, "-y"],
        &["pause"],
        &["resume"],
        &["config", "set", "-p", "work_mem=5MB", "-y"],
        &["config", "rollback", "1", "-y"],
        &["member", "remove", &other, "-y"],
        &["hold", "--reason", "test", "--for", "1m"],
        &["hold", "--reason", "test", "--", "true"],
        &["release"],
        &["site", "promote", "-y"],
        &["site", "demote", "--host", "192.0.2.1", "-y"],
    ] {
        let (place, command) =
            words.iter().position(|word| *word == "--").map_or((words.len(), &[][..]), |at| (at, &words[at..]));
        let words = [&words[..place], &["--expect-leader", &other], command].concat();
        let output = stage.cluster.pgvigil(leader, &words).await?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // What is not the doing of the command that a hold was to run ends with none of its codes.
        let code = if command.is_empty() { 3 } else { 125 };
        ensure!(output.status.code() == Some(code) && said.contains(&told), "{words:?}: {}, {said}", output.status);
    }
    let after = (etcdctl::get(&stage.cluster, "config").await?, etcdctl::get(&stage.cluster, "hold").await?);
    ensure!(before == after, "{before:?} became {after:?}");
    ensure!(etcdctl::get(&stage.cluster, &format!("orders/{other}")).await?.is_empty(), "an order was left");
    for words in [&["pause", "--expect-leader", leader][..], &["resume", "--expect-leader", leader]] {
        stage.pgvigil(&other, words).await?;
    }
    Ok(())
}

/// Ctrl-C after the order was given, which nobody takes up for the moment: 4, and the order is carried out all the same.
async fn what_was_asked_for_stands_when_its_asker_goes(stage: &Stage, leader: &str) -> Result<()> {
    let other = stage.others(leader)[0].clone();
    stage.node(&other)?.agent().freeze()?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_pgvigil"))
        .args(["reload", &other, "--wait", "50s"])
        .env("PGVIGIL_CONFIG", stage.node(leader)?.config())
        .spawn()?;
    let order = format!("orders/{other}");
    stage.eventually("no order is given", async || Ok(!etcdctl::get(&stage.cluster, &order).await?.is_empty())).await?;
    // The order is there a moment before its asker knows.
    tokio::time::sleep(Duration::from_millis(500)).await;
    processes::signal(i32::try_from(child.id())?, Signal::SIGINT);
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    ensure!(status.code() == Some(4), "interrupted: {status}");
    stage.node(&other)?.agent().thaw()?;
    stage
        .eventually("the order is not taken up", async || Ok(etcdctl::get(&stage.cluster, &order).await?.is_empty()))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_etcd_does_not_know_is_told_so() {
    let small = ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() };
    let cluster = LocalCluster::prepare(&small).expect("this machine has all that a cluster needs");
    if let Err(error) = turned_away(&cluster).await {
        panic!("{error:#}");
    }
}

async fn turned_away(cluster: &LocalCluster) -> Result<()> {
    cluster.start_etcd().await?;
    etcdctl::etcdctl(cluster, &["user", "add", "root:secret"]).await?;
    etcdctl::etcdctl(cluster, &["user", "grant-role", "root", "root"]).await?;
    etcdctl::etcdctl(cluster, &["auth", "enable"]).await?;
    for words in [
        &["status"][..],
        &["why"],
        &["switchover", "-y"],
        &["failover", "--to", "n1", "-y"],
        &["restart", "n1", "-y"],
        &["member", "remove", "n2", "-y"],
        &["pause"],
        &["config", "show"],
        &["config", "set", "durability.mode=async", "-y"],
        &["site", "promote", "-y"],
        &["transitions"],
        &["show", "haproxy"],
        &["fleet", "status"],
        &["fleet", "switchover", "--from-zone", "a", "-y"],
    ] {
        let output = cluster.pgvigil("n1", words).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(8), "{words:?}: {}, {told}", output.status);
        ensure!(told.contains("turns this away"), "{words:?}: {told}");
    }
    Ok(())
}
