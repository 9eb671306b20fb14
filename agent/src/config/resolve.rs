//! From what is written to what it means: fills in the defaults that depend on other keys, and collects every mistake
//! on the way instead of stopping at the first.

use std::path::{Path, PathBuf};

use decision::names::MemberName;
use decision::settings::{Durability, Timing};

use super::problem::{Origins, Problem};
use super::raw::{Raw, RawEtcd, RawPostgres, RawTls, RawWatchdog};
use super::value::{HostPort, Lasting};
use super::{
    Api, Config, Etcd, Initdb, Log, Postgres, Tls, TlsIdentity, Watchdog, bootstrap, clone, control, keys, routes,
    rules, telling,
};

const USUAL_POSTGRES_PORT: u16 = 5432;
const USUAL_ETCD_PORT: u16 = 2379;

/// The finished configuration, or everything that is wrong with it.
pub fn resolve(path: &Path, raw: Raw, origins: &Origins) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let found = &mut problems;
    let timing = timing(&raw);
    rules::timing(&timing, found);
    let durability = durability(&raw);
    rules::durability(&durability, found);
    rules::tags(&raw.tags, origins, found);
    let restores = raw.postgres.parameters.0.contains_key("restore_command");
    rules::streaming(&raw.tags, raw.name.as_deref(), restores, found);
    let zone = raw.zone.and_then(|zone| label("zone", zone, found));
    let cluster = required("cluster", raw.cluster, found).and_then(|name| label("cluster", name, found));
    let name = member_name(raw.name, found);
    let etcd = etcd(raw.etcd, found);
    let clone = clone::resolve(raw.clone, found);
    let (bootstrap, bootstrap_site) = bootstrap::resolve(raw.bootstrap, found);
    let postgres = postgres(raw.postgres, durability, found);
    let advertised = postgres.as_ref().map(|postgres| &postgres.advertise);
    let api = api(raw.api.listen.as_deref(), raw.api.advertise.as_deref(), advertised, found);
    let (Some(cluster), Some(name), Some(etcd), Some(postgres), Some(api)) = (cluster, name, etcd, postgres, api)
    else {
        return Err(problems);
    };
    let state_dir = raw.state_dir.unwrap_or_else(|| beside(&postgres.data_dir));
    rules::directories(&postgres, &state_dir, found);
    let control = control::resolve(raw.control, &api.listen, &state_dir, found);
    let (haproxy, pgbouncer) = (routes::haproxy(raw.haproxy, found), routes::pgbouncer(raw.pgbouncer, found));
    rules::site(&name, bootstrap_site.as_ref(), &postgres, found);
    let log = Log { format: raw.log.format.unwrap_or_default(), filter: raw.log.filter.unwrap_or("info".into()) };
    let max_lag_on_failover_bytes = raw.durability.max_lag_on_failover.map_or(1024 * 1024, |size| size.0);
    let (path, tags) = (path.to_owned(), raw.tags);
    let watchdog = watchdog(raw.watchdog, found);
    let (hooks, webhooks) = (telling::hooks(raw.hooks, found), telling::webhooks(raw.webhooks, found));
    let config = Config {
        path,
        cluster,
        name,
        zone,
        state_dir,
        etcd,
        timing,
        durability,
        max_lag_on_failover_bytes,
        wait_for_lease: raw.failover.wait_for_lease.unwrap_or(false),
        watchdog,
        write_probe_every: rules::write_probe(raw.write_probe.every, found),
        disk_min_free_bytes: raw.disk.min_free.map(|size| size.0),
        bootstrap,
        clone,
        bootstrap_site,
        postgres,
        api,
        control,
        haproxy,
        pgbouncer,
        tags,
        log,
        hooks,
        webhooks,
    };
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn watchdog(raw: RawWatchdog, found: &mut Vec<Problem>) -> Watchdog {
    let device = raw.device.unwrap_or_else(|| "/dev/watchdog".into());
    let watchdog = Watchdog { mode: raw.mode.unwrap_or_default(), device };
    rules::watchdog(&watchdog, found);
    watchdog
}

/// `<data_dir>.pgvigil`: on the same file system, and safe from whoever empties the data directory.
fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".pgvigil");
    PathBuf::from(name)
}

fn required<T>(key: &str, value: Option<T>, found: &mut Vec<Problem>) -> Option<T> {
    if value.is_none() {
        let does = keys::find(key).map_or("", |key| key.does);
        let (section, leaf) = key.rsplit_once('.').unwrap_or(("", key));
        let example = match key {
            "cluster" => "\"orders\"",
            "etcd.endpoints" => "[\"http://10.0.0.11:2379\"]",
            "postgres.version" => "15",
            "postgres.advertise" => "\"10.0.0.21:5432\"",
            _ => "\"...\"",
        };
        let home = if section.is_empty() { "at the top".into() } else { format!("under [{section}]") };
        let problem = Problem::nowhere("E05", format!("`{key}` is missing: {does}"));
        found.push(problem.help(format!("write {leaf} = {example} {home}")));
    }
    value
}

