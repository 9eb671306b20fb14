//! Two sites of one node each, walked through everything that operators and crashes do to them, in every order up to a depth: the real rules
//! decide, the rest is a model small enough to be seen through. WAL is a list of entries, a position its length.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::builders::*;
use crate::action::{Action, StartAs};
use crate::decide;
use crate::durability::Quorum;
use crate::names::{Lsn, Term, Timeline};
use crate::settings::{Mode, Settings};
use crate::site::{Promotion, Remote, RemoteSeen, Site, Token};
use crate::view::*;

/// What a record of WAL is, and on which timeline it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Write(u32, u8),
    Marker(u32, u64),
    Checkpoint(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Runs {
    Primary,
    Following,
    Alone,
    /// Shut down cleanly as a primary, or not.
    Stopped(bool),
    /// Stopped, with `standby.signal`.
    Down,
}

/// One site: its node, and what its etcd says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Half {
    runs: Runs,
    wal: Vec<Entry>,
    timeline: u32,
    end_known: bool,
    term: u64,
    follows: bool,
    policies: Vec<Quorum>,
    recorded: u32,
    is_to_follow: bool,
    /// The word that it is to lead, and the position it must be behind.
    promote: Option<Option<(u32, u64)>>,
    token: Option<(u32, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    sites: [Half; 2],
    acknowledged: BTreeSet<u8>,
    crashes: u8,
    switches: u8,
    /// Somebody promoted a site without a token: what the other one had may be lost.
    gambled: bool,
}

const WRITES: u8 = 2;
const CRASHES: u8 = 1;

fn begin() -> World {
    let leads = Half {
        runs: Runs::Primary,
        wal: vec![Entry::Marker(1, 5)],
        timeline: 1,
        end_known: false,
        term: 5,
        follows: false,
        policies: vec![Quorum::none()],
        recorded: 1,
        is_to_follow: false,
        promote: None,
        token: None,
    };
    let follows = Half { runs: Runs::Following, term: 1, follows: true, is_to_follow: true, ..leads.clone() };
    World { sites: [leads, follows], acknowledged: BTreeSet::new(), crashes: 0, switches: 0, gambled: false }
}

fn timeline_of(entry: &Entry) -> u32 {
    match entry {
        Entry::Write(timeline, _) | Entry::Marker(timeline, _) | Entry::Checkpoint(timeline) => *timeline,
    }
}

impl Half {
    fn marked(&self) -> u64 {
        let terms =
            self.wal.iter().filter_map(|entry| if let Entry::Marker(_, term) = entry { Some(*term) } else { None });
        terms.max().unwrap_or_default()
    }

    fn end(&self) -> u64 {
        u64::try_from(self.wal.len()).expect("small")
    }

    /// It may acknowledge a write at this moment.
    fn takes_writes(&self) -> bool {
        self.runs == Runs::Primary && self.marked() == self.term
    }

    fn history(&self) -> Vec<(Timeline, Lsn)> {
        let mut ends = BTreeMap::new();
        for (at, entry) in (1..).zip(&self.wal) {
            ends.insert(timeline_of(entry), at);
        }
        let past = ends.into_iter().filter(|(timeline, _)| *timeline < self.timeline);
        past.map(|(timeline, end)| (Timeline(timeline), Lsn(end))).collect()
    }

    fn runs(&self) -> bool {
        !matches!(self.runs, Runs::Stopped(_) | Runs::Down)
    }

    fn cluster(&self) -> Cluster {
        let token = |(timeline, lsn): (u32, u64)| {
            let (timeline, lsn) = (Timeline(timeline), Lsn(lsn));
            Token { system_id: SYSTEM, timeline, lsn }
        };
        let site = Site {
            remote: self.is_to_follow.then(remote),
            promote: self.promote.map(|after| Promotion { after: after.map(token) }),
        };
        let role = match self.runs {
            Runs::Primary => MemberRole::Primary,
            Runs::Following | Runs::Alone => MemberRole::Standby,
            Runs::Stopped(_) | Runs::Down => MemberRole::Down,
        };
        let me = Member { timeline: Some(Timeline(self.timeline)), ..member(role) };
        let record = SyncRecord {
            leader: name("pg1"),
            term: Term(self.term),
            mode: Mode::Async,
            policies: self.policies.clone(),
            timeline: Timeline(self.recorded),
            released: false,
            reclaimed: false,
            handover_lsn: None,
            heir: None,
            follows: self.follows,
        };
        Cluster {
            initialize: Initialize::Done(SYSTEM),
            leader: Some(name("pg1")),
            term: Term(self.term),
            members: [(name("pg1"), me)].into(),
            sync: Some(record),
            site,
            ..Cluster::default()
        }
    }

    fn disk(&self) -> OnDisk {
        let state = match self.runs {
            Runs::Stopped(true) => ControlState::ShutDown,
            Runs::Stopped(false) | Runs::Primary => ControlState::InProduction,
            Runs::Following | Runs::Alone | Runs::Down => ControlState::InArchiveRecovery,
        };
        OnDisk {
            state,
            timeline: Timeline(self.timeline),
            checkpoint: Lsn(self.end().saturating_sub(1)),
            redo: Lsn(0),
            standby_signal: matches!(self.runs, Runs::Following | Runs::Alone | Runs::Down),
            end_of_wal: self.end_known.then(|| Lsn(self.end())),
            ..disk()
        }
    }

    fn server(&self, streams: bool) -> Server {
        let (timeline, end) = (Timeline(self.timeline), Lsn(self.end()));
        match self.runs {
            Runs::Primary => Server::Primary(Primary {
                timeline,
                flushed: end,
                marked_term: Term(self.marked()),
                control_timeline: timeline,
                waits_for: Some((Quorum::none(), Term(self.term))),
                standbys: Vec::new(),
            }),
            Runs::Following | Runs::Alone => Server::Standby(Standby {
                timeline,
                received: end,
                replayed: end,
                replay_done: true,
                wal_term: Term(self.marked()),
                follows: (self.runs == Runs::Following).then(|| remote().upstream()),
                receiver_running: self.runs == Runs::Following,
                streaming: self.runs == Runs::Following && streams,
            }),
            Runs::Stopped(_) | Runs::Down => Server::Stopped,
        }
    }
}

fn remote() -> Remote {
    Remote::parse("other", 5432).expect("good")
}

impl World {
    fn view(&self, at: usize) -> View {
        let (here, there) = (&self.sites[at], &self.sites[1 - at]);
        let seen = there.runs().then(|| RemoteSeen {
            system_id: SYSTEM,
            timeline: (there.runs == Runs::Primary).then_some(Timeline(there.timeline)),
            history: there.history(),
            rewind_source_ready: true,
        });
        let view = view("pg1").within(here.cluster()).on_disk(Data::Present(here.disk()));
        let view = view.runs(here.server(self.streams(at)));
        let (signs, settings) = (Signs { remote: seen, ..Signs::default() }, Settings::default());
        View { lock: Lock::Held { term: Term(here.term), left: secs(4) }, signs, settings, ..view }
    }

    /// The other site has what comes next here, or will have it: this one has nothing else.
    fn streams(&self, at: usize) -> bool {
        let (here, there) = (&self.sites[at], &self.sites[1 - at]);
        there.runs() && there.wal.starts_with(&here.wal)
    }

    /// Everything that may happen next.
    fn next(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        for at in [0, 1] {
            worlds.extend(self.decided(at));
            let here = &self.sites[at];
            let there = &self.sites[1 - at];
            let mut with = |change: &dyn Fn(&mut World)| {
                let mut world = self.clone();
                change(&mut world);
                worlds.push(world);
            };
            let id = u8::try_from(self.acknowledged.len()).expect("small");
            if here.takes_writes() && id < WRITES {
                with(&|world| {
                    let timeline = world.sites[at].timeline;
                    world.sites[at].wal.push(Entry::Write(timeline, id));
                    world.acknowledged.insert(id);
                });
            }
            if here.runs == Runs::Following && self.streams(at) && there.wal.len() > here.wal.len() {
                let next = there.wal[here.wal.len()];
                with(&|world| {
                    world.sites[at].wal.push(next);
                    world.sites[at].timeline = timeline_of(&next);
                    world.sites[at].end_known = false;
                });
            }
            if self.crashes < CRASHES && here.runs() {
                with(&|world| {
                    let primary = world.sites[at].runs == Runs::Primary;
                    world.sites[at].runs = if primary { Runs::Stopped(false) } else { Runs::Down };
                    world.crashes += 1;
                });
            }
            // Operators: one site follows, and the other leads with the token that the first has left.
            if !here.follows && !here.is_to_follow && self.switches < 2 {
                with(&|world| {
                    (world.sites[at].is_to_follow, world.sites[at].promote, world.sites[at].token) = (true, None, None);
                    world.switches += 1;
                });
            }
            if let Some(token) = there.token.filter(|_| there.follows && here.follows && here.promote.is_none()) {
                with(&|world| world.sites[at].promote = Some(Some(token)));
            }
            if !here.follows && here.promote.is_some() {
                with(&|world| (world.sites[at].is_to_follow, world.sites[at].promote) = (false, None));
            }
            if here.follows && here.promote.is_none() && !self.gambled && self.switches == 0 {
                with(&|world| {
                    world.sites[at].promote = Some(None);
                    world.gambled = true;
                });
            }
        }
        worlds
    }

    /// What the site does by itself; where it may die on the way, both ends.
    fn decided(&self, at: usize) -> Vec<World> {
        let mut world = self.clone();
        let other = self.sites[1 - at].clone();
        let view = self.view(at);
        let here = &mut world.sites[at];
        match decide(&view).action {
            Action::Wait => return Vec::new(),
            Action::Follow(to) => {
                assert!(to.is_another_site(), "{view:#?}");
                here.runs = Runs::Following;
            }
            Action::LeaveRemote => here.runs = Runs::Alone,
            Action::Acquire(claim) => {
                assert!(claim.term.0 > here.term.max(here.marked()), "{view:#?}");
                (here.term, here.policies, here.recorded) = (claim.term.0, claim.policies, claim.timeline.0);
                here.follows = claim.follows;
            }
            Action::Promote { timeline, .. } => {
                assert!(!other.wal.iter().any(|entry| timeline_of(entry) == timeline.0), "a number twice: {view:#?}");
                (here.runs, here.timeline, here.end_known) = (Runs::Primary, timeline.0, false);
            }
            Action::Mark { term } => here.wal.push(Entry::Marker(here.timeline, term.0)),
            Action::RecordSync { policies, .. } => here.policies = policies,
            Action::ApplySync(_) => {}
            Action::ProveSync { quorum, .. } => here.policies = vec![quorum],
            Action::Start(StartAs::Primary { .. }) => here.runs = Runs::Primary,
            Action::Start(StartAs::Standby(to)) => {
                here.runs = if to.is_some() { Runs::Following } else { Runs::Alone };
            }
            Action::Stop(_) => here.runs = if here.runs == Runs::Primary { Runs::Stopped(false) } else { Runs::Down },
            Action::FindEndOfWal => here.end_known = true,
            Action::Rewind { .. } => {
                let shared = here.wal.iter().zip(&other.wal).take_while(|(one, two)| one == two).count();
                here.wal.truncate(shared);
                here.timeline = here.wal.last().map_or(1, timeline_of);
                (here.runs, here.end_known) = (Runs::Down, false);
            }
            Action::DemoteSite { .. } => {
                here.wal.push(Entry::Checkpoint(here.timeline));
                here.runs = Runs::Stopped(true);
                let cut_off = World { crashes: self.crashes + 1, ..world.clone() };
                let here = &mut world.sites[at];
                here.token = Some((here.timeline, here.end() - 1));
                (here.follows, here.policies) = (true, vec![Quorum::none()]);
                let not_started = World { crashes: self.crashes + 1, ..world.clone() };
                world.sites[at].runs = Runs::Following;
                return if self.crashes < CRASHES { vec![world, not_started, cut_off] } else { vec![world] };
            }
            other => panic!("{other:?} in {view:#?}"),
        }
        vec![world]
    }

    /// What must hold in every world.
    fn check(&self) {
        let [one, two] = &self.sites;
        for site in &self.sites {
            assert!(!site.follows || site.runs != Runs::Primary, "a primary where another site is followed: {self:#?}");
        }
        if self.gambled {
            return;
        }
        assert!(!(one.takes_writes() && two.takes_writes()), "two sites take writes: {self:#?}");
        for site in self.sites.iter().filter(|site| site.takes_writes()) {
            let has = |id: &u8| site.wal.iter().any(|entry| matches!(entry, Entry::Write(_, it) if it == id));
            assert!(self.acknowledged.iter().all(has), "an acknowledged write is missing: {self:#?}");
        }
    }
}

#[test]
fn two_sites_never_take_writes_at_once_and_a_switch_with_its_token_loses_none() {
    let (mut seen, mut queue) = (BTreeSet::new(), VecDeque::from([begin()]));
    let (mut there, mut back, mut rewound) = (0, 0, 0);
    while let Some(world) = queue.pop_front() {
        if !seen.insert(world.clone()) {
            continue;
        }
        assert!(seen.len() < 200_000, "the world is larger than it should be");
        world.check();
        there += usize::from(world.sites[1].takes_writes() && world.sites[0].follows);
        back += usize::from(world.sites[0].takes_writes() && world.sites[0].timeline > 1);
        rewound += usize::from(world.gambled && world.sites[0].follows && world.sites[0].timeline > 1);
        queue.extend(world.next());
    }
    assert!(there > 0 && back > 0 && rewound > 0, "{there} {back} {rewound} of {}", seen.len());
}
