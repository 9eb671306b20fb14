//! Every view over small domains (servers, data, leaders, locks, records, requests, jobs) against the rules that data depends on.

use super::builders::*;
use crate::action::{Action, StartAs};
use crate::names::{Lsn, SystemId, Term, Timeline};
use crate::settings::Mode;
use crate::view::*;
use crate::{Decision, decide};

fn servers() -> Vec<Server> {
    let marked = |marked_term| Server::Primary(Primary { marked_term, ..primary() });
    let since = secs(60);
    vec![
        Server::Stopped,
        Server::Starting { since },
        marked(TERM),
        marked(Term(6)),
        Server::Standby(standby()),
        pledged(1000),
        Server::Stopping,
        Server::Hung { since },
    ]
}

fn data() -> Vec<Data> {
    vec![
        Data::Empty,
        Data::HalfMade { by: "clone".to_owned() },
        Data::Unreadable { why: "torn".to_owned() },
        Data::Present(disk()),
        Data::Present(crashed_primary()),
        Data::Present(clean_primary()),
        Data::Present(OnDisk { timeline: Timeline(3), end_of_wal: Some(Lsn(501)), ..crashed_primary() }),
        Data::Present(OnDisk { system_id: SystemId(43), ..crashed_primary() }),
    ]
}

/// Who leads, and what the record says of it.
fn clusters() -> Vec<Cluster> {
    let ballots = cluster().vacant().ballot("pg1", 4, 1000).ballot("pg2", 4, 1000);
    let released = cluster().vacant().record(|sync| sync.released = true);
    let handed = |cluster: Cluster| cluster.record(|sync| sync.handover_lsn = Some(Lsn(1001)));
    let mut lost = cluster();
    lost.sync = None;
    let unproven = || cluster().led_before_by("pg2").mode(Mode::Async).policies(&[any(0, &[])]);
    vec![
        cluster(),
        unproven(),
        unproven().without("pg2"),
        unproven().without("pg2").ballot("pg1", 4, 1000),
        cluster().led_by("pg2"),
        cluster().led_by("pg2").leader_on(5).forked(4, 900, "pg2"),
        handed(cluster()),
        handed(cluster().vacant()),
        cluster().vacant(),
        cluster().led_before_by("pg2"),
        cluster().without("pg3"),
        ballots.clone(),
        Cluster { leader: Some(name("pg2")), ..ballots }.record(|sync| sync.leader = name("pg2")),
        released,
        lost,
        Cluster::default(),
        Cluster { initialize: Initialize::InProgress, ..Cluster::default() },
    ]
}

fn locks() -> [Lock; 4] {
    let held = |term, left| Lock::Held { term, left: secs(left) };
    [Lock::NotHeld, held(TERM, 4), held(TERM, 0), held(Term(6), 4)]
}

fn requests() -> [Option<Request>; 4] {
    let asked = |kind, to: Option<&str>| cluster().asked(kind, None, to).request;
    [
        None,
        asked(RequestKind::Switchover, Some("pg2")),
        asked(RequestKind::Failover, Some("pg1")),
        asked(RequestKind::Failover, None),
    ]
}

/// What is so around a view: its freshness, a failure, a job.
fn circumstances(view: View) -> Vec<View> {
    let long_ago = view.clone().aged(|ages| {
        (ages.vacancy, ages.reign, ages.request) = (Some(secs(60)), Some(secs(60)), Some(secs(60)));
    });
    let failed = view.clone().aged(|ages| ages.last_failure = Some(secs(0)));
    let busy = |action| view.clone().job(action, None, secs(1));
    let of_before = |seen: &Seen<Cluster>| Seen::Before { value: seen.last().expect("seen").clone(), age: secs(3) };
    let silent = View { cluster: of_before(&view.cluster), ..view.clone() };
    let postgres = Seen::Before { value: view.postgres.last().expect("seen").clone(), age: secs(3) };
    let unseen = View { postgres, ..view.clone() };
    let paused = view.clone().set(|settings| settings.paused = true);
    let on_disk = |change: fn(&mut Disk)| {
        let mut view = view.clone();
        change(&mut view.signs.disk);
        view
    };
    let dead = on_disk(|disk| disk.fault = Some(DiskFault::InputOutput));
    let full = on_disk(|disk| (disk.full, disk.low) = (true, true));
    let heard = |sound| View { hearing: Hearing { agent: Sound::Gone, postgres: sound }, ..view.clone() };
    let (deaf, answered) = (heard(Sound::Gone), heard(Sound::Fine));
    let (marking, killing) = (busy("mark"), busy("kill"));
    let unfenced = View { fence: Fence { trouble: Some("no fencer".to_owned()), covers: None }, ..view.clone() };
    vec![view, long_ago, failed, marking, killing, silent, unseen, paused, dead, full, deaf, answered, unfenced]
}

