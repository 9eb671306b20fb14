//! A healthy cluster of three (`pg1` leads term 7 on timeline 4 and waits for any 1 of `pg2`, `pg3`) and short ways to say what
//! differs from it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::durability::Quorum;
use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
use crate::promise::Promise;
use crate::settings::{Mode, Settings, Tags};
use crate::view::*;
use crate::{Decision, decide};

pub(crate) const SYSTEM: SystemId = SystemId(42);
pub(crate) const TERM: Term = Term(7);
pub(crate) const TIMELINE: Timeline = Timeline(4);

pub(crate) fn name(text: &str) -> MemberName {
    MemberName::new(text).expect("test names are good names")
}

pub(crate) fn names(list: &[&str]) -> BTreeSet<MemberName> {
    list.iter().map(|text| name(text)).collect()
}

pub(crate) fn any(k: u32, voters: &[&str]) -> Quorum {
    Quorum::of(k, names(voters))
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn member(role: MemberRole) -> Member {
    Member {
        host: "10.0.0.1".to_owned(),
        port: 5432,
        api_url: "http://10.0.0.1:8008".to_owned(),
        role,
        timeline: Some(TIMELINE),
        tags: Tags::default(),
        lock_lease: 0,
        rewind_source_ready: role == MemberRole::Primary,
        no_fence: None,
        disk_low: false,
        not_listening: None,
        capacities: Default::default(),
        slots: Default::default(),
        zone: None,
        streams_from: None,
    }
}

/// `pg1` leads; `pg2` and `pg3` are voters.
pub(crate) fn cluster() -> Cluster {
    let roles = [("pg1", MemberRole::Primary), ("pg2", MemberRole::Standby), ("pg3", MemberRole::Standby)];
    Cluster {
        revision: 100,
        initialize: Initialize::Done(SYSTEM),
        leader: Some(name("pg1")),
        term: TERM,
        members: roles.into_iter().map(|(text, role)| (name(text), member(role))).collect(),
        sync: Some(SyncRecord::of_reign(name("pg1"), TERM, Mode::Quorum, vec![any(1, &["pg2", "pg3"])], TIMELINE)),
        history: vec![HistoryEntry { timeline: Timeline(3), ended_at: Lsn(500), new_leader: Some(name("pg1")) }],
        leader_lsn: Some(Lsn(1000)),
        ..Cluster::default()
    }
}

impl Cluster {
    /// `leader` leads, and the record says so.
    pub(crate) fn led_by(mut self, leader: &str) -> Self {
        self.leader = Some(name(leader));
        for (who, member) in &mut self.members {
            member.role = if *who == name(leader) { MemberRole::Primary } else { MemberRole::Standby };
            member.rewind_source_ready = *who == name(leader);
        }
        self.record(|sync| sync.leader = name(leader))
    }

    /// The lock is free; the record still names the last leader.
    pub(crate) fn vacant(mut self) -> Self {
        self.leader = None;
        self
    }

    /// The lock is free, and it was `leader` that led last.
    pub(crate) fn led_before_by(self, leader: &str) -> Self {
        self.led_by(leader).vacant()
    }

    pub(crate) fn record(mut self, change: impl FnOnce(&mut SyncRecord)) -> Self {
        change(self.sync.as_mut().expect("the test cluster has a record"));
        self
    }

    pub(crate) fn policies(self, policies: &[Quorum]) -> Self {
        self.record(|sync| sync.policies = policies.to_vec())
    }

    pub(crate) fn mode(self, mode: Mode) -> Self {
        self.record(|sync| sync.mode = mode)
    }

    /// The leader's member record, and its own timeline, say this timeline.
    pub(crate) fn leader_on(mut self, timeline: u32) -> Self {
        let leader = self.leader.clone().expect("somebody leads");
        self = self.record(|sync| sync.timeline = Timeline(timeline));
        self.member(leader.as_str(), |member| member.timeline = Some(Timeline(timeline)))
    }

    pub(crate) fn member(mut self, who: &str, change: impl FnOnce(&mut Member)) -> Self {
        change(self.members.get_mut(&name(who)).expect("a member of the test cluster"));
        self
    }

    /// Its agent is down: its key is gone.
    pub(crate) fn without(mut self, who: &str) -> Self {
        self.members.remove(&name(who));
        self
    }

    /// A ballot of the present term; its revision is its position.
    pub(crate) fn ballot(mut self, who: &str, timeline: u32, received: u64) -> Self {
        let ballot = Ballot {
            revoked: self.term,
            wal_term: self.term,
            received: Lsn(received),
            timeline: Timeline(timeline),
            late: false,
            revision: i64::try_from(received).expect("small"),
        };
        self.ballots.insert(name(who), ballot);
        self
    }

    pub(crate) fn floor(mut self, who: &str, lsn: u64) -> Self {
        self.floors.insert(name(who), Lsn(lsn));
        self
    }

    pub(crate) fn forked(mut self, timeline: u32, at: u64, new_leader: &str) -> Self {
        let new_leader = Some(name(new_leader));
        self.history.push(HistoryEntry { timeline: Timeline(timeline), ended_at: Lsn(at), new_leader });
        self
    }

    pub(crate) fn asked(mut self, kind: RequestKind, from: Option<&str>, to: Option<&str>) -> Self {
        let accept_data_loss = kind == RequestKind::Failover;
        self.request = Some(Request { kind, from: from.map(name), to: to.map(name), accept_data_loss, revision: 77 });
        self
    }
}

/// What `me` sees: a standby that follows `pg1` and streams (`pg1` itself: the primary that leads).
pub(crate) fn view(me: &str) -> View {
    let server = if me == "pg1" { Server::Primary(primary()) } else { Server::Standby(standby()) };
    let held = Lock::Held { term: TERM, left: secs(4) };
    let mut settings = Settings::default();
    settings.durability.mode = Mode::Quorum;
    View {
        me: name(me),
        cluster: Seen::Now(cluster()),
        postgres: Seen::Now(Postgres { data: Data::Present(disk()), server }),
        lock: if me == "pg1" { held } else { Lock::NotHeld },
        job: None,
        ages: Ages::default(),
        hearing: Hearing::default(),
        fence: Fence::default(),
        signs: Signs::default(),
        promise: None,
        pledged: None,
        reliance: None,
        settings,
    }
}

impl View {
    pub(crate) fn within(mut self, cluster: Cluster) -> Self {
        self.cluster = Seen::Now(cluster);
        self
    }

    pub(crate) fn runs(mut self, server: Server) -> Self {
        self.postgres_mut().server = server;
        self
    }

    pub(crate) fn on_disk(mut self, data: Data) -> Self {
        self.postgres_mut().data = data;
        self
    }

    /// Stopped, with this on disk.
    pub(crate) fn stopped(self, disk: OnDisk) -> Self {
        self.on_disk(Data::Present(disk)).runs(Server::Stopped)
    }

    pub(crate) fn lock(mut self, lock: Lock) -> Self {
        self.lock = lock;
        self
    }

    pub(crate) fn leads(self) -> Self {
        self.lock(Lock::Held { term: TERM, left: secs(4) })
    }

    /// It has promised `pg1` to let it lead the present term.
    pub(crate) fn promised(mut self) -> Self {
        self.promise = Some(Promise { leader: name("pg1"), term: TERM, left: secs(3), upstream: None });
        self
    }

    pub(crate) fn aged(mut self, change: impl FnOnce(&mut Ages)) -> Self {
        change(&mut self.ages);
        self
    }

    pub(crate) fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn job(mut self, action: &str, from: Option<&str>, age: Duration) -> Self {
        self.job = Some(Job { action: action.to_owned(), age, from: from.map(name) });
        self
    }

    fn postgres_mut(&mut self) -> &mut Postgres {
        match &mut self.postgres {
            Seen::Now(postgres) | Seen::Before { value: postgres, .. } => postgres,
            Seen::Never { .. } => panic!("this view has no Postgres"),
        }
    }
}

/// The primary of term 7, with both voters streaming.
pub(crate) fn primary() -> Primary {
    Primary {
        timeline: TIMELINE,
        flushed: Lsn(1000),
        marked_term: TERM,
        control_timeline: TIMELINE,
        waits_for: Some((any(1, &["pg2", "pg3"]), TERM)),
        standbys: vec![streaming("pg2", 1000), streaming("pg3", 1000)],
    }
}

pub(crate) fn streaming(who: &str, lsn: u64) -> Streaming {
    Streaming { member: name(who), term: TERM, caught_up: true, flushed: Lsn(lsn), replayed: Lsn(lsn) }
}

/// A standby that streams from `pg1`.
pub(crate) fn standby() -> Standby {
    Standby {
        timeline: TIMELINE,
        received: Lsn(1000),
        replayed: Lsn(1000),
        replay_done: true,
        wal_term: TERM,
        follows: Some(Upstream {
            member: name("pg1"),
            host: "10.0.0.1".to_owned(),
            port: 5432,
            term: TERM,
            slot: None,
        }),
        receiver_running: true,
        streaming: true,
    }
}

/// A standby that follows nobody and has everything up to `received`.
pub(crate) fn pledged(received: u64) -> Server {
    let received = Lsn(received);
    let rest = Standby { follows: None, receiver_running: false, streaming: false, ..standby() };
    Server::Standby(Standby { received, replayed: received, ..rest })
}

/// A standby's data directory.
pub(crate) fn disk() -> OnDisk {
    OnDisk {
        system_id: SYSTEM,
        state: ControlState::InArchiveRecovery,
        timeline: TIMELINE,
        checkpoint: Lsn(900),
        redo: Lsn(880),
        standby_signal: true,
        from_backup: false,
        forked: None,
        end_of_wal: None,
    }
}

/// The data directory of a primary that died.
pub(crate) fn crashed_primary() -> OnDisk {
    OnDisk { state: ControlState::InProduction, standby_signal: false, ..disk() }
}

/// The data directory of a primary that was shut down.
pub(crate) fn clean_primary() -> OnDisk {
    OnDisk { state: ControlState::ShutDown, ..crashed_primary() }
}

/// `action: reason`, by their codes.
pub(crate) fn verdict(view: &View) -> String {
    let Decision { action, reason, .. } = decide(view);
    format!("{}: {}", action.code(), reason.code())
}

#[track_caller]
pub(crate) fn check(view: &View, expected: &str) {
    assert_eq!(verdict(view), expected, "{:?}", decide(view));
}

/// Checks the sentence that an operator reads.
#[track_caller]
pub(crate) fn says(view: &View, sentence: &str) {
    assert_eq!(decide(view).reason.to_string(), sentence);
}
