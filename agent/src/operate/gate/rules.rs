//! The rules of the gate: what is known goes in, and each check comes out with its word, its sentence and its numbers. Nothing is asked and no clock is
//! read here.

use decision::names::MemberName;
use decision::reason::bytes;

use super::verdict::{Check, Grade, Measure};
use super::{Lag, Limits};

/// A lease that was not renewed for more than this part of its time to live is not healthy.
const RENEWED_WITHIN: f64 = 0.5;

/// Everything that is judged.
#[derive(Clone, Debug)]
pub enum Facts {
    /// etcd cannot be read, and why: then nothing is known for certain.
    Blind(String),
    /// As it stands.
    Seen(Box<Sight>),
}

/// What is known of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Who holds the lock.
    pub leader: Option<MemberName>,
    /// Whether writes work there, or why its agent does not say.
    pub writes: Option<Result<bool, String>>,
    /// Who accepts writes, or would, without the lock.
    pub others_writing: Vec<MemberName>,
    /// This site follows another.
    pub follows: bool,
    /// How long ago the leader's lease was renewed last, in seconds, by its agent.
    pub renewed_s: Option<f64>,
    /// The time to live of that lease, in seconds.
    pub ttl_s: f64,
    /// What is under way.
    pub under_way: Option<Result<String, String>>,
    /// What waits to be carried out.
    pub waits: Option<String>,
    /// Until when automatic actions are paused, by whom and why.
    pub paused: Option<String>,
    /// The hold of somebody else.
    pub held: Option<String>,
    /// The other members.
    pub replicas: Vec<Replica>,
    /// What commits wait for.
    pub durability: Durability,
    /// What a failover would cost now.
    pub failover: Failover,
    /// The leader's server, or why it does not say.
    pub server: Option<Result<Server, String>>,
    /// Members for which a parameter waits for a restart.
    pub pending_restart: Vec<MemberName>,
    /// Members whose disk is nearly full.
    pub disk_low: Vec<MemberName>,
}

/// A member that does not lead.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Which.
    pub member: MemberName,
    /// Whether it streams; `None`: nobody says.
    pub streams: Option<bool>,
    /// How much WAL is left to replay.
    pub behind_bytes: Option<u64>,
    /// How long it took to replay what was there when the gate was asked.
    pub behind_s: Option<Seconds>,
}

/// A time that was waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seconds {
    /// It took so long at most.
    Within(f64),
    /// It has taken so long, and goes on.
    MoreThan(f64),
}

/// What commits wait for.
#[derive(Clone, Debug, Default)]
pub struct Durability {
    /// The mode promises a second copy.
    pub promised: bool,
    /// Commits wait for a standby under every quorum of the record.
    pub in_force: bool,
    /// The same in words.
    pub text: String,
    /// Settings made by SQL that undo it.
    pub overruled: Vec<String>,
}

/// What a failover would cost now.
#[derive(Clone, Debug, Default)]
pub enum Failover {
    /// Nothing that was acknowledged.
    Nothing,
    /// What the best standby has not received.
    UpTo(MemberName, Option<u64>),
    /// Nobody could take over, and why.
    Impossible(String),
    /// The leader does not say.
    #[default]
    Unknown,
}

/// The leader's server.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// The age of the oldest transaction, in seconds, and its process.
    pub oldest: Option<(f64, i32)>,
    /// The age of the oldest prepared transaction, in seconds.
    pub prepared_s: Option<f64>,
    /// How many statements wait for a lock for more than a second.
    pub lock_waiters: u64,
}

impl Facts {
    /// Who leads.
    pub fn leader(&self) -> Option<&MemberName> {
        match self {
            Facts::Blind(_) => None,
            Facts::Seen(sight) => sight.leader.as_ref(),
        }
    }
}

/// Every check.
pub fn judge(facts: &Facts, limits: &Limits) -> Vec<Check> {
    let sight = match facts {
        Facts::Blind(why) => return vec![Check::unknown("etcd", format!("etcd does not answer: {why}"))],
        Facts::Seen(sight) => sight,
    };
    let mut checks = vec![Check::ok("etcd", "etcd answers")];
    checks.extend(of_leader(sight));
    checks.extend(of_what_is_planned(sight));
    checks.extend(of_replicas(sight, limits));
    checks.push(of_durability(&sight.durability, limits));
    checks.push(of_failover(&sight.failover));
    checks.extend(of_server(sight.server.as_ref(), limits));
    for member in &sight.pending_restart {
        checks.push(Check::warn("pending_restart", "a parameter waits for a restart").of(member));
    }
    for member in &sight.disk_low {
        checks.push(Check::fail("disk", "its disk is nearly full").of(member));
    }
    checks
}

