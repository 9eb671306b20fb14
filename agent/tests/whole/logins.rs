//! etcd asks who it is: agents and the command line work with the rights that the documentation grants, while logins run out every two seconds, and
//! with a password that is changed while they run.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::etcdctl::etcdctl;
use crate::secrets::{self, Lookout};
use crate::stage::{Stage, on_empty_stage, options};

const FIRST: &str = "the-first-password";
const SECOND: &str = "the-second-password";
/// Ten logins run out meanwhile.
const WATCHED_FOR: Duration = Duration::from_secs(20);

fn short_logins() -> ClusterOptions {
    // Each login takes etcd a tenth of a second of a whole core unless it is told to take less care.
    let etcd_arguments = ["--auth-token-ttl", "2", "--bcrypt-cost", "4"].map(str::to_owned).into();
    ClusterOptions { etcd_arguments, ..options() }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_run_out_and_passwords_change_and_no_lease_is_lost() {
    on_empty_stage(&short_logins(), async |stage| {
        let file = stage.cluster.make_directory("etcd-login")?.join("password");
        write_password(&file, FIRST)?;
        for node in stage.cluster.nodes() {
            stage.set(node.name(), "etcd.username", "\"pgvigil\"")?;
            stage.set(node.name(), "etcd.password_file", &format!("{:?}", file.display().to_string()))?;
        }
        stage.cluster.start_etcd().await?;
        grant(stage).await?;
        stage.cluster.start_nodes()?;
        stage.cluster.start_proxy()?;
        stage.begins_to_write().await?;
        let leader = stage.leader().await?;
        let term = term(stage, &leader).await?;
        let secrets =
            [vec![FIRST.to_owned(), SECOND.to_owned()], secrets::of_members(stage, &format!("pgvigil:{FIRST}")).await?]
                .concat();
        let lookout = Lookout::begin(stage.cluster.directory().to_owned(), secrets.clone());
        let began = Instant::now();
        tokio::time::sleep(WATCHED_FOR).await;
        let silence = stage.silence_since(began)?;
        stage.say(&format!("logins ran out for {WATCHED_FOR:?}: {} ms without a write at most", silence.as_millis()));
        ensure!(silence < Duration::from_secs(2), "writes paused for {silence:?}");
        the_command_line_works(stage, &leader).await?;

        stage.say("the password is changed: first in etcd, then in the file");
        let changed = Instant::now();
        as_root(stage, &["user", "passwd", "pgvigil", "--interactive=false"], Some(SECOND)).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        write_password(&file, SECOND)?;
        tokio::time::sleep(WATCHED_FOR / 2).await;
        let silence = stage.silence_since(changed)?;
        stage.say(&format!("{} ms without a write at most", silence.as_millis()));
        ensure!(silence < Duration::from_secs(5), "writes paused for {silence:?}");
        ensure!(stage.leader().await? == leader && self::term(stage, &leader).await? == term, "the lead has moved");

        let killed = Instant::now();
        stage.node(&leader)?.kill_everything()?;
        let next = stage.leader_other_than(&leader).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("the leader was killed: {} ms without a write", stage.silence_since(killed)?.as_millis()));
        stage.start(&leader)?;
        stage.whole().await?;
        stage.pgvigil(&next, &["switchover", "--to", &leader, "-y"]).await?;
        a_wrong_password_is_told(stage, &file, &leader).await?;
        let standby = stage.others(&leader).remove(0);
        stage.pgvigil(&leader, &["reinit", &standby, "-y"]).await?;
        stage.whole().await?;
        lookout.saw_none()?;
        secrets::are_in_no_log(stage, &secrets)?;
        stage.ends_well().await
    })
    .await;
}

async fn term(stage: &Stage, name: &str) -> Result<u64> {
    stage.ask(name, "/patroni").await?["pgvigil"]["term"].as_u64().context("a term")
}

async fn the_command_line_works(stage: &Stage, leader: &str) -> Result<()> {
    stage.pgvigil(leader, &["config", "set", "-p", "work_mem=5MB", "-y"]).await?;
    for words in
        [vec!["status"], vec!["transitions"], vec!["config", "history"], vec!["pause", "--for", "1m"], vec!["resume"]]
    {
        stage.pgvigil(leader, &words).await?;
    }
    let standby = stage.others(leader).remove(0);
    stage.pgvigil(leader, &["restart", &standby, "-y"]).await?;
    stage.whole().await
}

async fn a_wrong_password_is_told(stage: &Stage, file: &Path, on: &str) -> Result<()> {
    let another = file.with_file_name("wrong");
    write_password(&another, "a-wrong-password")?;
    let config = std::fs::read_to_string(stage.node(on)?.config())?;
    stage.set(on, "etcd.password_file", &format!("{:?}", another.display().to_string()))?;
    let output = stage.cluster.pgvigil(on, &["config", "show"]).await?;
    std::fs::write(stage.node(on)?.config(), config)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("etcd.password_file"), "{}: {said}", output.status);
    ensure!(!said.contains("a-wrong-password"), "the password is told");
    Ok(())
}

fn write_password(file: &Path, password: &str) -> Result<()> {
    let owner = std::fs::metadata(file.parent().context("a directory")?)?;
    std::fs::write(file, format!("{password}\n"))?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?;
    Ok(chown(file, Some(owner.uid()), Some(owner.gid()))?)
}

/// What docs/configuration.md says.
async fn grant(stage: &Stage) -> Result<()> {
    for words in [
        vec!["user", "add", "root:of-etcd"],
        vec!["user", "grant-role", "root", "root"],
        vec!["role", "add", "pgvigil"],
        vec!["role", "grant-permission", "pgvigil", "readwrite", "--prefix", "/service/demo/"],
        vec!["user", "add", &format!("pgvigil:{FIRST}")],
        vec!["user", "grant-role", "pgvigil", "pgvigil"],
        vec!["auth", "enable"],
    ] {
        etcdctl(&stage.cluster, &words).await?;
    }
    Ok(())
}

async fn as_root(stage: &Stage, words: &[&str], input: Option<&str>) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args([
        "--endpoints",
        &stage.cluster.etcd_urls().join(","),
        "--user",
        "root:of-etcd",
    ]);
    command.args(words).stdin(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(format!("{input}\n").as_bytes()).await?;
    }
    ensure!(child.wait().await?.success(), "etcdctl {words:?}");
    Ok(())
}
