//! A hold: somebody changes the schema, and what is planned waits, unless whoever asks goes on with open eyes, which is recorded. A failover is
//! nothing planned: neither the automatic one nor an operator's word where nobody leads looks here.

use std::time::Duration;

use consensus::records::{Hold, HoldRecord, Transition};
use consensus::{Error, Outcome, SettingsFrom, Snapshot};
use decision::names::MemberName;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::proviso::{Pass, Proviso};
use super::switchover::asked_for;
use super::world::Reach;
use super::{Kind, Unable, words};
use crate::published::COPYING;

/// How often a hold is tried for while the cluster changes under it, and how soon again.
const TRIES: usize = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// A record that says "in progress" for longer is of an agent that did not live to close it, unless it is of a copy that goes on.
const GOES_ON_FOR: SignedDuration = SignedDuration::from_hours(1);
/// A pause may be among what nobody can read, and only automatic actions are worth the doubt.
const SETTINGS_UNKNOWN: &str = "nobody can read the settings of the cluster in etcd, nor remembers any";

/// A hold as it is shown, to people and to programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = Hold)]
pub struct Shown {
    /// Its name; `null` where nobody can read it.
    pub id: Option<String>,
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since when (RFC 3339).
    pub since: Option<String>,
    /// Until when (RFC 3339).
    pub until: Option<String>,
    /// How long that is, in seconds.
    pub remaining_s: Option<u64>,
    /// On which host it was taken.
    pub host: Option<String>,
    /// Why it cannot be read; planned actions wait all the same.
    pub error: Option<String>,
}

impl Shown {
    /// The hold for which planned actions wait now, if they do. They wait as well where nobody knows whether the cluster is paused.
    pub fn of(seen: &Snapshot, now: Timestamp) -> Option<Self> {
        let without_record = |why: &str| Some(Self { error: Some(why.to_owned()), ..Self::default() });
        if let Hold::Unreadable(why) = &seen.hold {
            return without_record(why);
        }
        let taken = seen.hold.in_force(now).map(|record| Self {
            id: Some(record.id.clone()),
            by: Some(record.by.clone()),
            reason: Some(record.reason.clone()),
            since: Some(record.since.to_string()),
            until: Some(record.until.to_string()),
            remaining_s: u64::try_from(record.until.as_second() - now.as_second()).ok(),
            host: Some(record.host.clone()),
            error: None,
        });
        let unknown = seen.settings_from == SettingsFrom::Nowhere;
        taken.or_else(|| unknown.then(|| without_record(SETTINGS_UNKNOWN)).flatten())
    }

    /// Nobody has taken it: whether the cluster is paused cannot be known.
    pub fn is_for_settings(&self) -> bool {
        self.error.as_deref() == Some(SETTINGS_UNKNOWN)
    }

