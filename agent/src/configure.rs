//! Parameters of Postgres, from the cluster's settings and this node's file into the running server: worked out anew when either changes,
//! when the node comes to lead, and when another says what its server runs with. What waits for a restart is told, and waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use consensus::records::{Configured, PendingChange};
use consensus::{SettingsFrom, Snapshot};
use decision::catalogue::Catalogue;
use decision::durability::mode_in_force;
use decision::names::MemberName;
use decision::parameters::{Capacities, Objection, Parameters, Part, effective, usable};
use decision::slots::Kind;
use decision::view::{Data, Initialize, Lock, MemberRole, Server, View};
use pg_control::native::syncs_slots;
use pg_control::{Refused, Running};
use serde_json::{Value, json};

use crate::chore::Chore;
use crate::hands::Hands;
use crate::strike::Strike;

/// How often is looked whether the server has read its files again, by somebody else's order.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon a further change is taken up.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is known of the parameters here.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What the server runs with.
    pub running: Running,
    /// Whose postmaster that is.
    pub postmaster: i32,
    /// The revision of the cluster's settings that it has been configured with.
    pub config_revision: i64,
    /// What it could run with.
    pub catalogue: Arc<Catalogue>,
    /// What the cluster's settings say and must not.
    pub ignored: Vec<Objection>,
    /// What Postgres does not take.
    pub refused: Option<Refused>,
}

impl Known {
    /// What waits for a restart, as Patroni tells it.
    pub fn pending(&self) -> BTreeMap<String, PendingChange> {
        let change = |(old, new): &(String, String)| PendingChange { old_value: old.clone(), new_value: new.clone() };
        self.running.pending.iter().map(|(name, values)| (name.clone(), change(values))).collect()
    }

    /// How far it has come with the settings.
    pub fn configured(&self) -> Configured {
        let refused = self.refused.as_ref().map(|refused| refused.values.clone()).unwrap_or_default();
        Configured { config_revision: self.config_revision, postmaster: self.postmaster, refused }
    }

    /// What is wrong, for `status`.
    pub fn problems(&self) -> Vec<Value> {
        let ignored = self.ignored.iter().map(|objection| {
            json!({"code": "parameter_ignored", "problem": format!("the cluster's settings are not heeded: {}", objection.what), "hint": objection.mend})
        });
        let refused = self.refused.iter().map(|refused| {
            let values: Vec<String> = refused.values.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            let names: Vec<String> =
                refused.values.keys().map(|name| format!("--unset postgres.parameters.{name}")).collect();
            let problem =
                format!("Postgres does not take {}, and goes on as before: {}", values.join(", "), refused.why);
            // A command may have a password in it, and everybody may ask.
            let problem = Strike::new([]).text(&problem);
            let hint = format!("pgvigil config set, with values that it takes or {}", names.join(" "));
            json!({"code": "parameters_rejected", "problem": problem, "hint": hint})
        });
        ignored.chain(refused).collect()
    }
}

/// What the parameters are worked out from.
#[derive(Clone, Debug, PartialEq)]
struct Ground {
    config_revision: i64,
    leads: bool,
    postmaster: i32,
    capacities: Vec<(MemberName, Capacities)>,
    of_node: Parameters,
}

/// The chore.
pub struct Configuring {
    hands: Arc<Hands>,
    chore: Chore,
    done: Option<Ground>,
}

impl Configuring {
    /// Nothing is known yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("parameters of Postgres"), done: None }
    }

    /// Looks whether there is something to do. A reign has its marker first.
    pub fn see(&mut self, view: &View, snapshot: Option<&Arc<Snapshot>>, postmaster: Option<i32>) {
        let server = view.postgres.now().map(|postgres| &postgres.server);
        let leads = match (server, view.lock) {
            (Some(Server::Primary(primary)), Lock::Held { term, .. }) if primary.marked_term == term => true,
            (Some(Server::Standby(_)), _) => false,
            _ => return,
        };
        let (Some(cluster), Some(snapshot), Some(postmaster), None) =
            (view.cluster.now(), snapshot, postmaster, &view.job)
        else {
            return;
        };
        // A database of another cluster is left alone, and so is one under a name that may be somebody else's.
        let disk = view.postgres.now().map(|postgres| &postgres.data);
        let ours = matches!((cluster.initialize, disk), (Initialize::Done(id), Some(Data::Present(disk))) if disk.system_id == id);
        if !ours || !self.hands.name_is_mine.load(Ordering::SeqCst) {
            return;
        }
        let said = cluster.members.iter().filter(|(name, _)| **name != view.me);
        let capacities = said.map(|(name, member)| (name.clone(), member.capacities.clone())).collect();
        let of_node = self.hands.local.load().postgres.parameters.clone();
        let ground = Ground { config_revision: snapshot.config_revision, leads, postmaster, capacities, of_node };
        let news = self.done.as_ref() != Some(&ground);
        let (hands, snapshot) = (Arc::clone(&self.hands), Arc::clone(snapshot));
        let work = async move { hands.take_up_parameters(&snapshot, leads, postmaster).await };
        if self.chore.begin(if news { AGAIN_AFTER } else { LOOK_EVERY }, work) {
            self.done = Some(ground);
        }
    }
}