fn of_leader(sight: &Sight) -> Vec<Check> {
    let Some(leader) = &sight.leader else { return vec![Check::fail("leader", "nobody leads")] };
    let mut checks = vec![
        match &sight.writes {
            Some(Ok(true)) => Check::ok("leader", format!("{leader} leads and takes writes")),
            Some(Ok(false)) if sight.follows => {
                Check::fail("leader", "this site follows another, which has the writes")
            }
            Some(Ok(false)) => Check::fail("leader", format!("{leader} leads and does not take writes")),
            Some(Err(why)) => Check::unknown("leader", format!("the agent of {leader} does not answer: {why}")),
            None => Check::unknown("leader", format!("{leader} holds the lock and is not registered")),
        }
        .of(leader),
    ];
    for other in &sight.others_writing {
        checks.push(Check::fail("single_primary", "it accepts writes, or would, without the leader lock").of(other));
    }
    let limit = sight.ttl_s * RENEWED_WITHIN;
    checks.push(match sight.renewed_s {
        None => Check::unknown("lease", "the leader does not say when its lease was renewed").of(leader),
        Some(ago) => {
            let text = format!("the lease was renewed {ago:.1} s ago");
            let check = if ago <= limit { Check::ok("lease", text) } else { Check::fail("lease", text) };
            check.of(leader).measured(Measure::Seconds(ago), Measure::Seconds(limit))
        }
    });
    checks
}

fn of_what_is_planned(sight: &Sight) -> Vec<Check> {
    let absent = |word, found: &Option<String>, fine: &str| match found {
        None => Check::ok(word, fine),
        Some(what) => Check::fail(word, what.clone()),
    };
    let under_way = match &sight.under_way {
        Some(Err(why)) => Check::unknown("transition", format!("the transition records cannot be read: {why}")),
        Some(Ok(what)) => Check::fail("transition", what.clone()),
        None => Check::ok("transition", "nothing is under way"),
    };
    vec![
        under_way,
        absent("request", &sight.waits, "nothing waits to be carried out"),
        absent("pause", &sight.paused, "automatic actions are not paused"),
        absent("hold", &sight.held, "nobody else holds planned actions"),
    ]
}

/// Each standby, and whether enough of them are near enough. With a number that suffices, the others are warnings.
fn of_replicas(sight: &Sight, limits: &Limits) -> Vec<Check> {
    let mut checks = Vec::new();
    for replica in &sight.replicas {
        checks.push(of_stream(replica));
        if replica.streams == Some(true) {
            checks.push(of_lag(replica, limits.lag));
        }
    }
    let good = |replica: &&Replica| replica.streams == Some(true) && of_lag(replica, limits.lag).grade == Grade::Ok;
    let (count, wanted) =
        (sight.replicas.iter().filter(good).count(), limits.min_replicas.unwrap_or(sight.replicas.len()));
    if let Some(least) = limits.min_replicas {
        for check in checks.iter_mut().filter(|check| check.grade != Grade::Ok) {
            // Whether that suffices is told by their number.
            check.grade = if count >= least { Grade::Warn } else { check.grade };
        }
    }
    let text = format!("{count} of {} standbys stream and are near enough", sight.replicas.len());
    let enough = if count >= wanted { Check::ok("replicas", text) } else { missing(&checks, text) };
    checks.push(enough.measured(Measure::Count(count as u64), Measure::Count(wanted as u64)));
    checks
}

/// Too few are known to be good: no go, unless it is only not known.
fn missing(checks: &[Check], text: String) -> Check {
    let known =
        checks.iter().any(|check| check.grade == Grade::Fail) || checks.iter().all(|check| check.grade == Grade::Ok);
    if known { Check::fail("replicas", text) } else { Check::unknown("replicas", text) }
}

