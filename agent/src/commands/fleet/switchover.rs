//! `pgvigil fleet switchover --from-zone A`: in every cluster whose leader is in that zone another member comes to lead, elsewhere. All are looked
//! at and told before anything is done; each is checked once more in its turn. The agents do all the work.

use std::collections::BTreeSet;
use std::sync::Arc;

use consensus::records::{Phase, Transition};
use decision::names::MemberName;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::follow::{conclusion, phase_line};
use super::super::operator::{agrees, must_be_able_to_ask, who};
use super::super::screen::{answer, tell};
use super::super::transitions::exit_word;
use super::super::words;
use super::gather::{AT_ONCE, Scopes, is_ours, scopes};
use super::plan::{Plan, Zones};
use super::turns::in_turns;
use crate::cli::{Exit, FleetSwitchoverArgs, Output};
use crate::operate::follow::follow;
use crate::operate::preflight::Preflight;
use crate::operate::switchover::{look, request};
use crate::operate::world::Reach;

/// What each command ends with where not all end alike: the first of these that any of them ended with.
const WORST: [Exit; 7] = [
    Exit::Failed,
    Exit::Unauthorised,
    Exit::Unreachable,
    Exit::StillRunning,
    Exit::Refused,
    Exit::DoneOtherwise,
    Exit::Done,
];

/// One cluster in which something is to be done, or cannot be.
struct Turn {
    reach: Reach,
    plan: Plan,
}

/// How it went in one cluster.
struct Ended {
    cluster: String,
    exit: Exit,
    sentence: String,
    record: Option<Transition>,
}

