//! What the agent sets up once: etcd, the leases, Postgres, the fence, the health API; then its loop, in `body.rs`, until it is told to
//! end. Postgres goes on running, and the leases are left to the next agent.

use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use consensus::{Adopted, ClusterWatch, Endpoints, EtcdOptions, Keys, LeaseKeeper, Store, TlsFiles};
use pg_control::{DiskWatch, Instance, InstanceConfig, Pulse, Watched};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::activity::ActivityLook;
use crate::authority::Authority;
use crate::begun::Begun;
use crate::body::Body;
use crate::certificates;
use crate::config::{Config, Initdb};
use crate::control::{self, Control};
use crate::descriptors;
use crate::fence::{Fence, FenceOptions};
use crate::hands::Hands;
use crate::http;
use crate::metrics::Metrics;
use crate::notes::Notebook;
use crate::probing;
use crate::promises::{Asker, Promises};
use crate::recorder::Recorder;
use crate::registrar::keep_registered;
use crate::reload;
use crate::routing;
use crate::secret::Secret;
use crate::telling::{self, Living};
use crate::transitions::Ledger;

/// How to reach etcd, from the configuration.
///
/// # Errors
/// The password file cannot be read or is open to others.
pub fn etcd_options(config: &Config) -> Result<EtcdOptions> {
    let etcd = &config.etcd;
    let password = etcd.password_file.as_ref().map(|file| Secret::read(file)).transpose()?;
    let mut endpoints = etcd.endpoints.clone();
    // All agents have the same list, and would all ask its first member.
    let begin = config.name.as_str().bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let first = begin % endpoints.len().max(1);
    endpoints.rotate_left(first);
    Ok(EtcdOptions {
        endpoints,
        tls: etcd.tls.as_ref().map(|tls| TlsFiles {
            ca: tls.ca.clone(),
            cert: tls.identity.as_ref().map(|identity| identity.cert.clone()),
            key: tls.identity.as_ref().map(|identity| identity.key.clone()),
        }),
        username: etcd.username.clone(),
        password: password.map(|password| password.expose().to_owned()),
        password_file: etcd.password_file.clone(),
        request_timeout: config.timing.request_timeout,
    })
}

/// The cluster's place in etcd, from the configuration.
///
/// # Errors
/// As [`etcd_options`], or TLS files that cannot be used.
pub fn store(config: &Config) -> Result<Store> {
    let endpoints = Endpoints::new(etcd_options(config)?)?;
    Ok(Store::new(endpoints, Keys::new(&config.etcd.namespace, &config.cluster)))
}

/// The handle on the Postgres of this node, from the configuration.
///
/// # Errors
/// A parameter that the agent owns, a missing program, or a directory of the agent's own that cannot be made.
pub fn instance(config: &Config) -> Result<Instance> {
    let postgres = &config.postgres;
    let usual = InstanceConfig::new(
        config.name.clone(),
        config.cluster.clone(),
        postgres.data_dir.clone(),
        config.state_dir.clone(),
    );
    Ok(Instance::new(InstanceConfig {
        bin_dir: postgres.bin_dir.clone(),
        socket_dir: postgres.socket_dir.clone(),
        port: postgres.advertise.port,
        nostream: config.tags.nostream,
        cascades_from: config.tags.replicatefrom.clone(),
        listen_addresses: postgres.listen.clone(),
        parameters: postgres.parameters.clone(),
        hba: postgres.hba.clone(),
        initdb_args: initdb_args(&postgres.initdb),
        encoding: postgres.initdb.encoding.clone(),
        locale: postgres.initdb.locale.clone(),
        ..usual
    })?)
}

fn initdb_args(initdb: &Initdb) -> Vec<String> {
    let segments = format!("--wal-segsize={}", initdb.wal_segment_size_mb);
    std::iter::once(segments).chain(initdb.options.iter().cloned()).collect()
}

/// Runs the agent until it is told to end. Postgres goes on running.
///
/// # Errors
/// What keeps the agent from starting, in words that name the mend.
pub async fn run(config: Config) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        bail!(
            "pgvigil must not run as root, for Postgres must not: start it as the user that owns the data directory (postgres)"
        );
    }
    descriptors::raise();
    if let Some(open) = config.etcd.open_key() {
        tracing::warn!("`etcd.tls.key`: {open}");
    }
    // A postmaster that dies is an orphan; reaped by us at once, it does not linger as a zombie and look alive.
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let taken = Arc::new(Notify::new());
    let mut body = set_up(config, Arc::clone(&taken))?;
    let superseded = Arc::clone(&body.hands);
    tokio::spawn(reload::at_each(hangup, Arc::clone(&body.hands)));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        () = body.live() => {}
        () = taken.notified() => bail!(
            "another living agent is registered as \"{}\" in cluster \"{}\": give one of them another `name`",
            body.hands.me(), body.hands.config.cluster
        ),
        () = superseded.fence.superseded() => bail!(
            "another agent of node \"{}\" was started after this one and leads its Postgres: this one ends",
            superseded.me()
        ),
        _ = terminate.recv() => body.say_goodbye("SIGTERM"),
        _ = interrupt.recv() => body.say_goodbye("SIGINT"),
    }
    body.come_to_rest().await;
    Ok(())
}

