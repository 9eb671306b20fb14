//! A tiny cluster: etcd, three agents that run the real `decide`, and three Postgres servers whose WAL is a list of records. Time is a
//! counter of half seconds. It models what decisions depend on (leases, streaming under a term's name, quorum acknowledgements,
//! timelines, cut-off work) and asserts after every tick that nothing acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::durability::Quorum;
use crate::names::{Lsn, MemberName, Term, Timeline};
use crate::settings::{Mode, Settings};
use crate::view::*;

const TICK: Duration = Duration::from_millis(500);
pub(super) const TTL: u32 = 10;

/// What befalls one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every Postgres process is killed; the agent lives.
    PostgresDies,
    /// The agent is killed; Postgres and the fence live on.
    AgentDies,
    /// Power loss.
    HostDies,
    /// Power loss in the middle of the next action that has a middle.
    HostDiesHalfWay,
    /// The node reaches nobody and nobody reaches it.
    Isolated,
    /// Its disk is replaced by an empty one.
    DiskLost,
    /// The transaction of its next hand-over arrives late, and it never hears of it.
    HandsOverLate,
}

/// One WAL record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) timeline: Timeline,
    pub(super) id: u32,
    pub(super) marker: Option<Term>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Stopped,
    Primary,
    Standby,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: MemberName,
    pub(super) agent_up: bool,
    pub(super) cut_off: bool,
    pub(super) dies_half_way: bool,
    pub(super) hands_over_late: bool,
    /// A hand-over is under way to this member.
    pub(super) handing_over: Option<MemberName>,
    pub(super) hand_over_failed: bool,
    pub(super) runs: Runs,
    /// `None`: empty; `Some(Some(work))`: half made.
    pub(super) data: Option<Option<String>>,
    pub(super) clean: bool,
    pub(super) signal: bool,
    pub(super) end_known: bool,
    pub(super) wal: Vec<Record>,
    pub(super) follows: Option<(MemberName, Term)>,
    pub(super) waits_for: (Quorum, Term),
    pub(super) lock: Option<Term>,
    pub(super) stands_ready: bool,
    /// Ticks until the lease of the lock ends; the holder's agent may be dead meanwhile.
    pub(super) lease_left: u32,
    pub(super) reign: u32,
    pub(super) failed: Option<u32>,
    pub(super) missing: BTreeMap<MemberName, u32>,
    pub(super) proving: Option<(Quorum, usize)>,
    /// How much of its WAL a reader of this primary sees: what was acknowledged, and after a restart everything.
    pub(super) visible: usize,
    pub(super) knows: Cluster,
}

/// A hand-over whose transaction etcd has not carried out yet.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) term: Term,
    pub(super) request: i64,
    pub(super) end: Lsn,
    pub(super) ticks: u32,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) in_flight: Option<InFlight>,
    pub(super) nodes: Vec<Node>,
    pub(super) etcd: Cluster,
    pub(super) settings: Settings,
    pub(super) clients_write: bool,
    pub(super) vacancy: u32,
    pub(super) asked: u32,
    pub(super) next_id: u32,
    pub(super) acknowledged: BTreeSet<u32>,
    pub(super) log: Vec<String>,
}

pub(super) fn lsn(length: usize) -> Lsn {
    Lsn(length as u64)
}

impl Node {
    pub(super) fn timeline(&self) -> Timeline {
        self.wal.last().map_or(Timeline(1), |record| record.timeline)
    }

    pub(super) fn newest_marker(&self, up_to: usize) -> Term {
        self.wal[..up_to].iter().filter_map(|record| record.marker).max().unwrap_or_default()
    }

    pub(super) fn streams_from(&self, leader: &Node) -> bool {
        let linked =
            self.follows.as_ref().is_some_and(|(who, _)| *who == leader.name) && !self.cut_off && !leader.cut_off;
        self.runs == Runs::Standby && leader.runs == Runs::Primary && linked && leader.wal.starts_with(&self.wal)
    }

    /// Receives WAL from a standby, which itself receives it elsewhere. What it acknowledges there counts for nobody.
    pub(super) fn streams_behind(&self, standby: &Node) -> bool {
        let linked =
            self.follows.as_ref().is_some_and(|(who, _)| *who == standby.name) && !self.cut_off && !standby.cut_off;
        self.runs == Runs::Standby && standby.runs == Runs::Standby && linked && standby.wal.starts_with(&self.wal)
    }

    pub(super) fn die(&mut self) {
        (self.runs, self.clean, self.proving) = (Runs::Stopped, false, None);
    }

    fn on_disk(&self) -> Data {
        match &self.data {
            None => Data::Empty,
            Some(Some(by)) => Data::HalfMade { by: by.clone() },
            Some(None) => {
                let state = match (self.signal, self.clean) {
                    (true, true) => ControlState::ShutDownInRecovery,
                    (true, false) => ControlState::InArchiveRecovery,
                    (false, true) => ControlState::ShutDown,
                    (false, false) => ControlState::InProduction,
                };
                Data::Present(OnDisk {
                    state,
                    timeline: self.timeline(),
                    checkpoint: lsn(self.wal.len().saturating_sub(1)),
                    standby_signal: self.signal,
                    from_backup: false,
                    end_of_wal: self.end_known.then_some(lsn(self.wal.len())),
                    ..disk()
                })
            }
        }
    }
}

