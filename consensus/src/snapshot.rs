//! The picture of a cluster at one etcd revision, built from raw keys. A value that cannot be understood is listed as a problem, and
//! what is assumed in its place is always what forbids more: nobody takes over, bootstraps or votes because a value is corrupt.

use std::collections::{BTreeMap, BTreeSet};

use decision::names::{Lsn, MemberName, SystemId, Term};
use decision::site::Token;
use decision::slots::Published;
use decision::view::{Cluster, Initialize};
use etcd_client::KeyValue;

use crate::keys::Keys;
use crate::mending::Nonsense;
use crate::recall::SettingsFrom;
use crate::records::{
    ClusterConfig, DepartureRecord, FailoverRecord, HistoryRow, Hold, HoldRecord, MemberRecord, OrderRecord, Planned,
    PlannedRestart, PlannedSwitchover, Problem, Scheduled, pledge, progress, sync,
};
use crate::store::{Fingerprint, text_of};

/// On its first timeline a leader has nothing to say of earlier ones.
const WRITTEN_LATER: &str = "a leader on a later timeline writes it anew; on the first, etcdctl del it";

/// The cluster at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What decisions depend on.
    pub cluster: Cluster,
    /// Cluster-wide settings that are in force.
    pub config: ClusterConfig,
    /// Where those come from.
    pub settings_from: SettingsFrom,
    /// The revision at which those were written; 0: there are none, or nobody knows.
    pub settings_revision: i64,
    /// What each living member says about itself, in full.
    pub member_records: BTreeMap<MemberName, MemberRecord>,
    /// The operator's request as it is stored, in full; `None` where there is none.
    pub request_record: Option<FailoverRecord>,
    /// Whether planned actions wait.
    pub hold: Hold,
    /// The revision at which `hold` was last written; 0: it is not there.
    pub hold_revision: i64,
    /// What operators ask of single nodes, as it is stored.
    pub order_records: BTreeMap<MemberName, OrderRecord>,
    /// Who is to read its node's file again, with the revision of that order.
    pub reloads: BTreeMap<MemberName, i64>,
    /// What is to begin at a time.
    pub scheduled: Scheduled,
    /// Members that have been taken out of the cluster, as it is stored.
    pub departure_records: BTreeMap<MemberName, DepartureRecord>,
    /// Who may lead where no proof is asked for, with the URLs of their health APIs, as it is stored.
    pub failsafe_urls: BTreeMap<MemberName, String>,
    /// What the leader tells of its slots; `None`: nothing.
    pub slots: Option<Published>,
    /// The history as it is stored, in full.
    pub history_rows: Vec<HistoryRow>,
    /// The lease that the leader key is bound to; 0: nobody leads (or the key is bound to none).
    pub leader_lease: i64,
    /// The revision at which `leader` was last written; 0: it is not there.
    pub leader_revision: i64,
    /// The revision at which `sync` was last written; 0: it is not there.
    pub sync_revision: i64,
    /// The revision at which `failover` was last written; 0: it is not there.
    pub failover_revision: i64,
    /// The revision at which `config` was last written; 0: it is not there.
    pub config_revision: i64,
    /// The revision at which `history` was last written; 0: it is not there.
    pub history_revision: i64,
    /// The lease of each member's key.
    pub member_leases: BTreeMap<MemberName, i64>,
    /// How far this site had come when it last ceased to lead.
    pub site_token: Option<Token>,
    /// What cannot be understood of what a leader's reign rests on.
    pub nonsense: Nonsense,
    /// Values that could not be understood.
    pub problems: Vec<Problem>,
    /// The first of them in the place of a request or an order: what was asked for is not known.
    pub unreadable_request: Option<Problem>,
    pub(crate) fingerprint: Fingerprint,
}

impl Snapshot {
    /// Nothing tells that there has ever been such a cluster: nobody has registered, nothing was made, and what is there may be read.
    pub fn is_of_nothing(&self) -> bool {
        let cluster = &self.cluster;
        let is_made =
            cluster.initialize != Initialize::Absent || cluster.leader.is_some() || !self.history_rows.is_empty();
        !is_made && self.member_records.is_empty() && self.departure_records.is_empty() && self.problems.is_empty()
    }