    /// `by anna@db1 until 2026-11-22 11:00:00Z (another 12m 3s): flyway V42`
    pub fn in_words(&self) -> String {
        if self.is_for_settings() {
            return format!("because {SETTINGS_UNKNOWN}; pgvigil status says what mends it");
        }
        if let Some(error) = &self.error {
            return format!("by something that nobody can read ({error}); mend it: pgvigil release");
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        let left = self.remaining_s.map(|left| format!(" (another {})", words::length(Duration::from_secs(left))));
        format!(
            "by {} until {}{}: {}",
            text(&self.by),
            words::moment(&text(&self.until)),
            left.unwrap_or_default(),
            text(&self.reason)
        )
    }
}

/// Why something planned waits, and what would not.
pub fn waits(shown: &Shown) -> String {
    format!(
        "planned actions are held {}; wait, or go on all the same: --ignore-hold (over HTTP \"ignore_hold\": true, role admin)",
        shown.in_words()
    )
}

/// The reason with what it was done against.
pub fn reason_against(reason: Option<&str>, pass: &Pass) -> Option<String> {
    let against = pass.ignored.as_deref().map(against);
    match (reason, against) {
        (Some(reason), Some(against)) => Some(format!("{reason} ({against})")),
        (reason, against) => reason.map(str::to_owned).or(against),
    }
}

/// How a record tells that a hold was ignored.
pub fn against(hold: &str) -> String {
    format!("against the hold of {hold}")
}

/// Takes a hold, under a lease where there is one, in place of one that has ended, cannot be renewed any more, or is the same. Returns when that is
/// certain.
///
/// # Errors
/// Another leads than the one who must, somebody else has one, something planned waits or is under way, or etcd does not answer.
pub async fn take(reach: &Reach, record: &HoldRecord, lease: Option<i64>, proviso: &Proviso) -> Result<(), Unable> {
    let failed = |error: Error| Unable::by_etcd(&error, "the hold cannot be taken");
    for _ in 0..TRIES {
        let snapshot = reach.store.read().await.map_err(failed)?;
        let (now, lead) = (Timestamp::now(), proviso.lead(&snapshot)?);
        if let Some(why) = in_the_way(&snapshot, &record.id, now) {
            return Err(Unable::new(Kind::Refused, why));
        }
        let (records, _) = reach.store.transitions().await.map_err(failed)?;
        if let Some(going_on) = under_way(&records, &snapshot, now) {
            return Err(Unable::new(Kind::Refused, format!("{}: wait for its end", told(going_on))));
        }
        match reach.store.take_hold(record, lease, &snapshot, &lead).await {
            Ok(Outcome::Applied { .. }) => return Ok(()),
            Ok(Outcome::Refused) => tokio::time::sleep(AGAIN_AFTER).await,
            Err(error @ Error::Unknown(_)) => {
                let there = reach.store.hold_id().await.map_err(failed)?;
                return if there.as_ref() == Some(&record.id) { Ok(()) } else { Err(failed(error)) };
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Unable::new(Kind::Overtaken, "others keep changing the cluster at the same time: try again"))
}

/// What forbids a hold in what etcd says.
fn in_the_way(snapshot: &Snapshot, mine: &str, now: Timestamp) -> Option<String> {
    if let Some(other) = Shown::of(snapshot, now).filter(|other| other.id.as_deref() != Some(mine)) {
        return Some(format!("planned actions are held already, {}; one hold at a time", other.in_words()));
    }
    what_waits(snapshot).map(|what| format!("{what} waits to be carried out: wait for its end"))
}

/// Something planned that has been asked for and not begun. An order to a node that is away keeps nobody from a
/// hold, and waits for its end even if the node comes back before.
pub fn what_waits(snapshot: &Snapshot) -> Option<String> {
    let cluster = &snapshot.cluster;
    if let Some(request) = &snapshot.request_record {
        return Some(asked_for(request));
    }
    let here = |name| cluster.members.contains_key(name);
    let mut orders = snapshot.order_records.iter().filter(|(name, order)| order.order != "reload" && here(name));
    if let Some((name, order)) = orders.next() {
        return Some(format!("{} of {name} by {}", order.order, order.requested_by));
    }
    let site = &snapshot.config.site;
    let changes = if cluster.follows() { site.promote.is_some() } else { site.remote.is_some() };
    changes.then(|| "a change of sites".to_owned())
}

/// Something that moves the lead or takes a server away, and has not ended. A copy may take as long as it likes, while its node says that it is made.
pub fn under_way<'a>(records: &'a [Transition], seen: &Snapshot, now: Timestamp) -> Option<&'a Transition> {
    const KINDS: [&str; 6] = ["switchover", "failover", "restart", "reinit", "reclaim", "site_demotion"];
    let lives = |record: &&Transition| {
        let begun = record.started_at.parse::<Timestamp>();
        begun.is_ok_and(|begun| now.duration_since(begun) < GOES_ON_FOR) || is_being_copied(record, seen)
    };
    let is_one = |record: &&Transition| record.outcome == "in_progress" && KINDS.contains(&record.kind.as_str());
    records.iter().rev().filter(is_one).find(lives)
}

fn is_being_copied(record: &Transition, seen: &Snapshot) -> bool {
    let node = record.to.as_deref().and_then(|name| MemberName::new(name).ok());
    let says = node.and_then(|node| seen.member_records.get(&node));
    record.kind == "reinit" && says.is_some_and(|says| [COPYING, "starting"].contains(&says.state.as_str()))
}

/// `switchover s-37 to pg3 is under way`
pub fn told(record: &Transition) -> String {
    let to = record.to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
    let of = if record.from == record.to { to.replace(" to ", " of ") } else { to };
    format!("{} {}{of} is under way", record.kind, record.id)
}

/// A hold that was given up.
///
/// # Errors
/// Another leads than the one who must, it is another than `id` names, somebody else has just changed it, or etcd does not answer. `None`: there is none.
pub async fn release(reach: &Reach, id: Option<&str>, proviso: &Proviso) -> Result<Option<String>, Unable> {
    let failed = |error: Error| Unable::by_etcd(&error, "the hold cannot be released");
    let snapshot = reach.store.read().await.map_err(failed)?;
    let lead = proviso.lead(&snapshot)?;
    let what = match &snapshot.hold {
        Hold::Nothing => return Ok(None),
        Hold::Taken(record) if id.is_some_and(|id| id != record.id) => {
            let why = format!("the hold that is there is {}, by {}", record.id, record.by_and_why());
            return Err(Unable::new(Kind::Refused, why));
        }
        Hold::Taken(record) => format!("the hold {} by {}", record.id, record.by_and_why()),
        Hold::Unreadable(_) => "a hold that nobody could read".to_owned(),
    };
    match reach.store.release_hold(snapshot.hold_revision, &lead).await.map_err(failed)? {
        Outcome::Applied { .. } => Ok(Some(what)),
        Outcome::Refused => Err(Unable::new(Kind::Overtaken, "it has changed at this very moment; look again")),
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