impl World {
    /// Three nodes; `pg1` leads and all is well.
    pub(super) fn new(mode: Mode) -> Self {
        let mut settings = Settings::default();
        settings.durability.mode = mode;
        let quorum = if mode == Mode::Async { Quorum::none() } else { any(1, &["pg2", "pg3"]) };
        let etcd =
            cluster().policies(std::slice::from_ref(&quorum)).mode(mode).leader_on(1).record(|sync| sync.term = TERM);
        let etcd = Cluster { history: Vec::new(), leader_lsn: None, ..etcd };
        let node = |who: &str| Node {
            name: name(who),
            agent_up: true,
            cut_off: false,
            dies_half_way: false,
            hands_over_late: false,
            handing_over: None,
            hand_over_failed: false,
            runs: if who == "pg1" { Runs::Primary } else { Runs::Standby },
            data: Some(None),
            clean: false,
            signal: who != "pg1",
            end_known: false,
            wal: vec![Record { timeline: Timeline(1), id: 0, marker: Some(TERM) }],
            follows: (who != "pg1").then(|| (name("pg1"), TERM)),
            waits_for: (quorum.clone(), TERM),
            lock: (who == "pg1").then_some(TERM),
            stands_ready: false,
            lease_left: if who == "pg1" { TTL } else { 0 },
            reign: 0,
            failed: None,
            missing: BTreeMap::new(),
            proving: None,
            visible: 1,
            knows: etcd.clone(),
        };
        let nodes = ["pg1", "pg2", "pg3"].map(node).to_vec();
        let clients_write = true;
        let (vacancy, asked, next_id) = (0, 0, 1);
        let (acknowledged, log) = (BTreeSet::new(), Vec::new());
        let in_flight = None;
        World { in_flight, nodes, etcd, settings, clients_write, vacancy, asked, next_id, acknowledged, log }
    }

    pub(super) fn strike(&mut self, at: usize, fault: Fault) {
        self.log.push(format!("{} {fault:?}", self.nodes[at].name));
        let node = &mut self.nodes[at];
        match fault {
            Fault::PostgresDies => node.die(),
            Fault::AgentDies => (node.agent_up, node.handing_over) = (false, None),
            Fault::HostDies => self.host_dies(at),
            Fault::HostDiesHalfWay => node.dies_half_way = true,
            Fault::HandsOverLate => node.hands_over_late = true,
            Fault::Isolated => node.cut_off = true,
            Fault::DiskLost => {
                self.host_dies(at);
                (self.nodes[at].data, self.nodes[at].wal) = (None, Vec::new());
            }
        }
    }

    pub(super) fn host_dies(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.die();
        (node.agent_up, node.dies_half_way, node.lock, node.stands_ready) = (false, false, None, false);
        node.handing_over = None;
    }

    /// Everything that was down or cut off is back. An agent whose Postgres and lease live on takes over both.
    pub(super) fn heal(&mut self, at: usize) {
        self.log.push(format!("{} is back", self.nodes[at].name));
        let node = &mut self.nodes[at];
        let adopts = self.etcd.leader.as_ref() == Some(&node.name) && node.lease_left > 1 && node.lock.is_some();
        (node.agent_up, node.cut_off, node.dies_half_way) = (true, false, false);
        node.hands_over_late = false;
        node.lock = adopts.then_some(self.etcd.term);
    }

    pub(super) fn ask(&mut self, kind: RequestKind, to: Option<&str>) {
        (self.etcd, self.asked) = (std::mem::take(&mut self.etcd).asked(kind, None, to), 0);
    }

    /// What etcd says, on one line.
    pub(super) fn summary(&self) -> String {
        let Cluster { leader, term, sync, ballots, floors, history, .. } = &self.etcd;
        format!("{leader:?} {term} {sync:?}\n{ballots:?}\n{floors:?}\n{history:?}")
    }

    /// One node looks, decides and acts; then WAL flows, clients write, half a second passes.
    pub(super) fn tick(&mut self, order: [usize; 3]) {
        for at in order {
            self.arrive();
            self.publish();
            if self.nodes[at].agent_up {
                let view = self.view(at);
                let decision = decide(&view);
                if decision.action != Action::Wait {
                    self.log.push(format!("{}: {} ({})", view.me, decision.action.code(), decision.reason));
                }
                match self.nodes[at].handing_over.clone() {
                    Some(to) if decision.action == Action::Wait => self.hand_over_goes_on(at, &to),
                    _ => self.act(at, decision.action),
                }
            }
        }
        self.replicate();
        self.pass_time();
    }

