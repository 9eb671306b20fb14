//! The control API: who gets in and who does not, over the socket and over TCP, and what is told of it afterwards.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};

use crate::curl::{Answer, Curl};
use crate::stage::{SOON, Stage, on_empty_stage, options};

/// Nobody in particular.
const NOBODY: u32 = 65_534;

/// A cluster whose nodes can be controlled over TCP on loopback.
pub struct Controlled {
    /// Where the control API of each node listens.
    urls: BTreeMap<String, String>,
    tokens: PathBuf,
}

impl Controlled {
    /// Configures all nodes of a cluster that has not been started: tokens for `looker`, `gatekeeper`, `ansible` and `anna`.
    pub fn prepare(stage: &Stage) -> Result<Self> {
        let tokens = stage.cluster.make_directory("tokens")?;
        let mut controlled = Self { urls: BTreeMap::new(), tokens };
        let roles = [("looker", "read"), ("gatekeeper", "gate"), ("ansible", "operate"), ("anna", "admin")];
        let mut list = Vec::new();
        for (name, role) in roles {
            controlled.give(name, &token(name), 0o600)?;
            list.push(format!("{{ name = {name:?}, role = {role:?}, file = {:?} }}", controlled.tokens.join(name)));
        }
        for node in stage.cluster.nodes() {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            stage.set(node.name(), "control.tokens", &format!("[{}]", list.join(", ")))?;
            stage.set(node.name(), "control.listen", &format!("\"{address}\""))?;
            controlled.urls.insert(node.name().to_owned(), format!("http://{address}"));
        }
        Ok(controlled)
    }

