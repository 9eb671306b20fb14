//! `GET /v1/events`: what changes in the cluster, as this agent comes to see it. It begins with the whole, so that whoever comes back has missed nothing
//! that still counts; after that, each change is an event of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::Response;
use consensus::records::Transition;
use serde::Serialize;
use utoipa::ToSchema;

use super::forthcoming::{self, CertificateSeen, Schedules};
use super::streams::{self, Gone, Teller};
use crate::control::Control;
use crate::control::answer::Answer;
use crate::control::standing::Standing;
use crate::http::bodies;
use crate::operate::schedule::shown::Shown;
use crate::published::Picture;

/// Records come to be known beside the picture.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct MemberSeen {
    /// Its name.
    name: String,
    /// As `/cluster` has it: `leader`, `replica`, `sync_standby`, ...; null: it is gone.
    role: Option<String>,
    /// As `/cluster` has it: `running`, `streaming`, `stopped`, ...
    state: Option<String>,
}

/// Whether automatic actions are paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PauseSeen {
    /// Whether they are.
    paused: bool,
    /// Until when, where that is said.
    until: Option<String>,
    /// By whom.
    by: Option<String>,
    /// Why.
    reason: Option<String>,
}

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LeaderSeen {
    /// Who; null: nobody.
    leader: Option<String>,
    /// The highest term.
    term: Option<u64>,
}

/// All that changes are told of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ClusterSeen {
    /// `pgvigil.events/v1`
    schema: &'static str,
    /// Who leads.
    #[serde(flatten)]
    leader: LeaderSeen,
    /// Whether it is paused.
    pause: PauseSeen,
    /// The members.
    members: Vec<MemberSeen>,
    /// What is scheduled.
    scheduled: Vec<Shown>,
    /// Certificates of this node's that end soon or have ended.
    certificates: Vec<CertificateSeen>,
}

/// Something that happens has begun or ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TransitionSeen {
    /// `begun` or `ended`.
    change: &'static str,
    /// Its record.
    record: Transition,
}

/// What changes in the cluster.
#[utoipa::path(get, path = "/v1/events", tag = "cluster", operation_id = "events",
    responses((status = 200, description = "Server-sent events: `cluster` first, with all there is; then `leader`, `member`, `pause`, \
        `transition`, `schedule` and `certificate`, each with what is so from then on", body = String, content_type = "text/event-stream")))]
pub async fn stream(
    State(control): State<Control>,
    Extension(standing): Extension<Standing>,
) -> Result<Response, Answer> {
    let room = control.streams.clone();
    streams::open(&room, standing.lost(), |teller| tell(control, teller))
}

async fn tell(control: Control, teller: Teller) -> Result<(), Gone> {
    let mut picture = control.board.load().clone();
    let mut seen = ClusterSeen::of(&picture);
    let mut records = outcomes(&control.hands.ledger.all());
    let mut schedules = Schedules::of(&picture);
    teller.tell("cluster", None, &seen).await?;
    loop {
        picture = control.board.after(picture.made_at, LOOK_EVERY).await;
        let now = ClusterSeen::of(&picture);
        if now.leader != seen.leader {
            teller.tell("leader", None, &now.leader).await?;
        }
        for member in changed_members(&seen.members, &now.members) {
            teller.tell("member", None, &member).await?;
        }
        if now.pause != seen.pause {
            teller.tell("pause", None, &now.pause).await?;
        }
        for certificate in forthcoming::changed(&seen.certificates, &now.certificates) {
            teller.tell("certificate", None, &certificate).await?;
        }
        seen = now;
        let known = control.hands.ledger.all();
        for schedule in schedules.changed(&picture, &known) {
            teller.tell("schedule", None, &schedule).await?;
        }
        let outcomes_now = outcomes(&known);
        for record in known.into_iter().filter(|record| records.get(&record.id) != Some(&record.outcome)) {
            let change = if record.outcome == "in_progress" { "begun" } else { "ended" };
            teller.tell("transition", None, &TransitionSeen { change, record }).await?;
        }
        records = outcomes_now;
    }
}

fn outcomes(records: &[Transition]) -> BTreeMap<String, String> {
    records.iter().map(|record| (record.id.clone(), record.outcome.clone())).collect()
}

/// What is so now of each that is otherwise than before.
fn changed_members(before: &[MemberSeen], now: &[MemberSeen]) -> Vec<MemberSeen> {
    let gone = before.iter().filter(|old| !now.iter().any(|new| new.name == old.name));
    let gone = gone.map(|old| MemberSeen { name: old.name.clone(), ..MemberSeen::default() });
    now.iter().filter(|new| !before.contains(new)).cloned().chain(gone).collect()
}

impl ClusterSeen {
    fn of(picture: &Picture) -> Self {
        let cluster = picture.cluster();
        let leader = cluster.and_then(|cluster| cluster.leader.as_ref()).map(ToString::to_string);
        let leader = LeaderSeen { leader, term: cluster.map(|cluster| cluster.term.0) };
        let paused = picture.view.settings.paused;
        let told = picture.snapshot.as_ref().and_then(|snapshot| snapshot.config.pause.clone()).filter(|_| paused);
        let pause = match told {
            Some(told) => {
                let until = told.until.map(|until| until.to_string());
                PauseSeen { paused, until, by: told.by, reason: told.reason }
            }
            None => PauseSeen { paused, ..PauseSeen::default() },
        };
        let body = bodies::cluster(picture);
        let members = body["members"].as_array().into_iter().flatten().map(|member| {
            let text = |key: &str| member[key].as_str().map(str::to_owned);
            MemberSeen { name: text("name").unwrap_or_default(), role: text("role"), state: text("state") }
        });
        Self {
            schema: "pgvigil.events/v1",
            leader,
            pause,
            members: members.collect(),
            scheduled: forthcoming::scheduled(picture),
            certificates: forthcoming::certificates(picture, jiff::Timestamp::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_told_of_when_it_comes_changes_and_goes() {
        let member = |name: &str, state: Option<&str>| MemberSeen {
            name: name.to_owned(),
            role: state.map(|_| "replica".to_owned()),
            state: state.map(str::to_owned),
        };
        let before = [member("pg1", Some("running")), member("pg2", Some("streaming")), member("pg3", Some("running"))];
        let now = [member("pg1", Some("running")), member("pg2", Some("stopped")), member("pg4", Some("starting"))];
        let told = [member("pg2", Some("stopped")), member("pg4", Some("starting")), member("pg3", None)];
        assert_eq!(changed_members(&before, &now), told);
    }
}