    /// What agents keep writing to etcd by themselves: member records, history, the leader's position.
    fn publish(&mut self) {
        for node in &self.nodes {
            if !node.agent_up || node.cut_off {
                self.etcd.members.remove(&node.name);
                continue;
            }
            let role = match node.runs {
                Runs::Primary => MemberRole::Primary,
                Runs::Standby => MemberRole::Standby,
                Runs::Stopped => MemberRole::Down,
            };
            let lock_lease = i64::from(node.stands_ready);
            let timeline = Some(node.timeline());
            self.etcd.members.insert(node.name.clone(), Member { timeline, lock_lease, ..member(role) });
            if node.runs != Runs::Primary || node.lock != Some(self.etcd.term) || !node.agent_up {
                continue;
            }
            self.etcd.leader_lsn = Some(lsn(node.wal.len()));
            let fork = node.wal.iter().rposition(|record| record.timeline < node.timeline());
            if let Some(fork) = fork {
                let row = HistoryEntry {
                    timeline: node.wal[fork].timeline,
                    ended_at: lsn(fork + 1),
                    new_leader: Some(node.name.clone()),
                };
                if !self.etcd.history.contains(&row) {
                    self.etcd.history.retain(|old| old.timeline != row.timeline);
                    self.etcd.history.push(row);
                }
            }
        }
        self.nodes.iter_mut().filter(|node| !node.cut_off).for_each(|node| node.knows = self.etcd.clone());
    }

    fn view(&self, at: usize) -> View {
        let node = &self.nodes[at];
        let age = |ticks: u32| TICK * ticks;
        let vacant = self.etcd.leader.is_none();
        let ages = Ages {
            vacancy: vacant.then(|| age(self.vacancy)),
            reign: node.lock.map(|_| age(node.reign)),
            voters_missing: node.missing.iter().map(|(who, ticks)| (who.clone(), age(*ticks))).collect(),
            request: self.etcd.request.as_ref().map(|_| age(self.asked)),
            last_failure: node.failed.map(age),
            failed_action: node.hand_over_failed.then(|| "hand_over".to_owned()),
            ..Ages::default()
        };
        let cluster = match node.cut_off {
            false => Seen::Now(self.etcd.clone()),
            true => Seen::Before { value: node.knows.clone(), age: TICK },
        };
        // The safety margin is one tick.
        let left = age(node.lease_left.saturating_sub(1));
        View {
            me: node.name.clone(),
            cluster,
            postgres: Seen::Now(Postgres { data: node.on_disk(), server: self.server(at) }),
            lock: node.lock.map_or(Lock::NotHeld, |term| Lock::Held { term, left }),
            job: node.handing_over.as_ref().map(|_| Job { action: "hand_over".to_owned(), age: TICK, from: None }),
            ages,
            hearing: self.hearing(node),
            fence: Fence::default(),
            signs: Signs::default(),
            promise: None,
            pledged: None,
            reliance: None,
            settings: self.settings.clone(),
        }
    }

    fn hearing(&self, node: &Node) -> Hearing {
        let silent = Sound::Silent { since: TICK };
        let leader = self.nodes.iter().find(|other| self.etcd.leader.as_ref() == Some(&other.name));
        let heard = |is_up| if is_up { Sound::Fine } else { Sound::Gone };
        match leader {
            None => Hearing::default(),
            Some(leader) if leader.cut_off || node.cut_off => Hearing { agent: silent, postgres: silent },
            Some(leader) => Hearing { agent: heard(leader.agent_up), postgres: heard(leader.runs != Runs::Stopped) },
        }
    }

    pub(super) fn server(&self, at: usize) -> Server {
        let node = &self.nodes[at];
        let end = lsn(node.wal.len());
        match node.runs {
            Runs::Stopped => Server::Stopped,
            Runs::Standby => {
                let follows = node.follows.as_ref().map(|(who, term)| {
                    let host = member(MemberRole::Down).host;
                    Upstream { member: who.clone(), host, port: 5432, term: *term, slot: None }
                });
                Server::Standby(Standby {
                    timeline: node.timeline(),
                    received: end,
                    replayed: end,
                    replay_done: true,
                    wal_term: node.newest_marker(node.wal.len()),
                    receiver_running: follows.is_some(),
                    follows,
                    streaming: self.nodes.iter().any(|other| node.streams_from(other) || node.streams_behind(other)),
                })
            }
            Runs::Primary => {
                let streams = |standby: &&Node| standby.streams_from(node);
                let row = |standby: &Node| Streaming {
                    term: standby.follows.as_ref().map_or(Term(0), |(_, term)| *term),
                    ..streaming(standby.name.as_str(), standby.wal.len() as u64)
                };
                Server::Primary(Primary {
                    timeline: node.timeline(),
                    flushed: end,
                    marked_term: node.newest_marker(node.visible),
                    control_timeline: node.timeline(),
                    waits_for: Some(node.waits_for.clone()),
                    standbys: self.nodes.iter().filter(streams).map(row).collect(),
                })
            }
        }
    }
}
