//! Whether it is the turn of something that was planned for a time.

use super::builders::name;
use crate::schedule::{Due, Turn};

const AT_MS: i64 = 1_000_000;
const WINDOW_MS: i64 = 600_000;

#[test]
fn it_begins_in_its_window_and_neither_before_nor_after() {
    let pg1 = name("pg1");
    let hold = || Some("held".to_owned());
    let waits = |why: &str| Turn::Waits(why.to_owned());
    for under in [None, Some(&pg1)] {
        let due = Due { at_ms: AT_MS, window_ms: WINDOW_MS, under };
        for (after_ms, leader, obstacle, turn) in [
            (-1, Some(&pg1), None, Turn::Ahead),
            (-1, Some(&pg1), hold(), Turn::Ahead),
            (-1, None, None, Turn::Ahead),
            (0, Some(&pg1), None, Turn::Begins),
            (0, Some(&pg1), hold(), waits("held")),
            (0, None, None, waits("nobody leads")),
            (WINDOW_MS, Some(&pg1), None, Turn::Begins),
            (WINDOW_MS, Some(&pg1), hold(), waits("held")),
            (WINDOW_MS + 1, Some(&pg1), None, Turn::Expired(None)),
            (WINDOW_MS + 1, Some(&pg1), hold(), Turn::Expired(hold())),
            (WINDOW_MS + 1, None, None, Turn::Expired(Some("nobody leads".to_owned()))),
        ] {
            assert_eq!(
                due.turn(AT_MS + after_ms, leader, obstacle.clone()),
                turn,
                "{after_ms} {leader:?} {obstacle:?}"
            );
        }
    }
}

#[test]
fn it_is_nothing_for_another_leader_whenever_that_is() {
    let (pg1, pg2) = (name("pg1"), name("pg2"));
    let under_pg1 = Due { at_ms: AT_MS, window_ms: WINDOW_MS, under: Some(&pg1) };
    let under_anybody = Due { under: None, ..under_pg1 };
    for after_ms in [-WINDOW_MS, 0, WINDOW_MS, 2 * WINDOW_MS] {
        assert_eq!(under_pg1.turn(AT_MS + after_ms, Some(&pg2), None), Turn::LeaderChanged(pg2.clone()), "{after_ms}");
    }
    assert_eq!(under_anybody.turn(AT_MS, Some(&pg2), None), Turn::Begins);
}

#[test]
fn a_window_without_an_end_is_none_that_overflows() {
    let due = Due { at_ms: AT_MS, window_ms: i64::MAX, under: None };
    assert_eq!(due.turn(i64::MAX, Some(&name("pg1")), None), Turn::Begins);
}
