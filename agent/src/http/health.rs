//! Which path is healthy when. Patroni's paths and query parameters; where we differ we are stricter: `/primary` is 200 only when
//! writes are proven to work, not from the moment the lock is taken.

use std::time::Duration;

use axum::http::HeaderMap;
use decision::view::Server;
use serde_json::{Value, json};

use super::unhealthy::Unhealthy;
use crate::published::{Picture, SyncKind};

/// The health paths.
pub const PATHS: &[&str] = &[
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/sync",
    "/synchronous",
    "/async",
    "/asynchronous",
    "/quorum",
    "/read-only-sync",
    "/read-only-synchronous",
    "/read-only-quorum",
    "/health",
    "/liveness",
    "/readiness",
];

/// Paths that answer with a status only, also to GET.
pub const STATUS_ONLY: &[&str] = &["/liveness", "/readiness"];

/// The header in which HAProxy says what it believes.
pub const BELIEVED: &str = "x-haproxy-server-state";

/// No answer is held back longer than this.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The query parameters of the health paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `lag=`: the most bytes that replay may be behind the leader. What cannot be read is ignored, as Patroni does.
    pub lag_bytes: Option<u64>,
    /// `replication_state=`.
    pub replication_state: Option<String>,
    /// `mode=write`: count what was received, not what was replayed.
    pub count_received: bool,
    /// `wait=`: how long the answer may be held back while it is no news, for instance `250ms`. Ours, not Patroni's: a load balancer
    /// then hears of a change at once, and asks less often.
    pub wait: Option<Duration>,
    /// `tag_<name>=<value>`.
    pub tags: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "lag" => query.lag_bytes = parse_bytes(value),
                "replication_state" => query.replication_state = Some(value.replace(['+'], " ").replace("%20", " ")),
                "wait" => query.wait = humantime::parse_duration(value).ok().map(|wait| wait.min(WAIT_MAX)),
                "mode" => query.count_received = value == "write",
                _ => {
                    if let Some(tag) = key.strip_prefix("tag_") {
                        query.tags.push((tag.to_owned(), value.to_owned()));
                    }
                }
            }
        }
        query
    }
}

/// What the asker believes to be the answer. HAProxy says it in a header (`http-check send-state`): `UP; ...` and `DOWN; ...` are
/// settled beliefs, `UP 1/2; ...` is a doubt that must not wait, so there is none. Whoever says nothing knows the answer of this moment.
pub fn believed(headers: &HeaderMap, now: bool) -> Option<bool> {
    let Some(said) = headers.get(BELIEVED).and_then(|value| value.to_str().ok()) else {
        return Some(now);
    };
    match said.split(';').next().map(str::trim) {
        Some("UP") => Some(true),
        Some("DOWN") => Some(false),
        _ => None,
    }
}

/// Bytes, or a number with one of Postgres' units (`B kB MB GB TB`, in steps of 1024).
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let number: u64 = digits.parse().ok()?;
    let shift = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 10,
        "mb" => 20,
        "gb" => 30,
        "tb" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Whether `path` is healthy in this picture.
pub fn healthy(picture: &Picture, path: &str, query: &Query) -> bool {
    judge(picture, path, query).is_ok()
}

/// Whether `path` is healthy in this picture, or which condition fails.
pub fn judge(picture: &Picture, path: &str, query: &Query) -> Result<(), Unhealthy> {
    let reads = || replica(picture, query);
    let waited_for = |wanted: SyncKind| {
        reads()?;
        let is = picture.sync_kind();
        if is == wanted { Ok(()) } else { Err(Unhealthy::Kind { is, wanted }) }
    };
    match path {
        "/" | "/primary" | "/master" | "/read-write" => picture.takes_writes(),
        "/standby-leader" | "/standby_leader" => leads_a_follower(picture),
        "/leader" => picture.holds_the_lock().map(|_| ()),
        "/replica" => reads(),
        "/read-only" => leads_or(picture, query, reads()),
        "/sync" | "/synchronous" => waited_for(SyncKind::Sync),
        "/quorum" => waited_for(SyncKind::Quorum),
        "/async" | "/asynchronous" => waited_for(SyncKind::Async),
        "/read-only-sync" | "/read-only-synchronous" => leads_or(picture, query, waited_for(SyncKind::Sync)),
        "/read-only-quorum" => leads_or(picture, query, waited_for(SyncKind::Quorum)),
        "/health" => {
            picture.fresh()?;
            if picture.state() != "running" {
                return Err(Unhealthy::NotRunning(picture.server()));
            }
            tags_match(picture, query)
        }
        "/liveness" => {
            let age = picture.made_at.elapsed();
            if age < picture.view.settings.timing.ttl * 2 { Ok(()) } else { Err(Unhealthy::Stuck(age)) }
        }
        "/readiness" => picture.holds_the_lock().map(|_| ()).or_else(|_| ready(picture, query)),
        _ => Err(Unhealthy::NoSuchPath),
    }
}

/// The answer to a path, for programs and people.
pub fn told(path: &str, judged: &Result<(), Unhealthy>) -> Value {
    match judged {
        Ok(()) => json!({"path": path, "status": 200, "code": null, "sentence": null}),
        Err(why) => json!({"path": path, "status": 503, "code": why.code(), "sentence": why.to_string()}),
    }
}

fn leads_a_follower(picture: &Picture) -> Result<(), Unhealthy> {
    if picture.leads_a_follower() { Ok(()) } else { Err(Unhealthy::NotSiteLeader) }
}

