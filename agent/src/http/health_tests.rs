//! Each path against pictures in which one thing is not as it should be: the condition that is told is the one that fails, and the answer is 200
//! exactly where none is told.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use consensus::BootInstant;
use decision::Decision;
use decision::action::Action;
use decision::durability::Quorum;
use decision::names::{Lsn, MemberName, Term, Timeline};
use decision::reason::Reason;
use decision::settings::{Mode, Settings};
use decision::view::*;

use super::*;
use crate::operate::testing::{name, standby as registered};

const TERM: Term = Term(7);
const HERE: Lsn = Lsn(100 << 20);

fn quorum(k: u32, voters: &[&str]) -> Quorum {
    Quorum::of(k, voters.iter().map(|text| name(text)).collect())
}

/// pg1 leads term 7; commits wait for one of pg2 and pg3.
fn cluster() -> Cluster {
    Cluster {
        leader: Some(name("pg1")),
        term: TERM,
        members: ["pg1", "pg2", "pg3"].map(|member| (name(member), registered(member))).into(),
        sync: Some(SyncRecord::of_reign(
            name("pg1"),
            TERM,
            Mode::Quorum,
            vec![quorum(1, &["pg2", "pg3"])],
            Timeline(1),
        )),
        leader_lsn: Some(HERE),
        ..Cluster::default()
    }
}

fn picture(me: &str, server: Server, lock: Lock) -> Picture {
    let me: MemberName = name(me);
    let now = BootInstant::now();
    Picture {
        cluster_name: "demo".to_owned(),
        view: View {
            me,
            cluster: Seen::Now(cluster()),
            postgres: Seen::Now(Postgres { data: Data::Empty, server }),
            lock,
            job: None,
            ages: Ages::default(),
            hearing: Hearing::default(),
            fence: Fence::default(),
            signs: Signs::default(),
            promise: None,
            pledged: None,
            reliance: None,
            settings: Settings::default(),
        },
        decision: Decision { action: Action::Wait, reason: Reason::NotOurs {}, standings: Vec::new() },
        reason_since: now,
        snapshot: None,
        extras: None,
        exposed: None,
        overruled: Vec::new(),
        not_listening: None,
        missing: None,
        failed: None,
        refused: Vec::new(),
        parameters: Arc::default(),
        acknowledged_at: None,
        access: Arc::default(),
        certificates: Arc::default(),
        slots: Arc::default(),
        copying: None,
        proof_pending: false,
        watchdog: None,
        lock_until: matches!(lock, Lock::Held { .. }).then(|| now + Duration::from_secs(60)),
        made_at: now,
        etcd_seen_at: Some(now),
        renewed_at: Some(now),
        etcd_seen_epoch_s: 0,
    }
}

/// The leader, which writes.
fn leader() -> Picture {
    let primary = Primary {
        timeline: Timeline(1),
        flushed: HERE,
        marked_term: TERM,
        control_timeline: Timeline(1),
        waits_for: None,
        standbys: Vec::new(),
    };
    picture("pg1", Server::Primary(primary), Lock::Held { term: TERM, left: Duration::from_secs(60) })
}

fn of_standby(change: impl FnOnce(&mut Standby)) -> Picture {
    let mut standby = Standby {
        timeline: Timeline(1),
        received: HERE,
        replayed: HERE,
        replay_done: true,
        wal_term: TERM,
        follows: None,
        receiver_running: true,
        streaming: true,
    };
    change(&mut standby);
    picture("pg2", Server::Standby(standby), Lock::NotHeld)
}

/// A voter that streams and has everything.
fn standby() -> Picture {
    of_standby(|_| {})
}

fn with(mut picture: Picture, change: impl FnOnce(&mut Picture)) -> Picture {
    change(&mut picture);
    picture
}

fn in_cluster(picture: Picture, change: impl FnOnce(&mut Cluster)) -> Picture {
    with(picture, |picture| {
        let Seen::Now(cluster) = &mut picture.view.cluster else { panic!("it is seen") };
        change(cluster);
    })
}

fn old(picture: Picture, age: Duration) -> Picture {
    with(picture, |picture| picture.made_at = picture.made_at.minus(age))
}

fn tagged(change: impl FnOnce(&mut decision::settings::Tags)) -> Picture {
    in_cluster(standby(), |cluster| change(&mut cluster.members.get_mut(&name("pg2")).unwrap().tags))
}

