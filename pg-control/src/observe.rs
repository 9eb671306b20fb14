//! Looking at the local Postgres: what is on its disk, which process runs, and what the server says about itself, in one round trip on a
//! kept connection. A server that is there and silent is hung; one that is there and says "not now", or has no slot or lock free, is
//! not. What could not be learned is an error, never a guess: the caller keeps what it saw before.

use std::time::{Duration, Instant};

use decision::durability::Quorum;
use decision::names::{Lsn, MemberName, Term, Timeline, parse_application_name};
use decision::view::{Postgres, Primary, Server, Standby, Streaming, Upstream};
use procfs::process::Process;

use crate::conf::{Recovery, conninfo};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::pidfile;
use crate::status::{Sender, Status};
use crate::timeline::newest_with_wal;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Observation {
    /// For the decision.
    pub postgres: Postgres,
    /// For people and monitoring; only while the server answers.
    pub extras: Option<Extras>,
}

/// Facts that no decision depends on, for the health API.
#[derive(Clone, Debug)]
pub struct Extras {
    /// `server_version_num`, for instance 150018.
    pub server_version: i64,
    /// When the server started, as Postgres prints it.
    pub postmaster_start_time: String,
    /// The commit time of the last transaction that was replayed, as Postgres prints it.
    pub replayed_timestamp: Option<String>,
    /// Standbys of this server: usename, application_name, client_addr, state, sync_state, sync_priority, LSNs.
    pub replication: Vec<serde_json::Value>,
    /// Time since the walreceiver last heard from its upstream, both ends by this host's clock.
    pub last_msg_receipt_age: Option<Duration>,
    /// The end of WAL that the upstream last told of.
    pub upstream_latest_end_lsn: Option<Lsn>,
    /// Somebody has paused replay (`pg_wal_replay_pause`).
    pub replay_paused: bool,
    /// The newest leadership marker in this database, acknowledged or not (0: none).
    pub newest_marker: Term,
    /// The leadership table is there and may be used, and the standbys may be seen.
    pub equipped: bool,
    /// The process id of the walreceiver.
    pub receiver: Option<i32>,
    /// The process id of the postmaster.
    pub postmaster_pid: i32,
}

impl Instance {
    /// Looks at the data directory and the server. Takes at most `answer_within` and a little; usually under a millisecond.
    ///
    /// # Errors
    /// Where the server is alive, but would not tell: `Busy` (no slot, a lock), `Refused` (role or pg_hba), `Down` (it just went, look again), `Sql`.
    pub async fn observe(&self) -> Result<Observation> {
        let postmaster = self.postmaster();
        let data = self.data(postmaster.is_some()).await;
        let Some(postmaster) = postmaster else {
            self.forget_sessions().await;
            self.answered();
            return Ok(Observation { postgres: Postgres { data, server: Server::Stopped }, extras: None });
        };
        let (server, extras) = match postmaster.status {
            pidfile::Status::Stopping => (Server::Stopping, None),
            pidfile::Status::Starting => (Server::Starting { since: postmaster.age }, None),
            pidfile::Status::Ready | pidfile::Status::StandbyWithoutConnections => {
                let asked_at = Instant::now();
                let mut answer = self.status().await;
                if matches!(answer, Err(Error::Down(_) | Error::Sql(_))) {
                    // The backend of the kept connection may have been ended, or a promotion came between: ask once more.
                    answer = self.status().await;
                }
                self.judge(answer, asked_at, postmaster.pid)?
            }
        };
        Ok(Observation { postgres: Postgres { data, server }, extras })
    }

    fn judge(&self, answer: Result<Status>, asked_at: Instant, pid: i32) -> Result<(Server, Option<Extras>)> {
        match answer {
            Ok(status) => {
                self.answered();
                let standby = || Server::Standby(self.standby_facts(&status));
                let server = if status.standby { standby() } else { self.primary(&status) };
                Ok((server, Some(extras(status, pid))))
            }
            Err(Error::Timeout { .. }) => {
                let since = *self.memory().hung_since.get_or_insert(asked_at);
                Ok((Server::Hung { since: since.elapsed() }, None))
            }
            Err(Error::NotAccepting(_)) => {
                let mut memory = self.memory();
                memory.hung_since = None;
                let since = *memory.starting_since.get_or_insert(asked_at);
                Ok((Server::Starting { since: since.elapsed() }, None))
            }
            Err(other) => Err(other),
        }
    }