    /// Writes the file of a token.
    pub fn give(&self, name: &str, token: &str, mode: u32) -> Result<()> {
        let (file, owner) = (self.tokens.join(name), std::fs::metadata(&self.tokens)?);
        std::fs::write(&file, format!("{token}\n"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        Ok(chown(&file, Some(owner.uid()), Some(owner.gid()))?)
    }

    /// Where the control API of a node listens.
    pub fn address(&self, node: &str) -> String {
        self.urls[node].replace("http://", "")
    }

    /// A request to the agent of a node, without a token.
    pub fn at(&self, node: &str, method: &str, path: &str) -> Curl {
        Curl::new(method, &format!("{}{path}", self.urls[node]))
    }

    /// A request to `n1` with the token of `name`.
    pub fn ask(&self, name: &str, method: &str, path: &str) -> Curl {
        self.at("n1", method, path).token(&token(name))
    }
}

/// The token of somebody.
pub fn token(name: &str) -> String {
    format!("0123456789abcdef-{name}")
}

/// One node is enough to talk to.
pub fn one_node() -> ClusterOptions {
    ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() }
}

/// Where the agent of that node has its control socket.
pub fn socket_of(stage: &Stage, name: &str) -> Result<PathBuf> {
    Ok(stage.node(name)?.home().join("data.pgvigil/control.sock"))
}

/// Starts everything, and waits until it works.
pub async fn begins(stage: &Stage) -> Result<()> {
    stage.cluster.start_etcd().await?;
    stage.cluster.start_nodes()?;
    stage.cluster.wait_settled(SOON).await
}

/// Whether an answer is this one.
#[track_caller]
pub fn is(answer: &Answer, status: u16, text: &str) -> Result<()> {
    ensure!(answer.status == status && answer.body.contains(text), "expected {status} with {text:?}: {answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_a_token_says_who_it_is_and_what_they_may() {
    on_empty_stage(&one_node(), async |stage| {
        let control = Controlled::prepare(stage)?;
        begins(stage).await?;
        let node = stage.node("n1")?;

        // The health API answers everybody, and does nothing.
        let verbs = [
            ("POST", "/switchover"),
            ("DELETE", "/restart"),
            ("PATCH", "/config"),
            ("PUT", "/config"),
            ("POST", "/reload"),
        ];
        for (method, path) in verbs {
            let answer = Curl::new(method, &format!("{}{path}", node.api_url())).token(&token("anna")).send().await?;
            is(&answer, 403, "control.sock on the host of n1, and 127.0.0.1:")?;
        }
        is(&Curl::new("POST", &format!("{}/cluster", node.api_url())).send().await?, 405, "only reads")?;
        let told = std::fs::read_to_string(node.agent().log())?;
        for (method, path) in verbs {
            let is_it = |line: &str| {
                let told = line.contains(&format!("audit: {method} {path} by nobody: denied"));
                told && ["from=127.0.0.1", "role=\"none\"", "status=403"].iter().all(|word| line.contains(word))
            };
            ensure!(told.lines().any(is_it), "no record of {method} {path}: {told}");
        }
        let denied = crate::http::ask(node, "GET", "/metrics").await?.body;
        let counted = denied.lines().find(|line| line.starts_with("pgvigil_control_denied_total"));
        ensure!(counted.is_some_and(|line| line.ends_with(" 5")), "{counted:?}");

        let without = control.at("n1", "POST", "/reload").send().await?;
        is(&without, 401, "Authorization: Bearer TOKEN")?;
        ensure!(without.head.contains("www-authenticate: bearer realm=\"pgvigil\""), "{without:?}");
        let wrong = control.at("n1", "POST", "/reload").token("0123456789abcdef-nobody");
        is(&wrong.send().await?, 401, "nobody's token")?;
        is(&control.at("n1", "GET", "/cluster").send().await?, 401, "Authorization")?;
        is(&control.ask("looker", "GET", "/cluster").send().await?, 200, "\"members\"")?;
        for name in ["looker", "gatekeeper"] {
            is(&control.ask(name, "POST", "/reload").send().await?, 403, "that takes operate")?;
        }
        for name in ["ansible", "anna"] {
            is(&control.ask(name, "POST", "/reload?reason=test").send().await?, 202, "reload scheduled")?;
        }
        let as_patronictl = control.at("n1", "POST", "/reload");
        let pair = |name: &str| format!("{name}:{}", token("ansible"));
        is(&as_patronictl.with(&["-u", &pair("ansible")]).send().await?, 202, "reload scheduled")?;
        let as_another = control.at("n1", "POST", "/reload");
        is(&as_another.with(&["-u", &pair("anna")]).send().await?, 401, "nobody's token")?;
        is(&control.ask("anna", "PUT", "/cluster").send().await?, 405, "only reads")?;
        is(&control.ask("anna", "POST", "/no/such/path").send().await?, 404, "no such path")?;

        let secret = control.ask("anna", "POST", "/failover").json("{\"candidate\": [\"hunter2\"]}").send().await?;
        is(&secret, 400, "`candidate`: ")?;

        files_of_tokens_are_read_again(stage, &control).await?;
        the_audit_tells_all_of_it(stage).await
    })
    .await;
}

async fn files_of_tokens_are_read_again(stage: &Stage, control: &Controlled) -> Result<()> {
    let answers = async |token: &str, status: u16| {
        let ask = async || {
            let asked = control.at("n1", "POST", "/reload").token(token).send().await?;
            Ok(asked.status == status)
        };
        stage.eventually(&format!("the token is not answered with {status}"), ask).await
    };
    let mut streams = Vec::new();
    for (path, first) in [("/v1/events", "event: cluster"), ("/ui/events", "event: picture")] {
        let stream = control.ask("ansible", "GET", path).stream()?;
        let begun = async || Ok(stream.text()?.contains(first));
        stage.eventually("the stream does not begin", begun).await?;
        streams.push(stream);
    }
    let another = "fedcba9876543210-ansible";
    control.give("ansible", another, 0o600)?;
    for mut stream in streams {
        let ended =
            async || Ok(stream.text()?.contains("event: denied\ndata: {\"error\":\"that is nobody's token here\"}"));
        stage.eventually("whoever has no token any more reads on", ended).await?;
        tokio::time::timeout(SOON, async {
            while !stream.is_over() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .context("the stream does not end")?;
    }
    answers(another, 202).await?;
    answers(&token("ansible"), 401).await?;
    control.give("ansible", another, 0o644)?;
    answers(another, 401).await
}

async fn the_audit_tells_all_of_it(stage: &Stage) -> Result<()> {
    let told = std::fs::read_to_string(stage.node("n1")?.agent().log())?;
    for expected in [
        "audit: POST /reload by nobody: denied",
        "what=\"that is nobody's token here\"",
        "what=\"no token: send the header",
        "what=\"looker has the role read; that takes operate\"",
        "audit: POST /failover by anna: invalid",
        "what=\"a body that will not do\"",
        "audit: look by ansible: denied",
        "what=\"the stream was ended: that is nobody's token here\"",
        "audit: look by nobody: denied",
        "audit: POST /reload by looker: denied",
        "audit: POST /reload by ansible: accepted",
        "audit: POST /reload by anna: denied",
        "audit: unknown by anna: refused",
        "reason=\"test\"",
        "from=127.0.0.1",
        "others than its owner",
    ] {
        ensure!(told.contains(expected), "the log does not say {expected:?}: {told}");
    }
    for secret in ["0123456789abcdef", "fedcba98", "hunter2"] {
        ensure!(!told.contains(secret), "{secret} is in the log");
    }
    let metrics = crate::http::ask(stage.node("n1")?, "GET", "/metrics").await?.body;
    let counted = metrics.lines().any(|line| {
        line.starts_with("pgvigil_control_requests_total")
            && line.contains("verb=\"POST /reload\",outcome=\"accepted\"")
            && !line.ends_with(" 0")
    });
    ensure!(counted, "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_socket_the_kernel_says_who_it_is() {
    on_empty_stage(&one_node(), async |stage| {
        begins(stage).await?;
        let socket = socket_of(stage, "n1")?;
        let there = async || Ok(socket.exists());
        stage.eventually("there is no socket", there).await?;
        ensure!(std::fs::metadata(&socket)?.mode() & 0o777 == 0o660, "its mode is another");
        is(&Curl::by_socket(&socket, "GET", "/patroni").send().await?, 200, "\"running\"")?;
        is(&Curl::by_socket(&socket, "POST", "/reload").send().await?, 202, "reload scheduled")?;
        std::fs::remove_file(&socket)?;
        stage.eventually("the socket is not put back", there).await?;
        stage
            .eventually("nobody answers there", async || {
                Ok(Curl::by_socket(&socket, "POST", "/reload").send().await?.status == 202)
            })
            .await?;
        if nix::unistd::Uid::effective().is_root() {
            members_of_the_group_operate(stage).await?;
        }
        Ok(())
    })
    .await;
}

/// Somebody else of this host, in the group and out of it.
async fn members_of_the_group_operate(stage: &Stage) -> Result<()> {
    let owner = std::fs::metadata(stage.node("n1")?.home())?;
    let group = nix::unistd::Group::from_gid(owner.gid().into())?.context("the group of the agent")?;
    let run = tempfile::tempdir()?;
    std::fs::set_permissions(run.path(), std::fs::Permissions::from_mode(0o755))?;
    chown(run.path(), Some(owner.uid()), Some(owner.gid()))?;
    let socket = run.path().join("control.sock");
    restarted_with(stage, &[("control.socket", format!("{socket:?}")), ("control.group", format!("{:?}", group.name))])
        .await?;
    let ask = |method: &str, path: &str| Curl::by_socket(&socket, method, path);
    stage.eventually("there is no socket", async || Ok(ask("GET", "/patroni").send().await.is_ok())).await?;
    ensure!(ask("GET", "/patroni").by_user(NOBODY, NOBODY).send().await.is_err(), "everybody can connect");
    is(&ask("POST", "/reload").by_user(NOBODY, owner.gid()).send().await?, 202, "reload scheduled")?;
    // Without a group in the file the members of the agent's own group come as far as the door.
    stage.unset("n1", "control.group")?;
    restarted_with(stage, &[]).await?;
    stage.eventually("there is no socket", async || Ok(ask("GET", "/patroni").send().await.is_ok())).await?;
    is(&ask("GET", "/patroni").by_user(NOBODY, owner.gid()).send().await?, 403, "no [control] group is set")?;
    // Each of them is on record, as the kernel knows it.
    let told = std::fs::read_to_string(stage.node("n1")?.agent().log())?;
    for (record, words) in [
        ("audit: POST /reload by root: accepted", ["from=socket", "role=\"admin\"", "status=202"]),
        ("audit: POST /reload by nobody: accepted", ["from=socket", "role=\"operate\"", "status=202"]),
        ("audit: look by nobody: denied", ["from=socket", "no [control] group is set", "status=403"]),
    ] {
        let is_it = |line: &str| line.contains(record) && words.iter().all(|word| line.contains(word));
        ensure!(told.lines().any(is_it), "no record of {record} with {words:?}: {told}");
    }
    Ok(())
}

async fn restarted_with(stage: &Stage, keys: &[(&str, String)]) -> Result<()> {
    for (key, value) in keys {
        stage.set("n1", key, value)?;
    }
    stage.stop("n1").await?;
    stage.start("n1")?;
    stage.cluster.wait_settled(SOON).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_listener_carries_control_where_it_is_told_to() {
    on_empty_stage(&one_node(), async |stage| {
        Controlled::prepare(stage)?;
        stage.set("n1", "control.on_health_listener", "true")?;
        begins(stage).await?;
        let url = |path: &str| stage.node("n1").map(|node| format!("{}{path}", node.api_url()));
        is(&Curl::new("POST", &url("/reload")?).send().await?, 401, "Authorization")?;
        is(&Curl::new("POST", &url("/reload")?).token(&token("looker")).send().await?, 403, "that takes operate")?;
        is(&Curl::new("POST", &url("/reload")?).token(&token("ansible")).send().await?, 202, "reload scheduled")?;
        for path in ["/primary", "/config", "/metrics"] {
            let open = Curl::new("GET", &url(path)?).send().await?;
            ensure!(open.status != 401 && open.status != 403, "{path}: {open:?}");
        }
        crate::crowds::keep_no_check_waiting(stage).await
    })
    .await;
}
