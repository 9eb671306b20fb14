//! A site that follows another: its leader streams from there, nobody here is a primary, and only an operator's word makes one. And the way
//! back. `pg1` leads as ever; what differs is said by the record and the settings.

use super::builders::*;
use crate::action::{Action, Claim, ClaimKind, StartAs};
use crate::decide;
use crate::names::{Lsn, SystemId, Term, Timeline};
use crate::settings::Mode;
use crate::site::{Promotion, Remote, RemoteSeen, Site, Token};
use crate::view::*;

fn remote() -> Remote {
    Remote::parse("east1:5433,east2", 5432).expect("good addresses")
}

fn token(timeline: u32, lsn: u64) -> Token {
    Token { system_id: SYSTEM, timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

/// `pg1` leads a site that follows.
fn following() -> Cluster {
    let mut cluster = cluster().policies(&[any(0, &[])]).mode(Mode::Async).record(|sync| sync.follows = true);
    cluster.site.remote = Some(remote());
    cluster.member("pg1", |member| member.role = MemberRole::Standby)
}

fn asked_to_lead(after: Option<Token>) -> Cluster {
    let site = Site { promote: Some(Promotion { after }), ..following().site };
    Cluster { site, ..following() }
}

/// A standby of the other site: its terms are none of ours.
fn of_the_other() -> Standby {
    Standby { follows: Some(remote().upstream()), wal_term: Term(90), ..standby() }
}

fn left() -> Standby {
    Standby { follows: None, receiver_running: false, streaming: false, ..of_the_other() }
}

fn leader(standby: Standby) -> View {
    view("pg1").within(following()).runs(Server::Standby(standby))
}

/// What the other site's primary says: it is on timeline 5, which left ours at 800.
fn says_of_itself() -> RemoteSeen {
    RemoteSeen {
        system_id: SYSTEM,
        timeline: Some(Timeline(5)),
        history: vec![(Timeline(3), Lsn(500)), (Timeline(4), Lsn(800))],
        rewind_source_ready: true,
    }
}

fn hears(view: View, seen: RemoteSeen) -> View {
    View { signs: Signs { remote: Some(seen), ..view.signs.clone() }, ..view }
}

fn claimed(view: &View) -> Claim {
    match decide(view).action {
        Action::Acquire(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_leader_streams_from_the_other_site_and_is_no_primary() {
    check(&leader(of_the_other()), "wait: following_site");
    check(&leader(left()), "follow: follow_site");
    check(&leader(standby()), "follow: follow_site");
    check(&leader(of_the_other()).runs(Server::Primary(primary())), "kill: primary_while_following");
    let starts = view("pg1").within(following()).on_disk(Data::Present(clean_primary()));
    check(&starts.runs(Server::Starting { since: secs(1) }), "kill: primary_while_following");
}

#[test]
fn the_others_follow_the_leader_and_the_terms_of_the_other_site_are_no_news() {
    let cascaded = Standby { wal_term: Term(90), ..standby() };
    check(&view("pg2").within(following()).runs(Server::Standby(cascaded.clone())), "wait: following");
    check(&view("pg2").within(following()).runs(Server::Primary(primary())), "kill: deposed_primary");
    let ordinary = view("pg2").runs(Server::Standby(cascaded));
    check(&ordinary, "wait: etcd_went_back");
}

#[test]
fn another_takes_over_without_proof_and_goes_on_following() {
    let vacant = following().vacant().without("pg1").ballot("pg2", 9, 1000).ballot("pg3", 9, 900);
    let mut vacant = vacant;
    vacant.failsafe = Some(names(&["pg1"]));
    vacant.leader_lsn = Some(Lsn(1 << 40));
    let received = Standby { received: Lsn(1000), timeline: Timeline(9), ..left() };
    let elected =
        view("pg2").within(vacant).runs(Server::Standby(received)).set(|set| set.timing.ballot_window = secs(0));
    check(&elected, "acquire: elected");
    let claim = claimed(&elected);
    assert!(claim.follows && claim.term > TERM && claim.policies == [any(0, &[])] && claim.mode == Mode::Async);
    assert_eq!(claim.timeline, Timeline(9), "nobody is promoted");
    let alone = view("pg1").within(following().vacant()).stopped(disk());
    check(&alone, "start_standby: vacant");
    let woken = view("pg1").within(following().vacant()).runs(Server::Primary(primary()));
    check(&woken, "kill: lock_lost");
}

#[test]
fn a_switchover_within_the_site_moves_the_lock_alone() {
    let asked = following().asked(RequestKind::Switchover, None, None);
    check(&leader(of_the_other()).within(asked.clone()), "wait: awaiting_candidate");
    let ready = asked.member("pg3", |member| member.lock_lease = 5);
    let named = ready.clone().asked(RequestKind::Switchover, None, Some("pg3"));
    check(&leader(of_the_other()).within(named), "hand_over: switchover");
    let failover = following().asked(RequestKind::Failover, None, Some("pg2"));
    check(&leader(of_the_other()).within(failover), "refuse_request: request_refused");
}

#[test]
fn nothing_is_promoted_in_doubt() {
    let mut unclear = following();
    unclear.site = Site::default();
    check(&leader(of_the_other()).within(unclear), "wait: site_unclear");
    let behind = Standby { replayed: Lsn(900), ..of_the_other() };
    check(&leader(behind).within(asked_to_lead(Some(token(4, 900)))), "wait: awaiting_site");
    let elsewhere = Standby { timeline: Timeline(5), ..of_the_other() };
    check(&leader(elsewhere).within(asked_to_lead(Some(token(4, 900)))), "wait: awaiting_site");
    let foreign = Token { system_id: SystemId(43), ..token(4, 900) };
    check(&leader(of_the_other()).within(asked_to_lead(Some(foreign))), "wait: foreign_site");
    let unfenced = View {
        fence: Fence { trouble: Some("no fencer".to_owned()), covers: None },
        ..leader(left()).within(asked_to_lead(None))
    };
    check(&unfenced, "wait: unfenced");
}

#[test]
fn an_operators_word_makes_it_lead_once_the_other_was_left_and_all_is_replayed() {
    let asked = asked_to_lead(Some(token(4, 999)));
    check(&leader(of_the_other()).within(asked.clone()), "leave_remote: promote_site");
    let replays = Standby { replay_done: false, ..left() };
    check(&leader(replays).within(asked.clone()), "leave_remote: promote_site");
    let ready = leader(left()).within(asked);
    check(&ready, "acquire: promote_site");
    let claim = claimed(&ready);
    assert_eq!((claim.kind, claim.follows, claim.depose), (ClaimKind::Site, false, Some(name("pg1"))));
    assert_eq!(claim.term, Term(91), "above both sites' terms");
    assert_eq!(claim.timeline, Timeline(16), "a number that the other site does not come to");
    assert_eq!(claim.policies, [any(1, &["pg1"]), any(1, &["pg2", "pg3"])], "until its marker, it alone may have all");
    assert_eq!(claim.lost_bytes_bound, Some(0));
    let unproven = claimed(&leader(left()).within(asked_to_lead(None)));
    assert_eq!(unproven.lost_bytes_bound, None);
    let further = hears(
        leader(left()).within(asked_to_lead(None)),
        RemoteSeen { timeline: Some(Timeline(16)), ..says_of_itself() },
    );
    assert_eq!(claimed(&further).timeline, Timeline(32));
}

#[test]
fn once_it_leads_the_words_of_its_promotion_are_no_order_to_follow() {
    let mut led = cluster();
    led.site = asked_to_lead(None).site;
    check(&view("pg1").within(led), "wait: leading");
}

#[test]
fn a_primary_is_stopped_for_another_site_only_when_that_has_answered() {
    let mut wanted = cluster();
    wanted.site.remote = Some(remote());
    let leading = view("pg1").within(wanted.clone());
    check(&leading, "wait: site_unseen");
    check(&hears(leading.clone(), RemoteSeen { system_id: SystemId(43), ..says_of_itself() }), "wait: foreign_site");
    check(&hears(leading.clone(), says_of_itself()), "demote_site: demote_site");
    let unmarked = Server::Primary(Primary { marked_term: Term(6), ..primary() });
    check(&hears(leading.runs(unmarked), says_of_itself()), "mark: prove_writes");
    // An agent that dies between the stop and the record has a primary like any other.
    check(&view("pg1").within(wanted).stopped(clean_primary()), "start_primary: restart_in_place");
}

#[test]
fn what_the_other_site_does_not_have_is_rewound() {
    let ahead = Standby { streaming: false, ..of_the_other() };
    check(&hears(leader(ahead.clone()), says_of_itself()), "stop: diverged");
    let member = Standby { streaming: false, ..standby() };
    check(&hears(view("pg2").within(following()).runs(Server::Standby(member)), says_of_itself()), "stop: diverged");
    let behind = Standby { received: Lsn(800), ..ahead };
    check(&hears(leader(behind), says_of_itself()), "wait: following_site");
    let stopped = |me: &str, disk| hears(view(me).within(following()).stopped(disk), says_of_itself());
    let ended = |end| OnDisk { end_of_wal: Some(Lsn(end)), ..disk() };
    for me in ["pg1", "pg2"] {
        let start = if me == "pg1" { "start_standby: follow_site" } else { "start_standby: clean_rejoin" };
        check(&view(me).within(following()).stopped(disk()), start);
        check(&stopped(me, disk()), "find_end_of_wal: end_of_wal_unknown");
        check(&stopped(me, ended(800)), start);
        check(&stopped(me, ended(801)), "rewind: diverged");
        let not_ready = RemoteSeen { rewind_source_ready: false, ..says_of_itself() };
        check(&hears(stopped(me, ended(801)), not_ready), "wait: awaiting_leader_checkpoint");
        let standby_there = RemoteSeen { timeline: None, ..says_of_itself() };
        check(&hears(stopped(me, ended(801)), standby_there), start);
        let foreign = RemoteSeen { system_id: SystemId(43), ..says_of_itself() };
        check(&hears(stopped(me, ended(801)), foreign), "wait: foreign_site");
    }
    match decide(&stopped("pg2", ended(801))).action {
        Action::Rewind { from, .. } => assert!(from.is_another_site(), "only there is a primary"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_site_that_led_on_the_same_timeline_is_copied_anew() {
    let twin = OnDisk { timeline: Timeline(5), ..clean_primary() };
    let leader = |cluster| hears(view("pg1").within(cluster).stopped(twin.clone()), says_of_itself());
    check(&leader(following()), "release: twin");
    check(&leader(following().without("pg2").without("pg3")), "clone: twin");
    check(&hears(view("pg2").within(following()).stopped(twin.clone()), says_of_itself()), "clone: twin");
}

#[test]
fn who_has_nothing_copies_from_the_leader_and_the_leader_from_the_other_site() {
    let empty = |me: &str, cluster| view(me).within(cluster).on_disk(Data::Empty).runs(Server::Stopped);
    check(&empty("pg2", following()), "clone: empty_directory");
    check(&empty("pg1", following()), "release: empty_directory");
    let alone = following().without("pg2").without("pg3");
    check(&empty("pg1", alone.clone()), "clone: empty_directory");
    let vacant = alone.vacant().member("pg1", |member| member.role = MemberRole::Down);
    check(&empty("pg1", vacant).lock(Lock::NotHeld), "acquire: nothing_to_copy");
    let others_have = following().vacant().member("pg1", |member| member.role = MemberRole::Down);
    check(&empty("pg1", others_have).lock(Lock::NotHeld), "wait: nothing_to_copy");
    let copying = leader(of_the_other()).job("clone", Some("the-other-site"), secs(9));
    check(&copying.runs(Server::Stopped), "wait: busy");
}

#[test]
fn a_leader_that_cannot_start_lets_another_lead() {
    let stopped = |cluster| view("pg1").within(cluster).stopped(disk());
    let failed = |view: View| {
        view.aged(|ages| (ages.last_failure, ages.failed_action) = (Some(secs(0)), Some("start_standby".to_owned())))
    };
    check(&failed(stopped(following())), "release: cannot_start");
    check(&failed(stopped(following().without("pg2").without("pg3"))), "wait: retrying");
    let on_a_dead_disk = |mut view: View| {
        view.signs.disk.fault = Some(DiskFault::InputOutput);
        view
    };
    check(&on_a_dead_disk(stopped(following())), "release: disk_unfit");
    check(&on_a_dead_disk(stopped(following().without("pg2").without("pg3"))), "wait: disk_unfit");
}

#[test]
fn a_running_leader_is_restarted_as_what_it_is() {
    use crate::order::{Order, OrderKind};
    let mut ordered = following();
    ordered
        .orders
        .insert(name("pg1"), Order { kind: OrderKind::Restart, only_role: None, ignores_hold: false, revision: 55 });
    let then = StartAs::Standby(Some(remote().upstream()));
    assert_eq!(decide(&leader(of_the_other()).within(ordered)).action, Action::Restart { order: 55, then });
}

#[test]
fn tokens_and_addresses_are_read_back() {
    let text = "7301122334455667788:4:0/5000028";
    assert_eq!(text.parse::<Token>().map(|token| token.to_string()), Ok(text.to_owned()));
    for wrong in ["", "1:2", "1:x:0/1", "1:2:3", "a:2:0/1"] {
        assert!(wrong.parse::<Token>().is_err(), "{wrong}");
    }
    let read = |text: &str| Remote::parse(text, 5432).map(|remote| remote.to_string());
    assert_eq!(read("a, b:1,[::1]:2,::1"), Ok("a:5432,b:1,[::1]:2,[::1]:5432".to_owned()));
    assert_eq!(
        Remote::parse("a,[::1]:2", 7).expect("good").upstream().addresses(),
        [("a".to_owned(), 7), ("::1".to_owned(), 2)]
    );
    for wrong in ["", "a,", "a:0", "a:b", "a b", "a'"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
