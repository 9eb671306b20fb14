//! What an action works with: etcd, the leases, Postgres, the fence, and the measuring of transitions. Shared by the loop and by the one
//! job that it may have under way.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use consensus::{BootInstant, LeaseKeeper, Store};
use decision::names::MemberName;
use pg_control::{DiskWatch, Instance, Pulse, Watched};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::access;
use crate::authority::Authority;
use crate::begun::Begun;
use crate::certificates;
use crate::config::Config;
use crate::configure::Known;
use crate::fence::Fence;
use crate::metrics::Metrics;
use crate::passwords;
use crate::promises::Promises;
use crate::recorder::Recorder;
use crate::slots;
use crate::telling::Living;
use crate::transitions::Ledger;

/// How long etcd may take to answer before anything is given up that cannot be taken back without it.
const ETCD_ANSWERS_WITHIN: Duration = Duration::from_millis(700);

/// Everything an action may use.
pub struct Hands {
    /// The configuration of this node.
    pub config: Config,
    /// The same, with what has changed in its file since and may.
    pub local: ArcSwap<Config>,
    /// etcd.
    pub store: Store,
    /// The leases.
    pub leases: LeaseKeeper,
    /// Until when this node may rely on its leadership.
    pub authority: Authority,
    /// Promises between agents.
    pub promises: Arc<Promises>,
    /// Postgres.
    pub instance: Instance,
    /// The fence.
    pub fence: Fence,
    /// Whether the primary here answers.
    pub pulse: Pulse,
    /// Whether its disk does.
    pub disk: DiskWatch,
    /// Who measures transitions.
    pub recorder: Recorder,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Records.
    pub ledger: Arc<Ledger>,
    /// What this life has begun.
    pub begun: Begun,
    /// Whether the member record of my name has been mine in this life; before that, the name may be somebody else's.
    pub name_is_mine: AtomicBool,
    /// The lock lease that this node publishes while it stands ready for a switchover; 0: it does not.
    pub spare_lease: AtomicI64,
    /// What goes on on threads of its own and needs the runtime: it ends before that does.
    pub works: TaskTracker,
    /// The programs of the operator's that run.
    pub programs: Living,
    /// Rung by an action that has changed what is seen, long before it ends: the loop looks at once.
    pub look_now: Notify,
    /// When a question was sent to etcd that it has not answered; what was confirmed by an earlier one is not the present any more.
    pub etcd_silent_at: Mutex<Option<BootInstant>>,
    /// What is known of the parameters of Postgres here.
    pub known: ArcSwap<Known>,
    /// What is known of the replication slots here.
    pub slots: ArcSwap<slots::Known>,
    /// What is known of the rules for connections here.
    pub access: ArcSwap<access::Known>,
    /// When certificates end.
    pub certificates: ArcSwap<certificates::Known>,
    /// How far a copy of the data is that is being made here.
    pub copying: Watched,
    /// Whether the passwords between members have been handed to Postgres' side.
    pub secrets_known: AtomicBool,
}

impl Hands {
    /// The name of this node.
    pub fn me(&self) -> &MemberName {
        self.config.member_name()
    }

    /// Whether etcd is there, by one small question. What was seen before a question that it leaves unanswered is not taken for the present
    /// any more.
    pub async fn etcd_answers(&self) -> bool {
        self.asked_of_etcd(self.store.answers()).await.is_some()
    }

    /// What etcd answers to one small question; see [`Hands::etcd_answers`].
    pub async fn asked_of_etcd<T>(&self, question: impl Future<Output = Result<T, consensus::Error>>) -> Option<T> {
        let asked_at = BootInstant::now();
        let why = match tokio::time::timeout(ETCD_ANSWERS_WITHIN, question).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ETCD_ANSWERS_WITHIN:?}"),
        };
        tracing::warn!(why, "etcd does not answer: nothing is given up that would need it");
        *self.etcd_silent_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked_at);
        self.look_now.notify_one();
        None
    }

    /// Whether etcd has answered nothing that was asked since a question that it left unanswered.
    pub fn etcd_is_silent(&self, confirmed_at: BootInstant) -> bool {
        let unanswered = *self.etcd_silent_at.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.is_some_and(|asked_at| asked_at.since(confirmed_at) > Duration::ZERO)
    }

    /// Gives the spare lease back, if there is one.
    pub async fn drop_spare_lease(&self) {
        self.spare_lease.store(0, Ordering::SeqCst);
        if self.leases.lock().borrow().id().is_some()
            && let Err(error) = self.leases.drop_lock_lease().await
        {
            tracing::debug!(%error, "the spare lease could not be given back and will expire");
        }
    }

    /// Writes something down about promises. The disk may take its time, or hang, and holds nobody else up.
    ///
    /// # Errors
    /// It cannot be written, or must not be.
    pub async fn noting<T: Send + 'static, E: Into<anyhow::Error> + Send + 'static>(
        &self,
        note: impl FnOnce(&Promises) -> Result<T, E> + Send + 'static,
    ) -> Result<T> {
        let promises = Arc::clone(&self.promises);
        tokio::task::spawn_blocking(move || note(&promises)).await?.map_err(Into::into)
    }

    /// No promise carries this node any more. It does not wait for the disk, which may be why: nobody takes the lock without ballots now,
    /// and whoever has balloted tells the next life so.
    ///
    /// `over`: the revision of the record that what is sent next replaces.
    pub fn renounce_promises(&self, over: i64) {
        self.promises.reign.forget(over);
        let promises = Arc::clone(&self.promises);
        tokio::task::spawn_blocking(move || promises.reign.write_or_forget());
    }

    /// The lock is let go: nothing is a claim any more, neither a lease nor a promise.
    pub fn renounce(&self, over: i64) {
        self.renounce_promises(over);
        self.authority.unbind();
    }

    /// Has the passwords that members use among each other: from the operator's files, or else from etcd, where the first leader has
    /// put the ones that it made up.
    pub async fn ensure_secrets(&self) -> Result<()> {
        if self.secrets_known.load(Ordering::SeqCst) {
            // Somebody may have deleted them where libpq looks for them.
            return Ok(self.instance.keep_state_dir().map(|_| ())?);
        }
        let secrets = passwords::read(&self.store, &self.config.postgres).await?;
        if let Err(error) = self.promises.seal.make(&self.config.cluster, &secrets.replication_password) {
            tracing::warn!(%error, "the key for promises cannot be kept for the next life of this agent");
        }
        self.instance.set_secrets(secrets)?;
        self.secrets_known.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Makes up the passwords of a new cluster, unless the operator has given them or another node was first.
    pub async fn create_secrets(&self) -> Result<()> {
        passwords::make_up(&self.store, &self.config.postgres).await?;
        self.ensure_secrets().await
    }
}