    /// Nothing hangs and nothing starts.
    fn answered(&self) {
        let mut memory = self.memory();
        memory.hung_since = None;
        memory.starting_since = None;
    }

    fn primary(&self, status: &Status) -> Server {
        let acknowledged = Term(u64::try_from(status.acknowledged).unwrap_or(0)).max(self.memory().acknowledged);
        // With nobody to wait for there are no names to carry a term; the file remembers under which one that was set.
        let waits_for = Quorum::parse_standby_names(&status.sync, self.read_conf().unwrap_or_default().term);
        Server::Primary(Primary {
            timeline: status.timeline.unwrap_or(status.control_timeline),
            flushed: status.flushed.unwrap_or_default(),
            marked_term: acknowledged,
            control_timeline: status.control_timeline,
            waits_for,
            standbys: status.senders().iter().filter_map(streaming).collect(),
        })
    }

    /// The running standby as a decision sees it.
    pub(crate) fn standby_facts(&self, status: &Status) -> Standby {
        let replayed = status.replayed.unwrap_or_default();
        let follows = self.follows(status.configured.as_deref());
        Standby {
            timeline: self.standby_timeline(status),
            received: status.received.unwrap_or_default().max(replayed),
            replayed,
            replay_done: status.replay_done(),
            wal_term: Term(u64::try_from(status.marker).unwrap_or(0)),
            follows,
            receiver_running: status.receiver.is_some(),
            streaming: status.streaming,
        }
    }

    /// Whom the standby follows: our file says so, if the server goes by it. `ALTER SYSTEM` overrides the file; whoever is named there is
    /// a stranger, whom nobody ought to follow.
    fn follows(&self, loaded: Option<&str>) -> Option<Upstream> {
        let conf = self.read_conf().unwrap_or_default();
        let ours = match conf.recovery {
            Recovery::Following(upstream) => Some(upstream),
            Recovery::Nobody | Recovery::Backup => None,
        };
        let Some(loaded) = loaded else { return ours };
        let wanted =
            ours.as_ref().map(|upstream| conninfo(self.config(), &self.passfile(), upstream, conf.syncs_slots));
        match (loaded.is_empty(), wanted) {
            (_, Some(wanted)) if wanted == loaded => ours,
            (true, _) => None,
            (false, _) => MemberName::new("stranger").ok().map(|member| Upstream {
                member,
                host: String::new(),
                port: 0,
                term: Term(0),
                slot: None,
            }),
        }
    }

    /// The timeline of the last WAL received. The control file of a standby lags behind (it moves with restart points only). The
    /// walreceiver knows its timeline while it is connected, the replaying process shows the WAL file that it reads in its title, and
    /// where replay is held up while nobody is connected, the received files themselves tell.
    fn standby_timeline(&self, status: &Status) -> Timeline {
        let replaying = status.startup.and_then(title).and_then(|title| {
            // While replay waits for a reader, the word "waiting" stands behind the name of the file.
            title.split_whitespace().find_map(|word| crate::timeline::segment(word).map(|(timeline, _)| timeline))
        });
        let in_files = || newest_with_wal(&self.data_dir().join("pg_wal"), status.control_timeline).ok();
        let received = status.received_timeline.or_else(|| in_files().map(|(timeline, _)| timeline));
        let known = [received, replaying, Some(status.recovery_timeline), Some(status.control_timeline)];
        known.into_iter().flatten().max().unwrap_or_default()
    }
}

fn title(pid: i32) -> Option<String> {
    let words = Process::new(pid).ok()?.cmdline().ok()?;
    Some(words.join(" "))
}

fn streaming(sender: &Sender) -> Option<Streaming> {
    let (member, term) = parse_application_name(&sender.application_name)?;
    let lsn = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
    Some(Streaming {
        member,
        term,
        caught_up: sender.state.as_deref() == Some("streaming"),
        flushed: lsn(&sender.flush_lsn),
        replayed: lsn(&sender.replay_lsn),
    })
}

fn extras(status: Status, postmaster_pid: i32) -> Extras {
    Extras {
        replay_paused: status.replay_paused(),
        server_version: status.version,
        postmaster_start_time: status.started_at,
        replayed_timestamp: status.replayed_at,
        replication: status.replication,
        last_msg_receipt_age: status.message_age,
        upstream_latest_end_lsn: status.upstream_end,
        newest_marker: Term(u64::try_from(status.marker).unwrap_or(0)),
        equipped: status.equipped,
        receiver: status.receiver,
        postmaster_pid,
    }
}
