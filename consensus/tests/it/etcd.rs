//! Real etcd processes for tests, killed by their ids when a test ends, and a few words that tests share.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use consensus::{Endpoints, EtcdOptions, Keys, Store};
use decision::action::{Claim, ClaimKind};
use decision::durability::Quorum;
use decision::names::{MemberName, Term, Timeline};
use decision::settings::Mode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// Deadline of one request in tests; the machine may be busy.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(700);

/// An etcd cluster of its own.
pub struct Etcd {
    members: Vec<Child>,
    urls: Vec<String>,
    _data: tempfile::TempDir,
}

impl Etcd {
    /// Starts `count` members and waits until they answer.
    pub async fn start(count: usize) -> Self {
        let etcd = Self::spawn(count, "http", &[]);
        for url in &etcd.urls {
            let store = store_at(std::slice::from_ref(url));
            within(Duration::from_secs(20), "etcd answers", async || store.read().await.is_ok()).await;
        }
        etcd
    }

    /// Starts `count` members with more arguments, and does not wait.
    pub fn spawn(count: usize, scheme: &str, more: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let ports = free_ports(count * 2);
        let peer = |index: usize| format!("http://127.0.0.1:{}", ports[count + index]);
        let all: Vec<String> = (0..count).map(|index| format!("m{index}={}", peer(index))).collect();
        let urls: Vec<String> = (0..count).map(|index| format!("{scheme}://127.0.0.1:{}", ports[index])).collect();
        let members = (0..count)
            .map(|index| {
                Command::new("etcd")
                    .args(["--name", &format!("m{index}")])
                    .args(["--data-dir", data.path().join(format!("m{index}")).to_str().unwrap()])
                    .args(["--listen-client-urls", &urls[index], "--advertise-client-urls", &urls[index]])
                    .args(["--listen-peer-urls", &peer(index), "--initial-advertise-peer-urls", &peer(index)])
                    .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
                    .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error"])
                    .args(more)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("etcd is installed")
            })
            .collect();
        Self { members, urls, _data: data }
    }

    pub fn options(&self) -> EtcdOptions {
        options_at(&self.urls)
    }

    pub fn store(&self) -> Store {
        store_at(&self.urls)
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The place in the list of the member that etcd's leader is.
    pub async fn leader(&self) -> usize {
        for (index, url) in self.urls.iter().enumerate() {
            let mut client = etcd_client::Client::connect([url], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.leader() == status.header().unwrap().member_id() {
                return index;
            }
        }
        panic!("etcd has no leader");
    }

    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.urls.last().unwrap()], None).await.unwrap()
    }

    pub async fn lease(&self, seconds: i64) -> i64 {
        self.client().await.lease_grant(seconds, None).await.unwrap().id()
    }

    pub fn freeze(&self, member: usize) {
        self.signal(member, Signal::SIGSTOP);
    }

    pub fn thaw(&self, member: usize) {
        self.signal(member, Signal::SIGCONT);
    }

    pub fn kill(&self, member: usize) {
        self.signal(member, Signal::SIGKILL);
    }

    fn signal(&self, member: usize, signal: Signal) {
        let id = i32::try_from(self.members[member].id()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

pub fn options_at(urls: &[String]) -> EtcdOptions {
    EtcdOptions {
        endpoints: urls.to_vec(),
        tls: None,
        username: None,
        password: None,
        password_file: None,
        request_timeout: REQUEST_TIMEOUT,
    }
}

pub fn store_at(urls: &[String]) -> Store {
    Store::new(Endpoints::new(options_at(urls)).unwrap(), Keys::new("service", "demo"))
}

pub fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

/// A claim to the vacant lock of the term after `after`, waiting for `voter`.
pub fn claim(after: u64, voter: &str) -> Claim {
    Claim {
        term: Term(after + 1),
        after: Term(after),
        policies: vec![Quorum { k: 1, voters: BTreeSet::from([name(voter)]) }],
        mode: Mode::Quorum,
        timeline: Timeline(1),
        ballots: Vec::new(),
        failsafe_revision: None,
        depose: None,
        follows: false,
        kind: ClaimKind::Failover,
        request: None,
        lost_bytes_bound: Some(0),
    }
}

/// Waits until something is so; returns how long that took.
pub async fn within(limit: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}