    /// Builds the picture from what one linearizable read found.
    pub(crate) fn from_stored(keys: &Keys, revision: i64, fingerprint: Fingerprint, found: &[KeyValue]) -> Self {
        let mut snapshot = Snapshot { fingerprint, ..Snapshot::default() };
        snapshot.cluster.revision = revision;
        for kv in found {
            let full_key = String::from_utf8_lossy(kv.key()).into_owned();
            let Some(key) = keys.strip(&full_key) else { continue };
            let asks = key == "failover" || key.starts_with("orders/");
            if let Err(why) = snapshot.take(key, kv) {
                snapshot.nonsense.note(key, kv.mod_revision());
                let why = bounded(&why);
                let problem = Problem { key: full_key, why, revision: kv.mod_revision() };
                if asks {
                    snapshot.unreadable_request.get_or_insert_with(|| problem.clone());
                }
                snapshot.problems.push(problem);
            }
        }
        snapshot.cluster.prefer_zone.clone_from(&snapshot.config.prefer_zone);
        snapshot.cluster.unreadable = snapshot.nonsense.keys();
        if snapshot.nonsense.term != 0 {
            // The best guess; claims compare the stored text itself and so are refused.
            snapshot.cluster.term = snapshot.cluster.sync.as_ref().map_or(Term(0), |sync| sync.term);
        }
        if snapshot.nonsense.sync != 0 {
            snapshot.cluster.sync = Some(sync::unreadable(snapshot.cluster.term));
        }
        snapshot
    }

    /// Takes one key in; the error says what cannot be understood and what is assumed instead.
    fn take(&mut self, key: &str, kv: &KeyValue) -> Result<(), String> {
        let (text, full_key) = (text_of(kv), String::from_utf8_lossy(kv.key()));
        let text = text.as_str();
        match key.split_once('/') {
            Some(("members", name)) => self.take_member(name, &full_key, text, kv.lease()),
            Some(("ballots", name)) => {
                let (name, read) = (member_name(name)?, pledge::ballot_from_stored(text, kv.mod_revision()));
                // An empty one in its place: it counts for nothing, and its member may write another over it.
                self.cluster.ballots.insert(name, read.clone().unwrap_or(pledge::empty_ballot(kv.mod_revision())));
                read.map(|_| ()).map_err(|why| format!("{why}; it is not counted"))
            }
            Some(("floors", name)) => {
                let name = member_name(name)?;
                let read = pledge::floor_from_stored(text);
                self.cluster.floors.insert(name, read.clone().unwrap_or(Lsn(u64::MAX)));
                read.map(|_| ()).map_err(|why| format!(
                        "{why}; the member counts for nothing until this is mended: etcdctl del {full_key}, once it is level with the leader"
                    ))
            }
            Some(("orders", name)) => {
                let name = member_name(name)?;
                let nothing_is_done = |why| {
                    format!("{why}; nothing is done about it, and no other order can be given: etcdctl del {full_key}")
                };
                let record = OrderRecord::from_json(text).map_err(nothing_is_done)?;
                let order = record.to_order(kv.mod_revision()).map_err(nothing_is_done)?;
                self.order_records.insert(name.clone(), record);
                match order {
                    Some(order) => drop(self.cluster.orders.insert(name, order)),
                    None => drop(self.reloads.insert(name, kv.mod_revision())),
                }
                Ok(())
            }
            Some(("scheduled", what)) => self.take_scheduled(what, text, kv.mod_revision()),
            Some(("departures", name)) => {
                let name = member_name(name)?;
                let record = DepartureRecord::from_json(text)
                    .map_err(|why| format!("{why}; nobody has left by it: etcdctl del {full_key}, and say it again"))?;
                self.cluster.departures.insert(name.clone(), record.to_departure(kv.mod_revision()));
                self.departure_records.insert(name, record);
                Ok(())
            }
            // Other folders belong to others (Patroni's `optime/leader`, a newer version's).
            Some(_) => Ok(()),
            None => self.take_single(key, text, kv),
        }
    }

