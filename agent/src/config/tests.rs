//! The configuration as an operator meets it: files and environments in, settings or complaints out.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use decision::settings::{Mode, Settings, Tags, Timing};

use super::keys::{self, KEYS};
use super::raw::Raw;
use super::*;

/// The documentation that goes with the keys.
const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");

/// The shortest useful file.
pub const MINIMUM: &str = r#"
cluster = "orders"
name = "pg1"
[etcd]
endpoints = ["10.0.0.11:2379", "http://10.0.0.12", "http://10.0.0.13:2379/"]
[postgres]
version = 15
advertise = "10.0.0.21"
[api]
listen = "10.0.0.21:8008"
"#;

fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgvigil.toml");
    std::fs::write(&path, text).unwrap();
    load(&path, env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

pub fn good(text: &str, env: &[(&str, &str)]) -> Config {
    load_with(text, env).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Every mistake as `code line:column message | help`.
pub fn complaints(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let errors = load_with(text, env).expect_err("a mistake");
    let complaint = |(place, problem): (&str, &Problem)| {
        let place = place.rsplit_once(".toml").map_or(place, |(_, place)| place.trim_start_matches(':'));
        let help = problem.help.as_deref().unwrap_or("-");
        format!("{} {place} {} | {help}", problem.code, problem.message)
    };
    errors.problems().map(complaint).collect()
}

/// The minimum with something more in it.
pub fn with(more: &str) -> String {
    format!("{MINIMUM}\n{more}")
}

#[track_caller]
pub fn assert_complaint(text: &str, expected: &str) {
    let complaints = complaints(text, &[]);
    assert!(complaints.iter().any(|told| told.contains(expected)), "{complaints:#?}");
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
}

#[test]
fn ten_lines_are_enough() {
    let config = good(MINIMUM, &[]);
    assert_eq!(config.etcd.endpoints, ["http://10.0.0.11:2379", "http://10.0.0.12:2379", "http://10.0.0.13:2379"]);
    assert_eq!(config.etcd.namespace, "service");
    assert_eq!(config.postgres.bin_dir, Path::new("/usr/lib/postgresql/15/bin"));
    assert_eq!(config.postgres.data_dir, Path::new("/var/lib/postgresql/15/main"));
    assert_eq!(config.state_dir, Path::new("/var/lib/postgresql/15/main.pgvigil"));
    assert_eq!(config.postgres.advertise.to_string(), "10.0.0.21:5432");
    assert_eq!(config.api.advertise.to_string(), "10.0.0.21:8008");
    assert_eq!(config.member_name().as_str(), "pg1");
    assert_eq!(config.settings(), Settings::default());
    assert_eq!(config.tags, Tags::default());
}

#[test]
fn everything_can_be_written() {
    let config = good(
        r#"
        cluster = "orders"
        name = "pg1"
        state_dir = "/srv/notes"
        etcd = { endpoints = ["etcd1:2379"], namespace = "/db/", request_timeout = "500ms" }
        timing = { ttl = "10s", heartbeat = "2s", safety_margin = "1s", primary_start_timeout = "1m", voter_drop_after = "2s", degrade_after = "4s", ballot_window = "3s", reclaim_after = "5s", suspect_after = "800ms", hang_after = "6s", retry_after = "7s" }
        durability = { mode = "quorum", acknowledgers = 2, max_lag_on_failover = "16 MB" }
        disk = { min_free = "10GB", frozen_after = "4s" }
        api = { listen = "0.0.0.0:9000" }
        tags = { nofailover = false, failover_priority = 2, noloadbalance = true, nosync = true }
        log = { format = "json", filter = "debug" }
        [postgres]
        version = 15
        bin_dir = "/opt/pg/bin"
        data_dir = "/srv/pg"
        socket_dir = "/run/pg"
        advertise = "[fd00::21]:6000"
        listen = "localhost"
        hba = ["host all all samenet scram-sha-256"]
        initdb = { encoding = "LATIN1", locale = "C", wal_segment_size_mb = 64 }
        [postgres.parameters]
        Work_Mem = "4MB"
        max_connections = 200
        jit = false
        random_page_cost = 1.1
        pg_stat_statements.max = 1000
        "auto_explain.log_analyze" = true
        "#,
        &[],
    );
    let settings = config.settings();
    assert_eq!(settings.timing.ttl, Duration::from_secs(10));
    assert_eq!(settings.timing.request_timeout, Duration::from_millis(500));
    assert_eq!(settings.timing.retry_after, Duration::from_secs(7));
    assert_eq!((settings.durability.mode, settings.durability.acknowledgers), (Mode::Quorum, 2));
    assert_eq!(settings.max_lag_on_failover_bytes, 16 << 20);
    assert_eq!(config.disk_min_free_bytes, Some(10 << 30));
    assert_eq!(settings.timing.disk_frozen_after, Duration::from_secs(4));
    assert_eq!(config.etcd.namespace, "db");
    assert_eq!(config.api.advertise.to_string(), "[fd00::21]:9000");
    let parameters: Vec<_> = config.postgres.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        parameters.join(" "),
        "auto_explain.log_analyze=on jit=off max_connections=200 pg_stat_statements.max=1000 random_page_cost=1.1 work_mem=4MB"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let env = [
        ("PGVIGIL__NAME", "pg15"),
        ("PGVIGIL__ETCD__ENDPOINTS", "http://a:1, http://b:2"),
        ("PGVIGIL__TIMING__TTL", "7s"),
        ("PGVIGIL__POSTGRES__VERSION", "16"),
        ("PGVIGIL__POSTGRES__PARAMETERS__WORK_MEM", "8MB"),
        ("PGVIGIL__TAGS__NOFAILOVER", "true"),
        ("PGVIGIL__DURABILITY__MODE", "async"),
        ("PGVIGIL_CONFIG", "not ours: one underscore"),
    ];
    let config = good(&with("[postgres.parameters]\nWork_Mem = '4MB'"), &env);
    assert_eq!(config.name.as_str(), "pg15");
    assert_eq!(config.etcd.endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!(config.timing.ttl, Duration::from_secs(7));
    assert_eq!(config.postgres.version, 16);
    assert_eq!(config.postgres.parameters["work_mem"], "8MB");
    assert_eq!(config.postgres.parameters.len(), 1);
    assert!(config.tags.nofailover);
    assert_eq!(config.durability.mode, Mode::Async);
}

#[test]
fn a_bad_variable_is_named() {
    let env =
        [("PGVIGIL__TIMING__TTL", "7"), ("PGVIGIL__TIMING__LOOP_WAIT", "1s"), ("PGVIGIL__TAGS__NOSYNC", "perhaps")];
    assert_eq!(
        complaints(MINIMUM, &env),
        [
            "E04 the environment variable PGVIGIL__TAGS__NOSYNC `tags.nosync`: invalid type: string \"perhaps\", expected a boolean | it is there for: bars this node from being a voter (default: false)",
            "E03  the environment variable PGVIGIL__TIMING__LOOP_WAIT names no key: `timing.loop_wait` is unknown | did you mean `timing.heartbeat`: how often the lease is renewed (default: \"1s\")?",
            "E04 the environment variable PGVIGIL__TIMING__TTL `timing.ttl`: invalid value: string \"7\", expected a duration with a unit, such as \"500ms\" or \"5s\" | it is there for: the time to live of the leader's lease (default: \"5s\")",
        ]
    );
    let impossible = complaints(MINIMUM, &[("PGVIGIL__TIMING__TTL", "2s")]);
    assert!(impossible[0].starts_with("E10 the environment variable PGVIGIL__TIMING__TTL ttl 2s <"), "{impossible:?}");
}

#[test]
fn all_mistakes_of_form_are_told_at_once_in_the_order_of_the_file() {
    let text = "scope = \"orders\"\nttl = 30\n[etcd]\nendpoint = []\nrequest_timeout = 5\n[postgres]\nshoe_size = 43\n";
    assert_eq!(
        complaints(text, &[]),
        [
            "E03 1:1 unknown key `scope` | did you mean `cluster`: the name that all nodes of one cluster share (required)?",
            "E03 2:1 unknown key `ttl` | did you mean `timing.ttl`, in [timing]: the time to live of the leader's lease (default: \"5s\")?",
            "E03 4:1 unknown key `etcd.endpoint` | did you mean `etcd.endpoints`: the members of etcd (required)?",
            "E04 5:19 `etcd.request_timeout`: invalid type: integer `5`, expected a duration with a unit, such as \"500ms\" or \"5s\" | it is there for: the deadline of one request to etcd (default: \"700ms\")",
            "E03 7:1 unknown key `postgres.shoe_size` | known here: postgres.version, postgres.bin_dir, postgres.data_dir, postgres.socket_dir, postgres.advertise, postgres.listen, postgres.parameters, postgres.hba, postgres.replication_password_file, postgres.rewind_password_file",
        ]
    );
}

#[test]
fn an_error_shows_its_line_and_underlines_the_key() {
    let text = load_with(&with("[timing]\nloop_wait = \"1s\""), &[]).expect_err("a mistake").to_string();
    let shown: Vec<_> = text.lines().map(str::trim_end).collect();
    assert_eq!(shown[0], "1 mistake in the configuration");
    assert_eq!(shown[1], "error[E03]");
    assert_eq!(shown[3], "  × unknown key `timing.loop_wait`");
    assert!(shown[4].ends_with("pgvigil.toml:13:1]"), "{text}");
    assert_eq!(shown[6], " 13 │ loop_wait = \"1s\"");
    assert_eq!(shown[7], "    · ─────────");
    assert!(shown[9].contains("did you mean `timing.heartbeat`"), "{text}");
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_told_apart() {
    let missing = load(Path::new("/nonexistent/pgvigil.toml"), std::iter::empty()).expect_err("no file").to_string();
    assert!(missing.contains("cannot read the configuration: No such file"), "{missing}");
    assert_complaint("cluster = = 1", "E02 1:11 this is not TOML");
}

#[test]
fn what_is_missing_is_asked_for_with_an_example() {
    assert_eq!(
        complaints("name = 'pg1'", &[]),
        [
            "E05  `cluster` is missing: the name that all nodes of one cluster share | write cluster = \"orders\" at the top",
            "E05  `etcd.endpoints` is missing: the members of etcd | write endpoints = [\"http://10.0.0.11:2379\"] under [etcd]",
            "E05  `postgres.advertise` is missing: where clients and the other nodes reach Postgres | write advertise = \"10.0.0.21:5432\" under [postgres]",
            "E05  `postgres.version` is missing: the major version | write version = 15 under [postgres]",
        ]
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (more, expected) in [
        ("[timing]\nttl = '2s'", "E10 13:1 ttl 2s < heartbeat 1s + 2 x request_timeout 700ms"),
        ("[timing]\nheartbeat = '50ms'", "E10 13:1 heartbeat 50ms is below 100 ms"),
        ("[durability]\nmode = 'strict'\nacknowledgers = 0", "E11 14:1 mode \"strict\" with acknowledgers 0"),
        (
            "[tags]\nnofailover = true\nfailover_priority = 3",
            "E11 14:1 failover_priority 3 for a node that never leads",
        ),
        ("[tags]\nnofailover = false\nfailover_priority = 0", "E11 14:1 failover_priority 0 bars this node"),
        (
            "[tags]\nnostream = true",
            "E11 13:1 nostream takes WAL from the archive alone, and no restore_command is set",
        ),
        ("[postgres.parameters]\nPort = 5432", "E14 13:1 parameter \"port\" belongs to the agent | it is the port of"),
        (
            "[postgres.parameters]\nwal_level = 'minimal'",
            "E14 13:1 with parameter wal_level = \"minimal\" nothing could",
        ),
        (
            "[postgres.parameters]\nmax_wal_senders = 2",
            "max_wal_senders = \"2\" is too small for a cluster | 10 or more",
        ),
        (
            "[postgres.parameters]\nwal_receiver_timeout = '1s'",
            "parameter \"wal_receiver_timeout\" belongs to the agent",
        ),
        ("[bootstrap]\nfrom = 'site'", "`bootstrap.from` needs `bootstrap.site`"),
        ("[bootstrap]\nfrom = 'site'\nsite = 'east:5432'", "has that site's passwords, and they are not given"),
        ("[bootstrap]\nfrom = 'site'\nsite = 'a b'", "E12 14:1 \"a b\" is no HOST or HOST:PORT"),
        ("[bootstrap]\ntarget_lsn = '0/1'", "`bootstrap.target_lsn` says nothing"),
        ("[bootstrap]\nsite = 'east'", "`bootstrap.site` says nothing for a cluster that is made otherwise"),
        ("[postgres.parameters]\nfull_page_writes = false", "pg_rewind would refuse to work"),
        ("[postgres.parameters]\nx = \"a\\nb\"", "cannot be written into postgresql.conf"),
        ("[postgres.initdb]\nwal_segment_size_mb = 17", "E14 13:1 `postgres.initdb.wal_segment_size_mb`: 17 is no WAL"),
        ("[durability]\nmax_lag_on_failover = '1 parsec'", "expected a whole number with the unit B, kB, MB, GB or TB"),
    ] {
        assert_complaint(&with(more), expected);
    }
    assert_complaint(
        &with("[durability]\nmode = 'quorum'\n[postgres.parameters]\nsynchronous_commit = 'local'"),
        "commits would not wait for the voters",
    );
}

#[test]
fn a_line_changed_for_the_worse_is_refused() {
    for (line, worse, expected) in [
        ("name = \"pg1\"", "name = \"pg1_t7\"", "E06 3:1 \"pg1_t7\" is no member name"),
        ("name = \"pg1\"", "name = \"the-other-site\"", "E11 3:1 \"the-other-site\" stands for another site"),
        ("cluster = \"orders\"", "cluster = \"a/b\"", "E06 2:1 `cluster`: \"a/b\" will not do"),
        (
            "version = 15",
            "version = 12",
            "E13 7:1 `postgres.version`: Postgres 12 is not known here | major versions 15 to 18",
        ),
        (
            "advertise = \"10.0.0.21\"",
            "advertise = \"0.0.0.0:5432\"",
            "E12 8:1 `postgres.advertise`: 0.0.0.0:5432 stands for every",
        ),
        ("advertise = \"10.0.0.21\"", "advertise = \":5432\"", "E12 8:1 `postgres.advertise`: the host is empty"),
        ("advertise = \"10.0.0.21\"", "advertise = \"10.0.0.21:8008\"", "are the same address"),
        ("advertise = \"10.0.0.21\"", "advertise = \"::1\"", "put the IPv6 address in brackets: [::1]"),
        (
            "advertise = \"10.0.0.21\"",
            "advertise = \"x\"\nsocket_dir = \"run\"",
            "`postgres.socket_dir`: \"run\" depends on where",
        ),
        ("10.0.0.21:8008", "10.0.0.21", "E12 10:1 `api.listen`: the port is missing"),
        ("http://10.0.0.12", "https://10.0.0.12", "E08 5:1 https://10.0.0.12:2379 needs `etcd.tls`"),
        ("http://10.0.0.12", "10.0.0.11", "E07 5:1 `etcd.endpoints`: http://10.0.0.11:2379 is there twice"),
        ("http://10.0.0.12", "redis://10.0.0.12", "begins with neither http:// nor https://"),
        ("[etcd]", "[etcd]\nusername = 'u'", "E08 5:1 `etcd.username` without `etcd.password_file`"),
        (
            "[etcd]",
            "state_dir = '/var/lib/postgresql/15/main/x'\n[etcd]",
            "E15 4:1 `state_dir` is inside the data directory",
        ),
    ] {
        assert_complaint(&MINIMUM.replace(line, worse), expected);
    }
    assert!(
        complaints(
            &MINIMUM.replace("[\"10.0.0.11:2379\", \"http://10.0.0.12\", \"http://10.0.0.13:2379/\"]", "[]"),
            &[]
        )[0]
        .contains("`etcd.endpoints` is empty")
    );
}

#[test]
fn files_must_be_there_and_secrets_closed() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("password");
    std::fs::write(&secret, "hunter2\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = secret.display();
    let login = MINIMUM.replace("[etcd]", &format!("[etcd]\nusername = 'u'\npassword_file = '{path}'"));
    assert_complaint(
        &login,
        &format!("E09 6:1 `etcd.password_file`: {path} is open to others than its owner (mode 0644): chmod 600 {path}"),
    );
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = good(&login, &[]);
    assert!(!format!("{config:?}").contains("hunter2"));

    let encrypted = MINIMUM.replace("http://", "https://");
    let tls = encrypted
        .replace("[etcd]", &format!("[etcd]\ntls = {{ ca = '{path}', cert = '/nowhere/crt', key = '{path}' }}"));
    assert_complaint(&tls, "E09 5:");
    let good_tls = tls.replace("/nowhere/crt", &path.to_string());
    // An endpoint without a scheme goes with the certificates.
    assert!(good(&good_tls, &[]).etcd.endpoints.iter().all(|url| url.starts_with("https://")));
    assert_complaint(&good_tls.replace(&format!(", key = '{path}'"), ""), "`etcd.tls.cert` without `etcd.tls.key`");
}

#[test]
fn the_table_of_keys_is_the_shape_of_the_structs() {
    // serde lists the fields it knows when it meets one that it does not: compare that with the table, section by
    // section.
    let mut sections: Vec<_> = KEYS.iter().filter_map(|key| key.path.rsplit_once('.')).map(|(home, _)| home).collect();
    sections.push("");
    sections.sort_unstable();
    sections.dedup();
    for section in sections {
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let told = toml::from_str::<Raw>(&format!("{header}bogus = 1")).expect_err("bogus").message().to_owned();
        let mut fields: Vec<_> = told.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        fields.sort();
        let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
        let below = KEYS.iter().filter_map(|key| key.path.strip_prefix(&prefix));
        let mut known: Vec<_> = below.map(|rest| rest.split('.').next().unwrap().to_owned()).collect();
        known.sort();
        known.dedup();
        assert_eq!(fields, known, "section [{section}]: {told}");
    }
}

#[test]
fn the_documentation_names_every_key_its_default_and_every_code() {
    for key in KEYS {
        let row = format!("| `{}` |", key.path);
        let line = DOCUMENTATION.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("docs/configuration.md does not document `{}`", key.path));
        let default = key.default.trim_matches('"');
        assert!(line.contains(default), "`{}`: the default {default} is not in: {line}", key.path);
    }
    let sources = [
        include_str!("control.rs"),
        include_str!("layers.rs"),
        include_str!("resolve.rs"),
        include_str!("rules.rs"),
        include_str!("telling.rs"),
        include_str!("world.rs"),
    ];
    let codes = sources.iter().flat_map(|source| source.split('"'));
    for code in codes.filter(|text| text.len() == 3 && text[1..].bytes().all(|b| b.is_ascii_digit())) {
        assert!(DOCUMENTATION.contains(&format!("| {code} |")), "docs/configuration.md does not document {code}");
    }
}

#[test]
fn the_defaults_in_the_table_are_the_defaults_of_the_mind() {
    let usual = Timing::default();
    for (path, value) in [
        ("timing.ttl", usual.ttl),
        ("timing.heartbeat", usual.heartbeat),
        ("etcd.request_timeout", usual.request_timeout),
        ("timing.safety_margin", usual.safety_margin),
        ("timing.primary_start_timeout", usual.primary_start_timeout),
        ("timing.voter_drop_after", usual.voter_drop_after),
        ("timing.degrade_after", usual.degrade_after),
        ("timing.ballot_window", usual.ballot_window),
        ("timing.reclaim_after", usual.reclaim_after),
        ("timing.hang_after", usual.hang_after),
        ("timing.suspect_after", usual.suspect_after),
        ("timing.retry_after", usual.retry_after),
        ("disk.frozen_after", usual.disk_frozen_after),
    ] {
        let table = keys::find(path).expect(path).default.trim_matches('"');
        assert_eq!(humantime::parse_duration(table).unwrap(), value, "{path}");
    }
}

#[test]
fn the_example_of_the_package_is_good() {
    let text = include_str!("../../../packaging/systemd/pgvigil.toml.example");
    good(
        &text.lines().filter(|line| !line.starts_with("tls")).collect::<Vec<_>>().join("\n").replace("https", "http"),
        &[],
    );
}
