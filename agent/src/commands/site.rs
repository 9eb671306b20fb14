//! `pgvigil site`: which of two sites leads. What an operator wants is written into the settings; the leader of the site carries it out, and
//! says why where it does not. Nothing is done at the other site: its operator has a token that says how far this one has come.

use std::time::{Duration, Instant};

use consensus::Snapshot;
use decision::site::{Remote, Token};
use decision::slots::SlotName;
use decision::view::Initialize;
use serde_json::{Map, Value, json};

use super::operator::{agrees, must_be_able_to_ask, types, who};
use super::screen::{answer, tell};
use super::settings::{change, change_planned, put};
use super::world::Reach;
use super::{told, words};
use crate::cli::{DemoteArgs, Exit, How, PromoteArgs, SiteCommand};
use crate::operate::proviso::Proviso;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Carries out one of them.
pub async fn run(command: &SiteCommand) -> Exit {
    let done = match command {
        SiteCommand::Promote(arguments) => promote(arguments).await,
        SiteCommand::Demote(arguments) => demote(arguments).await,
    };
    done.unwrap_or_else(|exit| exit)
}

fn refused(why: &str) -> Exit {
    tell(&format!("refused: {why}"));
    Exit::Refused
}

fn misused(why: &str) -> Exit {
    tell(&format!("error: {why}"));
    Exit::Usage
}

async fn read(reach: &Reach) -> Result<Snapshot, Exit> {
    let snapshot = reach.store.read().await.map_err(|error| {
        tell(&format!("error: which site leads is written in etcd, and it does not answer: {error}"));
        reach.silence()
    })?;
    if snapshot.config.paused_at(jiff::Timestamp::now()) {
        return Err(refused("automatic actions are paused here, so nothing would come of it: pgvigil resume first"));
    }
    if !matches!(snapshot.cluster.initialize, Initialize::Done(_)) {
        return Err(refused("there is no cluster here yet"));
    }
    Ok(snapshot)
}

/// On what conditions; nobody is asked about what would be refused.
fn proviso(snapshot: &Snapshot, how: &How) -> Result<Proviso, Exit> {
    let proviso = Proviso { ignore_hold: how.ignore_hold, ..how.expect.proviso() };
    proviso.planned(snapshot, jiff::Timestamp::now()).map_err(told)?;
    Ok(proviso)
}

async fn promote(arguments: &PromoteArgs) -> Result<Exit, Exit> {
    const QUESTION: &str = "Let this site lead?";
    let token: Option<Token> =
        arguments.token.as_deref().map(str::parse).transpose().map_err(|why: String| misused(&why))?;
    let reach = Reach::new(&arguments.config)?;
    must_be_able_to_ask(arguments.how.yes, QUESTION)?;
    let snapshot = read(&reach).await?;
    let proviso = proviso(&snapshot, &arguments.how)?;
    if !snapshot.cluster.follows() {
        forget_the_other(&reach).await?;
        return Err(refused("this site leads already"));
    }
    match (token, snapshot.cluster.initialize) {
        (Some(token), Initialize::Done(mine)) if token.system_id != mine => {
            return Err(refused(&format!("the token is of database system {}, this site is {mine}", token.system_id)));
        }
        (Some(_), _) => {}
        (None, _) => {
            tell(
                "without a token this site leads with what it has: what the other one acknowledged and has not sent is lost,",
            );
            tell(
                "and so is what it goes on to acknowledge if it still runs. `pgvigil site demote` there prints the token.",
            );
            let name = &reach.config.cluster;
            if !arguments.how.yes && !types(&format!("type the name of this cluster ({name}) to go on: "), name) {
                tell("nothing was changed");
                return Err(Exit::Aborted);
            }
        }
    }
    if token.is_some() && !arguments.how.yes && !agrees(QUESTION) {
        tell("nothing was changed");
        return Err(Exit::Aborted);
    }
    let by = who();
    let word = |config: &Map<String, Value>| Ok(Some(asked_to_lead(config, token, &by)));
    let reason = arguments.how.reason.as_deref().unwrap_or("site promote");
    change_planned(&reach, Some(reason), &proviso, word).await?;
    leads(&reach, arguments.how.wait).await
}

fn asked_to_lead(config: &Map<String, Value>, token: Option<Token>, by: &str) -> Value {
    let mut config = config.clone();
    let after = token.map(|token| token.to_string());
    let word = json!({"after": after, "by": by, "at": jiff::Timestamp::now().to_string()});
    put(&mut config, &["pgvigil", "site", "promote"], Some(word));
    Value::Object(config)
}

