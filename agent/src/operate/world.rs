//! The cluster as it can be seen from here, now: etcd by one linearizable read, and every agent over HTTP, all at once and each under a
//! deadline. Who does not answer is part of the picture, and nothing here waits for long.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::records::api_base;
use consensus::{Snapshot, Store};
use decision::names::MemberName;
use jiff::Timestamp;
use serde_json::Value;

use super::hold;
use crate::config::Config;
use crate::peers::Peers;

/// How long an agent may take to answer.
pub const AGENT_WITHIN: Duration = Duration::from_secs(1);

/// What everybody works with who wants something of a cluster.
pub struct Reach {
    /// This node's configuration.
    pub config: Config,
    /// etcd.
    pub store: Store,
    /// The agents.
    pub peers: Peers,
    /// The cluster is not that of this node, whose own agent knows nothing of it.
    elsewhere: bool,
}

/// What can be seen of the cluster.
pub struct World {
    /// etcd, or why it could not be read.
    pub etcd: Result<Snapshot, String>,
    /// Every agent whose address is known, by its member's name.
    pub agents: BTreeMap<MemberName, Agent>,
    /// The node from which it is seen.
    pub me: MemberName,
    /// What goes on, where something is scheduled that waits for its end.
    pub under_way: Option<String>,
}

/// One agent.
pub struct Agent {
    /// The base URL of its API.
    pub api_url: String,
    /// What it says, or why it says nothing.
    pub says: Result<Answer, String>,
}

/// What an agent says about itself and the others.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// `/patroni`
    pub patroni: Value,
    /// `/beat`
    pub beat: Value,
    /// `/why`
    pub why: Value,
    /// `/cluster`
    pub cluster: Value,
    /// By how much its wall clock is ahead of the one here, in milliseconds, at least; below 0: behind.
    pub clock_ahead_ms: i64,
}

impl Reach {
    /// From where this configuration is.
    ///
    /// # Errors
    /// What is needed to ask etcd cannot be had.
    pub fn of(config: Config) -> anyhow::Result<Self> {
        let store = crate::run::store(&config)?;
        Ok(Self { config, store, peers: Peers::default(), elsewhere: false })
    }

    /// From where another cluster in the same etcd can be reached. What that cluster's own files say is not known here.
    #[must_use]
    pub fn beside(&self, cluster: &str) -> Self {
        let config = Config { cluster: cluster.to_owned(), ..self.config.clone() };
        let store = self.store.beside(consensus::Keys::new(&config.etcd.namespace, cluster));
        Self { config, store, peers: self.peers.clone(), elsewhere: cluster != self.config.cluster }
    }

    /// The base URL of this node's own agent.
    pub fn own_api(&self) -> String {
        format!("http://{}", self.config.api.advertise)
    }

    /// Looks at everything.
    pub async fn look(&self) -> World {
        if self.elsewhere {
            return match self.store.read().await {
                Ok(snapshot) => self.look_at(snapshot).await,
                Err(error) => {
                    let me = self.config.name.clone();
                    World { etcd: Err(error.to_string()), agents: BTreeMap::new(), me, under_way: None }
                }
            };
        }
        let own_api = self.own_api();
        let (etcd, own) = tokio::join!(self.store.read(), self.ask(&own_api));
        let (own, is_strange) = match own.map(|answer| answer.of(&self.config.cluster)) {
            Ok(Ok(answer)) => (Ok(answer), false),
            Ok(Err(why)) => (Err(why), true),
            Err(why) => (Err(why), false),
        };
        let etcd = etcd.map_err(|error| error.to_string());
        let me = self.config.name.clone();
        let mut urls = known_apis(etcd.as_ref().ok(), own.as_ref().ok());
        urls.remove(&me);
        let mut agents = self.ask_each(urls).await;
        // An agent of this host that is neither registered nor answering is not known to be one: the file may be a copy elsewhere.
        if own.is_ok() || is_strange || etcd.as_ref().is_ok_and(|snapshot| snapshot.member_records.contains_key(&me)) {
            agents.insert(me.clone(), Agent { api_url: own_api, says: own });
        }
        let under_way = self.under_way(etcd.as_ref().ok()).await;
        World { etcd, agents, me, under_way }
    }

    /// Looks at a cluster that is known from etcd alone: asks those who are registered there.
    pub async fn look_at(&self, snapshot: Snapshot) -> World {
        let agents = self.ask_each(known_apis(Some(&snapshot), None)).await;
        let under_way = self.under_way(Some(&snapshot)).await;
        World { etcd: Ok(snapshot), agents, me: self.config.name.clone(), under_way }
    }