/// A name that becomes one part of an etcd key and of `cluster_name`.
fn label(key: &str, name: String, found: &mut Vec<Problem>) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(good) {
        let message = format!("`{key}`: \"{name}\" will not do as a part of an etcd key");
        found.push(Problem::at("E06", key, message).help("use 1 to 63 ASCII letters, digits, '-', '.' or '_'"));
        return None;
    }
    Some(name)
}

fn member_name(written: Option<String>, found: &mut Vec<Problem>) -> Option<MemberName> {
    let text = written.unwrap_or_else(|| {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy();
        host.split('.').next().unwrap_or_default().to_owned()
    });
    let name = MemberName::new(text);
    name.map_err(|bad| found.push(Problem::at("E06", "name", bad.to_string()).help("write name = \"pg1\" at the top")))
        .ok()
}

fn timing(raw: &Raw) -> Timing {
    let usual = Timing::default();
    let or = |written: Option<Lasting>, usual| written.map_or(usual, |lasting| lasting.0);
    let written = &raw.timing;
    Timing {
        ttl: or(written.ttl, usual.ttl),
        heartbeat: or(written.heartbeat, usual.heartbeat),
        request_timeout: or(raw.etcd.request_timeout, usual.request_timeout),
        safety_margin: or(written.safety_margin, usual.safety_margin),
        primary_start_timeout: or(written.primary_start_timeout, usual.primary_start_timeout),
        voter_drop_after: or(written.voter_drop_after, usual.voter_drop_after),
        degrade_after: or(written.degrade_after, usual.degrade_after),
        ballot_window: or(written.ballot_window, usual.ballot_window),
        suspect_after: or(written.suspect_after, usual.suspect_after),
        reclaim_after: or(written.reclaim_after, usual.reclaim_after),
        hang_after: or(written.hang_after, usual.hang_after),
        disk_frozen_after: or(raw.disk.frozen_after, usual.disk_frozen_after),
        retry_after: or(written.retry_after, usual.retry_after),
    }
}

fn durability(raw: &Raw) -> Durability {
    let usual = Durability::default();
    Durability {
        mode: raw.durability.mode.unwrap_or(usual.mode),
        acknowledgers: raw.durability.acknowledgers.unwrap_or(usual.acknowledgers),
        other_zone: raw.durability.other_zone.unwrap_or(usual.other_zone),
    }
}

fn etcd(raw: RawEtcd, found: &mut Vec<Problem>) -> Option<Etcd> {
    let namespace = raw.namespace.as_deref().unwrap_or("service").trim_matches('/').to_owned();
    let namespace = label("etcd.namespace", namespace, found);
    let scheme = if raw.tls.is_some() { "https" } else { "http" };
    let endpoints = required("etcd.endpoints", raw.endpoints, found);
    let endpoints = endpoints.map(|list| endpoint_urls(&list.0, scheme, found));
    let encrypted = raw.tls.is_some();
    let tls = raw.tls.and_then(|tls| files_of_tls(tls, found));
    rules::credentials(raw.username.as_deref(), raw.password_file.as_deref(), found);
    let endpoints = endpoints?;
    rules::schemes(&endpoints, encrypted, found);
    let (username, password_file) = (raw.username, raw.password_file);
    Some(Etcd { endpoints, tls, username, password_file, namespace: namespace? })
}

/// Each endpoint as a full URL; none twice.
fn endpoint_urls(written: &[String], scheme: &str, found: &mut Vec<Problem>) -> Vec<String> {
    let mut urls = Vec::new();
    let mut wrong = |message: String| found.push(Problem::at("E07", "etcd.endpoints", message));
    for text in written {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or((scheme, text.trim()));
        if !matches!(scheme, "http" | "https") {
            wrong(format!("`etcd.endpoints`: \"{text}\" begins with neither http:// nor https://"));
            continue;
        }
        match HostPort::parse(rest.trim_end_matches('/'), Some(USUAL_ETCD_PORT)) {
            Ok(address) if address.is_wildcard() => {
                wrong(format!("`etcd.endpoints`: \"{text}\" leads nowhere: name one address"));
            }
            Ok(address) => {
                let url = format!("{scheme}://{address}");
                if urls.contains(&url) {
                    wrong(format!("`etcd.endpoints`: {url} is there twice"));
                } else {
                    urls.push(url);
                }
            }
            Err(why) => wrong(format!("`etcd.endpoints`: \"{text}\": {why}")),
        }
    }
    if written.is_empty() {
        wrong("`etcd.endpoints` is empty: without etcd there is no leader".into());
    }
    urls
}

