//! What befalls the cluster, and how it is mended.

use decision::durability::Quorum;
use decision::names::Term;
use decision::settings::Durability;
use decision::view::{Request, RequestKind};

use crate::etcd::{Config, Guard, Key, Txn, Value, Write};
use crate::ledger::Cause;
use crate::plan::{Fault, Who};
use crate::postgres::{Directory, Process};
use crate::time::{MS, SECOND};
use crate::world::{At, Event, Node, Part, World};

const ALL: [Part; 3] = [Part::Agent, Part::Postgres, Part::Fence];

impl World {
    fn who(&self, who: Who) -> At {
        match who {
            Who::Node(at) => at,
            Who::Leader => self.etcd.leader().unwrap_or(0),
        }
    }

    /// Whom a fault touches; `None`: everybody.
    fn touched(&self, fault: Fault) -> Option<At> {
        match fault {
            Fault::PostmasterKilled(who)
            | Fault::PostgresKilled(who)
            | Fault::AgentKilled(who)
            | Fault::PowerLost(who)
            | Fault::DiskLost(who)
            | Fault::HostFrozen(who)
            | Fault::MachinePaused(who)
            | Fault::AgentFrozen(who)
            | Fault::PostgresFrozen(who)
            | Fault::SlowDisk(who)
            | Fault::DiskFrozen(who)
            | Fault::DiskFailing(who)
            | Fault::DiskFilling(who)
            | Fault::SlowActions(who)
            | Fault::QuestionsLate(who)
            | Fault::QuestionsHeldUp(who, _)
            | Fault::Reader(who) => Some(self.who(who)),
            // A link has two ends; between two nodes neither knows whose fault it is.
            Fault::Isolated(who) | Fault::CutFromEtcd(who) | Fault::Mute(who) | Fault::Deaf(who) => {
                (self.nodes.len() > 2).then(|| self.who(who))
            }
            Fault::MayNotLead(at) | Fault::Leaves(at) | Fault::Removed(at) | Fault::PromotedByHand(at) => Some(at),
            Fault::Cut(..)
            | Fault::EtcdElection
            | Fault::EtcdGone
            | Fault::EtcdRestored
            | Fault::AnswersLost(_)
            | Fault::AnswersLate
            | Fault::Misled(..)
            | Fault::Switchover(_)
            | Fault::Failover(_)
            | Fault::Forced(_)
            | Fault::ClusterPaused
            | Fault::Policy(..) => None,
        }
    }

    pub fn strike(&mut self, number: usize) {
        let planned = self.plan.faults[number];
        let fault = planned.fault;
        let whom = self.touched(fault);
        self.tell(|world| match whom {
            Some(at) => format!("FAULT {fault:?} (at {}) for {} ms", world.name(at), planned.lasts / MS),
            None => format!("FAULT {fault:?} for {} ms", planned.lasts / MS),
        });
        let moves = planned.may_move_the_lead(self.nodes.len());
        self.ledger.causes.push(Cause { number, whom, moves, ended: None });
        let at = self.whose(fault);
        self.struck.insert(number, at);
        if matches!(fault, Fault::DiskFilling(_)) {
            self.after(planned.lasts / 2, Event::Full { at, number });
        }
        self.befall(fault, at, planned.lasts);
        self.after(planned.lasts, Event::Mend(number));
    }

    /// Whom it strikes, decided at the moment it does.
    fn whose(&self, fault: Fault) -> At {
        match fault {
            Fault::Isolated(who) | Fault::CutFromEtcd(who) | Fault::Mute(who) | Fault::Deaf(who) => self.who(who),
            other => self.touched(other).unwrap_or_default(),
        }
    }