/// Carries it out, or says why not.
pub async fn run(arguments: &FleetSwitchoverArgs) -> Exit {
    match steps(arguments).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn steps(arguments: &FleetSwitchoverArgs) -> Result<Exit, Exit> {
    let zones =
        Zones { from: arguments.from_zone.clone(), to: arguments.to_zone.clone(), ignore_hold: arguments.ignore_hold };
    if zones.to.as_ref() == Some(&zones.from) {
        tell("error: --from-zone and --to-zone name the same zone");
        return Err(Exit::Usage);
    }
    if !arguments.dry_run {
        must_be_able_to_ask(arguments.yes, "hand over in all of these clusters?")?;
    }
    let reach = Reach::new(&arguments.config)?;
    let turns = planned(&reach, &zones).await?;
    let (ready, rest): (Vec<Turn>, Vec<Turn>) =
        turns.into_iter().partition(|turn| matches!(turn.plan, Plan::Ready { .. }));
    let stays = rest.iter().any(Turn::forbids) && !arguments.keep_going;
    let final_word = arguments.dry_run || ready.is_empty() || stays;
    report(&ready, &rest, arguments, final_word);
    if final_word {
        return Ok(worst(rest.iter().map(Turn::exit).chain([Exit::Done])));
    }
    let question = format!("Hand over in {}, {} at a time?", clusters(ready.len()), arguments.max_parallel);
    if !arguments.yes && !agrees(&question) {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    let mut results: Vec<Ended> = rest.iter().map(Turn::ended).collect();
    let order = Arc::new(Order { by: who(), reason: arguments.reason.clone(), wait: arguments.wait, zones });
    let begin = |turn: Turn| {
        let order = Arc::clone(&order);
        async move { turn.carried_out(&order).await }
    };
    let goes_on = |result: &Ended| arguments.keep_going || result.exit == Exit::Done;
    let (done, left) = in_turns(ready, usize::from(arguments.max_parallel), begin, goes_on).await;
    results.extend(done);
    conclude(&results, &left, arguments)
}

/// What is asked for in each of them.
struct Order {
    by: String,
    reason: Option<String>,
    wait: std::time::Duration,
    zones: Zones,
}

/// Every cluster whose leader is in the zone, or of which that is not known.
async fn planned(reach: &Reach, zones: &Zones) -> Result<Vec<Turn>, Exit> {
    let Scopes { revision, names } = scopes(reach).await?;
    let look = |(name, owner): (String, consensus::fleet::Owner)| {
        let (reach, zones) = (reach.beside(&name), zones.clone());
        async move {
            let mut told = BTreeSet::new();
            let unread = |why: String| Plan::Unread { why, exit: reach.silence() };
            let plan = match is_ours(&reach, owner, revision).await {
                Ok(false) => return None,
                Err(error) => unread(error.to_string()),
                Ok(true) => {
                    let world = reach.look().await;
                    match &world.etcd {
                        Ok(snapshot) => {
                            told.extend(snapshot.cluster.members.values().filter_map(|member| member.zone.clone()));
                            zones.plan(&world, snapshot, Timestamp::now())
                        }
                        Err(why) => unread(why.clone()),
                    }
                }
            };
            Some((Turn { reach, plan }, told))
        }
    };
    let (seen, _) = in_turns(names, AT_ONCE, look, |_| true).await;
    let (mut turns, mut told) = (Vec::new(), BTreeSet::new());
    for (turn, zones) in seen.into_iter().flatten() {
        told.extend(zones);
        if turn.plan != Plan::Elsewhere {
            turns.push(turn);
        }
    }
    let unread = turns.iter().any(|turn: &Turn| matches!(turn.plan, Plan::Unread { .. }));
    if !unread && !told.contains(&zones.from) {
        tell(&format!(
            "refused: no member of any cluster is in zone {}; there are: {}",
            zones.from,
            words::list(&told)
        ));
        return Err(Exit::Refused);
    }
    turns.sort_by(|one: &Turn, other: &Turn| one.reach.config.cluster.cmp(&other.reach.config.cluster));
    Ok(turns)
}

impl Turn {
    fn cluster(&self) -> &str {
        &self.reach.config.cluster
    }

    /// `orders  pg1 -> pg2 (b)  ready`
    fn line(&self) -> String {
        let cluster = self.cluster();
        match &self.plan {
            Plan::Ready { from, to, zone, warnings } if warnings.is_empty() => {
                format!("{cluster}: {from} -> {to} in {zone}: ready")
            }
            Plan::Ready { from, to, zone, warnings } => {
                format!("{cluster}: {from} -> {to} in {zone}: ready, though {}", warnings.join("; "))
            }
            Plan::Refused { from, to: Some(to), why } => format!("{cluster}: {from} -> {to}: refused: {why}"),
            Plan::Refused { from, to: None, why } => format!("{cluster}: {from} stays: refused: {why}"),
            Plan::Elsewhere | Plan::Unzoned(_) | Plan::Leaderless | Plan::Unread { .. } => {
                format!("{cluster}: {}", self.sentence())
            }
        }
    }

    /// Why nothing is done here.
    fn sentence(&self) -> String {
        match &self.plan {
            Plan::Refused { why, .. } => format!("refused: {why}"),
            Plan::Unread { why, .. } => format!("it cannot be read: {why}"),
            Plan::Unzoned(leader) => format!("left alone: {leader} leads and tells no zone"),
            Plan::Leaderless => "left alone: nobody leads".to_owned(),
            Plan::Elsewhere | Plan::Ready { .. } => "left alone".to_owned(),
        }
    }

    /// Nothing at all is begun while one of these is among them, unless somebody says otherwise.
    fn forbids(&self) -> bool {
        matches!(self.plan, Plan::Refused { .. } | Plan::Unread { .. })
    }

    /// What it ends with where it is not done.
    fn exit(&self) -> Exit {
        match &self.plan {
            Plan::Refused { .. } => Exit::Refused,
            Plan::Unread { exit, .. } => *exit,
            // Nobody knows that no leader is left in the zone.
            Plan::Unzoned(_) | Plan::Leaderless => Exit::DoneOtherwise,
            Plan::Elsewhere | Plan::Ready { .. } => Exit::Done,
        }
    }

    fn to_json(&self) -> Value {
        let (from, to, zone) = match &self.plan {
            Plan::Ready { from, to, zone, .. } => (Some(from), Some(to), Some(zone)),
            Plan::Refused { from, to, .. } => (Some(from), to.as_ref(), None),
            Plan::Unzoned(from) => (Some(from), None, None),
            Plan::Elsewhere | Plan::Leaderless | Plan::Unread { .. } => (None, None, None),
        };
        let refused = if let Plan::Refused { why, .. } = &self.plan { Some(why) } else { None };
        let left_alone = (!self.is_ready() && refused.is_none()).then(|| self.sentence());
        json!({
            "cluster": self.cluster(),
            "from": from,
            "to": to,
            "to_zone": zone,
            "passed": self.is_ready(),
            "refused_because": refused,
            "left_alone_because": left_alone,
        })
    }

    fn is_ready(&self) -> bool {
        matches!(self.plan, Plan::Ready { .. })
    }

    fn ended(&self) -> Ended {
        Ended { cluster: self.cluster().to_owned(), exit: self.exit(), sentence: self.sentence(), record: None }
    }

    /// Checks once more, asks, and follows what the agents make of it.
    async fn carried_out(self, order: &Order) -> Ended {
        let cluster = self.cluster().to_owned();
        let (exit, sentence, record) = match &self.plan {
            Plan::Ready { from, to, .. } => hand_over(&self.reach, from, to, order).await,
            _ => (Exit::Refused, "refused".to_owned(), None),
        };
        tell(&format!("{cluster}: {sentence}"));
        Ended { cluster, exit, sentence, record }
    }
}

async fn hand_over(
    reach: &Reach,
    from: &MemberName,
    to: &MemberName,
    order: &Order,
) -> (Exit, String, Option<Transition>) {
    let wish = order.zones.wish(from, to);
    let world = look(reach, &wish).await;
    let snapshot = match &world.etcd {
        Ok(snapshot) => snapshot,
        Err(why) => return (reach.silence(), format!("etcd does not answer: {why}"), None),
    };
    let preflight = Preflight::of(&world, snapshot, &wish, Timestamp::now());
    if !preflight.passed() {
        let why: Vec<&str> = preflight.failures().collect();
        return (Exit::Refused, format!("refused: {}", why.join("; ")), None);
    }
    let asked = match request(reach, snapshot, (from, to), &order.by, order.reason.as_deref(), wish.ignore_hold).await {
        Ok(asked) => asked,
        Err(unable) => return (super::super::exit_of(&unable), unable.text(), None),
    };
    let cluster = reach.config.cluster.clone();
    let mut tell_phase = |phase: &Phase| {
        tell(&format!("  {cluster}: {}", phase_line(phase)));
    };
    let followed = follow(reach, &asked, order.wait, &mut tell_phase).await;
    let (exit, sentence) = conclusion(&asked, &followed, order.wait);
    (exit, sentence, followed.record)
}

fn clusters(count: usize) -> String {
    if count == 1 { "1 cluster".to_owned() } else { format!("{count} clusters") }
}

/// What is to be done: the answer of a dry run and of a refusal, and chatter before the deed.
fn report(ready: &[Turn], rest: &[Turn], arguments: &FleetSwitchoverArgs, final_word: bool) {
    let turns = || ready.iter().chain(rest);
    if final_word && arguments.output == Output::Json {
        let exit = worst(rest.iter().map(Turn::exit).chain([Exit::Done]));
        answer(&body(arguments, turns().map(Turn::to_json).collect(), exit).to_string());
        return;
    }
    let print = |text: &str| if final_word { _ = answer(text) } else { tell(text) };
    turns().for_each(|turn| print(&turn.line()));
    let zone = &arguments.from_zone;
    print(&match (ready.len(), rest.iter().filter(|turn| turn.forbids()).count()) {
        (0, 0) if rest.is_empty() => format!("nothing to do: no cluster has its leader in zone {zone}"),
        (0, 0) => format!("nothing to do: no cluster has its leader in zone {zone}, as far as that is known"),
        (ready, 0) => format!("Ready: {}.", clusters(ready)),
        (ready, refused) if arguments.keep_going => {
            format!("Ready: {}; refused: {}, which stay as they are.", clusters(ready), clusters(refused))
        }
        (_, refused) => {
            format!(
                "Refused: in {} something forbids it, and nothing is begun (--keep-going leaves these out).",
                clusters(refused)
            )
        }
    });
}

fn body(arguments: &FleetSwitchoverArgs, clusters: Vec<Value>, exit: Exit) -> Value {
    json!({
        "schema": "pgvigil.fleet_switchover/v1",
        "from_zone": arguments.from_zone,
        "to_zone": arguments.to_zone,
        "dry_run": arguments.dry_run,
        "clusters": clusters,
        "exit": exit_word(exit),
    })
}

/// The last lines: one a cluster, and how many of each kind.
fn conclude(results: &[Ended], left: &[Turn], arguments: &FleetSwitchoverArgs) -> Result<Exit, Exit> {
    let exit = worst(results.iter().map(|result| result.exit));
    let done = results.iter().filter(|result| result.exit == Exit::Done).count();
    let summary = summary(done, results.len() - done, left.len());
    if arguments.output == Output::Json {
        let mut rows: Vec<Value> = results
            .iter()
            .map(|result| {
                let (exit, told) = (exit_word(result.exit), &result.sentence);
                json!({"cluster": result.cluster, "exit": exit, "sentence": told, "transition": result.record})
            })
            .collect();
        rows.extend(left.iter().map(|turn| json!({"cluster": turn.cluster(), "exit": null, "sentence": "not begun"})));
        tell(&summary);
        answer(&body(arguments, rows, exit).to_string());
        return Ok(exit);
    }
    for result in results {
        answer(&format!("{}: {}", result.cluster, result.sentence));
    }
    for turn in left {
        answer(&format!("{}: not begun", turn.cluster()));
    }
    answer(&summary);
    Ok(exit)
}

fn summary(done: usize, otherwise: usize, left: usize) -> String {
    let mut parts = vec![format!("{} handed over", clusters(done))];
    parts.extend((otherwise > 0).then(|| format!("{otherwise} did not")));
    parts.extend((left > 0).then(|| format!("{left} not begun")));
    parts.join(", ")
}

fn worst(exits: impl Iterator<Item = Exit>) -> Exit {
    let exits: Vec<Exit> = exits.collect();
    WORST.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_is_that_of_all() {
        for (exits, expected) in [
            (&[Exit::Done, Exit::Done][..], Exit::Done),
            (&[Exit::Done, Exit::Refused], Exit::Refused),
            (&[Exit::StillRunning, Exit::Refused, Exit::Done], Exit::StillRunning),
            (&[Exit::Unreachable, Exit::Failed], Exit::Failed),
            (&[Exit::DoneOtherwise, Exit::Done], Exit::DoneOtherwise),
        ] {
            assert_eq!(worst(exits.iter().copied()), expected, "{exits:?}");
        }
        assert_eq!(summary(2, 1, 3), "2 clusters handed over, 1 did not, 3 not begun");
        assert_eq!(summary(1, 0, 0), "1 cluster handed over");
    }
}
