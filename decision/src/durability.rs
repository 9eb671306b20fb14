//! Who may hold the only copies of an acknowledged commit, and the next safe step when that is to change.
//!
//! **Invariant: the set of nodes that could hold the only copies of an acknowledged commit is always covered by what `sync` in etcd
//! says.** Postgres waits for `ANY k (voters)`; `sync` is a list of such quorums, and whoever wants to lead must satisfy every one of
//! them. So a change first adds the new quorum to the list, then Postgres changes over, then a marker commit proves that it has, and
//! only then does the old quorum leave the list. Wherever an agent dies in between, the list still covers Postgres.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{Lsn, MemberName, Term};
use crate::settings::{Durability, Mode, Settings};
use crate::view::{Ages, Cluster, Primary, Streaming, SyncRecord};

/// `ANY k (voters)`: an acknowledged commit is on the leader and on at least `k` of the voters. `k = 0` promises nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quorum {
    /// How many voters must have flushed a commit.
    pub k: u32,
    /// Who counts.
    pub voters: BTreeSet<MemberName>,
}

/// The quorums that a takeover must satisfy, each on its own: one, or more while a change is under way. Never empty.
pub type Policies = Vec<Quorum>;

impl Quorum {
    /// Nobody is waited for.
    pub fn none() -> Self {
        Self::default()
    }

    /// `k` of `voters`, with `k` no higher than the number of voters.
    pub fn of(k: u32, voters: BTreeSet<MemberName>) -> Self {
        let k = k.min(u32::try_from(voters.len()).unwrap_or(u32::MAX));
        if k == 0 { Self::none() } else { Self { k, voters } }
    }

    /// How many ballots of voters prove that nothing acknowledged is missed, and that the old leader can acknowledge nothing more:
    /// `n - k + 1`, so that every set of `k` acknowledgers has a member among them. `None` where nothing can be proven.
    pub fn ballots_needed(&self) -> Option<usize> {
        if self.k == 0 {
            return None;
        }
        Some((self.voters.len() + 1).saturating_sub(self.k as usize))
    }

    /// Whether these balloters satisfy this quorum.
    pub fn satisfied_by(&self, balloters: &BTreeSet<MemberName>) -> bool {
        self.ballots_needed().is_some_and(|needed| self.voters.intersection(balloters).count() >= needed)
    }

    /// Whether every takeover that satisfies `self` (in etcd) also sees every commit that Postgres acknowledges under `running`.
    ///
    /// A takeover set F has at least `n - k + 1` of my voters, so at least `|mine and running's| - k + 1` of them are running's
    /// voters; it must have `running.n - running.k + 1`. That is: `k + |running's voters that are not mine| <= running.k`.
    pub fn covers(&self, running: &Quorum) -> bool {
        if self.k == 0 {
            return true;
        }
        let strangers = running.voters.difference(&self.voters).count();
        self.k as usize + strangers <= running.k as usize
    }

    /// The value of `synchronous_standby_names` under a term.
    pub fn standby_names(&self, term: Term) -> String {
        if self.k == 0 {
            return String::new();
        }
        let names: Vec<String> =
            self.voters.iter().map(|voter| format!("\"{}\"", crate::names::application_name(voter, term))).collect();
        format!("ANY {} ({})", self.k, names.join(", "))
    }

    /// Reads such a value back, with the term of its names. `None` for anything that this system would not have written.
    pub fn parse_standby_names(text: &str, of_term: Term) -> Option<(Quorum, Term)> {
        let text = text.trim();
        if text.is_empty() {
            return Some((Quorum::none(), of_term));
        }
        let rest = text.strip_prefix("ANY ")?;
        let (k, names) = rest.split_once('(')?;
        let k: u32 = k.trim().parse().ok()?;
        let names = names.strip_suffix(')')?;
        let mut voters = BTreeSet::new();
        let mut terms = BTreeSet::new();
        for name in names.split(',') {
            let (voter, term) = crate::names::parse_application_name(name.trim().trim_matches('"'))?;
            voters.insert(voter);
            terms.insert(term);
        }
        let term = terms.pop_first().filter(|_| terms.is_empty())?;
        (k >= 1 && k as usize <= voters.len()).then_some((Quorum { k, voters }, term))
    }