fn set_up(config: Config, taken: Arc<Notify>) -> Result<Body> {
    let notebook = Notebook::open(&config.state_dir);
    let adopted = Adopted { member: notebook.notes().member_lease, lock: notebook.notes().lock_lease };
    let led_until = notebook.notes().led_until.clone();
    let hands = Arc::new(hands(config, adopted)?);
    hands.recorder.earlier_life_led_until(led_until);
    let cluster = ClusterWatch::start(hands.store.clone(), hands.config.timing.heartbeat);
    let mut body = Body::new(Arc::clone(&hands), cluster, notebook)?;
    let listen = hands.config.api.listen.to_string();
    let api = http::Api {
        board: Arc::clone(&body.board),
        ledger: Arc::clone(&hands.ledger),
        metrics: Arc::clone(&hands.metrics),
        pulse: hands.pulse.clone(),
        disk: hands.disk.clone(),
        promises: Arc::clone(&hands.promises),
        activity: Arc::new(ActivityLook::new(hands.instance.clone())),
        page: http::Shared::new(),
        knows_who_asks: false,
    };
    let control = Control::new(Arc::clone(&hands), Arc::clone(&body.board))?;
    let carries = hands.config.control.on_health_listener;
    let verbs = carries.then(|| control.own());
    let elsewhere = control::Elsewhere::new(control::whereabouts(&hands.config), Arc::clone(&hands.metrics));
    let router = http::router(api.clone(), verbs, elsewhere);
    let encrypted = carries.then(|| control.takes_encrypted(router.clone())).flatten();
    let numbers = hands.metrics.listener("health");
    let address = http::listen(&listen, router, encrypted, numbers).with_context(|| {
        format!("the health API cannot listen on {listen} ([api] listen): is another agent running here?")
    })?;
    control.listen(http::reading(http::Api { knows_who_asks: true, ..api }));
    control.keep_schedule();
    telling::start(&hands, &body.board);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cluster = hands.config.cluster, member = %hands.me(), api = %address, "agent started");
    tokio::spawn(certificates::watch(Arc::clone(&hands)));
    routing::start(&hands, &body.board);
    probing::start(&hands, &body.board);
    let patience = hands.config.timing.ttl * 2 + Duration::from_secs(5);
    let record = body.begin_registration();
    tokio::spawn(keep_registered(hands, record, body.cluster_views(), patience, taken));
    Ok(body)
}

fn hands(config: Config, adopted: Adopted) -> Result<Hands> {
    let instance = instance(&config)?;
    let store = store(&config)?;
    let timing = config.timing;
    let leases = LeaseKeeper::start(etcd_options(&config)?, timing.ttl, timing.heartbeat, adopted)?;
    let advertise = &config.postgres.advertise;
    let address = (advertise.host.clone(), advertise.port);
    let promises = Promises::open(&config.state_dir, &config.cluster, config.member_name(), address);
    let authority = Authority::new(leases.lock(), promises.reign.carried(), timing.safety_margin);
    let fence = Fence::start(FenceOptions::new(&config)?, authority.clone())?;
    let authority = authority.fenced_by(fence.bound());
    Asker::start(Arc::clone(&promises), leases.lock(), authority.clone(), timing)?;
    let pulse = Pulse::start(instance.clone())?;
    let disk = DiskWatch::start(instance.clone(), config.disk_min_free_bytes)?;
    let metrics = Arc::new(Metrics::new(&config.cluster, config.name.as_str()));
    let ledger = Arc::new(Ledger::default());
    let recorder = Recorder::new(config.name.clone(), store.clone(), Arc::clone(&metrics), Arc::clone(&ledger));
    Ok(Hands {
        recorder,
        store,
        leases,
        authority,
        promises,
        instance,
        fence,
        pulse,
        disk,
        metrics,
        ledger,
        begun: Begun::default(),
        name_is_mine: AtomicBool::new(false),
        spare_lease: AtomicI64::new(0),
        works: TaskTracker::new(),
        programs: Living::default(),
        look_now: Notify::new(),
        etcd_silent_at: Mutex::new(None),
        known: ArcSwap::default(),
        slots: ArcSwap::default(),
        access: ArcSwap::default(),
        certificates: ArcSwap::default(),
        copying: Watched::default(),
        secrets_known: AtomicBool::new(false),
        local: ArcSwap::from_pointee(config.clone()),
        config,
    })
}
