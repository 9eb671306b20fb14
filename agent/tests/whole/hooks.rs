//! Programs and receivers are told what happened, in the words of the record, and nothing waits for them: not for a program that hangs, not for one that
//! fails, and not for a receiver that never answers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::control_tls::Authority;
use crate::http;
use crate::stage::{Stage, on_empty_stage, options};

/// What the program does: it writes down what it was given; then it hangs over a failover, and fails over anything else.
const HOOK: &str = "#!/bin/sh\nHERE=$(dirname \"$0\")\ncat > \"$HERE/$PGVIGIL_ID.part\"\nenv > \"$HERE/$PGVIGIL_ID.env\"\n\
                    mv \"$HERE/$PGVIGIL_ID.part\" \"$HERE/$PGVIGIL_ID.json\"\n[ \"$PGVIGIL_KIND\" = failover ] && sleep 60\nexit 3\n";
const ROLES: &str = "#!/bin/sh\necho \"$1 $2 $3\" >> \"$(dirname \"$0\")/$PGVIGIL_MEMBER.roles\"\n";
const TOKEN: &str = "0123456789abcdef-of-the-receiver";

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_webhooks_get_the_record_and_hold_nothing_up() {
    on_empty_stage(&options(), async |stage| {
        let receiver = Receiver::open(None).await?;
        let authority = Authority::found(stage.cluster.make_directory("tls")?)?;
        let encrypted = Receiver::open(Some(acceptor(&authority)?)).await?;
        let deaf = TcpListener::bind("127.0.0.1:0").await?;
        let home = configure(stage, &receiver, &encrypted, &authority.file("ca.pem"), deaf.local_addr()?.port())?;
        stage.form().await.context("the cluster does not form")?;
        let old = stage.leader().await?;
        stage.node(&old)?.kill_everything()?;
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        let failover = record_of(stage, &new, "failover").await?;
        let id = failover["id"].as_str().context("an id")?;
        told_by_program(stage, &home, &new, id).await?;

        // The program hangs now, and the deaf receiver has not answered: a switchover goes on all the same.
        stage.start(&old)?;
        stage.whole().await?;
        stage.pgvigil(&new, &["switchover", "--to", &old, "-y"]).await?;
        stage.writes_go_on().await?;
        let switchover = record_of(stage, &old, "switchover").await?;
        for record in [&failover, &switchover] {
            let id = record["id"].as_str().context("an id")?;
            told_by_webhook(stage, &receiver, &old, id, "/pgvigil?key=1").await?;
            told_by_webhook(stage, &encrypted, &old, id, "/encrypted").await?;
        }
        told_by_program(stage, &home, &old, switchover["id"].as_str().context("an id")?).await?;
        counted(stage, &[&new, &old]).await?;
        roles_are_told(stage, &home, &old).await?;
        drop(deaf);
        stage.ends_well().await
    })
    .await;
}

/// A certificate for `localhost`, and for no address.
fn acceptor(authority: &Authority) -> Result<TlsAcceptor> {
    authority.sign("receiver", "/CN=receiver", "DNS:localhost")?;
    let chain = CertificateDer::pem_file_iter(authority.file("receiver.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(authority.file("receiver.key"))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key)?)))
}

fn configure(stage: &Stage, receiver: &Receiver, encrypted: &Receiver, ca: &Path, deaf: u16) -> Result<PathBuf> {
    let home = stage.cluster.make_directory("hooks")?;
    let (hook, roles, token) = (home.join("hook"), home.join("roles"), home.join("token"));
    for (file, text, mode) in [(&hook, HOOK, 0o755), (&roles, ROLES, 0o755), (&token, TOKEN, 0o600)] {
        owned_file(&home, file, text, mode)?;
    }
    let webhooks = format!(
        "[{{ url = \"http://127.0.0.1:{}/pgvigil?key=1\", token_file = {token:?}, timeout = \"5s\", retries = 20 }}, \
         {{ url = \"https://localhost:{}/encrypted\", token_file = {token:?}, ca = {ca:?}, timeout = \"5s\", retries = 20 }}, \
         {{ url = \"https://127.0.0.1:{}/of-another-name\", ca = {ca:?}, retries = 1 }}, \
         {{ url = \"http://127.0.0.1:{deaf}/\", timeout = \"1s\", retries = 1 }}]",
        receiver.port, encrypted.port, encrypted.port
    );
    for node in stage.cluster.nodes() {
        stage.set(node.name(), "hooks.on_transition", &format!("[{hook:?}]"))?;
        stage.set(node.name(), "hooks.on_role_change", &format!("[{roles:?}]"))?;
        stage.set(node.name(), "hooks.timeout", "\"5s\"")?;
        stage.set(node.name(), "webhooks", &webhooks)?;
    }
    Ok(home)
}

/// A file of whoever owns the directory: the user of the agents.
fn owned_file(home: &Path, file: &Path, text: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    std::fs::write(file, text)?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))?;
    let owner = std::fs::metadata(home)?;
    chown(file, Some(owner.uid()), Some(owner.gid())).context("its owner")
}