/// Where others answer too, whoever leads answers as well; of that one, tags are asked. A standby is told why it does not answer as one.
fn leads_or(picture: &Picture, query: &Query, otherwise: Result<(), Unhealthy>) -> Result<(), Unhealthy> {
    let leads = picture.takes_writes().or_else(|why| leads_a_follower(picture).map_err(|_| why));
    let leads = leads.and_then(|()| tags_match(picture, query));
    leads.or_else(|why| otherwise.map_err(|other| if picture.standby().is_some() { other } else { why }))
}

/// A standby that serves reads, near enough to the leader, in the asked state, with the asked tags.
fn replica(picture: &Picture, query: &Query) -> Result<(), Unhealthy> {
    let standby = picture.serves_reads()?;
    if picture.leads_a_follower() {
        return Err(Unhealthy::LeadsSite);
    }
    near(picture, query.lag_bytes, false)?;
    let is = if standby.streaming { "streaming" } else { "in archive recovery" };
    if let Some(wanted) = query.replication_state.as_ref().filter(|wanted| wanted.as_str() != is) {
        return Err(Unhealthy::ReplicationState { is, wanted: wanted.clone() });
    }
    tags_match(picture, query)
}

fn ready(picture: &Picture, query: &Query) -> Result<(), Unhealthy> {
    let limit = query.lag_bytes.unwrap_or(picture.view.settings.max_lag_on_failover_bytes);
    picture.fresh()?;
    let standby = picture.standby().ok_or_else(|| Unhealthy::NotStandby(picture.server()))?;
    if !standby.streaming {
        return Err(Unhealthy::NotStreaming);
    }
    near(picture, Some(limit), query.count_received)
}

/// An unknown leader position bars nobody: a replica must not vanish because the leader did.
fn near(picture: &Picture, limit_bytes: Option<u64>, received: bool) -> Result<(), Unhealthy> {
    let (Some(limit_bytes), Some(leader)) = (limit_bytes, picture.leader_lsn()) else { return Ok(()) };
    let standby = picture.standby().ok_or_else(|| Unhealthy::NotStandby(picture.server()))?;
    let here = if received { standby.received } else { standby.replayed };
    let behind_bytes = here.bytes_behind(leader);
    if behind_bytes <= limit_bytes { Ok(()) } else { Err(Unhealthy::Lag { behind_bytes, limit_bytes, received }) }
}

fn tags_match(picture: &Picture, query: &Query) -> Result<(), Unhealthy> {
    if query.tags.is_empty() {
        return Ok(());
    }
    let member = picture.cluster().and_then(|cluster| cluster.members.get(&picture.view.me));
    let tags = member.and_then(|member| serde_json::to_value(&member.tags).ok()).unwrap_or_default();
    let value = |tag: &str| tags.get(tag).map(|value| value.to_string().trim_matches('"').to_owned());
    let differs =
        |(tag, wanted): &&(String, String)| !value(tag).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    match query.tags.iter().find(differs) {
        None => Ok(()),
        Some((tag, wanted)) => Err(Unhealthy::Tag { tag: tag.clone(), is: value(tag), wanted: wanted.clone() }),
    }
}

/// Patroni's text for how a standby receives WAL.
pub fn replication_state(server: &Server) -> Option<&'static str> {
    match server {
        Server::Standby(standby) if standby.streaming => Some("streaming"),
        Server::Standby(_) => Some("in archive recovery"),
        _ => None,
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod judged;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_in_the_table_of_docs_compatibility() {
        let document = include_str!("../../../docs/compatibility.md");
        let missing: Vec<_> = PATHS.iter().filter(|path| !document.contains(&format!("`{path}`"))).collect();
        assert!(missing.is_empty(), "not in docs/compatibility.md: {missing:?}");
    }

    #[test]
    fn lag_is_read_with_postgres_units_and_nonsense_is_ignored() {
        assert_eq!(Query::parse("lag=100").lag_bytes, Some(100));
        assert_eq!(Query::parse("lag=16MB&x=y").lag_bytes, Some(16 << 20));
        assert_eq!(Query::parse("lag=1kb").lag_bytes, Some(1024));
        assert_eq!(Query::parse("lag=soon").lag_bytes, None);
        assert_eq!(Query::parse("lag=99999999999999999999").lag_bytes, None);
        assert_eq!(Query::parse("lag=9999999999TB").lag_bytes, None);
    }

    #[test]
    fn tags_and_states_are_read() {
        let query = Query::parse("tag_nosync=true&replication_state=in+archive+recovery&mode=write");
        assert_eq!(query.tags, [("nosync".to_owned(), "true".to_owned())]);
        assert_eq!(query.replication_state.as_deref(), Some("in archive recovery"));
        assert!(query.count_received);
    }

    #[test]
    fn an_answer_is_held_back_only_for_whoever_is_sure_of_it() {
        assert_eq!(Query::parse("wait=250ms").wait, Some(Duration::from_millis(250)));
        assert_eq!(Query::parse("wait=1h").wait, Some(WAIT_MAX));
        assert_eq!(Query::parse("wait=soon").wait, None);
        let says = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-haproxy-server-state", text.parse().expect("a header"));
            headers
        };
        let rest = "name=primary/n1; node=lb; weight=1/1; scur=0/0; qcur=0";
        assert_eq!(believed(&says(&format!("UP; {rest}")), false), Some(true));
        assert_eq!(believed(&says(&format!("DOWN; {rest}")), true), Some(false));
        assert_eq!(believed(&says(&format!("UP 1/2; {rest}")), true), None);
        assert_eq!(believed(&HeaderMap::new(), true), Some(true));
    }
}
