//! What an agent sees: its Postgres as the real agent would observe it, and the one view that a decision is made from.

use decision::cascade::upstream_is_good;
use decision::names::Term;
use decision::view::{
    Data, Lock, Member, MemberRole, OnDisk, Postgres as SeenPostgres, Primary, Seen, Server, Signs, Standby, Streaming,
    Upstream, View,
};

use crate::leases::Lease;
use crate::postgres::{Directory, Postgres, Process};
use crate::time::{Micros, SECOND, duration, micros};
use crate::wal::lsn;
use crate::world::{At, World};

/// The identity of the one cluster there is.
pub const SYSTEM: decision::names::SystemId = decision::names::SystemId(42);

impl World {
    /// Looks at a server that answers, or is known not to.
    pub fn observe(&self, at: At) -> SeenPostgres {
        SeenPostgres { data: self.data(at), server: self.server(at) }
    }

    fn data(&self, at: At) -> Data {
        let postgres = &self.nodes[at].postgres;
        match postgres.directory {
            Directory::Empty => Data::Empty,
            Directory::Half(by) => Data::HalfMade { by: by.to_owned() },
            Directory::Whole => Data::Present(self.on_disk(at, postgres)),
        }
    }

    fn on_disk(&self, at: At, postgres: &Postgres) -> OnDisk {
        let control = postgres.control;
        // Where a server runs its files are not listed.
        let in_files = self.timeline_of(at).max(postgres.begun.unwrap_or_default());
        let runs = postgres.has_postmaster();
        let known = self.nodes[at].agent.end_of_wal_of == Some(postgres.server);
        let timeline = if runs { control.timeline } else { in_files.max(control.timeline) };
        let of_this_one = timeline == self.timeline_of(at);
        let forked = self.archive.last_fork(&postgres.wal).filter(|_| of_this_one);
        OnDisk {
            system_id: SYSTEM,
            state: control.state,
            timeline,
            checkpoint: lsn(control.checkpoint.saturating_sub(1)),
            redo: lsn(control.checkpoint.saturating_sub(1)),
            standby_signal: postgres.signal,
            from_backup: false,
            forked: forked.map(|(parent, at)| (parent, lsn(at))),
            end_of_wal: known.then_some(lsn(postgres.wal.len())),
        }
    }

    fn server(&self, at: At) -> Server {
        let postgres = &self.nodes[at].postgres;
        if !postgres.has_postmaster() {
            return Server::Stopped;
        }
        let local = self.local(at);
        let age = |since: Micros| duration(local.saturating_sub(since));
        if let Some(since) = self.nodes[at].agent.hung_since {
            return Server::Hung { since: age(since) };
        }
        match postgres.process {
            Process::Down => Server::Stopped,
            Process::Starting { since, .. } => Server::Starting { since: age(since) },
            Process::Stopping { .. } => Server::Stopping,
            Process::Primary => Server::Primary(self.primary(at, postgres)),
            Process::Standby => Server::Standby(self.standby(at, postgres)),
        }
    }

    fn primary(&self, at: At, postgres: &Postgres) -> Primary {
        let row = |(who, sender): (&At, &crate::streaming::Sender)| Streaming {
            member: self.names[*who].clone(),
            term: sender.term,
            caught_up: sender.caught_up,
            flushed: lsn(sender.flushed),
            replayed: lsn(sender.replayed),
        };
        Primary {
            timeline: self.timeline_of(at),
            flushed: lsn(postgres.flushed),
            marked_term: postgres.acknowledged.max(self.nodes[at].agent.acknowledged),
            control_timeline: postgres.control.timeline,
            waits_for: Some(postgres.names.clone()),
            standbys: postgres.senders.iter().map(row).collect(),
        }
    }

    /// The running standby as pledges and decisions see it.
    pub fn standby(&self, at: At, postgres: &Postgres) -> Standby {
        let received = postgres.taken_in.max(postgres.replayed);
        let follows = postgres.follows.map(|(who, term)| self.upstream(who, term));
        let follows_now = postgres.receiver.as_ref();
        Standby {
            timeline: self.timeline_of(at),
            received: lsn(received),
            replayed: lsn(postgres.replayed),
            replay_done: postgres.replayed == received && !postgres.held_up,
            wal_term: self.archive.marker(&postgres.wal[..postgres.replayed.min(postgres.wal.len())]),
            follows,
            receiver_running: follows_now.is_some(),
            streaming: follows_now.is_some(),
        }
    }

    pub fn upstream(&self, who: At, term: Term) -> Upstream {
        Upstream { member: self.names[who].clone(), host: self.names[who].to_string(), port: 5432, term, slot: None }
    }

