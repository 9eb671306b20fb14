//! Whoever talks nonsense to an agent, at any of its doors: what is no HTTP, what is no TLS, bodies and queries of all kinds, in an order that chance
//! chooses and a seed repeats. Each is turned away as its sender's mistake, is counted, and nothing else comes of it: writes go on, and nobody panics.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::control::{Controlled, is, token};
use crate::control_tls::{Authority, configure};
use crate::curl::Curl;
use crate::dice::Dice;
use crate::nonsense::{nothing_panicked, pids};
use crate::requests::{Hostile, of_a_slow_client, to_tls};
use crate::stage::{Stage, on_empty_stage, options};

const CASES: usize = 600;
const AT_ONCE: usize = 12;
/// An answer to what is whole comes at once, on however busy a machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// Whoever has not sent all of it is not answered before it is given up, and need not be waited for.
const WAITED_FOR: Duration = Duration::from_millis(150);

/// Where an agent can be talked to.
#[derive(Clone, Debug)]
enum Door {
    Tcp(String),
    Socket(PathBuf),
}

trait Talks: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Talks for T {}

impl Door {
    async fn connect(&self) -> Result<Box<dyn Talks>> {
        Ok(match self {
            Door::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Door::Socket(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    /// What comes back for these bytes, whatever becomes of the connection.
    async fn send(&self, bytes: &[u8], within: Duration) -> Result<String> {
        let mut stream = self.connect().await?;
        let mut told = Vec::new();
        let talk = async {
            // It may be closed before all of it is sent.
            _ = stream.write_all(bytes).await;
            _ = stream.read_to_end(&mut told).await;
        };
        let _ = tokio::time::timeout(within, talk).await;
        Ok(String::from_utf8_lossy(&told).into_owned())
    }
}

/// The status of each answer that came on one connection.
fn statuses(told: &str) -> Vec<u16> {
    let heads = told.match_indices("HTTP/1.").filter_map(|(at, _)| told.get(at + 9..at + 12)?.parse().ok());
    heads.collect()
}

/// Nobody but the sender is to blame.
fn judged(case: &Hostile, door: &Door, told: &str) -> Result<()> {
    let shown = || {
        let sent = String::from_utf8_lossy(&case.bytes).chars().take(2000).collect::<String>();
        format!("{door:?}, {}: {sent:?} is answered with {told:?}", case.what)
    };
    for status in statuses(told) {
        ensure!(status < 500 || (status == 503 && case.may_be_unavailable), "{}", shown());
        // A gate that stays closed says which of its checks failed.
        let gives_reason = ["\"error\"", "\"failed\":[{"].iter().any(|reason| told.contains(reason));
        ensure!(!(400..500).contains(&status) || !case.is_http || gives_reason, "no reason: {}", shown());
    }
    let refused = statuses(told).first().is_some_and(|status| (400..500).contains(status));
    ensure!(!case.must_be_refused || refused, "it is not refused: {}", shown());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_at_every_door_are_their_senders_mistake_and_nothing_comes_of_them() {
    let small = ClusterOptions { nodes: 2, etcd_members: 1, ..options() };
    on_empty_stage(&small, async |stage| {
        let control = Controlled::prepare(stage)?;
        let authority = Authority::found(stage.cluster.make_directory("tls")?)?;
        authority.sign("server", "/CN=n2", "DNS:localhost")?;
        configure(stage, "n2", &authority)?;
        stage.form().await?;
        play(stage, &control).await?;
        stage.ends_well().await
    })
    .await;
}

async fn play(stage: &Stage, control: &Controlled) -> Result<()> {
    let (leader, agents) = (stage.leader().await?, pids(stage));
    let socket = stage.node("n1")?.home().join("data.pgvigil/control.sock");
    let health = stage.node("n1")?.api_url().replace("http://", "");
    let doors = [Door::Tcp(health.clone()), Door::Tcp(control.address("n1")), Door::Socket(socket.clone())];
    let encrypted = [Door::Tcp(control.address("n2")), Door::Tcp(stage.node("n2")?.api_url().replace("http://", ""))];
    let slow = slow_clients(&doors);
    let mut dice = Dice::thrown();
    let mut cases = JoinSet::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for number in 0..CASES {
        let (door, case) = match number % 10 {
            0 => (encrypted[dice.below(encrypted.len())].clone(), to_tls(&mut dice)),
            _ => (doors[dice.below(doors.len())].clone(), Hostile::thrown(&mut dice, &token("anna"))),
        };
        let turns = Arc::clone(&turns);
        cases.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            let within = if case.is_whole { ANSWERED_WITHIN } else { WAITED_FOR };
            let told = door.send(&case.bytes, within).await.with_context(|| format!("{door:?}: {}", case.what))?;
            judged(&case, &door, &told)
        });
    }
    while let Some(case) = cases.join_next().await {
        case??;
    }
    stage.say(&format!("{CASES} hostile requests are over"));
    let mut given_up = 0;
    for told in slow.join_all().await {
        let status = statuses(&told?);
        ensure!([vec![403], vec![404], vec![408]].contains(&status), "a body that does not come: {status:?}");
        given_up += usize::from(status == [408]);
    }
    ensure!(given_up == 5, "{given_up} bodies were waited for and given up");
    is(&Curl::new("GET", &format!("http://{health}/cluster")).send().await?, 200, "\"members\"")?;
    is(&control.ask("anna", "POST", "/reload").send().await?, 202, "reload scheduled")?;
    is(&Curl::by_socket(&socket, "POST", "/reload").send().await?, 202, "reload scheduled")?;
    stage.writes_go_on().await?;
    ensure!(stage.leader().await? == leader && pids(stage) == agents, "somebody else leads, or an agent has ended");
    nothing_panicked(stage)?;
    they_are_counted(stage).await
}

/// Bodies that do not come, on every door.
fn slow_clients(doors: &[Door]) -> JoinSet<Result<String>> {
    let mut slow = JoinSet::new();
    for door in doors {
        for bytes in of_a_slow_client(&token("anna")) {
            let door = door.clone();
            slow.spawn(async move { door.send(&bytes, ANSWERED_WITHIN).await });
        }
    }
    slow
}

async fn they_are_counted(stage: &Stage) -> Result<()> {
    for (node, listener) in [("n1", "health"), ("n1", "control"), ("n1", "socket"), ("n2", "control")] {
        let page = crate::http::ask(stage.node(node)?, "GET", "/metrics").await?.body;
        let of = format!("listener=\"{listener}\"");
        let counted = page.lines().find(|line| line.starts_with("pgvigil_http_invalid_total{") && line.contains(&of));
        let counted = counted.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        let most = if node == "n1" { CASES / 12 } else { CASES / 60 };
        ensure!(counted.context("no such series")? > most, "{node}, {listener}: {counted:?} are counted");
    }
    Ok(())
}

#[test]
fn each_answer_on_a_connection_is_seen() {
    assert_eq!(statuses("HTTP/1.1 200 OK\r\n\r\nyesHTTP/1.1 400 Bad Request\r\n\r\n"), [200, 400]);
    assert!(statuses("").is_empty());
}