/// Waits until the leader here accepts writes, and tells meanwhile what it waits for.
async fn leads(reach: &Reach, within: Duration) -> Result<Exit, Exit> {
    let (begun, mut said) = (Instant::now(), String::new());
    loop {
        let world = reach.look().await;
        let leads = world.etcd.as_ref().is_ok_and(|snapshot| !snapshot.cluster.follows());
        if let Some(leader) = world.leader_answer() {
            if leads && leader.is_writable() {
                let name = world.leader().map_or_else(String::new, |name| name.to_string());
                forget_the_other(reach).await?;
                answer(&format!("this site leads: {name} accepts writes"));
                return Ok(Exit::Done);
            }
            if leader.sentence() != said {
                leader.sentence().clone_into(&mut said);
                tell(&said);
            }
        }
        if begun.elapsed() >= within {
            tell(&format!(
                "not yet after {}; it goes on by itself. Take it back: pgvigil site demote --host ...",
                words::length(within)
            ));
            return Ok(Exit::StillRunning);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Once this site leads, the settings need not speak of the other any more.
async fn forget_the_other(reach: &Reach) -> Result<(), Exit> {
    let forget = |config: &Map<String, Value>| {
        let mut after = config.clone();
        put(&mut after, &["standby_cluster"], None);
        put(&mut after, &["pgvigil", "site", "promote"], None);
        Ok((after != *config && promoted(config)).then_some(Value::Object(after)))
    };
    change(reach, Some("this site leads"), &Proviso::default(), forget).await.map(|_| ())
}

/// A site that is asked to follow, and does not yet, is left so.
fn promoted(config: &Map<String, Value>) -> bool {
    config.get("pgvigil").and_then(|ours| ours.get("site")).is_some_and(|site| site.get("promote").is_some())
}

async fn demote(arguments: &DemoteArgs) -> Result<Exit, Exit> {
    const QUESTION: &str = "Let this site follow?";
    let remote = Remote::parse(&arguments.host, arguments.port).map_err(|why| misused(&format!("--host: {why}")))?;
    let slot = arguments.slot.as_deref().map(SlotName::new).transpose();
    let slot = slot.map_err(|bad| misused(&format!("--slot: {bad}")))?;
    let remote = Remote { slot, ..remote };
    let reach = Reach::new(&arguments.config)?;
    must_be_able_to_ask(arguments.how.yes, QUESTION)?;
    let snapshot = read(&reach).await?;
    let proviso = proviso(&snapshot, &arguments.how)?;
    let own = snapshot
        .cluster
        .members
        .iter()
        .find(|(_, member)| remote.addresses.contains(&(member.host.clone(), member.port)));
    if let Some((name, _)) = own {
        return Err(refused(&format!("--host names {name}, which is a member of this very cluster")));
    }
    let followed = snapshot.cluster.follows();
    if !followed {
        tell("writes stop here, and every client is cut off; this site then follows, and accepts none.");
        tell("What it has that the other site has not, if that was made to lead already, is rewound.");
    }
    if !arguments.how.yes && !agrees(QUESTION) {
        tell("nothing was changed");
        return Err(Exit::Aborted);
    }
    let word = |config: &Map<String, Value>| Ok(Some(asked_to_follow(config, &remote)));
    let reason = arguments.how.reason.as_deref().unwrap_or("site demote");
    change_planned(&reach, Some(reason), &proviso, word).await?;
    if followed {
        answer(&format!("this site follows {remote}"));
        return Ok(Exit::Done);
    }
    follows(&reach, arguments.how.wait).await
}

fn asked_to_follow(config: &Map<String, Value>, remote: &Remote) -> Value {
    let mut config = config.clone();
    // What else Patroni has in that section stays.
    put(&mut config, &["standby_cluster", "host"], Some(json!(remote.to_string())));
    put(&mut config, &["standby_cluster", "port"], None);
    put(&mut config, &["standby_cluster", "primary_slot_name"], remote.slot.as_ref().map(|slot| json!(slot.as_str())));
    put(&mut config, &["pgvigil", "site", "promote"], None);
    Value::Object(config)
}

/// Waits until the record says that this site follows, and prints how far it has come.
async fn follows(reach: &Reach, within: Duration) -> Result<Exit, Exit> {
    let (begun, mut said) = (Instant::now(), String::new());
    loop {
        let world = reach.look().await;
        let done = world.etcd.as_ref().ok().filter(|snapshot| snapshot.cluster.follows());
        if let Some(token) = done.and_then(|snapshot| snapshot.site_token) {
            tell("this site follows; what it has acknowledged is all before this token. At the other site:");
            tell(&format!("  pgvigil site promote --token {token}"));
            answer(&token.to_string());
            return Ok(Exit::Done);
        }
        if let Some(leader) = world.leader_answer()
            && leader.sentence() != said
        {
            leader.sentence().clone_into(&mut said);
            tell(&said);
        }
        if begun.elapsed() >= within {
            tell(&format!(
                "not yet after {}; it goes on by itself, and the token is then in etcd (site_token)",
                words::length(within)
            ));
            return Ok(Exit::StillRunning);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::operate::testing::object;

    #[test]
    fn what_is_asked_is_read_by_the_agents_and_the_rest_stays() {
        let read = |config: &Value| consensus::records::ClusterConfig::from_json(&config.to_string()).0.site;
        let remote = Remote::parse("east", 5433).unwrap();
        let before = object(json!({"ttl": 30, "standby_cluster": {"port": 1, "primary_slot_name": "old", "x": 2}}));
        let following = asked_to_follow(&before, &remote);
        assert_eq!(read(&following).remote, Some(remote.clone()));
        assert_eq!(following["standby_cluster"], json!({"host": "east:5433", "x": 2}));
        let slot = SlotName::new("west").ok();
        let by_slot = asked_to_follow(&before, &Remote { slot, ..remote.clone() });
        assert_eq!(by_slot["standby_cluster"]["primary_slot_name"], "west");
        let token: Token = "42:4:0/28".parse().unwrap();
        let asked = asked_to_lead(&object(following), Some(token), "anna@db1");
        assert_eq!(read(&asked).promote.and_then(|word| word.after), Some(token));
        assert!(read(&asked).remote.is_some(), "it goes on following until it has everything");
        assert!(promoted(&object(asked.clone())));
        assert_eq!(read(&asked_to_follow(&object(asked), &remote)).promote, None);
    }
}
