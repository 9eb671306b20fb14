//! Is the leader dead? Two witnesses are heard, its agent and its Postgres, for either may die alone. A closed door is evidence at once;
//! silence takes time. Think of a neighbour who does not answer: a removed name plate tells enough, an unanswered bell does not.

use std::time::Duration;

use crate::names::MemberName;
use crate::settings::{Mode, Timing};
use crate::view::{Cluster, Hearing, Sound, View};

/// Whether the leader says so itself, or both witnesses testify that it is gone.
pub(crate) fn is_gone(view: &View, cluster: &Cluster) -> bool {
    has_let_go(cluster) || both_testify(&view.hearing, &view.settings.timing)
}

/// The leader has said in etcd that its Postgres is done for. It says so before it has killed what is left: a pledge needs no kill.
pub(crate) fn has_let_go(cluster: &Cluster) -> bool {
    let of_its_reign =
        |sync: &&crate::view::SyncRecord| Some(&sync.leader) == cluster.leader.as_ref() && sync.term == cluster.term;
    cluster.sync.as_ref().filter(of_its_reign).is_some_and(|sync| sync.released)
}

fn both_testify(hearing: &Hearing, timing: &Timing) -> bool {
    if hearing.postgres == Sound::ReportedDead {
        return true;
    }
    // Postgres is asked only from the first late beat on, so its silence has had less time to grow. But where the agent alone is
    // known to be gone, an agent's restart on a busy host is the likelier story, and Postgres gets its full time.
    let silence_enough = if hearing.agent == Sound::Gone { timing.suspect_after } else { timing.suspect_after / 2 };
    testifies(hearing.agent, timing.suspect_after) && testifies(hearing.postgres, silence_enough)
}

fn testifies(sound: Sound, silence_enough: Duration) -> bool {
    match sound {
        Sound::Gone | Sound::ReportedDead => true,
        Sound::Silent { since } => since >= silence_enough,
        Sound::Fine | Sound::Unknown => false,
    }
}

/// Whether the voters that are alive could prove a takeover from `leader` now. Where they could not, a pledge would only hold up the
/// commits of a leader that may be well.
pub(crate) fn takeover_is_possible(view: &View, cluster: &Cluster, leader: &MemberName) -> bool {
    let Some(sync) = cluster.sync.as_ref().filter(|sync| sync.leader == *leader && sync.term == cluster.term) else {
        return false;
    };
    let mut alive = cluster.eligible();
    alive.remove(leader);
    !view.settings.wait_for_lease && sync.mode != Mode::Async && crate::durability::proven(&sync.policies, &alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: [Sound; 6] = [
        Sound::Unknown,
        Sound::Fine,
        Sound::Silent { since: Duration::from_millis(100) },
        Sound::Silent { since: Duration::from_millis(300) },
        Sound::Silent { since: Duration::from_millis(500) },
        Sound::Gone,
    ];

    #[test]
    fn one_witness_is_never_enough() {
        let timing = Timing::default();
        for sound in AGES {
            for other in [Sound::Unknown, Sound::Fine] {
                assert!(!both_testify(&Hearing { agent: sound, postgres: other }, &timing));
                assert!(!both_testify(&Hearing { agent: other, postgres: sound }, &timing));
            }
        }
    }

    #[test]
    fn closed_doors_are_evidence_at_once_and_silence_takes_time() {
        let timing = Timing::default();
        let silent = |ms| Sound::Silent { since: Duration::from_millis(ms) };
        assert!(both_testify(&Hearing { agent: Sound::Gone, postgres: Sound::Gone }, &timing));
        assert!(both_testify(&Hearing { agent: silent(500), postgres: silent(250) }, &timing));
        assert!(!both_testify(&Hearing { agent: silent(499), postgres: Sound::Gone }, &timing));
        assert!(!both_testify(&Hearing { agent: silent(500), postgres: silent(249) }, &timing));
        assert!(!both_testify(&Hearing { agent: Sound::Gone, postgres: silent(499) }, &timing));
        assert!(both_testify(&Hearing { agent: Sound::Gone, postgres: silent(500) }, &timing));
    }

    #[test]
    fn the_leaders_own_word_is_enough() {
        let hearing = Hearing { agent: Sound::Fine, postgres: Sound::ReportedDead };
        assert!(both_testify(&hearing, &Timing::default()));
    }
}