    /// Until when the lock is certainly this node's: the key names it, under the lease that it keeps alive; or, where nobody holds it as far
    /// as it sees, and nobody has led since, its claim still lasts.
    fn lock(&mut self, at: At) -> Lock {
        let now = self.local(at);
        let picture = self.nodes[at].agent.picture.clone();
        let lease = self.nodes[at].agent.leases[1].id();
        let cluster = picture.as_ref().map(|picture| &picture.cluster);
        let (seen, leader) = cluster.map_or((Term(0), None), |cluster| (cluster.term, cluster.leader.clone()));
        let mine = leader.as_ref() == Some(&self.names[at]);
        let by_key = mine && lease.is_some() && picture.as_ref().map(|picture| picture.leader_lease) == lease;
        if by_key {
            self.bind(at, lease);
        }
        let until = self.authority(at);
        let ground = self.nodes[at].agent.reign.ground.as_ref().map(|ground| ground.term);
        let left = duration(until.saturating_sub(now));
        match ground {
            _ if by_key => Lock::Held { term: seen, left },
            Some(term) if until > now && (seen < term || (seen == term && (leader.is_none() || mine))) => {
                Lock::Held { term, left }
            }
            _ => Lock::NotHeld,
        }
    }

    /// Whether what it knows of etcd is fresh enough to decide from.
    pub fn sees_etcd(&self, at: At) -> bool {
        let timing = self.settings_of_house().timing;
        let fresh = micros(timing.heartbeat) * 2 + micros(timing.request_timeout);
        self.local(at).saturating_sub(self.nodes[at].agent.confirmed_at) <= fresh
    }

    pub fn view(&mut self, at: At) -> View {
        let local = self.local(at);
        let settings = self.settings_at(at);
        let lock = self.lock(at);
        let agent = &self.nodes[at].agent;
        let asking = agent.leases[1].state == Lease::Asking;
        let newly = local.saturating_sub(agent.started) < 3 * micros(settings.timing.request_timeout);
        let age = local.saturating_sub(agent.confirmed_at);
        let cluster = match &agent.picture {
            _ if asking && newly => Seen::Never { tried_for: duration(0) },
            None => Seen::Never { tried_for: duration(age) },
            Some(picture) if self.sees_etcd(at) => Seen::Now(picture.cluster.clone()),
            Some(picture) => Seen::Before { value: picture.cluster.clone(), age: duration(age) },
        };
        let postgres = match &agent.look {
            None => Seen::Never { tried_for: duration(local.saturating_sub(agent.started)) },
            Some((seen, when)) if local.saturating_sub(*when) < SECOND => Seen::Now(seen.clone()),
            Some((seen, when)) => Seen::Before { value: seen.clone(), age: duration(local.saturating_sub(*when)) },
        };
        let server = postgres.last().map(|postgres| &postgres.server);
        let hearing = self.hearing(at);
        let good = cluster.now().and_then(|cluster| upstream_is_good(cluster, &self.names[at], server));
        let ages = &mut self.nodes[at].agent.ages;
        ages.look_at_upstream(good, local);
        let ages = ages.look(cluster.now(), server, lock, local);
        let job = self.job_seen(at);
        let fence = self.fence_seen(at);
        View {
            me: self.names[at].clone(),
            cluster,
            postgres,
            lock,
            job,
            ages,
            hearing,
            signs: Signs { disk: self.disk_seen(at), ..Signs::default() },
            fence,
            promise: self.promise_seen(at),
            pledged: self.pledged_seen(at),
            reliance: self.reliance_seen(at),
            settings,
        }
    }

    /// What this node says about itself in etcd.
    pub fn member_record(&self, at: At) -> Member {
        let node = &self.nodes[at];
        let server = node.agent.look.as_ref().map(|(seen, _)| &seen.server);
        let on_disk = match node.agent.look.as_ref().map(|(seen, _)| &seen.data) {
            Some(Data::Present(disk)) => Some(disk.timeline),
            _ => None,
        };
        let (role, timeline, ready) = match server {
            Some(Server::Primary(primary)) => {
                (MemberRole::Primary, Some(primary.timeline), primary.control_timeline >= primary.timeline)
            }
            Some(Server::Standby(standby)) => (MemberRole::Standby, Some(standby.timeline), true),
            Some(Server::Stopped) => (MemberRole::Down, on_disk, true),
            _ => (MemberRole::Down, None, true),
        };
        let name = self.names[at].to_string();
        Member {
            host: name,
            port: 5432,
            api_url: String::new(),
            role,
            timeline,
            tags: decision::settings::Tags {
                nofailover: node.may_not_lead,
                replicatefrom: self
                    .plan
                    .cascaded
                    .filter(|(who, _)| *who == at)
                    .map(|(_, from)| self.names[from].clone()),
                ..Default::default()
            },
            lock_lease: node.agent.spare_lease,
            rewind_source_ready: ready,
            no_fence: None,
            disk_low: node.disk.low,
            not_listening: None,
            capacities: Default::default(),
            slots: Default::default(),
            zone: None,
            streams_from: server.and_then(Server::as_standby).and_then(Standby::streams_from).cloned(),
        }
    }
}