    fn take_scheduled(&mut self, what: &str, text: &str, revision: i64) -> Result<(), String> {
        let dropped =
            |why, mend: &str| format!("{why}; it does not begin, and no other can be planned: pgvigil {mend}");
        match what.split_once('/') {
            None if what == "switchover" => {
                let read = PlannedSwitchover::from_json(text).map_err(|why| dropped(why, "switchover --cancel"))?;
                self.scheduled.switchover = Some(Planned { record: read, revision });
            }
            Some(("restarts", name)) => {
                let name = member_name(name)?;
                let mend = format!("restart {name} --cancel");
                let read = PlannedRestart::from_json(text).map_err(|why| dropped(why, &mend))?;
                self.scheduled.restarts.insert(name, Planned { record: read, revision });
            }
            // A newer version may plan other things.
            _ => {}
        }
        Ok(())
    }

    fn take_member(&mut self, name: &str, full_key: &str, text: &str, lease: i64) -> Result<(), String> {
        let name = member_name(name)?;
        let left_out = |why| {
            format!("{why}; the member is left out until its agent writes it anew (none there: etcdctl del {full_key})")
        };
        let record = MemberRecord::from_json(text).map_err(left_out)?;
        let member = record.to_member().map_err(left_out)?;
        self.cluster.members.insert(name.clone(), member);
        self.member_leases.insert(name.clone(), lease);
        self.member_records.insert(name, record);
        Ok(())
    }

    fn take_single(&mut self, key: &str, text: &str, kv: &KeyValue) -> Result<(), String> {
        let full_key = String::from_utf8_lossy(kv.key());
        let revision = kv.mod_revision();
        match key {
            "leader" => self.take_leader(&full_key, text, kv)?,
            "term" => {
                self.cluster.term = Term::from_text(text).ok_or_else(|| {
                    format!(
                        "\"{}\" is no term; an agent puts back the one that stood there before, if etcd remembers it, and until then nobody \
                         can take the lock: etcdctl put {full_key} N, with the term N that `sync` names",
                        short(text)
                    )
                })?;
            }
            "initialize" => {
                let read = initialize_from_text(text);
                self.cluster.initialize = read.clone().unwrap_or(Initialize::InProgress);
                read?;
            }
            "sync" => {
                self.sync_revision = revision;
                let read = sync::from_stored(text).map_err(|why| {
                    format!(
                        "{why}; nothing is proven by it: the member that led last puts back what stood there before, if etcd remembers \
                         it. Where that member is gone: etcdctl get {full_key} --rev={} shows it, to be put there again as it was; or \
                         `pgvigil failover --to M --accept-data-loss`",
                        revision - 1
                    )
                })?;
                self.cluster.sync = Some(read);
            }
            "failsafe" => {
                self.cluster.failsafe_revision = revision;
                // A list that cannot be read bars everybody, until the leader has written it anew.
                self.cluster.failsafe = Some(BTreeSet::new());
                let read: BTreeMap<String, String> = crate::records::from_json(text)
                    .map_err(|why| format!("{why}; nobody may lead without proof until the leader writes it anew"))?;
                for (name, url) in read {
                    self.failsafe_urls.insert(member_name(&name)?, url);
                }
                self.cluster.failsafe = Some(self.failsafe_urls.keys().cloned().collect());
            }
            "status" => self.take_status(text).map_err(|why| format!("{why}; the leader writes it anew"))?,
            "history" => {
                self.history_revision = revision;
                self.history_rows =
                    progress::history_from_stored(text).map_err(|why| format!("{why}; {WRITTEN_LATER}"))?;
                self.cluster.history = self.history_rows.iter().map(HistoryRow::to_entry).collect();
            }
            "site_token" => {
                let read =
                    text.parse().map_err(|why| format!("{why}; the next demotion of this site writes it anew"))?;
                self.site_token = Some(read);
            }
            "stray_timeline" => self.cluster.stray_timeline = progress::timeline_from_stored(text)?,
            "failover" => self.take_request(text, revision)?,
            "hold" => self.take_hold(text, revision)?,
            "config" => self.take_config(text, revision)?,
            _ => {}
        }
        Ok(())
    }

