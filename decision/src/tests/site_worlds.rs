//! Every view of a site that follows, or is to, over small domains, against the rules that keep two sites from writing at once.

use super::builders::*;
use crate::action::{Action, ClaimKind, StartAs};
use crate::decide;
use crate::names::{Lsn, SystemId, Term, Timeline};
use crate::settings::Mode;
use crate::site::{Promotion, Remote, RemoteSeen, Site, Token};
use crate::view::*;

fn sites() -> Vec<Site> {
    let remote = Remote::parse("east", 5432).ok();
    let words = [
        None,
        Some(Promotion { after: None }),
        Some(Promotion { after: Some(Token { system_id: SYSTEM, timeline: TIMELINE, lsn: Lsn(999) }) }),
        Some(Promotion { after: Some(Token { system_id: SYSTEM, timeline: TIMELINE, lsn: Lsn(1000) }) }),
        Some(Promotion { after: Some(Token { system_id: SystemId(43), timeline: TIMELINE, lsn: Lsn(1) }) }),
    ];
    let with = |remote: &Option<Remote>| {
        words.iter().map(|word| Site { remote: remote.clone(), promote: word.clone() }).collect::<Vec<_>>()
    };
    [with(&None), with(&remote)].concat()
}

fn clusters() -> Vec<Cluster> {
    let led = cluster().asked(RequestKind::Switchover, None, Some("pg2")).member("pg2", |member| member.lock_lease = 5);
    let forced = cluster().vacant().asked(RequestKind::Failover, None, Some("pg1")).ballot("pg1", 4, 1000);
    let kinds = [cluster(), led, cluster().led_by("pg2"), cluster().vacant().ballot("pg1", 4, 1000), forced];
    let follows = |cluster: &Cluster| {
        cluster.clone().mode(Mode::Async).policies(&[any(0, &[])]).record(|sync| sync.follows = true)
    };
    kinds.iter().flat_map(|cluster| [cluster.clone(), follows(cluster)]).collect()
}

fn servers() -> Vec<Server> {
    let remote = Remote::parse("east", 5432).expect("good").upstream();
    let of_remote = Standby { follows: Some(remote), wal_term: Term(90), ..standby() };
    let left = Standby { follows: None, receiver_running: false, streaming: false, ..of_remote.clone() };
    vec![
        Server::Primary(primary()),
        Server::Standby(Standby { replay_done: false, ..left.clone() }),
        Server::Standby(left),
        Server::Standby(of_remote),
        Server::Standby(standby()),
        Server::Stopped,
        Server::Starting { since: secs(20) },
        Server::Hung { since: secs(20) },
    ]
}

fn heard() -> [Option<RemoteSeen>; 4] {
    let primary = RemoteSeen {
        system_id: SYSTEM,
        timeline: Some(Timeline(5)),
        history: vec![(TIMELINE, Lsn(800))],
        rewind_source_ready: true,
    };
    let foreign = RemoteSeen { system_id: SystemId(43), ..primary.clone() };
    [None, Some(RemoteSeen { timeline: None, ..primary.clone() }), Some(primary), Some(foreign)]
}

fn every_view(mut rule: impl FnMut(&View, &Cluster)) {
    let disks = [Data::Empty, Data::Present(disk()), Data::Present(clean_primary()), Data::Present(crashed_primary())];
    for cluster in clusters() {
        for site in sites() {
            let cluster = Cluster { site, ..cluster.clone() };
            for server in servers() {
                for disk in &disks {
                    for remote in heard() {
                        for lock in [Lock::NotHeld, Lock::Held { term: TERM, left: secs(4) }] {
                            let view = view("pg1").within(cluster.clone()).runs(server.clone()).on_disk(disk.clone());
                            let signs = Signs { remote: remote.clone(), ..Signs::default() };
                            let view = View { signs, lock, ..view }.aged(|ages| ages.vacancy = Some(secs(60)));
                            rule(&view, &cluster);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn while_the_record_says_that_a_site_follows_nothing_makes_a_primary() {
    let mut seen = 0;
    every_view(|view, cluster| {
        let action = decide(view).action;
        let makes_one = matches!(
            action,
            Action::Promote { .. }
                | Action::Mark { .. }
                | Action::Resume { .. }
                | Action::Start(StartAs::Primary { .. })
                | Action::Restart { then: StartAs::Primary { .. }, .. }
        );
        assert!(!(cluster.follows() && makes_one), "{action:?} in {view:#?}");
        seen += usize::from(makes_one);
    });
    assert!(seen > 0, "elsewhere something does");
}

#[test]
fn only_the_leaders_claim_at_an_operators_word_ends_the_following() {
    let mut seen = 0;
    every_view(|view, cluster| {
        let Action::Acquire(claim) = decide(view).action else { return };
        if !cluster.follows() || claim.follows {
            return;
        }
        seen += 1;
        let postgres = view.postgres.last().expect("seen");
        let standby = postgres.server.as_standby().expect("a running standby claims");
        let word = cluster.site.promote.as_ref().expect("an operator has said so");
        assert!(word.after.is_none_or(|token| standby.replayed > token.lsn && token.system_id == SYSTEM), "{view:#?}");
        assert!(standby.replay_done && standby.follows.is_none() && !standby.receiver_running, "{view:#?}");
        assert!(claim.kind == ClaimKind::Site && claim.depose == Some(name("pg1")), "{view:#?}");
        assert!(claim.term > standby.wal_term && claim.term > cluster.term, "{view:#?}");
        let theirs = view.signs.remote.as_ref().and_then(|seen| seen.timeline).unwrap_or_default();
        assert!(claim.timeline > theirs.max(standby.timeline), "{view:#?}");
    });
    assert!(seen > 0);
}

#[test]
fn a_primary_is_demoted_by_its_own_leader_alone_and_only_beside_a_site_of_the_same_database() {
    let mut seen = 0;
    every_view(|view, cluster| {
        let Action::DemoteSite { to } = decide(view).action else { return };
        seen += 1;
        assert!(to.is_another_site() && !cluster.follows(), "{view:#?}");
        assert!(cluster.site.promote.is_none() && cluster.site.remote.is_some(), "{view:#?}");
        assert!(view.signs.remote.as_ref().is_some_and(|seen| seen.system_id == SYSTEM), "{view:#?}");
        assert!(matches!(view.lock, Lock::Held { .. }) && cluster.leader == Some(name("pg1")), "{view:#?}");
    });
    assert!(seen > 0);
}

#[test]
fn a_site_that_is_on_record_as_leading_acts_as_ever_until_its_leader_demotes_it() {
    every_view(|view, cluster| {
        if cluster.follows() {
            return;
        }
        let plain = decide(&view.clone().within(Cluster { site: Site::default(), ..cluster.clone() }));
        let decision = decide(view);
        let of_a_site = ["site_unseen", "foreign_site", "demote_site"].contains(&decision.reason.code());
        assert!(decision == plain || (of_a_site && plain.reason.code() == "leading"), "{decision:?} {plain:?}");
    });
}
