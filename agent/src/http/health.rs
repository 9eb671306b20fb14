//! Which path is healthy when. Patroni's paths and query parameters; where we differ we are stricter: `/primary` is 200 only when
//! writes are proven to work, not from the moment the lock is taken.

use std::time::Duration;

use axum::http::HeaderMap;
use decision::view::Server;

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
    let Some(said) = headers.get("x-haproxy-server-state").and_then(|value| value.to_str().ok()) else {
        return Some(now);
    };
    match said.split(';').next().map(str::trim) {
        Some("UP") => Some(true),
        Some("DOWN") => Some(false),
        _ => None,
    }
}

/// Bytes, or a number with one of Postgres' units (`B kB MB GB TB`, in steps of 1024).
fn parse_bytes(text: &str) -> Option<u64> {
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
    let writable = picture.writable();
    let reads = || replica(picture, query);
    let leads_a_follower = picture.leads_a_follower();
    let kind = || picture.sync_kind();
    // Of whoever leads, tags are asked only where others answer too.
    let leads = || (writable || leads_a_follower) && tags_match(picture, query);
    match path {
        "/" | "/primary" | "/master" | "/read-write" => writable,
        "/standby-leader" | "/standby_leader" => leads_a_follower,
        "/leader" => picture.leads().is_some(),
        "/replica" => reads(),
        "/read-only" => leads() || reads(),
        "/sync" | "/synchronous" => kind() == SyncKind::Sync && reads(),
        "/quorum" => kind() == SyncKind::Quorum && reads(),
        "/async" | "/asynchronous" => kind() == SyncKind::Async && reads(),
        "/read-only-sync" | "/read-only-synchronous" => leads() || (kind() == SyncKind::Sync && reads()),
        "/read-only-quorum" => leads() || (kind() == SyncKind::Quorum && reads()),
        "/health" => picture.is_fresh() && picture.state() == "running" && tags_match(picture, query),
        "/liveness" => picture.made_at.elapsed() < picture.view.settings.timing.ttl * 2,
        "/readiness" => picture.leads().is_some() || ready(picture, query),
        _ => false,
    }
}

/// A standby that serves reads, near enough to the leader, in the asked state, with the asked tags.
fn replica(picture: &Picture, query: &Query) -> bool {
    let state = picture.standby().map(|standby| if standby.streaming { "streaming" } else { "in archive recovery" });
    let state_matches = query.replication_state.as_deref().is_none_or(|wanted| state == Some(wanted));
    picture.serves_reads()
        && !picture.leads_a_follower()
        && near(picture, query.lag_bytes, false)
        && state_matches
        && tags_match(picture, query)
}

fn ready(picture: &Picture, query: &Query) -> bool {
    let limit = query.lag_bytes.unwrap_or(picture.view.settings.max_lag_on_failover_bytes);
    let streaming = picture.standby().is_some_and(|standby| standby.streaming);
    picture.is_fresh() && streaming && near(picture, Some(limit), query.count_received)
}

/// An unknown leader position bars nobody: a replica must not vanish because the leader did.
fn near(picture: &Picture, limit_bytes: Option<u64>, count_received: bool) -> bool {
    let (Some(limit), Some(leader)) = (limit_bytes, picture.leader_lsn()) else { return true };
    let Some(standby) = picture.standby() else { return false };
    let here = if count_received { standby.received } else { standby.replayed };
    here.bytes_behind(leader) <= limit
}

fn tags_match(picture: &Picture, query: &Query) -> bool {
    if query.tags.is_empty() {
        return true;
    }
    let Some(member) = picture.cluster().and_then(|cluster| cluster.members.get(&picture.view.me)) else {
        return false;
    };
    let tags = serde_json::to_value(&member.tags).unwrap_or_default();
    query.tags.iter().all(|(tag, wanted)| {
        tags.get(tag).is_some_and(|value| value.to_string().trim_matches('"').eq_ignore_ascii_case(wanted))
    })
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