fn files_of_tls(raw: RawTls, found: &mut Vec<Problem>) -> Option<Tls> {
    for (key, file) in [("etcd.tls.ca", &raw.ca), ("etcd.tls.cert", &raw.cert), ("etcd.tls.key", &raw.key)] {
        if let Some(file) = file {
            rules::readable(key, file, found);
        }
    }
    let identity = match (raw.cert, raw.key) {
        (Some(cert), Some(key)) => Some(TlsIdentity { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            let problem = Problem::at("E08", "etcd.tls.cert", "`etcd.tls.cert` without `etcd.tls.key` proves nothing");
            found.push(problem.help("write key = \"...\" beside it"));
            None
        }
        (None, Some(_)) => {
            let problem = Problem::at("E08", "etcd.tls.key", "`etcd.tls.key` without `etcd.tls.cert` proves nothing");
            found.push(problem.help("write cert = \"...\" beside it"));
            None
        }
    };
    Some(Tls { ca: required("etcd.tls.ca", raw.ca, found)?, identity })
}

fn postgres(raw: RawPostgres, durability: Durability, found: &mut Vec<Problem>) -> Option<Postgres> {
    let parameters = raw.parameters.0;
    rules::parameters(&parameters, durability.mode, found);
    rules::hba(&raw.hba.0, found);
    let initdb = Initdb {
        encoding: raw.initdb.encoding.unwrap_or("UTF8".into()),
        locale: raw.initdb.locale.unwrap_or("C.UTF-8".into()),
        wal_segment_size_mb: raw.initdb.wal_segment_size_mb.unwrap_or(4),
        options: raw.initdb.options.0,
    };
    rules::initdb(&initdb, found);
    let passwords = [
        ("postgres.replication_password_file", &raw.replication_password_file),
        ("postgres.rewind_password_file", &raw.rewind_password_file),
    ];
    for (key, file) in passwords {
        if let Some(file) = file {
            rules::secret(key, file, found);
        }
    }
    let advertise = required("postgres.advertise", raw.advertise, found);
    let advertise = advertise.and_then(|text| reachable("postgres.advertise", &text, Some(USUAL_POSTGRES_PORT), found));
    let version = required("postgres.version", raw.version, found);
    let version = version.filter(|version| rules::version(*version, found))?;
    Some(Postgres {
        version,
        bin_dir: raw.bin_dir.unwrap_or_else(|| format!("/usr/lib/postgresql/{version}/bin").into()),
        data_dir: raw.data_dir.unwrap_or_else(|| format!("/var/lib/postgresql/{version}/main").into()),
        socket_dir: raw.socket_dir.unwrap_or_else(|| "/var/run/postgresql".into()),
        advertise: advertise?,
        listen: raw.listen.unwrap_or("*".into()),
        parameters,
        hba: raw.hba.0,
        replication_password_file: raw.replication_password_file,
        rewind_password_file: raw.rewind_password_file,
        initdb,
    })
}

fn api(
    listen: Option<&str>,
    advertise: Option<&str>,
    postgres: Option<&HostPort>,
    found: &mut Vec<Problem>,
) -> Option<Api> {
    let listen = address("api.listen", listen.unwrap_or("0.0.0.0:8008"), None, found);
    let advertise = match (advertise, &listen) {
        (Some(text), Some(listen)) => reachable("api.advertise", text, Some(listen.port), found),
        (Some(text), None) => reachable("api.advertise", text, None, found),
        (None, Some(listen)) if listen.is_wildcard() => {
            postgres.map(|postgres| HostPort { host: postgres.host.clone(), port: listen.port })
        }
        (None, listen) => listen.clone(),
    };
    let (listen, advertise) = (listen?, advertise?);
    if postgres == Some(&advertise) {
        let message = format!("`api.listen` and `postgres.advertise` are the same address, {advertise}");
        found.push(
            Problem::about("E12", &["api.listen", "api.advertise"], message).help("give the API a port of its own"),
        );
    }
    Some(Api { listen, advertise })
}

pub(super) fn address(key: &str, text: &str, usual_port: Option<u16>, found: &mut Vec<Problem>) -> Option<HostPort> {
    let address = HostPort::parse(text, usual_port);
    address.map_err(|why| found.push(Problem::at("E12", key, format!("`{key}`: {why}")))).ok()
}

/// An address that others are given, and so one that leads to this node.
fn reachable(key: &str, text: &str, usual_port: Option<u16>, found: &mut Vec<Problem>) -> Option<HostPort> {
    let address = address(key, text, usual_port, found)?;
    if address.is_wildcard() {
        let problem = Problem::at(
            "E12",
            key,
            format!("`{key}`: {address} stands for every address, and leads the others nowhere"),
        );
        found.push(problem.help("write the address by which the other nodes reach this one"));
        return None;
    }
    Some(address)
}
