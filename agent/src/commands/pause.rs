//! `pgvigil pause` and `pgvigil resume`: one field of the cluster's `config` in etcd, changed by compare-and-swap with everything else
//! left as it is. A pause has an end, a name and a reason, so that none is forgotten.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use decision::names::MemberName;
use jiff::{SignedDuration, Timestamp};

use super::operator::who;
use super::screen::{answer, tell};
use super::settings::change;
use super::words;
use super::world::{AGENT_WITHIN, Reach};
use crate::cli::{Exit, PauseArgs, ResumeArgs};
use crate::operate::pause::{LONGEST, paused, resumed, standing};

/// How long the agents may take to notice.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// How often they are asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Stops automatic actions for a while.
pub async fn pause(arguments: &PauseArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    if arguments.duration > LONGEST {
        tell(
            "error: --for: at most 7 days, so that no pause outlives whoever has forgotten it; pause again when it ends",
        );
        return Exit::Usage;
    }
    let length = SignedDuration::try_from(arguments.duration).ok().filter(|length| length.is_positive());
    let Some(until) = length.and_then(|length| Timestamp::now().checked_add(length).ok()) else {
        tell("error: --for must be a time above zero, such as 30m or 2h");
        return Exit::Usage;
    };
    let by = who();
    let replaced = Mutex::new(None);
    let paused = |config: &_| {
        *replaced.lock().unwrap_or_else(PoisonError::into_inner) = standing(config, Timestamp::now());
        Ok(Some(paused(config, until, &by, arguments.reason.as_deref())))
    };
    let proviso = arguments.expect.proviso();
    let changed = change(&reach, arguments.reason.as_deref(), &proviso, paused).await;
    if let Err(exit) = changed {
        return exit;
    }
    if let Some(other) = replaced.lock().unwrap_or_else(PoisonError::into_inner).take() {
        tell(&format!("replaces {other}"));
    }
    let reason = arguments.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    answer(&format!(
        "paused until {} ({}) by {by}{reason}",
        words::moment(&until.to_string()),
        words::length(arguments.duration)
    ));
    tell(
        "nothing happens by itself meanwhile, no failover and no restart of what dies; what is asked for by name is done; `pgvigil resume` ends it early",
    );
    noticed(&reach, true).await
}

/// Allows automatic actions again.
pub async fn resume(arguments: &ResumeArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    let proviso = arguments.expect.proviso();
    match change(&reach, Some("resumed"), &proviso, |config| Ok(resumed(config))).await {
        Ok(Some(_)) => {
            answer("resumed: automatic actions are allowed again");
            noticed(&reach, false).await
        }
        Ok(None) => {
            answer("not paused: nothing to resume");
            Exit::Done
        }
        Err(exit) => exit,
    }
}

/// Waits until every agent that answers acts accordingly.
async fn noticed(reach: &Reach, wanted: bool) -> Exit {
    let began = Instant::now();
    let members = match reach.store.read().await {
        Ok(snapshot) => snapshot.cluster.members,
        Err(error) => {
            tell(&format!("warning: whether the agents have noticed is not known: {error}"));
            return Exit::StillRunning;
        }
    };
    let word = if wanted { "paused" } else { "resumed" };
    loop {
        let asked = members.iter().map(|(name, member)| {
            let (peers, url, name) = (reach.peers.clone(), member.api_url.clone(), name.clone());
            tokio::spawn(async move { (name, peers.get(&url, "/patroni", AGENT_WITHIN).await) })
        });
        let (mut noticed, mut silent, mut waiting) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::<MemberName>::new());
        for answered in asked.collect::<Vec<_>>() {
            match answered.await {
                Ok((name, Ok(says))) if (says["pause"] == true) == wanted => noticed.insert(name),
                Ok((name, Ok(_))) => waiting.insert(name),
                Ok((name, Err(_))) => silent.insert(name),
                Err(_) => false,
            };
        }
        if waiting.is_empty() || began.elapsed() > NOTICED_WITHIN {
            if !silent.is_empty() {
                tell(&format!(
                    "warning: no answer from {}: it acts accordingly once it sees etcd",
                    words::list(&silent)
                ));
            }
            if waiting.is_empty() {
                tell(&format!("{word}, as {} of {} members say", noticed.len(), members.len()));
                return Exit::Done;
            }
            tell(&format!("warning: not yet {word} after {NOTICED_WITHIN:?}: {}", words::list(&waiting)));
            return Exit::StillRunning;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
