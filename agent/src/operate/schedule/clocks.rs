//! Clocks that differ. What is scheduled counts by the clock of whoever leads when it is due, and a person has looked at another.

use std::time::Duration;

use super::super::words;
use super::super::world::World;

/// Less is no matter for anything that is scheduled to the minute.
const DIFFER_BY: Duration = Duration::from_secs(2);

/// Agents whose clock differs from the one here, a sentence each.
pub fn differing(world: &World) -> Vec<String> {
    let told = |(name, ahead_ms): (&_, i64)| {
        let by = Duration::from_millis(ahead_ms.unsigned_abs());
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        (by >= DIFFER_BY).then(|| format!("the clock of {name} is {} {way} the one of this host", words::age(by)))
    };
    world.answers().filter_map(|(name, answer)| told((name, answer.clock_ahead_ms))).collect()
}

#[cfg(test)]
mod tests {
    use consensus::Snapshot;

    use super::super::super::testing::name;
    use super::super::super::world::{Agent, Answer};
    use super::*;

    #[test]
    fn whose_clock_differs_by_seconds_is_named() {
        let agent = |clock_ahead_ms| {
            let says = Ok(Answer { clock_ahead_ms, ..Answer::default() });
            Agent { api_url: String::new(), says }
        };
        let clocks = [("pg1", 1_999), ("pg2", 4_200), ("pg3", -90_000), ("pg4", i64::MIN)];
        let agents = clocks.into_iter().map(|(member, ahead_ms)| (name(member), agent(ahead_ms))).collect();
        let told = differing(&World { etcd: Ok(Snapshot::default()), agents, me: name("pg1"), under_way: None });
        assert_eq!(told[0], "the clock of pg2 is 4.2 s ahead of the one of this host");
        assert_eq!(told[1], "the clock of pg3 is 90 s behind the one of this host");
        assert!(told.len() == 3 && told[2].contains("pg4"), "{told:?}");
    }
}
