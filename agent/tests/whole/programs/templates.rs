//! The templates that Patroni publishes for confd, filled from our keys in etcd as confd fills them. confd itself is in no package of Debian: what
//! its templates compute is here, word for word by its functions.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::stage::Stage;

/// `extras/confd/templates/haproxy.tmpl`, with places for the ports and for what it repeats for each member.
const HAPROXY: &str = "\
global
\tmaxconn 100

defaults
\tlog\tglobal
\tmode\ttcp
\tretries 2
\ttimeout client 30m
\ttimeout connect 4s
\ttimeout server 30m
\ttimeout check 5s

listen stats
\tmode http
\tbind *:7000
\tstats enable
\tstats uri /

listen primary
\tbind *:5000
\toption httpchk HEAD /primary
\thttp-check expect status 200
\tdefault-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{{range}}
listen replicas
\tbind *:5001
\toption httpchk HEAD /replica
\thttp-check expect status 200
\tdefault-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{{range}}
";

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn index(text: &str, separator: char, at: usize) -> Result<&str> {
    text.split(separator).nth(at).with_context(|| format!("\"{text}\" has no part {at} between '{separator}'"))
}

/// `{{base (replace (index (split $data.conn_url "/") 2) "@" "/" -1)}}`
fn host_and_port(member: &Value) -> Result<String> {
    let authority = index(member["conn_url"].as_str().context("no conn_url")?, '/', 2)?.replace('@', "/");
    Ok(base(&authority).to_owned())
}

/// `{{index (split (index (split $data.api_url "/") 2) ":") 1}}`
fn api_port(member: &Value) -> Result<&str> {
    index(index(member["api_url"].as_str().context("no api_url")?, '/', 2)?, ':', 1)
}

async fn member(stage: &Stage, name: &str) -> Result<Value> {
    let stored = etcdctl::get(&stage.cluster, &format!("members/{name}")).await?;
    serde_json::from_str(&stored).with_context(|| format!("members/{name}: {stored}"))
}

/// What confd makes of the template for HAProxy.
pub async fn haproxy(stage: &Stage) -> Result<String> {
    let mut servers = String::new();
    for node in stage.cluster.nodes() {
        let data = member(stage, node.name()).await?;
        let line = format!("{} maxconn 100 check port {}", host_and_port(&data)?, api_port(&data)?);
        servers.push_str(&format!("\tserver {} {line}\n", node.name()));
    }
    Ok(HAPROXY.replace("{{range}}\n", &servers))
}

/// `extras/confd/templates/pgbouncer.tmpl` goes from `leader` to that member, and from there to a host and a port.
pub async fn pgbouncer_is_led_to(stage: &Stage, leader: &str) -> Result<()> {
    let holder = etcdctl::get(&stage.cluster, "leader").await?;
    let address = host_and_port(&member(stage, &holder).await?)?;
    let (host, port) = (index(&address, ':', 0)?, index(&address, ':', 1)?);
    let wanted = stage.node(leader)?.postgres_port().to_string();
    ensure!(holder == leader && host == "127.0.0.1" && port == wanted, "{holder} at {host}, port {port}");
    Ok(())
}
