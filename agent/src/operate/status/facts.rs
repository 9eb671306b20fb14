//! What `pgvigil status` knows, in the shape of its JSON: `pgvigil.status/v1`. Fields may be added; none changes its meaning or unit.

use consensus::Snapshot;
use decision::durability::Policies;
use decision::settings::Mode;
use decision::view::Initialize;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::super::words;
use super::super::world::World;
use super::member::{self, MemberStatus};
use super::problems::{self, Trouble};
use super::verdict::{self, Verdict};
use crate::config::Config;
use crate::operate::hold::Shown;
use crate::operate::schedule::shown::Shown as Scheduled;

/// The cluster as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Status {
    /// `pgvigil.status/v1`
    pub schema: &'static str,
    /// The name of the cluster.
    pub cluster: String,
    /// The identity that initdb gave; a text, for it exceeds what JSON numbers hold safely.
    pub system_id: Option<String>,
    /// The present term.
    pub term: Option<u64>,
    /// Who holds the leader lock.
    pub leader: Option<String>,
    /// Whether the leader says that writes work; `null`: it does not answer.
    pub writable: Option<bool>,
    /// How long the leader may go on without a renewal.
    pub lease_left_ms: Option<u64>,
    /// Whether etcd answers.
    pub etcd_reachable: bool,
    /// Why it does not.
    pub etcd_error: Option<String>,
    /// What commits wait for; `null`: unknown.
    pub durability: Option<DurabilityStatus>,
    /// The pause, if there is one.
    pub pause: Option<PauseStatus>,
    /// For whom planned actions wait.
    pub hold: Option<Shown>,
    /// What is to begin at a time, the next first.
    pub scheduled: Vec<Scheduled>,
    /// An operator's request that waits.
    #[schema(value_type = Option<Object>)]
    pub request: Option<Value>,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// What is wrong.
    pub problems: Vec<Trouble>,
    /// One sentence on how things stand.
    pub verdict: Verdict,
}

/// What commits wait for.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DurabilityStatus {
    /// The mode in force.
    #[schema(value_type = String)]
    pub mode: Mode,
    /// Whose acknowledgements a takeover must heed; more than one while a change is under way.
    #[schema(value_type = Vec<Object>)]
    pub policies: Policies,
    /// The same in words.
    pub text: String,
}

/// A pause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PauseStatus {
    /// When it ends (RFC 3339); `null`: when somebody ends it.
    pub until: Option<String>,
    /// How long that is.
    pub remaining_s: Option<u64>,
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl Status {
    /// The leader says that writes work.
    pub fn is_writable(&self) -> bool {
        self.writable == Some(true)
    }

    /// What follows from what can be seen.
    pub fn of(world: &World, config: &Config, now: Timestamp) -> Self {
        let snapshot = world.etcd.as_ref().ok();
        let leader = world.leader();
        let leader_says = world.leader_answer();
        let term = snapshot.map(|snapshot| snapshot.cluster.term.0);
        let told = world.answers().filter_map(|(_, answer)| answer.beat["term"].as_u64()).max();
        let mut status = Self {
            schema: "pgvigil.status/v1",
            cluster: config.cluster.clone(),
            system_id: system_id(world),
            term: term.or(told),
            leader: leader.map(|name| name.to_string()),
            writable: match (snapshot, leader_says) {
                (_, Some(leader)) => Some(leader.is_writable()),
                (Some(snapshot), None) if snapshot.cluster.leader.is_none() => Some(false),
                (_, None) => None,
            },
            lease_left_ms: leader_says.and_then(|leader| leader.beat["lease_left_ms"].as_u64()),
            etcd_reachable: snapshot.is_some(),
            etcd_error: world.etcd.as_ref().err().cloned(),
            durability: snapshot.and_then(durability),
            pause: pause(world, now),
            hold: hold(world, now),
            scheduled: snapshot.map(|snapshot| Scheduled::all(world, snapshot, now)).unwrap_or_default(),
            request: snapshot.and_then(|snapshot| snapshot.request_record.as_ref()).map(|record| json!(record)),
            members: member::members(world, now),
            problems: Vec::new(),
            verdict: Verdict::default(),
        };
        status.problems = problems::problems(&status, world, config.timing.ttl);
        status.verdict = verdict::verdict(&status, world, config.timing.ttl);
        if let Some(snapshot) = snapshot {
            let asked = snapshot.config.durability.unwrap_or(config.durability).mode;
            status.verdict = std::mem::take(&mut status.verdict).because_of_two_nodes(snapshot, asked);
        }
        status
    }
}

fn system_id(world: &World) -> Option<String> {
    if let Ok(snapshot) = &world.etcd
        && let Initialize::Done(id) = snapshot.cluster.initialize
    {
        return Some(id.to_string());
    }
    world.answers().find_map(|(_, answer)| answer.patroni["database_system_identifier"].as_str().map(str::to_owned))
}

fn durability(snapshot: &Snapshot) -> Option<DurabilityStatus> {
    let sync = snapshot.cluster.sync.as_ref()?;
    let text = words::durability(&sync.mode.to_string(), &sync.policies);
    Some(DurabilityStatus { mode: sync.mode, policies: sync.policies.clone(), text })
}

fn pause(world: &World, now: Timestamp) -> Option<PauseStatus> {
    match &world.etcd {
        Ok(snapshot) => PauseStatus::of(snapshot, now),
        Err(_) => world.answers().any(|(_, answer)| answer.is_paused()).then(PauseStatus::default),
    }
}

/// Where etcd is silent, as the agents remember.
fn hold(world: &World, now: Timestamp) -> Option<Shown> {
    match &world.etcd {
        Ok(snapshot) => Shown::of(snapshot, now),
        Err(_) => world.answers().find_map(|(_, answer)| {
            serde_json::from_value::<Option<Shown>>(answer.patroni["pgvigil"]["hold"].clone()).ok().flatten()
        }),
    }
}

impl PauseStatus {
    /// The pause that is in force by the settings in etcd.
    pub fn of(snapshot: &Snapshot, now: Timestamp) -> Option<Self> {
        let pause = snapshot.config.pause.as_ref().filter(|_| snapshot.config.paused_at(now))?;
        Some(Self {
            until: pause.until.map(|until| until.to_string()),
            remaining_s: pause.until.and_then(|until| u64::try_from(until.as_second() - now.as_second()).ok()),
            by: pause.by.clone(),
            reason: pause.reason.clone(),
        })
    }

    /// `until 2026-11-22 11:00:00Z (another 59m 3s) by anna@db1: upgrade`
    pub fn in_words(&self) -> String {
        let until = match (&self.until, self.remaining_s) {
            (Some(until), Some(left)) => {
                let left = words::length(std::time::Duration::from_secs(left));
                format!("until {} (another {left})", words::moment(until))
            }
            (Some(until), None) => format!("until {}", words::moment(until)),
            (None, _) => "until somebody resumes".to_owned(),
        };
        let by = self.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{until}{by}{reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_says_until_when_by_whom_and_why() {
        let pause = PauseStatus {
            until: Some("2026-11-22T11:00:00Z".to_owned()),
            remaining_s: Some(3543),
            by: Some("anna@db1".to_owned()),
            reason: Some("upgrade".to_owned()),
        };
        assert_eq!(pause.in_words(), "until 2026-11-22 11:00:00Z (another 59m 3s) by anna@db1: upgrade");
        assert_eq!(PauseStatus::default().in_words(), "until somebody resumes");
    }
}
