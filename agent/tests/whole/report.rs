//! A bundle for whoever has to help: it has what is needed, none of the secrets that this cluster has in every place, and is made as well where
//! etcd, Postgres and the agents are gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use agent::demo::account::Account;
use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::workdir::Workdir;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::stage::{SOON, options};

const ETCD_PASSWORD: &str = "planted-etcd-1";
/// In every place where somebody might have put one.
const PLANTED: [&str; 7] = [
    ETCD_PASSWORD,
    "planted-token-0123456789",
    "planted-conninfo-2",
    "planted-ldap-3",
    "planted-config-4",
    "planted-aws-5",
    "planted-in-reason-6",
];

/// A cluster of two whose etcd asks for a password.
async fn cluster_with_secrets(home: &Workdir) -> Result<LocalCluster> {
    let file = |name: &str, text: &str| home.file(name, &format!("{text}\n"), 0o600);
    let shown = |path: PathBuf| format!("{:?}", path.display().to_string());
    let token = shown(file("token", PLANTED[1])?);
    let small = ClusterOptions { nodes: 2, etcd_members: 1, haproxy: false, ..options() }
        .with("etcd.username", "\"root\"")
        .with("etcd.password_file", &shown(file("etcd", ETCD_PASSWORD)?))
        .with("control.tokens", &format!("[{{ name = \"ci\", role = \"admin\", file = {token} }}]"))
        .with("postgres.parameters.archive_mode", "\"on\"")
        .with("postgres.parameters.archive_command", &format!("\"AWS_SECRET_ACCESS_KEY={} true\"", PLANTED[5]));
    let cluster = LocalCluster::prepare(&small)?;
    cluster.start_etcd().await?;
    etcdctl::etcdctl(&cluster, &["user", "add", &format!("root:{ETCD_PASSWORD}")]).await?;
    etcdctl::etcdctl(&cluster, &["user", "grant-role", "root", "root"]).await?;
    etcdctl::etcdctl(&cluster, &["auth", "enable"]).await?;
    cluster.start_nodes()?;
    cluster.wait_settled(SOON * 2).await?;
    Ok(cluster)
}

/// As root of etcd.
async fn etcd(cluster: &LocalCluster, arguments: &[&str]) -> Result<String> {
    let user = format!("--user=root:{ETCD_PASSWORD}");
    let words: Vec<&str> = [user.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    etcdctl::etcdctl(cluster, &words).await
}

/// Makes a bundle and unpacks it.
async fn report(cluster: &LocalCluster, name: &str) -> Result<PathBuf> {
    let directory = cluster.make_directory(name)?;
    let bundle = directory.join("bundle.tgz");
    let output = cluster.pgvigil("n1", &["report", "-o", &bundle.to_string_lossy()]).await?;
    let told = String::from_utf8_lossy(&output.stderr);
    eprintln!("{name}: {}\n{told}", output.status);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let unpacked = Command::new("tar").arg("-xzf").arg(&bundle).arg("-C").arg(&directory).output()?;
    ensure!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let inside = std::fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| path.is_dir());
    inside.context("nothing was in it")
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

fn has_no_secret(directory: &Path, secrets: &[String]) -> Result<()> {
    for path in files(directory)? {
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        for secret in secrets {
            let at = text.find(secret.as_str());
            let around = at.map(|at| text.get(at.saturating_sub(60)..at).unwrap_or("?").to_owned());
            ensure!(at.is_none(), "{secret} is in {}, after {around:?}", path.display());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_tells_everything_but_secrets_and_is_made_in_every_trouble() {
    let account = Account::find().expect("somebody who may run Postgres");
    let home = Workdir::create(account, "pgvigil-demo-").expect("a directory");
    let cluster = cluster_with_secrets(&home).await.expect("a cluster");
    if let Err(error) = played(&cluster).await {
        panic!("{error:#}");
    }
}

async fn played(cluster: &LocalCluster) -> Result<()> {
    let data = cluster.node("n1")?.data_dir();
    for (file, line) in [
        ("postgresql.conf", format!("#primary_conninfo = 'host=x password={} user=y'", PLANTED[2])),
        ("pg_hba.conf", format!("#host all all 10.0.0.0/8 ldap ldapbindpasswd=\"{}\"", PLANTED[3])),
    ] {
        let path = data.join(file);
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{text}{line}\n"))?;
    }
    let asked = ["config", "set", "durability.mode=async", "-y", "--reason", &format!("password={}", PLANTED[6])];
    let set = cluster.pgvigil("n1", &asked).await?;
    ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let config = etcd(cluster, &["get", "--print-value-only", "/service/demo/config"]).await?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["webhook"] = serde_json::json!({"api_token": PLANTED[4]});
    etcd(cluster, &["put", "/service/demo/config", &config.to_string()]).await?;

    let stored = etcd(cluster, &["get", "--print-value-only", "/service/demo/secrets/replication"]).await?;
    let stored: Value = serde_json::from_str(&stored)?;
    let mut secrets: Vec<String> = PLANTED.map(str::to_owned).into();
    secrets
        .extend(stored.as_object().context("no passwords")?.values().filter_map(|one| one.as_str().map(str::to_owned)));
    ensure!(secrets.len() == PLANTED.len() + 2, "{stored}");

    let inside = report(cluster, "well").await?;
    has_no_secret(&inside, &secrets)?;
    let read = |name: &str| std::fs::read_to_string(inside.join(name)).with_context(|| format!("no {name}"));
    ensure!(read("status.json")?.contains("\"verdict\""), "no verdict");
    ensure!(read("members/n2/why.json")?.contains("pgvigil.why/v1"), "n2 does not say why");
    ensure!(read("etcd/keys.json")?.contains("/service/demo/secrets/replication"), "the keys are not all there");
    ensure!(read("etcd/keys.json")?.contains("\"api_token\": \"***\""), "the settings are not there");
    ensure!(read("postgres/controldata.txt")?.contains("Database system identifier"), "no control data");
    ensure!(read("postgres/settings.json")?.contains("\"wal_level\""), "no settings");
    ensure!(read("postgres/postgresql.conf")?.contains("password=***"), "the file is not there");
    ensure!(read("config/pgvigil.toml")?.contains("etcd.password_file"), "no configuration");
    ensure!(read("config/resolved.txt")?.contains("max_lag_on_failover_bytes"), "no configuration with its defaults");
    ensure!(read("etcd/transitions.json")?.contains("bootstrap"), "no transitions");

    cluster.etcd().iter().try_for_each(|member| member.freeze())?;
    let inside = report(cluster, "etcd-frozen").await?;
    has_no_secret(&inside, &secrets)?;
    let contents = std::fs::read_to_string(inside.join("CONTENTS.txt"))?;
    ensure!(contents.contains("etcd/keys.json  MISSING"), "{contents}");
    ensure!(inside.join("members/n1/why.json").exists(), "{contents}");

    for node in cluster.nodes() {
        node.kill_everything()?;
    }
    let inside = report(cluster, "all-gone").await?;
    has_no_secret(&inside, &secrets)?;
    let contents = std::fs::read_to_string(inside.join("CONTENTS.txt"))?;
    ensure!(
        contents.contains("postgres/settings.json  MISSING") && contents.contains("members  MISSING"),
        "{contents}"
    );
    ensure!(inside.join("postgres/controldata.txt").exists() && inside.join("host/system.txt").exists(), "{contents}");
    Ok(())
}
