//! Logical slots that Postgres itself keeps alike everywhere, from version 17 on: a standby takes over the state of those slots of its primary that
//! were made for that (`failover`), and a primary lets nobody read a change by one before every voter has it. Neither may hold up anything else:
//! a standby that is needed asks nobody any more, and nobody waits for who is no voter.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use decision::durability::Quorum;
use decision::names::MemberName;
use decision::parameters::{Parameters, is_off};
use decision::slots::SlotName;
use decision::view::Upstream;
use nix::sys::signal::Signal;

use crate::conf::Conf;
use crate::error::Result;
use crate::instance::{Instance, InstanceConfig};
use crate::process;

/// The first version of Postgres that can.
pub const SINCE: u32 = 17;
/// How long readers of changes may hold up a shutdown. They wait there for every slot that is listed.
pub(crate) const READERS_END_WITHIN: Duration = Duration::from_secs(1);

const READERS: &str =
    "SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL";

/// Whether a server of this version does, with these parameters.
pub fn syncs_slots(version: u32, parameters: &Parameters) -> bool {
    let logical = parameters.get("wal_level").is_some_and(|level| level.trim().eq_ignore_ascii_case("logical"));
    version >= SINCE && logical && !parameters.get("sync_replication_slots").is_some_and(|value| is_off(value))
}