fn waits_for(policies: Vec<Quorum>) -> Picture {
    in_cluster(standby(), |cluster| cluster.sync.as_mut().unwrap().policies = policies)
}

/// The code that is told of `path`; `ok` where none is.
fn code(picture: &Picture, path: &str) -> &'static str {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let judged = judge(picture, path, &Query::parse(query));
    assert_eq!(healthy(picture, path, &Query::parse(query)), judged.is_ok());
    judged.map_or_else(|why| why.code(), |()| "ok")
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn of_a_path_for_writes_the_condition_that_fails_is_told() {
    let site = |picture| in_cluster(picture, |cluster| cluster.sync.as_mut().unwrap().follows = true);
    let ttl = Settings::default().timing.ttl;
    let stopped = || picture("pg1", Server::Stopped, Lock::Held { term: TERM, left: SECOND });
    for (what, picture, primary, leads) in [
        ("well", leader(), "ok", "ok"),
        ("a standby", standby(), "no_lock", "no_lock"),
        ("nobody leads", in_cluster(standby(), |cluster| cluster.leader = None), "no_lock", "no_lock"),
        ("its lease is over", with(leader(), |picture| picture.lock_until = None), "lease_over", "lease_over"),
        (
            "lost with its claim",
            with(leader(), |picture| picture.view.lock = Lock::NotHeld),
            "lease_over",
            "lease_over",
        ),
        ("it hangs", old(leader(), ttl), "stale", "stale"),
        ("its Postgres is down", stopped(), "not_primary", "ok"),
        ("its site follows", site(leader()), "site_follows", "ok"),
        ("it awaits proof", with(leader(), |picture| picture.proof_pending = true), "unproven", "ok"),
        (
            "it does not listen",
            with(leader(), |picture| picture.not_listening = Some("pg1:5432".into())),
            "not_listening",
            "ok",
        ),
        ("cut off", with(leader(), |picture| picture.etcd_seen_at = None), "cut_off", "ok"),
        ("a pause harms nobody", with(leader(), |picture| picture.view.settings.paused = true), "ok", "ok"),
    ] {
        for path in ["/", "/primary", "/master", "/read-write"] {
            assert_eq!(code(&picture, path), primary, "{what}: {path}");
        }
        assert_eq!(code(&picture, "/leader"), leads, "{what}: /leader");
    }
}

#[test]
fn of_a_path_for_reads_the_condition_that_fails_is_told() {
    let behind = || of_standby(|standby| standby.replayed = Lsn(HERE.0 - (18 << 20)));
    let silent = || of_standby(|standby| standby.streaming = false);
    let ttl = Settings::default().timing.ttl;
    for (what, picture, path, expected) in [
        ("well", standby(), "/replica", "ok"),
        ("the leader", leader(), "/replica", "not_standby"),
        ("the leader", leader(), "/read-only", "ok"),
        ("the leader without proof", with(leader(), |one| one.proof_pending = true), "/read-only", "unproven"),
        ("it hangs", old(standby(), ttl), "/replica", "stale"),
        ("stopped", picture("pg2", Server::Stopped, Lock::NotHeld), "/replica", "not_standby"),
        ("stopped", picture("pg2", Server::Stopped, Lock::NotHeld), "/read-only", "no_lock"),
        ("excused", tagged(|tags| tags.noloadbalance = true), "/replica", "noloadbalance"),
        ("behind", behind(), "/replica?lag=16MB", "lag"),
        ("behind", behind(), "/read-only?lag=16MB", "lag"),
        ("behind, and near enough", behind(), "/replica?lag=20MB", "ok"),
        (
            "behind a leader that is not known",
            in_cluster(behind(), |one| one.leader_lsn = None),
            "/replica?lag=1MB",
            "ok",
        ),
        ("from the archive", silent(), "/replica", "ok"),
        ("from the archive", silent(), "/replica?replication_state=streaming", "replication_state"),
        ("of another tag", standby(), "/replica?tag_nosync=true", "tag"),
        ("of the tag", tagged(|tags| tags.nosync = true), "/replica?tag_nosync=true", "ok"),
        ("of a tag that is none", standby(), "/replica?tag_colour=red", "tag"),
        ("the leader of another tag", leader(), "/read-only?tag_nosync=true", "tag"),
        ("one of several voters", standby(), "/quorum", "ok"),
        ("one of several voters", standby(), "/read-only-quorum", "ok"),
        ("one of several voters", standby(), "/sync", "sync_kind"),
        ("one of several voters", standby(), "/async", "sync_kind"),
        ("the only voter", waits_for(vec![quorum(1, &["pg2"])]), "/sync", "ok"),
        ("the only voter", waits_for(vec![quorum(1, &["pg2"])]), "/synchronous", "ok"),
        ("the only voter", waits_for(vec![quorum(1, &["pg2"])]), "/quorum", "sync_kind"),
        ("no voter", waits_for(vec![quorum(1, &["pg3"])]), "/asynchronous", "ok"),
        ("no voter", waits_for(vec![quorum(1, &["pg3"])]), "/read-only-sync", "sync_kind"),
        ("the leader", leader(), "/read-only-sync", "ok"),
        ("the leader", leader(), "/sync", "not_standby"),
    ] {
        assert_eq!(code(&picture, path), expected, "{what}: {path}");
    }
}