    fn befall(&mut self, fault: Fault, at: At, lasts: u64) {
        match fault {
            Fault::PostmasterKilled(_) => {
                self.kill_postmaster(at);
                self.wake_soon(at);
            }
            Fault::PostgresKilled(_) => {
                self.kill_server(at);
                self.wake_soon(at);
            }
            Fault::AgentKilled(_) => self.end_agent(at),
            Fault::PowerLost(_) => self.power_off(at),
            Fault::DiskLost(_) => self.lose_disk(at),
            Fault::HostFrozen(_) => {
                self.ledger.stood_still.insert(at, self.nodes[at].postgres.server);
                self.hold(at, &ALL);
            }
            Fault::MachinePaused(_) => {
                self.ledger.stood_still.insert(at, self.nodes[at].postgres.server);
                self.nodes[at].clock.stop(self.now);
                self.hold(at, &ALL);
            }
            Fault::AgentFrozen(_) => self.hold(at, &[Part::Agent]),
            Fault::PostgresFrozen(_) => {
                let postgres = &mut self.nodes[at].postgres;
                if postgres.runs() && !postgres.frozen {
                    postgres.frozen = true;
                    self.hold(at, &[Part::Postgres]);
                }
            }
            Fault::Isolated(_) | Fault::CutFromEtcd(_) | Fault::Mute(_) | Fault::Deaf(_) | Fault::Cut(..) => {
                for (from, to) in self.cuts(fault, at) {
                    self.links.cut(from, to);
                }
            }
            Fault::SlowDisk(_) => self.nodes[at].slow_disk = 20 * self.plan.disks[at],
            Fault::DiskFrozen(_) => self.freeze_disk(at),
            Fault::DiskFailing(_) => self.disk_fails(at),
            Fault::DiskFilling(_) => self.nodes[at].disk.low = true,
            Fault::SlowActions(_) => self.nodes[at].slow_actions = 60,
            Fault::QuestionsLate(_) => self.questions_late.extend([(at, 700 * MS..1_600 * MS)]),
            Fault::QuestionsHeldUp(_, seconds) => {
                self.questions_late.extend([(at, seconds * SECOND..(seconds + 1) * SECOND)]);
            }
            Fault::Reader(_) => {
                let postgres = &mut self.nodes[at].postgres;
                postgres.held_up |= postgres.process == Process::Standby;
            }
            Fault::PromotedByHand(_) => self.signal_promotion(at),
            Fault::MayNotLead(_) => self.nodes[at].may_not_lead = true,
            Fault::Leaves(_) => self.leave(at),
            Fault::Removed(_) => {
                self.leave(at);
                self.remove_member(at);
            }
            _ => self.befall_cluster(fault, lasts),
        }
    }