    fn take_hold(&mut self, text: &str, revision: i64) -> Result<(), String> {
        self.hold_revision = revision;
        let read = HoldRecord::from_json(text);
        self.hold = read.clone().map_or_else(Hold::Unreadable, Hold::Taken);
        read.map(|_| ()).map_err(|why| {
            format!("{why}; planned actions wait until it is gone (pgvigil release), and nothing else does")
        })
    }

    fn take_leader(&mut self, full_key: &str, text: &str, kv: &KeyValue) -> Result<(), String> {
        (self.leader_lease, self.leader_revision) = (kv.lease(), kv.mod_revision());
        let mend = format!(
            "an agent puts back who held the lock before, if etcd remembers it, or the leader takes its lock again over it; where neither \
             happens, nobody leads until a person has made sure that no primary runs and deletes it (etcdctl del {full_key})"
        );
        let name = member_name(text).map_err(|why| format!("{why}; {mend}"))?;
        // Every agent binds its lock to its lease.
        if kv.lease() == 0 {
            return Err(format!("\"{name}\" is bound to no lease and never ends by itself; {mend}"));
        }
        self.cluster.leader = Some(name);
        Ok(())
    }

    fn take_status(&mut self, text: &str) -> Result<(), String> {
        let (lsn, slots) = progress::status_from_stored(text)?;
        (self.cluster.leader_lsn, self.slots) = (Some(lsn), slots);
        Ok(())
    }

    fn take_config(&mut self, text: &str, revision: i64) -> Result<(), String> {
        self.config_revision = revision;
        let (config, wrong) = ClusterConfig::from_json(text);
        self.cluster.site = config.site.clone();
        self.config = config;
        match (wrong.is_empty(), self.config.raw.is_object()) {
            (true, _) => Ok(()),
            (false, true) => Err(format!("{} (pgvigil config edit, or config rollback)", wrong.join("; "))),
            (false, false) => {
                self.settings_from = SettingsFrom::Nowhere;
                Err(wrong.join("; "))
            }
        }
    }

    /// Where neither the term nor the record can be read, the term that was known before stays in the picture: what follows it goes on.
    pub(crate) fn keep_term_of(&mut self, before: &Self) {
        if self.nonsense.term != 0 && self.nonsense.sync != 0 {
            self.cluster.term = before.cluster.term;
            self.cluster.sync = Some(sync::unreadable(before.cluster.term));
        }
    }

    fn take_request(&mut self, text: &str, revision: i64) -> Result<(), String> {
        self.failover_revision = revision;
        let nothing_is_done = |why| {
            format!("{why}; nothing is done about it, and no other can be asked for: pgvigil switchover --cancel")
        };
        let record = FailoverRecord::from_json(text).map_err(nothing_is_done)?;
        let request = record.to_request(revision).map_err(nothing_is_done)?;
        self.request_record = (record != FailoverRecord::default()).then_some(record);
        self.cluster.request = request;
        Ok(())
    }
}

fn member_name(text: &str) -> Result<MemberName, String> {
    MemberName::new(text).map_err(|bad| bad.to_string())
}

/// A sentence that holds a whole value, which may be a megabyte of anything, keeps its beginning and its end.
fn bounded(why: &str) -> String {
    const CHARS_MAX: usize = 800;
    let why = why.replace(char::is_control, " ");
    let count = why.chars().count();
    if count <= CHARS_MAX {
        return why;
    }
    let (head, tail): (String, String) = (why.chars().take(200).collect(), why.chars().skip(count - 400).collect());
    format!("{head} ... {tail}")
}

/// As much of a value as a sentence can hold.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn initialize_from_text(text: &str) -> Result<Initialize, String> {
    if text.is_empty() {
        return Ok(Initialize::InProgress);
    }
    let id = text.parse().map_err(|_| {
        format!("\"{}\" is no system identifier; nobody bootstraps, and the leader writes it anew", short(text))
    })?;
    Ok(Initialize::Done(SystemId(id)))
}