#[test]
fn of_the_other_paths_the_condition_that_fails_is_told() {
    let ttl = Settings::default().timing.ttl;
    let follower = || {
        let lock = Lock::Held { term: TERM, left: SECOND };
        let Seen::Now(Postgres { server, .. }) = standby().view.postgres else { panic!("it is seen") };
        in_cluster(picture("pg1", server, lock), |cluster| cluster.sync.as_mut().unwrap().follows = true)
    };
    let far = || of_standby(|standby| standby.received = Lsn(HERE.0 - (9 << 20)));
    for (what, picture, path, expected) in [
        ("runs", leader(), "/health", "ok"),
        ("stopped", picture("pg2", Server::Stopped, Lock::NotHeld), "/health", "not_running"),
        ("of another tag", standby(), "/health?tag_nosync=true", "tag"),
        ("it hangs", old(standby(), ttl), "/health", "stale"),
        ("it hangs a little", old(standby(), ttl), "/liveness", "ok"),
        ("it hangs", old(standby(), ttl * 2), "/liveness", "stuck"),
        ("leads", leader(), "/readiness", "ok"),
        ("streams", standby(), "/readiness", "ok"),
        ("does not", of_standby(|standby| standby.streaming = false), "/readiness", "not_streaming"),
        ("stopped", picture("pg2", Server::Stopped, Lock::NotHeld), "/readiness", "not_standby"),
        ("has not received", far(), "/readiness?mode=write", "lag"),
        ("has not received", far(), "/readiness?mode=write&lag=10MB", "ok"),
        ("leads a site that follows", follower(), "/standby-leader", "ok"),
        ("leads a site that follows", follower(), "/standby_leader", "ok"),
        ("leads a site that follows", follower(), "/replica", "leads_site"),
        ("leads a site that follows", follower(), "/read-only", "ok"),
        ("leads a site that follows", follower(), "/primary", "site_follows"),
        ("leads", leader(), "/standby-leader", "not_site_leader"),
        ("whatever it is", leader(), "/nowhere", "no_such_path"),
    ] {
        assert_eq!(code(&picture, path), expected, "{what}: {path}");
    }
}

#[test]
fn every_path_has_an_answer_of_its_own() {
    for path in PATHS {
        assert_ne!(code(&leader(), path), "no_such_path", "{path}");
    }
}

#[test]
fn the_sentence_has_the_numbers() {
    let sentence = |picture: &Picture, path: &str, query: &str| {
        told(path, &judge(picture, path, &Query::parse(query)))["sentence"].as_str().unwrap_or_default().to_owned()
    };
    let behind = of_standby(|standby| standby.replayed = Lsn(HERE.0 - (18 << 20)));
    assert_eq!(
        sentence(&behind, "/replica", "lag=16MB"),
        "it has 18.0 MB of WAL left to replay, and the limit is 16.0 MB"
    );
    assert_eq!(sentence(&standby(), "/primary", ""), "pg1 holds the leader lock, not this node");
    let down = with(picture("pg2", Server::Stopped, Lock::NotHeld), |picture| picture.view.settings.paused = true);
    assert_eq!(
        sentence(&down, "/replica", ""),
        "it is no standby that serves reads: its Postgres is stopped, and automatic actions are paused"
    );
    assert_eq!(sentence(&leader(), "/replica", ""), "it is no standby that serves reads: its Postgres runs as primary");
    assert_eq!(sentence(&standby(), "/replica", "tag_nosync=true"), "its tag nosync is false, and true is asked for");
    assert_eq!(told("/primary", &Ok(())), json!({"path": "/primary", "status": 200, "code": null, "sentence": null}));
}