    async fn under_way(&self, seen: Option<&Snapshot>) -> Option<String> {
        let seen = seen.filter(|seen| seen.scheduled.switchover.is_some() || !seen.scheduled.restarts.is_empty())?;
        let (records, _) = self.store.transitions().await.ok()?;
        hold::under_way(&records, seen, Timestamp::now()).map(hold::told)
    }

    /// Asks these agents, all at once.
    async fn ask_each(&self, urls: BTreeMap<MemberName, String>) -> BTreeMap<MemberName, Agent> {
        let asked = urls.into_iter().map(|(name, api_url)| {
            let (peers, url) = (self.peers.clone(), api_url.clone());
            (name, api_url, tokio::spawn(async move { ask(&peers, &url).await }))
        });
        let mut agents = BTreeMap::new();
        for (name, api_url, answer) in asked.collect::<Vec<_>>() {
            let says = answer.await.unwrap_or_else(|gone| Err(gone.to_string()));
            agents.insert(name, Agent { api_url, says });
        }
        agents
    }

    /// Asks one agent everything that this program wants to know of an agent.
    pub async fn ask(&self, api_url: &str) -> Result<Answer, String> {
        ask(&self.peers, api_url).await
    }
}

async fn ask(peers: &Peers, api_url: &str) -> Result<Answer, String> {
    let get = |path| peers.get(api_url, path, AGENT_WITHIN);
    let asked_ms = Timestamp::now().as_millisecond();
    let told = tokio::try_join!(get("/patroni"), get("/beat"), get("/why"), get("/cluster"));
    let (patroni, beat, why, cluster) = told.map_err(|error| reason_of(&error))?;
    let clock_ahead_ms = ahead_ms(beat["clock_ms"].as_i64(), asked_ms, Timestamp::now().as_millisecond());
    Ok(Answer { patroni, beat, why, cluster, clock_ahead_ms })
}

/// By how much a clock is surely ahead that was read some time between a question and its answer.
fn ahead_ms(clock_ms: Option<i64>, asked_ms: i64, answered_ms: i64) -> i64 {
    match clock_ms {
        Some(clock) if clock > answered_ms => clock.saturating_sub(answered_ms),
        Some(clock) if clock < asked_ms => clock.saturating_sub(asked_ms),
        // A version that does not tell its clock is not suspected of anything.
        Some(_) | None => 0,
    }
}