    /// For how long fewer of the voters have acknowledged anything than commits wait for; `None`: enough of them do, or nothing is to be
    /// acknowledged.
    pub(crate) fn unheard_for(&self, ages: &Ages) -> Option<Duration> {
        let unheard = |voter: &MemberName| {
            let age = |ages: &BTreeMap<MemberName, Duration>| ages.get(voter).copied();
            age(&ages.voters_missing).max(age(&ages.voters_resting))
        };
        // In the order of how long each has been silent: commits have waited since the last that they need fell silent.
        let mut silences: Vec<Duration> = self.voters.iter().filter_map(unheard).collect();
        silences.sort_unstable_by(|one, other| other.cmp(one));
        let enough = self.voters.len().checked_sub(self.k as usize)?;
        silences.get(enough).copied().filter(|_| self.k > 0)
    }
}

impl std::fmt::Display for Quorum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.k == 0 {
            return f.write_str("nobody");
        }
        let names: Vec<&str> = self.voters.iter().map(MemberName::as_str).collect();
        write!(f, "any {} of {}", self.k, names.join(", "))
    }
}

/// Whether a takeover by these balloters is proven to lose nothing: every quorum of the record is satisfied.
pub fn proven(policies: &Policies, balloters: &BTreeSet<MemberName>) -> bool {
    !policies.is_empty() && policies.iter().all(|quorum| quorum.satisfied_by(balloters))
}

/// Whether the record covers what Postgres waits for: at least one quorum in it does, and a takeover must satisfy them all.
pub fn covered(policies: &Policies, running: &Quorum) -> bool {
    policies.iter().any(|quorum| quorum.covers(running))
}

/// The list with this quorum at its end, where a leader looks for what Postgres is to wait for.
pub fn ending_with(policies: &Policies, quorum: &Quorum) -> Policies {
    let mut list: Policies = policies.iter().filter(|other| *other != quorum).cloned().collect();
    list.push(quorum.clone());
    list
}

/// What a new leader takes over from the record of the last one, to keep until its own marker is acknowledged.
///
/// What was acknowledged on `k` voters is on the leader of that record too, so it is on `k + 1` of them all: as many ballots are needed
/// as before, but that leader's counts like any other, should it come back. A leader that waited for nobody is then asked itself.
pub fn inherited(sync: &SyncRecord) -> Policies {
    let with_leader = |quorum: &Quorum| {
        let mut voters = quorum.voters.clone();
        if voters.insert(sync.leader.clone()) { Quorum { k: quorum.k + 1, voters } } else { quorum.clone() }
    };
    sync.policies.iter().map(with_leader).collect()
}

/// The next step towards waiting for `wanted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// etcd and Postgres agree.
    Settled,
    /// Write this list to `sync`, guarded by the term.
    Record(Policies),
    /// Let Postgres wait for this quorum, under the present term's names.
    Apply(Quorum),
    /// Prove with a marker commit that Postgres does, then record this quorum alone.
    Prove(Quorum),
}

/// The next safe step from what is recorded and what Postgres waits for to `wanted`.
///
/// `running` is `None` when Postgres waits for something that this system has not set, or for names of another term.
///
/// **Invariant: nothing is applied or proven but the last quorum of the record.** So whatever was written over this record and may still be on
/// its way, its answer having been lost, has that quorum as well: it is a longer list, or that quorum alone. Whoever goes back to an earlier
/// one records it as the last first, which voids what is on its way.
pub fn next_step(recorded: &Policies, running: Option<&Quorum>, wanted: &Quorum) -> Step {
    if recorded.last() != Some(wanted) {
        return Step::Record(ending_with(recorded, wanted));
    }
    match running {
        Some(running) if running == wanted && recorded.len() == 1 => Step::Settled,
        Some(running) if running == wanted => Step::Prove(wanted.clone()),
        Some(running) if !covered(recorded, running) => {
            Step::Record(ending_with(&ending_with(recorded, running), wanted))
        }
        Some(_) | None => Step::Apply(wanted.clone()),
    }
}

