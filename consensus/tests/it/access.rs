//! Getting at etcd: passwords, TLS, and a host that is off the net.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use consensus::{
    Adopted, ClusterWatch, Endpoints, Error, EtcdOptions, Keys, LeaseKeeper, Outcome, Store, TlsFiles, Write,
};
use decision::names::Lsn;
use etcd_client::{Client, ConnectOptions, Permission};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::etcd::{Etcd, name, store_at, within};
use crate::watching::until;

fn store_with(options: EtcdOptions) -> Store {
    Store::new(Endpoints::new(options).unwrap(), Keys::new("service", "demo"))
}

#[tokio::test]
async fn with_a_password_everything_works_and_without_it_nothing() {
    let etcd = Etcd::start(1).await;
    let mut root = etcd.client().await;
    root.user_add("root", "secret", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    let with = |user: Option<&str>, password: &str| EtcdOptions {
        username: user.map(str::to_owned),
        password: Some(password.to_owned()),
        ..etcd.options()
    };
    assert!(!format!("{:?}", with(Some("root"), "secret")).contains("secret\""));
    let store = store_with(with(Some("root"), "secret"));
    let watch = ClusterWatch::start(store.clone(), Duration::from_secs(10));
    let keeper = LeaseKeeper::start(
        with(Some("root"), "secret"),
        Duration::from_secs(2),
        Duration::from_millis(200),
        Adopted::default(),
    );
    let keeper = keeper.unwrap();
    let mut views = watch.views();
    until(&mut views, |_| true).await;
    assert!(store.set_floor(&name("pg1"), Lsn(1)).await.unwrap().applied());
    until(&mut views, |cluster| cluster.floors.len() == 1).await;
    let renewed = |lease: &consensus::Lease| lease.alive().is_some_and(|state| state.renewals > 3);
    timeout(Duration::from_secs(5), keeper.member().wait_for(renewed)).await.unwrap().unwrap();
    for wrong in [with(Some("root"), "guess"), with(None, "")] {
        let refused = store_with(wrong).read().await;
        assert!(matches!(refused, Err(Error::Unauthorised(_))), "{refused:?}");
    }
}

/// Makes an authority and a certificate for 127.0.0.1 signed by it, as `<who>-ca.pem`, `<who>.pem` and `<who>.key`.
fn make_certificates(folder: &Path, who: &str) {
    let openssl = |arguments: &str| {
        let status =
            Command::new("openssl").args(arguments.split(' ')).current_dir(folder).stderr(Stdio::null()).status();
        assert!(status.expect("openssl is installed").success(), "{arguments}");
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1";
    openssl(&format!("req -x509 {new_key} -keyout {who}-ca.key -out {who}-ca.pem -subj /CN={who}-ca"));
    let issuer = format!("-CA {who}-ca.pem -CAkey {who}-ca.key -addext subjectAltName=IP:127.0.0.1");
    let usage = "-addext basicConstraints=critical,CA:FALSE";
    openssl(&format!("req -x509 {new_key} {issuer} {usage} -keyout {who}.key -out {who}.pem -subj /CN={who}"));
}

#[tokio::test]
async fn over_tls_both_sides_prove_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for who in ["good", "bad"] {
        make_certificates(folder.path(), who);
    }
    let (cert, key, ca) = (file("good.pem"), file("good.key"), file("good-ca.pem"));
    let [cert, key, ca] = [&cert, &key, &ca].map(|path| path.to_str().unwrap());
    let more = ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"];
    let etcd = Etcd::spawn(1, "https", &more);
    let with = |ca: &str, pair: Option<&str>| {
        let pair_file = |ending: &str| pair.map(|who| file(&format!("{who}.{ending}")));
        let files = TlsFiles { ca: file(ca), cert: pair_file("pem"), key: pair_file("key") };
        store_with(EtcdOptions { tls: Some(files), ..etcd.options() })
    };
    let trusting = with("good-ca.pem", Some("good"));
    within(Duration::from_secs(10), "etcd answers", async || trusting.read().await.is_ok()).await;
    for (ca, pair) in [("bad-ca.pem", Some("good")), ("good-ca.pem", Some("bad")), ("good-ca.pem", None)] {
        let refused = with(ca, pair).read().await;
        assert!(matches!(refused, Err(Error::Unreachable(_))), "{ca} {pair:?}: {refused:?}");
    }
    let no_file = with("nowhere.pem", None).read().await;
    assert!(matches!(no_file, Err(Error::Misconfigured(_))), "{no_file:?}");
}

/// A key pair for tokens, as arguments of etcd.
fn signed_tokens(folder: &Path) -> String {
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").args(arguments).current_dir(folder).stderr(Stdio::null()).status();
        assert!(made.expect("openssl is installed").success(), "{arguments:?}");
    };
    openssl(&["genrsa", "-out", "token.key", "2048"]);
    openssl(&["rsa", "-in", "token.key", "-pubout", "-out", "token.pub"]);
    let at = |name: &str| folder.join(name).display().to_string();
    format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=2s", at("token.pub"), at("token.key"))
}