/// What is set for it. **Invariant: a server that was not started with `wal_level=logical` is never told to take slots over**: its postmaster
/// would end.
pub(crate) fn settings(config: &InstanceConfig, parameters: &Parameters, conf: &Conf) -> [(&'static str, String); 2] {
    // From another standby, or another site, Postgres does not take them.
    let takes = |upstream: &Upstream| {
        let from_the_leader = config.cascades_from.as_ref() != Some(&upstream.member);
        upstream.slot.is_some() && from_the_leader && !upstream.is_another_site() && !config.nostream
    };
    let feedback = parameters.get("hot_standby_feedback").is_some_and(|value| !is_off(value));
    let on = syncs_slots(SINCE, parameters) && feedback && conf.recovery.upstream().is_some_and(takes);
    let awaited: Vec<&str> = awaited(conf).iter().map(|name| name.as_str()).collect();
    [
        ("sync_replication_slots", if on { "on" } else { "off" }.to_owned()),
        ("synchronized_standby_slots", awaited.join(", ")),
    ]
}

/// Whom readers of changes wait for: the slots of the voters that commits wait for. Postgres waits for all that are listed, so nobody else is, and
/// a slot that is not here never.
fn awaited(conf: &Conf) -> BTreeSet<&SlotName> {
    let voters =
        Quorum::parse_standby_names(&conf.sync, conf.term).map(|(quorum, _)| quorum.voters).unwrap_or_default();
    voters.iter().filter_map(|voter| conf.slots.get(&SlotName::of(voter))).collect()
}

impl Instance {
    /// Whether Postgres itself keeps logical slots alike, once it is started with what is configured.
    pub fn will_sync_slots(&self) -> bool {
        let version = fs::read_to_string(self.data_dir().join("PG_VERSION")).unwrap_or_default();
        version.trim().parse().is_ok_and(|version| syncs_slots(version, &self.parameters()))
    }

    /// Whether Postgres itself keeps logical slots alike.
    pub fn syncs_slots(&self) -> bool {
        self.read_conf().is_some_and(|conf| conf.syncs_slots)
    }

    /// Takes note of the slots by which members stream from here. Where this is the primary, nobody waits any more for one that is not among
    /// them.
    ///
    /// # Errors
    /// `Host` when the file cannot be written, `Down` when the server has ended.
    pub async fn note_slots_for_members(&self, slots: &BTreeSet<SlotName>) -> Result<()> {
        let Some(conf) = self.read_conf().filter(|conf| conf.syncs_slots && conf.slots != *slots) else {
            return Ok(());
        };
        let slots = slots.clone();
        if self.update_conf(move |conf| conf.slots = slots).await? && conf.recovery.upstream().is_none() {
            self.reload()?;
        }
        Ok(())
    }

    /// Before a shutdown after which `heir` leads: the others go over to it, and whoever reads changes would wait for them for ever.
    ///
    /// # Errors
    /// As [`Instance::note_slots_for_members`].
    pub async fn await_only(&self, heir: &MemberName) -> Result<()> {
        let mut slots = self.read_conf().unwrap_or_default().slots;
        slots.retain(|slot| *slot == SlotName::of(heir));
        self.note_slots_for_members(&slots).await
    }

    /// Takes note of who reads changes here. A shutdown lets each of them come to its end, and that waits for every slot that is listed, of one
    /// that died a moment ago as well.
    pub async fn note_readers(&self) {
        let readers = if self.syncs_slots() { self.ask(READERS, &[]).await.ok() } else { None };
        let readers = readers.into_iter().flatten().filter_map(|row| row.try_get(0).ok());
        self.memory().readers = readers.collect();
    }

    /// Ends those readers. They get no more here, and go on at whoever leads next.
    pub(crate) fn end_readers(&self) {
        let readers = std::mem::take(&mut self.memory().readers);
        if let Some(postmaster) = self.postmaster().filter(|_| !readers.is_empty()) {
            tracing::warn!(?readers, "readers of changes hold up the shutdown: they are ended");
            process::send_to_children(postmaster.pid, &readers, Signal::SIGTERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Recovery;
    use decision::names::Term;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a good name")
    }

    fn set(conf: &Conf, parameters: &[(&str, &str)], slots: &[&str]) -> (String, String) {
        let mut config = InstanceConfig::new(name("pg1"), "demo", "/d".into(), "/s".into());
        config.cascades_from = Some(name("pg9"));
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let slots = slots.iter().map(|text| SlotName::new(*text).expect("a good name")).collect();
        let [(_, takes), (_, awaited)] = settings(&config, &parameters, &Conf { slots, ..conf.clone() });
        (takes, awaited)
    }

    #[test]
    fn readers_of_changes_wait_for_voters_whose_slots_are_here_and_for_nobody_else() {
        let names = |sync: &str| Conf { sync: sync.to_owned(), term: Term(7), ..Conf::default() };
        let two = names("ANY 1 (\"pg2_t7\", \"pg-3_t7\")");
        for (conf, slots, expected) in [
            (&two, &["pg2", "pg_3", "pg4"][..], "pg2, pg_3"),
            (&two, &["pg2", "pg4"], "pg2"),
            (&two, &[], ""),
            (&names(""), &["pg2", "pg_3"], ""),
            (&names(crate::conf::HELD_BACK), &["pg2"], ""),
        ] {
            assert_eq!(set(conf, &[], slots).1, expected, "{conf:?} {slots:?}");
        }
    }

    #[test]
    fn slots_are_taken_over_only_from_a_leader_by_a_slot_and_with_feedback_and_not_by_who_is_needed() {
        let follows = |member: &str, slot: Option<&str>| {
            let slot = slot.map(|text| SlotName::new(text).expect("a good name"));
            let upstream = Upstream { member: name(member), host: "h".to_owned(), port: 1, term: Term(7), slot };
            Conf { recovery: Recovery::Following(upstream), ..Conf::default() }
        };
        let good = [("wal_level", "logical"), ("hot_standby_feedback", "on")];
        for (conf, parameters, expected) in [
            (follows("pg2", Some("pg1")), &good[..], "on"),
            (follows("pg2", None), &good, "off"),
            (follows("pg9", Some("pg1")), &good, "off"),
            (Conf::default(), &good, "off"),
            (follows("pg2", Some("pg1")), &good[..1], "off"),
            (follows("pg2", Some("pg1")), &good[1..], "off"),
            (follows("pg2", Some("pg1")), &[good[0], good[1], ("sync_replication_slots", "off")], "off"),
        ] {
            assert_eq!(set(&conf, parameters, &[]).0, expected, "{conf:?} {parameters:?}");
        }
        let parameters = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(syncs_slots(17, &parameters(&good)) && !syncs_slots(16, &parameters(&good)));
    }
}