/// The mode in force: `auto` becomes `quorum` once two standbys have been seen, and never goes back by itself. Where the record of a reign
/// is missing, it may have been so.
pub fn mode_in_force(settings: &Settings, cluster: &Cluster) -> Mode {
    match settings.durability.mode {
        Mode::Auto => {
            let was_quorum = cluster.sync.as_ref().map_or(cluster.term > Term(0), |sync| sync.mode != Mode::Async);
            if was_quorum || count_of_voters(cluster) > 2 { Mode::Quorum } else { Mode::Async }
        }
        mode => mode,
    }
}

/// How many members may lead and stream from the leader, or lead: `auto` counts them.
pub fn count_of_voters(cluster: &Cluster) -> usize {
    let elsewhere = |name: &MemberName| cluster.members.get(name).is_some_and(|it| it.tags.streams_elsewhere());
    cluster.eligible().iter().filter(|name| !elsewhere(name)).count()
}

/// What a new leader waits for from its first commit on: those that are alive and may vote, itself excepted.
pub fn quorum_for_new_leader(leader: &MemberName, cluster: &Cluster, settings: &Settings) -> Quorum {
    let mode = mode_in_force(settings, cluster);
    if mode == Mode::Async {
        return Quorum::none();
    }
    let mut voters = may_vote(cluster);
    // A record without policies is one that could not be read: its leader is nobody.
    if mode == Mode::Strict
        && let Some(sync) = cluster.sync.as_ref().filter(|sync| !sync.policies.is_empty())
    {
        let before = sync.policies.iter().flat_map(|quorum| quorum.voters.iter()).chain([&sync.leader]);
        let before = before.filter(|name| *name != leader).cloned().collect();
        voters.remove(leader);
        return waiting_for(settings.durability.acknowledgers, voters, before, cluster);
    }
    voters.remove(leader);
    Quorum::of(settings.durability.acknowledgers, from_other_zones(leader, voters, cluster, settings))
}

/// Whether the other standbys may go over to `heir` before it is handed the lock.
///
/// **Invariant: going over takes acknowledgers away and adds none.** They leave the leader's names (they stream under the next term's, from
/// another server), so what the record says of who may hold the only copies stays true as it is. But commits must go on: the heir, which
/// stays, must be able to acknowledge them alone.
pub fn may_go_over_ahead(policies: &Policies, heir: &MemberName) -> bool {
    policies.iter().all(|quorum| quorum.k == 0 || (quorum.k == 1 && quorum.voters.contains(heir)))
}

/// Those that are in another zone than the leader, where that is asked for and there are enough of them; else all.
fn from_other_zones(
    leader: &MemberName,
    voters: BTreeSet<MemberName>,
    cluster: &Cluster,
    settings: &Settings,
) -> BTreeSet<MemberName> {
    let Durability { acknowledgers, other_zone, .. } = settings.durability;
    let others: BTreeSet<MemberName> =
        voters.iter().filter(|name| !cluster.may_share_a_zone(leader, name)).cloned().collect();
    if other_zone && others.len() >= acknowledgers.max(1) as usize { others } else { voters }
}

/// Alive, may lead (only nodes that may lead are voters), and not excused by a tag or an operator's word.
fn may_vote(cluster: &Cluster) -> BTreeSet<MemberName> {
    let votes = |name: &MemberName| {
        let tags = cluster.members.get(name).map(|member| &member.tags);
        tags.is_some_and(|tags| !tags.nosync && !tags.streams_elsewhere()) && !cluster.has_departed(name)
    };
    cluster.eligible().into_iter().filter(votes).collect()
}

/// A voter that streams and acknowledges nothing may be merely slow: it is given so many times as long as one that is gone.
const RESTS: u32 = 2;