fn every_view(mut rule: impl FnMut(&View, &Decision)) {
    for cluster in clusters() {
        for request in requests() {
            let cluster = Cluster { request, ..cluster.clone() };
            for lock in locks() {
                for data in data() {
                    for server in servers() {
                        let view = view("pg1").within(cluster.clone()).lock(lock).on_disk(data.clone()).runs(server);
                        for view in circumstances(view) {
                            rule(&view, &decide(&view));
                        }
                    }
                }
            }
        }
    }
}

/// What is so in a view, as far as the rules ask.
struct Facts<'a> {
    view: &'a View,
    action: &'a Action,
    postgres: &'a Postgres,
    cluster: Option<&'a Cluster>,
    leads: bool,
    another_leads: bool,
    foreign: bool,
    alive: bool,
}

impl<'a> Facts<'a> {
    fn of(view: &'a View, action: &'a Action) -> Self {
        let postgres = view.postgres.last().expect("seen");
        let cluster = view.cluster.now();
        let leader = cluster.and_then(|it| it.leader.as_ref());
        let initialized = cluster.is_some_and(|it| matches!(it.initialize, Initialize::Done(_)));
        let of_another_system = matches!(&postgres.data, Data::Present(disk) if disk.system_id != SYSTEM);
        Facts {
            view,
            action,
            postgres,
            cluster,
            leads: leader == Some(&view.me) && cluster.is_some_and(|it| view.lock.leads(it.term)),
            another_leads: leader.is_some_and(|leader| *leader != view.me),
            foreign: of_another_system && initialized,
            alive: !matches!(postgres.server, Server::Stopped),
        }
    }

    fn needs_the_lock(&self) -> bool {
        matches!(
            self.action,
            Action::Promote { .. }
                | Action::Start(StartAs::Primary { .. })
                | Action::Mark { .. }
                | Action::HandOver { .. }
                | Action::Release
                | Action::Abdicate
                | Action::AskSwitchover { .. }
                | Action::RecordSync { .. }
                | Action::ApplySync(_)
                | Action::ProveSync { .. }
        )
    }

    /// Without a fence the lock is let go as long as it is mine, with time left or not: that transaction is guarded.
    fn lets_go_unfenced(&self) -> bool {
        let term = self.cluster.map(|it| it.term);
        let mine = matches!(self.view.lock, Lock::Held { term: mine, .. } if Some(mine) == term);
        *self.action == Action::Release && self.view.fence.trouble.is_some() && mine && !self.another_leads
    }

    fn makes_a_primary(&self) -> bool {
        let start = matches!(self.action, Action::Start(StartAs::Primary { .. }));
        start || matches!(self.action, Action::Bootstrap | Action::Acquire(_) | Action::Promote { .. })
    }

    /// A switchover is asked for, under way, or has brought the leader its lock.
    fn switches_over(&self) -> bool {
        let Some(cluster) = self.cluster else { return false };
        let asked = cluster.request.as_ref().is_some_and(|request| request.kind == RequestKind::Switchover);
        let stands_ready = cluster.members.get(&self.view.me).is_some_and(|member| member.lock_lease != 0);
        let handed_over = cluster.sync.as_ref().is_some_and(|sync| sync.handover_lsn.is_some());
        asked || stands_ready || handed_over || cluster.heir().is_some()
    }

    /// A leader goes on having its commits acknowledged, or takes its own lock again.
    fn keeps_writes_going(&self) -> bool {
        let Server::Primary(primary) = &self.postgres.server else { return false };
        let reigns = self.leads && self.cluster.is_some_and(|it| primary.marked_term >= it.term);
        let durably =
            matches!(self.action, Action::RecordSync { .. } | Action::ApplySync(_) | Action::ProveSync { .. });
        (reigns && durably) || matches!(self.action, Action::Resume { .. })
    }

    /// Another has led last, its agent is away and its Postgres answers, and no voter was promised anything; nor has an operator spoken.
    fn is_unfenced_elsewhere(&self) -> bool {
        let Some(cluster) = self.cluster.filter(|it| it.leader.is_none()) else { return false };
        let of = |sync: &SyncRecord| sync.mode == Mode::Async && !sync.released && sync.leader != self.view.me;
        let away = cluster.sync.as_ref().is_some_and(|sync| of(sync) && !cluster.members.contains_key(&sync.leader));
        let asked = cluster.request.as_ref().is_some_and(|request| request.accept_data_loss);
        away && !asked && self.view.hearing.postgres == Sound::Fine
    }