fn of_stream(replica: &Replica) -> Check {
    let check = match replica.streams {
        Some(true) => Check::ok("streaming", "it streams"),
        Some(false) => Check::fail("streaming", "it does not stream"),
        None => Check::unknown("streaming", "nobody says whether it streams"),
    };
    check.of(&replica.member)
}

fn of_lag(replica: &Replica, limit: Lag) -> Check {
    const WORD: &str = "replica_lag";
    let check = match (limit, replica.behind_bytes, replica.behind_s) {
        (Lag::Bytes(most), Some(behind), _) => {
            let text = format!("it has {} left to replay", bytes(behind));
            let check = if behind <= most { Check::ok(WORD, text) } else { Check::fail(WORD, text) };
            check.measured(Measure::Bytes(behind), Measure::Bytes(most))
        }
        (Lag::Time(most), _, Some(took)) => {
            let most = most.as_secs_f64();
            let (seconds, text, within) = match took {
                Seconds::Within(took) => (took, format!("it has replayed everything within {took:.1} s"), took <= most),
                Seconds::MoreThan(took) => (took, format!("it is more than {took:.1} s behind in replay"), false),
            };
            let check = if within { Check::ok(WORD, text) } else { Check::fail(WORD, text) };
            check.measured(Measure::Seconds(seconds), Measure::Seconds(most))
        }
        _ => Check::unknown(WORD, "how far it is behind is not known"),
    };
    check.of(&replica.member)
}

fn of_durability(durability: &Durability, limits: &Limits) -> Check {
    const WORD: &str = "durability";
    if let Some(what) = durability.overruled.first() {
        return Check::fail(WORD, what.clone());
    }
    let text = durability.text.clone();
    match (durability.promised, durability.in_force) {
        (true, true) => Check::ok(WORD, text),
        (true, false) => {
            Check::fail(WORD, format!("commits wait for nobody although the mode promises that they do ({text})"))
        }
        (false, _) if limits.require_sync => Check::fail(WORD, format!("commits wait for nobody ({text})")),
        (false, _) => Check::ok(WORD, text),
    }
}

fn of_failover(failover: &Failover) -> Check {
    const WORD: &str = "failover_ready";
    match failover {
        Failover::Nothing => Check::ok(WORD, "a failover now would lose nothing"),
        Failover::UpTo(best, Some(behind)) => {
            let text = format!("a failover now would lose what {best} has not received yet ({})", bytes(*behind));
            Check { value: Some(Measure::Bytes(*behind)), ..Check::warn(WORD, text) }
        }
        Failover::UpTo(best, None) => Check::unknown(WORD, format!("how much {best} has not received is not known")),
        Failover::Impossible(why) => Check::fail(WORD, format!("no failover is possible now: {why}")),
        Failover::Unknown => Check::unknown(WORD, "who could take over is not known"),
    }
}

fn of_server(server: Option<&Result<Server, String>>, limits: &Limits) -> Vec<Check> {
    let server = match server {
        Some(Ok(server)) => server,
        Some(Err(why)) => {
            return vec![Check::unknown(
                "transactions",
                format!("what goes on in the leader's Postgres is not known: {why}"),
            )];
        }
        None => return vec![Check::unknown("transactions", "without a leader nobody says what goes on")],
    };
    let most = limits.transaction.as_secs_f64();
    let aged = |word, age: f64, text: String| {
        let check = if age <= most { Check::ok(word, text) } else { Check::fail(word, text) };
        check.measured(Measure::Seconds(age), Measure::Seconds(most))
    };
    let oldest = match server.oldest {
        None => Check::ok("transactions", "no transaction is open"),
        Some((age, pid)) => {
            aged("transactions", age, format!("the oldest transaction, of process {pid}, is {age:.1} s old"))
        }
    };
    let prepared = server
        .prepared_s
        .map(|age| aged("prepared_transactions", age, format!("a prepared transaction is {age:.1} s old")));
    let queue = match server.lock_waiters {
        0 => Check::ok("lock_queue", "no statement waits for a lock for long"),
        count => Check::fail("lock_queue", format!("{count} statements older than a second wait for locks")),
    };
    let queue = queue.measured(Measure::Count(server.lock_waiters), Measure::Count(0));
    [Some(oldest), prepared, Some(queue)].into_iter().flatten().collect()
}