impl Hands {
    /// What this node's server is to be configured with, and what of the cluster's settings is not heeded. `mine`: what it runs with.
    fn parameters_for(&self, seen: &Snapshot, leads: bool, mine: &Capacities) -> (Parameters, Vec<Objection>) {
        let cluster = &seen.cluster;
        let (shared, ignored) = usable(&seen.config.parameters, mode_in_force(&self.settings(seen), cluster));
        let others = || cluster.members.iter().filter(|(name, _)| *name != self.me());
        let standbys = others().filter(|(_, member)| member.role == MemberRole::Standby);
        let standbys: Vec<&Capacities> = standbys.map(|(_, member)| &member.capacities).collect();
        let leader = others().find(|(name, _)| cluster.leader.as_ref() == Some(name));
        let part = match leads {
            true => Part::Leads { mine, standbys: &standbys },
            false => Part::Follows { leader: leader.map(|(_, leader)| &leader.capacities) },
        };
        let base = self.instance.base_capacities();
        let mut wanted = effective(&shared, &self.local.load().postgres.parameters, &base, part);
        // Else the leader clears away what the copies of logical slots need of the catalogue.
        let feedback = || ("hot_standby_feedback".to_owned(), "on".to_owned());
        if seen.config.slots.permanent.values().any(|kind| *kind != Kind::Physical) {
            wanted.extend([feedback()]);
        } else if syncs_slots(self.config.postgres.version, &wanted) {
            let (name, on) = feedback();
            wanted.entry(name).or_insert(on);
        }
        (wanted, ignored)
    }

    /// Configures the running server, and looks at what came of it.
    async fn take_up_parameters(&self, seen: &Snapshot, leads: bool, postmaster: i32) -> Result<()> {
        let mut known = Known::clone(&self.known.load());
        if known.postmaster != postmaster || known.catalogue.is_empty() {
            known.catalogue = Arc::new(self.instance.catalogue().await?);
            known.running = self.instance.running(&known.catalogue).await?;
            known.postmaster = postmaster;
        }
        let (wanted, ignored) = self.parameters_for(seen, leads, &known.running.capacities);
        let configured = match seen.settings_from {
            // The server keeps what it has.
            SettingsFrom::Nowhere => Ok(()),
            SettingsFrom::Stored | SettingsFrom::Before | SettingsFrom::Row(_) => {
                self.instance.configure(&wanted).await
            }
        };
        (known.ignored, known.refused) = (ignored, self.instance.refused());
        if self.instance.stamp().await? != known.running.stamp || configured.is_err() {
            known.running = self.instance.running(&known.catalogue).await?;
        }
        if configured.is_ok() {
            known.config_revision = seen.config_revision;
        }
        if known.running.pending.is_empty() && configured.is_ok() {
            self.instance.runs_well_so_far().await?;
        }
        self.known.store(Arc::new(known));
        Ok(configured?)
    }

    /// Configures a server that is about to be started, by the newest that is known. Nothing of that keeps it from being started.
    pub async fn configure_for_start(&self, seen: &Snapshot, leads: bool) {
        if seen.config_revision == 0 || seen.settings_from == SettingsFrom::Nowhere {
            // Nothing has been seen of etcd, or it holds nothing that anybody can read: what is kept is newer.
            return;
        }
        let mut mine = self.known.load().running.capacities.clone();
        if leads && mine.is_empty() {
            mine = self.instance.capacities_on_disk().await.unwrap_or_default();
        }
        let (wanted, _) = self.parameters_for(seen, leads, &mine);
        if let Err(error) = self.instance.configure(&wanted).await {
            tracing::warn!(%error, "Postgres is started with the parameters that it had");
        }
    }
}