async fn record_of(stage: &Stage, node: &str, kind: &str) -> Result<Value> {
    let find = async || {
        let all = stage.transitions(node).await?;
        anyhow::Ok(all.into_iter().rev().find(|record| record["kind"] == kind && record["outcome"] == "done"))
    };
    stage.eventually("it is not on record", async || Ok(find().await?.is_some())).await?;
    find().await?.context("it was there")
}

async fn by_id(stage: &Stage, node: &str, id: &str) -> Result<Value> {
    stage.transitions(node).await?.into_iter().find(|record| record["id"] == id).context("its record")
}

/// What was told when it was over is what the record says, but for what came to it afterwards.
fn is_the_record(told: &Value, record: &Value) -> Result<()> {
    let later = ["phases", "discarded", "notes"];
    let fields = |value: &Value| -> Vec<(String, Value)> {
        let all = value.as_object().into_iter().flatten();
        all.filter(|(key, _)| !later.contains(&key.as_str())).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    ensure!(!fields(told).is_empty() && fields(told) == fields(record), "{told}\nis not\n{record}");
    let phases = |value: &Value| value["phases"].as_array().cloned().unwrap_or_default();
    ensure!(phases(told).iter().all(|phase| phases(record).contains(phase)), "{told}\nis not\n{record}");
    Ok(())
}

async fn told_by_program(stage: &Stage, home: &Path, node: &str, id: &str) -> Result<()> {
    let file = home.join(format!("{id}.json"));
    stage.eventually("the program is not told", async || Ok(file.exists())).await?;
    let record = by_id(stage, node, id).await?;
    is_the_record(&serde_json::from_str(&std::fs::read_to_string(&file)?)?, &record)?;
    let environment = std::fs::read_to_string(home.join(format!("{id}.env")))?;
    for (name, key) in [("KIND", "kind"), ("FROM", "from"), ("TO", "to"), ("OUTCOME", "outcome"), ("ID", "id")] {
        let line = format!("PGVIGIL_{name}={}", record[key].as_str().unwrap_or_default());
        ensure!(environment.lines().any(|told| told == line), "{line} is not in\n{environment}");
    }
    let foreign =
        |line: &&str| line.starts_with("NOTIFY_SOCKET=") || line.starts_with("CARGO") || line.starts_with("PGPASS");
    ensure!(!environment.lines().any(|line| foreign(&line)), "{environment}");
    Ok(())
}

async fn told_by_webhook(stage: &Stage, receiver: &Receiver, node: &str, id: &str, path: &str) -> Result<()> {
    let taken = async || Ok(receiver.taken(id).is_some());
    stage.eventually("the receiver is not told", taken).await?;
    let post = receiver.taken(id).context("it was there")?;
    is_the_record(&post.body, &by_id(stage, node, id).await?)?;
    let has = |line: &str| post.head.lines().any(|told| told.eq_ignore_ascii_case(line));
    // Whoever bears another name than its certificate gets nothing.
    ensure!(post.head.starts_with(&format!("POST {path} HTTP/1.1")), "{}", post.head);
    for line in [format!("idempotency-key: {id}"), format!("authorization: Bearer {TOKEN}")] {
        ensure!(has(&line), "{line} is not in\n{}", post.head);
    }
    ensure!(has("content-type: application/json") && post.head.contains("pgvigil-cluster: "), "{}", post.head);
    ensure!(receiver.refused() > 0, "the first one was to be tried again");
    Ok(())
}

/// The program that hung was ended, the one that failed has failed, and the deaf receiver was given up.
async fn counted(stage: &Stage, nodes: &[&str]) -> Result<()> {
    let wanted = [
        ("to=\"on_transition\"", "outcome=\"timeout\""),
        ("to=\"on_transition\"", "outcome=\"failed\""),
        ("to=\"http://127.0.0.1:", "outcome=\"failed\""),
        ("to=\"http://127.0.0.1:", "outcome=\"done\""),
        ("to=\"https://localhost:", "outcome=\"done\""),
        ("to=\"https://127.0.0.1:", "outcome=\"failed\""),
    ];
    let all = async || {
        let mut pages = String::new();
        for node in nodes {
            pages += &http::ask(stage.node(node)?, "GET", "/metrics").await?.body;
        }
        // Whom it tells is named without the path, which is the secret of many receivers.
        ensure!(!pages.contains("/pgvigil"), "a path is told: {pages}");
        let told = |line: &str, (to, outcome): &(&str, &str)| line.contains(to) && line.contains(outcome);
        let counted =
            |what: &(&str, &str)| pages.lines().any(|line| line.starts_with("pgvigil_told_total{") && told(line, what));
        Ok(wanted.iter().all(counted))
    };
    stage.eventually("not every end is counted", all).await
}

async fn roles_are_told(stage: &Stage, home: &Path, leader: &str) -> Result<()> {
    let file = home.join(format!("{leader}.roles"));
    let last = async || {
        let told = std::fs::read_to_string(&file)?;
        Ok(told.lines().last().is_some_and(|line| line.starts_with("on_role_change primary ")))
    };
    stage.eventually("the role is not told", last).await?;
    let told = std::fs::read_to_string(&file)?;
    ensure!(told.contains("on_role_change replica "), "it was a standby in between: {told}");
    Ok(())
}

/// What somebody posted.
#[derive(Clone)]
struct Post {
    head: String,
    body: Value,
}

#[derive(Default)]
struct Inbox {
    taken: Vec<Post>,
    refused: usize,
}

/// A receiver that has trouble with the first thing it is told.
struct Receiver {
    port: u16,
    inbox: Arc<Mutex<Inbox>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn open(encrypted: Option<TlsAcceptor>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let inbox: Arc<Mutex<Inbox>> = Arc::default();
        let served = Arc::clone(&inbox);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (encrypted, served) = (encrypted.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    match encrypted {
                        Some(encrypted) => take(encrypted.accept(stream).await.ok()?, served).await,
                        None => take(stream, served).await,
                    }
                });
            }
        });
        Ok(Self { port, inbox, serving })
    }

    fn taken(&self, id: &str) -> Option<Post> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.taken.iter().find(|post| post.body["id"] == id).cloned()
    }

    fn refused(&self) -> usize {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(mut stream: impl AsyncRead + AsyncWrite + Unpin, inbox: Arc<Mutex<Inbox>>) -> Option<()> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    let whole = async {
        loop {
            let read = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
            text.extend_from_slice(&buffer[..read]);
            let told = String::from_utf8_lossy(&text).into_owned();
            let Some((head, body)) = told.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok())?;
            if body.len() >= length {
                return Some((head.to_owned(), serde_json::from_str(body).ok()?));
            }
        }
    };
    let (head, body) = tokio::time::timeout(Duration::from_secs(10), whole).await.ok()??;
    let answer = {
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.refused == 0 {
            inbox.refused += 1;
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
        } else {
            inbox.taken.push(Post { head, body });
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        }
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