/// Users as docs/configuration.md has them: one with the rights to one cluster, and root.
async fn with_users(etcd: &Etcd) -> Client {
    within(Duration::from_secs(20), "etcd answers", async || etcd.store().read().await.is_ok()).await;
    let mut root = etcd.client().await;
    root.user_add("root", "of-etcd", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.role_add("agents").await.unwrap();
    let rights = Permission::read_write("/service/demo/").with_prefix();
    root.role_grant_permission("agents", rights).await.unwrap();
    root.user_add("agents", "first", None).await.unwrap();
    root.user_grant_role("agents", "agents").await.unwrap();
    root.auth_enable().await.unwrap();
    let options = ConnectOptions::new().with_user("root", "of-etcd").with_auto_token_refresh(true);
    Client::connect(etcd.urls(), Some(options)).await.unwrap()
}

#[tokio::test]
async fn logins_that_run_out_lose_no_lease_and_a_password_is_changed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let signed = signed_tokens(folder.path());
    for kind in [["--auth-token", signed.as_str()], ["--auth-token-ttl", "2"]] {
        let etcd = Etcd::spawn(1, "http", &kind);
        let mut root = with_users(&etcd).await;
        let file = folder.path().join("password");
        write_password(&file, "first");
        let options = EtcdOptions {
            username: Some("agents".to_owned()),
            password: Some("first".to_owned()),
            password_file: Some(file.clone()),
            ..etcd.options()
        };
        let (ttl, heartbeat) = (Duration::from_secs(3), Duration::from_millis(300));
        let keeper = LeaseKeeper::start(options.clone(), ttl, heartbeat, Adopted::default()).unwrap();
        let store = store_with(options.clone());
        let watch = ClusterWatch::start(store.clone(), heartbeat);
        let mut member = keeper.member();
        let first = member.wait_for(|lease| lease.id().is_some()).await.unwrap().id();
        works_for(Duration::from_secs(8), &store).await;
        assert_eq!(member.borrow().id(), first, "{kind:?}");
        assert!(watch.views().borrow().confirmed_at.elapsed() < Duration::from_secs(1), "the picture is old");

        root.user_change_password("agents", "second").await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        write_password(&file, "second");
        within(Duration::from_secs(2), "the new password counts", async || store.answers().await.is_ok()).await;
        works_for(Duration::from_secs(4), &store).await;
        assert_eq!(member.borrow_and_update().id(), first, "{kind:?}");

        let another = Store::new(Endpoints::new(options.clone()).unwrap(), Keys::new("service", "another"));
        let told = another.read().await.unwrap_err().to_string();
        assert!(told.contains("role grant-permission"), "{told}");
        let wrong = EtcdOptions { password: Some("guess".to_owned()), password_file: None, ..options };
        let told = store_with(wrong).read().await.unwrap_err().to_string();
        assert!(told.contains("etcd.password_file") && !told.contains("guess"), "{told}");
    }
}

fn write_password(file: &Path, password: &str) {
    std::fs::write(file, format!("{password}\n")).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Every write is carried out, if not at once: etcd takes a tenth of a second of a whole core for each login, and this machine has other work.
async fn works_for(time: Duration, store: &Store) {
    let (until, mut lsn) = (Instant::now() + time, 0);
    while Instant::now() < until {
        lsn += 1;
        let written = async || store.set_floor(&name("pg1"), Lsn(lsn)).await.is_ok_and(Outcome::applied);
        within(Duration::from_secs(2), "a write is carried out", written).await;
        let read = async || store.read().await.is_ok_and(|seen| seen.cluster.floors[&name("pg1")] == Lsn(lsn));
        within(Duration::from_secs(2), "it is read", read).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_host_that_is_off_the_net_was_sent_nothing() {
    let etcd = Etcd::start(1).await;
    // A full backlog swallows the first packet of a connection, as a host without power does.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        fillers.push(filler.unwrap());
    }
    let store = store_at(&[format!("http://{address}"), etcd.urls()[0].clone()]);
    let began = Instant::now();
    let outcome = store.commit(&[], &[Write::put(store.keys().term(), "1")]).await;
    assert!(matches!(outcome, Ok(Outcome::Applied { .. })), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
