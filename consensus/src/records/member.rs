//! `members/<name>`: what a living agent says about itself and its Postgres, in Patroni's words.

use std::collections::{BTreeMap, BTreeSet};

use decision::names::{MemberName, Timeline};
use decision::parameters::Capacities;
use decision::settings::Tags;
use decision::slots::SlotName;
use decision::view::{Member, MemberRole};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::{from_json, to_json};

/// The version in the field where Patroni has its own: tools ask for at least 3.0.4 before they use quorum fields.
pub const COMPAT_VERSION: &str = "4.1.5";

/// One member's record. Empty optional fields are not written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberRecord {
    /// `postgres://host:port/postgres`.
    pub conn_url: String,
    /// `http://host:port/patroni`.
    pub api_url: String,
    /// `running`, `stopped`, `starting`, ... as Patroni says.
    pub state: String,
    /// `primary` or `replica`.
    pub role: String,
    /// [`COMPAT_VERSION`].
    pub version: String,
    /// The version of pgvigil.
    pub pgvigil: String,
    /// The end of its WAL in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<u64>,
    /// Received by a replica, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<u64>,
    /// Replayed by a replica, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<u64>,
    /// `streaming` or `in archive recovery`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// The timeline, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Tags that differ from the defaults.
    #[serde(skip_serializing_if = "TagsRecord::is_default")]
    pub tags: TagsRecord,
    /// The lease under which it would hold the leader lock (decimal text, as it exceeds what JSON numbers hold safely); 0: none.
    #[serde(serialize_with = "lease_as_text", deserialize_with = "lease_from_any", skip_serializing_if = "is_zero")]
    pub lock_lease: i64,
    /// `Some(false)` while the control file still shows the timeline before the promotion: do not rewind from it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    /// Why its fence cannot be armed; such a node never leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_fence: Option<String>,
    /// `Some(true)`: the node has noticed that the cluster is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<bool>,
    /// `Some(true)`: its disk is about to fill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_low: Option<bool>,
    /// The address by which it is known and at which its Postgres does not listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_listening: Option<String>,
    /// `Some(true)`: parameters have been changed that wait for a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<bool>,
    /// Which, with their values now and then.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_restart_reason: BTreeMap<String, PendingChange>,
    /// The restart of it that is scheduled, in Patroni's words: `schedule`, and `role` and `restart_pending` where those are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<serde_json::Value>,
    /// What its server runs with of what a standby must not have less of than its primary.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capacities: Capacities,
    /// What of the settings its server has been configured with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Configured>,
    /// The replication slots of its server by which members can stream from it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub slots: BTreeSet<SlotName>,
    /// The part of the world in which it may be lost together with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// From whom a replica streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams_from: Option<MemberName>,
}

/// A parameter that waits for a restart, in Patroni's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingChange {
    /// What it is.
    pub old_value: String,
    /// What it will be.
    pub new_value: String,
}

/// What a running server has been configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configured {
    /// The revision in etcd of the settings of the cluster.
    pub config_revision: i64,
    /// The process id of the server that all of this is said of.
    pub postmaster: i32,
    /// What is asked for and it does not take, or did not start with.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
}

impl Default for MemberRecord {
    fn default() -> Self {
        Self {
            conn_url: String::new(),
            api_url: String::new(),
            state: "stopped".to_owned(),
            role: "replica".to_owned(),
            version: COMPAT_VERSION.to_owned(),
            pgvigil: env!("CARGO_PKG_VERSION").to_owned(),
            xlog_location: None,
            receive_lsn: None,
            replay_lsn: None,
            replication_state: None,
            timeline: None,
            tags: TagsRecord::default(),
            lock_lease: 0,
            checkpoint_after_promote: None,
            no_fence: None,
            pause: None,
            disk_low: None,
            not_listening: None,
            pending_restart: None,
            pending_restart_reason: BTreeMap::new(),
            scheduled_restart: None,
            capacities: Capacities::new(),
            parameters: None,
            slots: BTreeSet::new(),
            zone: None,
            streams_from: None,
        }
    }
}

/// The base URL of a health API from how members publish theirs, which is as Patroni does: `http://host:port/patroni`.
pub fn api_base(api_url: &str) -> &str {
    let url = api_url.trim_end_matches('/');
    url.strip_suffix("/patroni").unwrap_or(url)
}

impl MemberRecord {
    /// `postgres://host:port/postgres`; an IPv6 address gets its brackets.
    pub fn conn_url_of(host: &str, port: u16) -> String {
        if host.contains(':') {
            format!("postgres://[{host}]:{port}/postgres")
        } else {
            format!("postgres://{host}:{port}/postgres")
        }
    }

    /// Reads the stored text.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// What a decision needs of it; the error says what cannot be understood.
    pub fn to_member(&self) -> Result<Member, String> {
        let (host, port) = host_and_port(&self.conn_url)
            .ok_or_else(|| format!("conn_url \"{}\" has no host and port", self.conn_url))?;
        let role = match (self.state.as_str(), self.role.as_str()) {
            ("running", "primary") => MemberRole::Primary,
            ("running", "replica" | "standby_leader") => MemberRole::Standby,
            _ => MemberRole::Down,
        };
        Ok(Member {
            host,
            port,
            api_url: api_base(&self.api_url).to_owned(),
            role,
            timeline: self.timeline.map(Timeline),
            tags: self.tags.to_tags(),
            lock_lease: self.lock_lease,
            rewind_source_ready: self.checkpoint_after_promote != Some(false),
            no_fence: self.no_fence.clone(),
            disk_low: self.disk_low == Some(true),
            not_listening: self.not_listening.clone(),
            capacities: self.capacities.clone(),
            slots: self.slots.clone(),
            zone: self.zone.clone(),
            streams_from: self.streams_from.clone(),
        })
    }
}

