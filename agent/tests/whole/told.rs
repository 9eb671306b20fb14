//! HAProxy is told of a change by its runtime socket. Its checks come so seldom here that only what it is told can lead clients to a new primary in
//! time; where the socket is wrong, nothing else is disturbed.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use agent::demo::cluster::ClusterOptions;
use agent::demo::node::Node;
use agent::demo::ports::Ports;
use agent::demo::session::Session;
use anyhow::{Context, Result, ensure};
use tokio::process::Child;

use crate::http;
use crate::stage::{Stage, on_empty_stage, on_stage, options};

/// No check is due while the play lasts.
const CHECKS: &str = "default-server inter 10m fall 2 rise 1 on-marked-down shutdown-sessions";

#[tokio::test(flavor = "multi_thread")]
async fn what_haproxy_is_told_leads_clients_on_where_checks_would_not() {
    // Of a unix socket only the agents of its host know; all of these are on one.
    let home = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    let socket = home.path().join("a.sock").display().to_string();
    let tcp = Ports::choose(None, 1).expect("a free port");
    let sockets = format!("[{socket:?}, \"127.0.0.1:{}\"]", tcp.at(0));
    let options = ClusterOptions { haproxy: false, ..options() }
        .with("haproxy.runtime_sockets", &sockets)
        .with("haproxy.standbys_backend", "\"\"");
    on_empty_stage(&options, async |stage| {
        let ports = stage.cluster.proxy_ports();
        let _proxies = [
            proxy(stage, "tcp", &format!("ipv4@127.0.0.1:{}", tcp.at(0)), ports.read_write)?,
            proxy(stage, "unix", &socket, ports.read_only)?,
        ];
        stage.form().await?;
        let leader = stage.leader().await?;
        lead_to(stage, &leader).await.context("after the start")?;

        let (there, began) = (stage.standby().await?, Instant::now());
        stage.pgvigil(&there, &["switchover", "--to", &there, "-y"]).await?;
        lead_to(stage, &there).await.context("after a switchover")?;
        stage.writes_go_on().await?;
        stage.say(&format!("a switchover: {} ms without writes", stage.silence_since(began)?.as_millis()));
        stage.whole().await?;

        let began = Instant::now();
        stage.node(&there)?.kill_everything()?;
        let next = stage.leader_other_than(&there).await?;
        lead_to(stage, &next).await.context("after the death of a leader")?;
        stage.writes_go_on().await?;
        stage.say(&format!("a leader's death: {} ms without writes", stage.silence_since(began)?.as_millis()));
        let page = http::ask(stage.node(&next)?, "GET", "/metrics").await?.body;
        let told = page.lines().find(|line| line.contains("pgvigil_haproxy_pushes_total{") && line.contains("done"));
        stage.say(told.context("nothing was counted")?);
        stage.start(&there)?;
        stage.ends_well().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_socket_disturbs_nothing_and_is_told() {
    let ports = Ports::choose(None, 1).expect("a free port");
    let sockets = format!("[\"/nowhere/haproxy.sock\", \"127.0.0.1:{}\"]", ports.at(0));
    on_stage(&options().with("haproxy.runtime_sockets", &sockets), async |stage| {
        let there = stage.standby().await?;
        stage.pgvigil(&there, &["switchover", "--to", &there, "-y"]).await?;
        ensure!(stage.leader().await? == there, "{there} does not lead");
        stage.writes_go_on().await?;
        let validated = stage.cluster.pgvigil(&there, &["validate", &config(stage, &there)?]).await?;
        let said = String::from_utf8_lossy(&validated.stdout).into_owned();
        for wanted in
            ["warn[W09] cannot reach HAProxy at /nowhere/haproxy.sock", "stats socket /nowhere/haproxy.sock mode 660"]
        {
            ensure!(said.contains(wanted), "{wanted} is not in: {said}");
        }
        let log = std::fs::read_to_string(stage.cluster.directory().join(format!("{there}.log")))?;
        ensure!(log.contains("cannot reach HAProxy at /nowhere/haproxy.sock"), "the log says nothing of it");
        wrong_names_are_told(stage, &there, ports.at(0)).await
    })
    .await;
}

/// A HAProxy that knows neither this backend nor this server, or lets nobody command.
async fn wrong_names_are_told(stage: &Stage, node: &str, port: u16) -> Result<()> {
    let client = Ports::choose(None, 1)?;
    let _proxy = proxy(stage, "wrong", &format!("ipv4@127.0.0.1:{port}"), client.at(0))?;
    let said = async |key: &str, value: &str| {
        let before = std::fs::read_to_string(stage.node(node)?.config())?;
        stage.set(node, key, value)?;
        let validated = stage.cluster.pgvigil(node, &["validate", &config(stage, node)?]).await?;
        std::fs::write(stage.node(node)?.config(), before)?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&validated.stdout).into_owned())
    };
    for (key, value, wanted) in [
        ("haproxy.standbys_backend", "\"\"", "can be told about".to_owned()),
        ("haproxy.primary_backend", "\"writes\"", "\"writes\" is none of them".to_owned()),
        ("name", "\"n9\"", "no server n9 in its backend primary".to_owned()),
    ] {
        stage
            .eventually(&format!("{wanted} is not told"), async || Ok(said(key, value).await?.contains(&wanted)))
            .await?;
    }
    Ok(())
}

fn config(stage: &Stage, node: &str) -> Result<String> {
    Ok(stage.node(node)?.config().display().to_string())
}

/// New clients reach that node, through both.
async fn lead_to(stage: &Stage, leader: &str) -> Result<()> {
    let wanted = i32::from(stage.node(leader)?.postgres_port());
    let ports = stage.cluster.proxy_ports();
    for port in [ports.read_write, ports.read_only] {
        let reached = async || {
            let session = Session::open(port, Duration::from_secs(1)).await?;
            let there: i32 = session.query_one("SELECT inet_server_port()", &[]).await?.get(0);
            ensure!(there == wanted, "port {port} leads to {there}, not to {wanted}");
            Ok(true)
        };
        stage.eventually("HAProxy leads elsewhere", reached).await?;
    }
    Ok(())
}

/// One that finds nothing out by itself.
fn proxy(stage: &Stage, name: &str, socket: &str, port: u16) -> Result<Child> {
    let servers: String = stage.cluster.nodes().iter().map(server).collect();
    let text = format!(
        "global\n    stats socket {socket} level admin\ndefaults\n    mode tcp\n    timeout client 1h\n    timeout server 1h\n    timeout connect 150ms\n    \
         retries 10\nlisten primary\n    bind 127.0.0.1:{port}\n    option httpchk OPTIONS /primary\n    http-check expect status 200\n    {CHECKS}\n{servers}"
    );
    stage.haproxy(name, &text)
}

fn server(node: &Node) -> String {
    let api = node.api_url();
    let api_port = api.rsplit(':').next().unwrap_or_default();
    format!("    server {} 127.0.0.1:{} check port {api_port}\n", node.name(), node.postgres_port())
}