    /// Whether the live standbys could take over without loss.
    fn proven(&self) -> bool {
        let Some((cluster, sync)) = self.cluster.and_then(|cluster| Some((cluster, cluster.sync.as_ref()?))) else {
            return false;
        };
        let mut others = cluster.eligible();
        others.remove(&self.view.me);
        sync.mode != crate::settings::Mode::Async && crate::durability::proven(&sync.policies, &others)
    }

    fn may_claim(&self, claim: &crate::action::Claim) -> bool {
        let leader = self.cluster.map(|it| &it.leader);
        leader.is_some_and(|leader| claim.depose == *leader) && !matches!(self.postgres.server, Server::Hung { .. })
    }

    fn must_stop(&self) -> bool {
        let primary = matches!(self.postgres.server, Server::Primary(_));
        primary && self.another_leads && !self.foreign && !self.view.settings.paused && self.view.job.is_none()
    }
}

/// The first rule that this decision breaks.
fn broken(view: &View, decision: &Decision) -> Option<&'static str> {
    let action = &decision.action;
    let facts = Facts::of(view, action);
    let idle = matches!(action, Action::Wait);
    let gentle = idle || matches!(action, Action::Cancel);
    let stops = matches!(action, Action::Stop(_));
    let starts = matches!(action, Action::Start(_));
    let copies = matches!(action, Action::Clone { .. } | Action::Rewind { .. });
    let bootstraps = *action == Action::Bootstrap;
    let releases = *action == Action::Release;
    let gives_up = *action == Action::Abdicate;
    let claims = matches!(action, Action::Acquire(_) | Action::Pledge { .. });
    let takes = releases || gives_up || claims;
    let goes_on = facts.switches_over() || facts.keeps_writes_going();
    let half_made = matches!(facts.postgres.data, Data::HalfMade { .. } | Data::Unreadable { .. });
    let has_data = matches!(facts.postgres.data, Data::Present(_) | Data::Unreadable { .. });
    let in_recovery = matches!(facts.postgres.server, Server::Standby(_));
    let bad_claim = matches!(action, Action::Acquire(claim) if !facts.may_claim(claim));
    let rules = [
        (
            "leading needs the lock of the present term, with time left",
            facts.needs_the_lock() && !facts.leads && !facts.lets_go_unfenced(),
        ),
        ("nothing makes a primary without a fence", view.fence.trouble.is_some() && facts.makes_a_primary()),
        ("a primary beside another leader is stopped", facts.must_stop() && !stops),
        ("what is half made is never started", half_made && starts),
        ("a foreign system is never touched", facts.foreign && !idle && (facts.alive || !releases)),
        ("nobody takes a lock that is held, but from whom it deposes", bad_claim),
        ("paused means no action but for a switchover and for writes", view.settings.paused && !idle && !goes_on),
        (
            "without proof nobody leads beside a Postgres that nothing has fenced",
            facts.is_unfenced_elsewhere() && claims,
        ),
        ("a pause stops, takes and copies nothing", view.settings.paused && (stops || copies || bootstraps || takes)),
        ("every decision has a sentence", decision.reason.to_string().is_empty()),
        ("the lock is let go only when no write can follow", releases && facts.alive && !in_recovery),
        ("a primary is given up only where others can prove that they have everything", gives_up && !facts.proven()),
        ("without etcd a server is stopped or left", facts.cluster.is_none() && !gentle && !stops),
        ("what runs is not copied over or started again", facts.alive && (starts || copies || bootstraps)),
        ("one job at a time", view.job.is_some() && !gentle),
        ("data is replaced from a leader only", copies && !facts.another_leads),
        ("a database is never created over another", bootstraps && has_data),
    ];
    rules.into_iter().find(|(_, broken)| *broken).map(|(rule, _)| rule)
}

#[test]
fn no_view_breaks_a_rule() {
    let mut seen = 0;
    every_view(|view, decision| {
        seen += 1;
        if let Some(rule) = broken(view, decision) {
            panic!("{rule}: {decision:?}\n{view:#?}");
        }
    });
    assert!(seen > 100_000, "only {seen} views");
}

#[test]
fn a_decision_is_a_function_of_its_view_and_survives_the_journal() {
    for (at, view) in clusters().into_iter().map(|cluster| view("pg1").within(cluster)).enumerate() {
        let json = serde_json::to_string(&view).expect("a view is a value");
        let read: View = serde_json::from_str(&json).expect("and reads back");
        assert_eq!(decide(&read), decide(&view), "cluster {at}");
        let decision = serde_json::to_string(&decide(&view)).expect("a decision is a value");
        assert_eq!(serde_json::from_str::<Decision>(&decision).expect("and reads back"), decide(&view));
    }
}