/// Tags as Patroni writes them: only those that say something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TagsRecord {
    /// Never leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofailover: Option<bool>,
    /// Among equals the higher number leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_priority: Option<u32>,
    /// Answers 503 on `/replica`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noloadbalance: Option<bool>,
    /// Never a voter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nosync: Option<bool>,
    /// Copies of the data are made from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clonefrom: Option<bool>,
    /// Streams from this member rather than from the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicatefrom: Option<MemberName>,
    /// Takes WAL from the archive alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nostream: Option<bool>,
}

impl TagsRecord {
    /// With everything left out that is as usual.
    pub fn of(tags: &Tags) -> Self {
        let usual = Tags::default();
        Self {
            nofailover: (tags.nofailover != usual.nofailover).then_some(tags.nofailover),
            failover_priority: (tags.failover_priority != usual.failover_priority).then_some(tags.failover_priority),
            noloadbalance: (tags.noloadbalance != usual.noloadbalance).then_some(tags.noloadbalance),
            nosync: (tags.nosync != usual.nosync).then_some(tags.nosync),
            clonefrom: (tags.clonefrom != usual.clonefrom).then_some(tags.clonefrom),
            replicatefrom: tags.replicatefrom.clone(),
            nostream: (tags.nostream != usual.nostream).then_some(tags.nostream),
        }
    }

    /// With everything filled in.
    pub fn to_tags(&self) -> Tags {
        let usual = Tags::default();
        Tags {
            nofailover: self.nofailover.unwrap_or(usual.nofailover),
            failover_priority: self.failover_priority.unwrap_or(usual.failover_priority),
            noloadbalance: self.noloadbalance.unwrap_or(usual.noloadbalance),
            nosync: self.nosync.unwrap_or(usual.nosync),
            clonefrom: self.clonefrom.unwrap_or(usual.clonefrom),
            replicatefrom: self.replicatefrom.clone(),
            nostream: self.nostream.unwrap_or(usual.nostream),
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn host_and_port(conn_url: &str) -> Option<(String, u16)> {
    let rest = conn_url.strip_prefix("postgres://").or_else(|| conn_url.strip_prefix("postgresql://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

// serde's `skip_serializing_if` and `serialize_with` hand over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(lease: &i64) -> bool {
    *lease == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn lease_as_text<S: Serializer>(lease: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&lease.to_string())
}

fn lease_from_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrNumber {
        Text(String),
        Number(i64),
    }
    match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text.parse().map_err(serde::de::Error::custom),
        TextOrNumber::Number(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_written_as_patroni_writes_it() {
        let record = MemberRecord {
            conn_url: MemberRecord::conn_url_of("10.0.0.2", 5432),
            api_url: "http://10.0.0.2:8008/patroni".to_owned(),
            state: "running".to_owned(),
            receive_lsn: Some(67_419_744),
            timeline: Some(5),
            tags: TagsRecord::of(&Tags { nosync: true, ..Tags::default() }),
            lock_lease: 7_587_869_384_423_001_234,
            ..MemberRecord::default()
        };
        let text = r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://10.0.0.2:8008/patroni","state":"running","role":"replica","version":"4.1.5","pgvigil":"0.1.0","receive_lsn":67419744,"timeline":5,"tags":{"nosync":true},"lock_lease":"7587869384423001234"}"#;
        assert_eq!(record.to_json(), text);
        assert_eq!(MemberRecord::from_json(text), Ok(record.clone()));
        let member = record.to_member().expect("readable");
        assert_eq!(
            (member.host.as_str(), member.port, member.api_url.as_str()),
            ("10.0.0.2", 5432, "http://10.0.0.2:8008")
        );
        assert_eq!(member.role, MemberRole::Standby);
        assert!(member.tags.nosync && member.rewind_source_ready);
    }

    #[test]
    fn patronis_own_record_with_fields_we_do_not_know_is_read() {
        let text = r#"{"conn_url":"postgres://[fd00::2]:5433/postgres","api_url":"https://[fd00::2]:8008/patroni","state":"running","role":"primary","version":"4.1.4","xlog_location":7,"timeline":2,"checkpoint_after_promote":false,"tags":{"clonefrom":true},"pending_restart":true}"#;
        let member = MemberRecord::from_json(text).expect("readable").to_member().expect("readable");
        assert_eq!((member.host.as_str(), member.port), ("fd00::2", 5433));
        assert_eq!((member.role, member.rewind_source_ready, member.lock_lease), (MemberRole::Primary, false, 0));
        assert_eq!(member.tags, Tags { clonefrom: true, ..Tags::default() });
    }

    #[test]
    fn a_stopped_primary_counts_as_down() {
        let record = MemberRecord {
            conn_url: "postgres://a:1/x".to_owned(),
            role: "primary".to_owned(),
            ..MemberRecord::default()
        };
        assert_eq!(record.to_member().expect("readable").role, MemberRole::Down);
        assert!(MemberRecord::default().to_member().is_err());
    }
}