/// The last cause says what happened; the first only repeats the address.
fn reason_of(error: &anyhow::Error) -> String {
    error.chain().last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Where the agents are: from etcd, or as this node's agent remembers.
fn known_apis(snapshot: Option<&Snapshot>, own: Option<&Answer>) -> BTreeMap<MemberName, String> {
    match (snapshot, own) {
        (Some(snapshot), _) => snapshot
            .cluster
            .members
            .iter()
            .map(|(name, member)| (name.clone(), member.api_url.trim_end_matches('/').to_owned()))
            .collect(),
        (None, Some(own)) => own.members().filter_map(|(name, member)| Some((name, api_of(member)?))).collect(),
        (None, None) => BTreeMap::new(),
    }
}

fn api_of(member: &Value) -> Option<String> {
    Some(api_base(member.get("api_url")?.as_str()?).to_owned())
}

impl World {
    /// What a member's agent says, if it does.
    pub fn answer(&self, name: &MemberName) -> Option<&Answer> {
        self.agents.get(name)?.says.as_ref().ok()
    }

    /// Every agent that answers, this host's first.
    pub fn answers(&self) -> impl Iterator<Item = (&MemberName, &Answer)> {
        let all = |mine: bool| {
            self.agents
                .iter()
                .filter(move |(name, _)| (**name == self.me) == mine)
                .filter_map(|(name, agent)| Some((name, agent.says.as_ref().ok()?)))
        };
        all(true).chain(all(false))
    }

    /// Who holds the leader lock: as etcd says, or as the agents say where etcd is silent.
    pub fn leader(&self) -> Option<MemberName> {
        match &self.etcd {
            Ok(snapshot) => snapshot.cluster.leader.clone(),
            Err(_) => self.answers().find(|(_, answer)| answer.leads()).map(|(name, _)| name.clone()),
        }
    }

    /// What the leader's agent says.
    pub fn leader_answer(&self) -> Option<&Answer> {
        self.answer(&self.leader()?)
    }

    /// Whether nothing at all could be seen.
    pub fn is_dark(&self) -> bool {
        self.etcd.is_err() && self.answers().next().is_none()
    }
}

impl Answer {
    /// It, if it comes from an agent of this cluster.
    fn of(self, cluster: &str) -> Result<Self, String> {
        match self.patroni["patroni"]["scope"].as_str() {
            Some(other) if other != cluster => Err(format!("that is an agent of cluster {other}")),
            Some(_) | None => Ok(self),
        }
    }

    /// The members of `/cluster`, by name.
    pub fn members(&self) -> impl Iterator<Item = (MemberName, &Value)> {
        let members = self.cluster.get("members").and_then(Value::as_array).into_iter().flatten();
        members.filter_map(|member| Some((MemberName::new(member.get("name")?.as_str()?).ok()?, member)))
    }

    /// One member of `/cluster`.
    pub fn member(&self, name: &MemberName) -> Option<&Value> {
        self.members().find(|(other, _)| other == name).map(|(_, member)| member)
    }

    /// What bars a member from leading, as code and sentence, in this agent's eyes; `None`: it does not know the member.
    pub fn bars(&self, name: &MemberName) -> Option<Vec<(String, String)>> {
        let standings = self.why.get("standings")?.as_array()?;
        let standing = standings.iter().find(|standing| standing["member"] == name.as_str())?;
        let text = |bar: &Value, key: &str| bar[key].as_str().unwrap_or("unknown").to_owned();
        Some(standing["bars"].as_array()?.iter().map(|bar| (text(bar, "code"), text(bar, "sentence"))).collect())
    }

    /// It holds the lock, by its own clock.
    pub fn leads(&self) -> bool {
        self.beat["leader"] == true
    }

    /// Writes work there.
    pub fn is_writable(&self) -> bool {
        self.beat["writable"] == true
    }

    /// It acts as if paused.
    pub fn is_paused(&self) -> bool {
        self.patroni["pause"] == true
    }

    /// Why it does what it does, in one sentence.
    pub fn sentence(&self) -> &str {
        self.why["sentence"].as_str().unwrap_or("it does not say why")
    }

    /// The code of that reason.
    pub fn code(&self) -> &str {
        self.why["reason"]["code"].as_str().unwrap_or("unknown")
    }

    /// How old its picture is.
    pub fn age(&self) -> Option<Duration> {
        self.beat["age_ms"].as_u64().map(Duration::from_millis)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn where_etcd_is_silent_the_own_agent_knows_the_others() {
        let own = Answer {
            cluster: json!({"members": [
                {"name": "pg1", "api_url": "http://a:1/patroni"}, {"name": "pg2", "api_url": "http://b:2/patroni"}, {"name": "no/name"},
            ]}),
            ..Answer::default()
        };
        let urls = known_apis(None, Some(&own));
        assert_eq!(urls.into_values().collect::<Vec<_>>(), ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn an_agent_of_another_cluster_says_nothing_of_this_one() {
        let told = |patroni: Value| Answer { patroni, ..Answer::default() }.of("orders").map(|_| ()).err();
        assert_eq!(told(json!({"patroni": {"scope": "orders"}})), None);
        assert_eq!(told(json!({})), None, "an older one");
        assert_eq!(told(json!({"patroni": {"scope": "users"}})).as_deref(), Some("that is an agent of cluster users"));
    }

    #[test]
    fn a_clock_is_ahead_or_behind_by_what_the_time_of_its_answer_does_not_explain() {
        for (clock, ahead) in [(None, 0), (Some(1_000), 0), (Some(1_050), 0), (Some(1_100), 0)] {
            assert_eq!(ahead_ms(clock, 1_000, 1_100), ahead, "{clock:?}");
        }
        assert_eq!((ahead_ms(Some(6_100), 1_000, 1_100), ahead_ms(Some(-4_000), 1_000, 1_100)), (5_000, -5_000));
        assert_eq!(ahead_ms(Some(i64::MIN), 1_000, 1_100), i64::MIN);
    }

    #[test]
    fn bars_are_read_with_their_sentences() {
        let why = json!({"standings": [{"member": "pg2", "may_lead": false, "bars": [{"code": "no_ballot", "sentence": "why"}]}]});
        let answer = Answer { why, ..Answer::default() };
        let pg2 = MemberName::new("pg2").unwrap();
        assert_eq!(answer.bars(&pg2), Some(vec![("no_ballot".to_owned(), "why".to_owned())]));
        assert_eq!(answer.bars(&MemberName::new("pg9").unwrap()), None);
    }
}