    fn befall_cluster(&mut self, fault: Fault, lasts: u64) {
        match fault {
            Fault::EtcdElection => {
                let silence = lasts.clamp(SECOND, 2_300 * MS);
                self.silence_etcd(silence);
            }
            Fault::EtcdGone => self.silence_etcd(lasts),
            Fault::EtcdRestored => {
                self.silence_etcd(SECOND);
                self.ledger.restored = true;
                let back = self.etcd.silent_until;
                self.etcd.restore(back);
                self.etcd_changed(None);
            }
            Fault::AnswersLost(percent) => self.answers_lost = percent,
            Fault::AnswersLate => self.answers_late = true,
            Fault::Misled(who, to) => drop(self.misled.insert(who, to)),
            Fault::Switchover(to) => self.ask_for(RequestKind::Switchover, to, false),
            Fault::Failover(to) => self.ask_for(RequestKind::Failover, to, false),
            Fault::Forced(to) => self.ask_for(RequestKind::Failover, to, true),
            Fault::ClusterPaused => {
                self.ledger.fences_were_off = true;
                self.configure_cluster(|config| config.paused = true);
            }
            Fault::Policy(mode, acknowledgers) => {
                self.configure_cluster(|config| {
                    config.durability = Durability { mode, acknowledgers, other_zone: false }
                });
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn cuts(&self, fault: Fault, at: At) -> Vec<(At, At)> {
        let etcd = self.links.etcd();
        let others = || (0..self.nodes.len()).filter(move |other| *other != at);
        match fault {
            Fault::Isolated(_) => others().chain([etcd]).flat_map(|other| [(at, other), (other, at)]).collect(),
            Fault::CutFromEtcd(_) => vec![(at, etcd), (etcd, at)],
            Fault::Mute(_) => others().map(|other| (at, other)).collect(),
            Fault::Deaf(_) => others().map(|other| (other, at)).collect(),
            Fault::Cut(from, to) => vec![(from, to)],
            _ => Vec::new(),
        }
    }

    pub fn mend(&mut self, number: usize) {
        let Some(at) = self.struck.remove(&number) else { return };
        let fault = self.plan.faults[number].fault;
        self.tell(|_| format!("over: {fault:?}"));
        let now = self.now;
        if let Some(cause) = self.ledger.causes.iter_mut().find(|cause| cause.number == number) {
            cause.ended = Some(now);
        }
        match fault {
            Fault::AgentKilled(_) | Fault::Leaves(_) | Fault::Removed(_) => self.start_agent(at),
            Fault::PowerLost(_) | Fault::DiskLost(_) => {
                self.nodes[at].powered = true;
                self.open_book(at, true);
                self.start_agent(at);
            }
            Fault::HostFrozen(_) => self.let_go(at, &ALL, false),
            Fault::MachinePaused(_) => {
                self.nodes[at].clock.go_on(now);
                self.let_go(at, &ALL, true);
            }
            Fault::AgentFrozen(_) => self.let_go(at, &[Part::Agent], false),
            Fault::PostgresFrozen(_) => self.thaw(at),
            Fault::Isolated(_) | Fault::CutFromEtcd(_) | Fault::Mute(_) | Fault::Deaf(_) | Fault::Cut(..) => {
                for (from, to) in self.cuts(fault, at) {
                    self.links.join(from, to);
                }
                self.resume_shipping();
            }
            Fault::SlowDisk(_) => self.nodes[at].slow_disk = self.plan.disks[at],
            Fault::DiskFrozen(_) => self.thaw_disk(at),
            Fault::DiskFailing(_) => self.nodes[at].disk.failing = false,
            Fault::DiskFilling(_) => (self.nodes[at].disk.low, self.nodes[at].disk.full) = (false, false),
            Fault::SlowActions(_) => self.nodes[at].slow_actions = 1,
            Fault::QuestionsLate(_) | Fault::QuestionsHeldUp(..) => {
                self.questions_late.remove(&at);
            }
            Fault::Reader(_) => {
                let postgres = &mut self.nodes[at].postgres;
                postgres.held_up = false;
                let (server, end) = (postgres.server, postgres.wal.len());
                self.after(MS, Event::Received { at, server, end });
                self.after(MS, Event::Dial { at, server });
            }
            Fault::AnswersLost(_) => self.answers_lost = 0,
            Fault::AnswersLate => self.answers_late = false,
            Fault::Misled(who, _) => {
                self.misled.remove(&who);
                self.end_receiver(who);
            }
            Fault::ClusterPaused => self.configure_cluster(|config| config.paused = false),
            _ => {}
        }
    }

    /// Everything that is still broken is mended, and the settings are as they were.
    pub fn mend_all(&mut self) {
        self.tell(|_| "everything is mended".to_owned());
        let open: Vec<usize> = self.struck.keys().copied().collect();
        open.into_iter().for_each(|number| self.mend(number));
        let usual = Durability { mode: self.plan.mode, acknowledgers: self.plan.acknowledgers, other_zone: false };
        self.configure_cluster(|config| *config = Config { durability: usual, paused: false });
        self.nodes.iter_mut().for_each(|node| node.may_not_lead = false);
        (0..self.nodes.len()).for_each(|at| self.wake_soon(at));
    }

    fn power_off(&mut self, at: At) {
        self.nodes[at].powered = false;
        self.lose_power(at);
        self.end_agent(at);
        self.disarm_fence(at);
    }

    fn lose_disk(&mut self, at: At) {
        let is_whole = |node: &Node| node.postgres.directory == Directory::Whole;
        let others_have_one = self.nodes.iter().enumerate().any(|(other, node)| other != at && is_whole(node));
        self.ledger.last_copy_lost |= is_whole(&self.nodes[at]) && !others_have_one;
        self.power_off(at);
        self.ledger.disk_lost = true;
        // What was promised to be here alone is gone with the disk.
        let wal = std::mem::take(&mut self.nodes[at].postgres.wal);
        if self.ledger.crowned.is_some_and(|(_, leader)| leader == at) {
            self.ledger.lost_with_its_disk.clone_from(&wal);
        }
        for ack in self.ledger.acknowledged.iter_mut().filter(|ack| ack.k == 0) {
            ack.excused |= wal.get(ack.end - 1) == Some(&ack.record);
        }
        self.nodes[at].notes = [None, None];
        (self.nodes[at].ground, self.nodes[at].given_up) = (None, None);
        self.lose_book(at);
        let postgres = &mut self.nodes[at].postgres;
        (postgres.directory, postgres.flushed, postgres.begun) = (Directory::Empty, 0, None);
        (postgres.signal, postgres.follows, postgres.acknowledged) = (false, None, Term(0));
        postgres.names = (Quorum::none(), Term(0));
        postgres.histories.clear();
        postgres.reserved.clear();
    }

    /// The server goes on, if it is still the one that was frozen.
    fn thaw(&mut self, at: At) {
        if std::mem::take(&mut self.nodes[at].postgres.frozen) {
            self.let_go(at, &[Part::Postgres], false);
        }
    }

    fn leave(&mut self, at: At) {
        self.kill_server(at);
        let lease = self.nodes[at].agent.leases[0].id();
        self.end_agent(at);
        if let Some(lease) = lease {
            self.etcd.revoke(lease);
            self.etcd_changed(None);
        }
    }

    /// With the guards of the command line.
    fn remove_member(&mut self, at: At) {
        let Some(leader) = self.etcd.leader().filter(|leader| *leader != at) else { return };
        let key = Key::Departure(at);
        let guards =
            vec![Guard::Is(Key::Leader, Value::Leader(leader)), Guard::Absent(Key::Member(at)), Guard::Absent(key)];
        self.etcd.commit(&Txn { guards, writes: vec![Write::Put(key, Value::Left(None), None)] });
        self.etcd_changed(None);
    }

    fn silence_etcd(&mut self, span: u64) {
        let back = self.now + span;
        self.etcd.silent_until = self.etcd.silent_until.max(back);
        let back = self.etcd.silent_until;
        self.etcd.elected(back);
    }

    /// An operator's word, written with the guard of the command line.
    pub fn ask_for(&mut self, kind: RequestKind, to: Option<At>, accept_data_loss: bool) {
        let to = to.map(|to| self.names[to].clone());
        let request = Request { kind, from: None, to, accept_data_loss, revision: 0 };
        let writes = vec![Write::Put(Key::Request, Value::Request(request), None)];
        self.etcd.commit(&Txn { guards: vec![Guard::Absent(Key::Request)], writes });
        self.etcd_changed(None);
    }

    /// An operator takes back what was asked for, to ask for something else.
    pub fn take_request_back(&mut self) {
        self.etcd.commit(&Txn { guards: Vec::new(), writes: vec![Write::Delete(Key::Request)] });
        self.etcd_changed(None);
    }

    fn configure_cluster(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.picture().config;
        change(&mut config);
        let writes = vec![Write::Put(Key::Config, Value::Config(config), None)];
        self.etcd.commit(&Txn { guards: Vec::new(), writes });
        self.etcd_changed(None);
    }
}