/// What the leader wants Postgres to wait for: voters that stream, less those that have been away too long. Whoever has acknowledged nothing
/// for long, while there was something to acknowledge, streams in name only.
pub fn wanted_quorum(
    me: &MemberName,
    term: Term,
    primary: &Primary,
    cluster: &Cluster,
    ages: &Ages,
    settings: &Settings,
) -> Quorum {
    let mode = mode_in_force(settings, cluster);
    if mode == Mode::Async {
        return Quorum::none();
    }
    let may_vote = may_vote(cluster);
    let k = settings.durability.acknowledgers;
    // The last of the list is what Postgres waits for, or is to: the others are promises of the past.
    let current: BTreeSet<MemberName> = cluster
        .sync
        .iter()
        .filter_map(|sync| sync.policies.last())
        .flat_map(|last| last.voters.iter().cloned())
        .collect();
    let rests = |name: &MemberName| {
        let age = ages.voters_resting.get(name).copied();
        age.filter(|age| *age >= settings.timing.voter_drop_after * RESTS)
    };
    let streams = |name: &MemberName| {
        let fits = |standby: &Streaming| standby.member == *name && fit(standby, term, cluster);
        rests(name).is_none() && primary.standbys.iter().any(fits)
    };
    let away = |name: &MemberName| ages.voters_missing.get(name).copied().max(rests(name));
    let stays = |name: &MemberName| match away(name) {
        None => true,
        Some(age) => age < settings.timing.voter_drop_after,
    };
    let mut voters: BTreeSet<MemberName> = may_vote.iter().filter(|name| streams(name)).cloned().collect();
    voters.extend(current.iter().filter(|name| !streams(name) && stays(name) && !cluster.has_departed(name)).cloned());
    voters.remove(me);
    let voters = from_other_zones(me, voters, cluster, settings);
    if mode == Mode::Strict {
        let before = current.into_iter().filter(|name| name != me).collect();
        return strict_quorum(k, voters, before, cluster);
    }
    let current: BTreeSet<MemberName> = current.into_iter().filter(|name| !cluster.has_departed(name)).collect();
    let all_gone_for = current.iter().filter_map(away).min().unwrap_or_default();
    if voters.is_empty() && !current.is_empty() && all_gone_for < settings.timing.degrade_after {
        return Quorum::of(k, current.into_iter().filter(|name| name != me).collect());
    }
    Quorum::of(k, voters)
}

/// In strict mode k never falls: where too few stream, all who voted before stay, and commits wait for whoever comes back first.
fn strict_quorum(k: u32, streaming: BTreeSet<MemberName>, before: BTreeSet<MemberName>, cluster: &Cluster) -> Quorum {
    let k = k.max(1);
    if streaming.len() < k as usize { waiting_for(k, streaming, before, cluster) } else { Quorum::of(k, streaming) }
}

/// `k` of these and of those who voted before. Whoever has departed is left out, unless too few would be left: then k would fall.
fn waiting_for(k: u32, mut voters: BTreeSet<MemberName>, before: BTreeSet<MemberName>, cluster: &Cluster) -> Quorum {
    let (departed, stay): (BTreeSet<_>, BTreeSet<_>) = before.into_iter().partition(|name| cluster.has_departed(name));
    voters.extend(stay);
    if voters.len() < k as usize {
        voters.extend(departed);
    }
    Quorum::of(k, voters)
}

/// Why commits would wait for nobody, or for too few, without this member; `None`: it can be left out.
pub fn cannot_spare(cluster: &Cluster, member: &MemberName) -> Option<Quorum> {
    let sync = cluster.sync.as_ref().filter(|sync| sync.mode == Mode::Strict)?;
    let last = sync.policies.last().filter(|quorum| quorum.voters.contains(member))?;
    let stay = last.voters.iter().filter(|name| *name != member && !cluster.has_departed(name)).count();
    (stay < last.k as usize).then(|| last.clone())
}

/// Whether the leader of `term` acknowledges commits that nobody else need have, although its mode promises that somebody does.
/// `async` mode promises nothing. `strict` mode waits, but for where it was set when there was nobody to wait for.
pub fn stands_alone(sync: &SyncRecord, term: Term, primary: &Primary) -> bool {
    let waits_for_nobody = primary.waits_for.as_ref().is_some_and(|(quorum, _)| quorum.k == 0);
    sync.mode != Mode::Async && sync.term == term && waits_for_nobody
}

/// A standby becomes a voter only once it streams under this term's name and has passed its floor.
fn fit(standby: &Streaming, term: Term, cluster: &Cluster) -> bool {
    let above_floor = cluster.floors.get(&standby.member).is_none_or(|floor| standby.flushed >= *floor);
    standby.term == term && standby.caught_up && standby.flushed > Lsn(0) && above_floor
}
