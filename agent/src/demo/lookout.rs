//! What the agents say of themselves, asked over their health API: who leads, who streams, how far behind. It is what an operator or a
//! load balancer sees, and no more.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::peers::Peers;

/// An agent that is there answers from memory, even on a busy machine.
const PATIENCE: Duration = Duration::from_millis(400);

/// One node, as its own agent tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Its name.
    pub name: String,
    /// The agent answers.
    pub answers: bool,
    /// `primary` or `replica`.
    pub role: String,
    /// `running`, `streaming`, `starting`, ...
    pub state: String,
    /// It holds the leader lock.
    pub leads: bool,
    /// It leads and accepts writes.
    pub writable: bool,
    /// It is a standby whose acknowledgement commits wait for.
    pub votes: bool,
    /// How many bytes its replay is behind.
    pub lag_bytes: Option<u64>,
    /// What it does and why, in one sentence.
    pub why: String,
}

impl Sight {
    /// A standby that receives WAL from the leader.
    pub fn streams(&self) -> bool {
        self.answers && !self.leads && self.state == "streaming"
    }

    fn read(name: &str, body: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let flag = |value: &Value| value.as_bool().unwrap_or_default();
        let ours = &body["pgvigil"];
        let state = if body["replication_state"].is_string() { &body["replication_state"] } else { &body["state"] };
        Self {
            name: name.to_owned(),
            answers: true,
            role: text(&body["role"]),
            state: text(state),
            leads: flag(&ours["leader"]),
            writable: flag(&ours["writable"]),
            votes: flag(&body["sync_standby"]) || flag(&body["quorum_standby"]),
            lag_bytes: ours["replay_lag_bytes"].as_u64(),
            why: text(&ours["why"]),
        }
    }
}

/// What each agent says, a line each, to follow a complaint.
pub fn told(sights: &[Sight]) -> String {
    let line = |sight: &Sight| format!("\n  {}: {} {}; {}", sight.name, sight.role, sight.state, sight.why);
    sights.iter().map(line).collect()
}

/// Asks the agents. Cheap to clone.
#[derive(Clone)]
pub struct Lookout {
    peers: Peers,
    agents: Vec<(String, String)>,
}

impl Lookout {
    /// Looks at these agents: name and URL.
    pub fn new(agents: Vec<(String, String)>) -> Self {
        Self { peers: Peers::default(), agents }
    }

    /// All nodes, asked at the same time, in their order.
    pub async fn survey(&self) -> Vec<Sight> {
        let mut asking = JoinSet::new();
        for (index, (name, url)) in self.agents.iter().cloned().enumerate() {
            let peers = self.peers.clone();
            asking.spawn(async move {
                let silent = Sight { name: name.clone(), state: "down".to_owned(), ..Sight::default() };
                let answer = peers.get(&url, "/patroni", PATIENCE).await;
                (index, answer.map_or(silent, |body| Sight::read(&name, &body)))
            });
        }
        let mut sights = asking.join_all().await;
        sights.sort_by_key(|(index, _)| *index);
        sights.into_iter().map(|(_, sight)| sight).collect()
    }

    /// Any path of one agent's API.
    ///
    /// # Errors
    /// No such agent, or no answer.
    pub async fn ask(&self, name: &str, path: &str) -> anyhow::Result<Value> {
        let agent = self.agents.iter().find(|(known, _)| known == name);
        let (_, url) = agent.ok_or_else(|| anyhow::anyhow!("there is no node {name}"))?;
        self.peers.get(url, path, PATIENCE).await
    }
}
