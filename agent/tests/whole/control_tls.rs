//! The control API over TLS: certificates of clients say who they are, a certificate that is replaced counts at once, and one that will not do leaves
//! the last one in force.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};

use crate::control::{Controlled, begins, is, one_node, token};
use crate::curl::Curl;
use crate::stage::{Stage, on_empty_stage};

/// An authority, and what it has signed, in files that the agents may read.
pub struct Authority(PathBuf);

impl Authority {
    /// A new one.
    pub fn found(directory: PathBuf) -> Result<Self> {
        let new = Self(directory);
        new.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=test-ca")?;
        Ok(new)
    }

    /// A certificate of this common name that runs out at that instant.
    fn sign_until(&self, file: &str, until: Timestamp) -> Result<()> {
        let settings = "[ca]\ndefault_ca=it\n[it]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\nunique_subject=no\n\
            default_md=sha256\npolicy=names\nx509_extensions=more\n[names]\ncommonName=supplied\n[more]\nbasicConstraints=critical,CA:FALSE\n";
        std::fs::write(self.file("ca.cnf"), settings)?;
        std::fs::write(self.file("index.txt"), "")?;
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {file}.key -out {file}.csr -subj /CN=ansible"
        ))?;
        let at = |time: Timestamp| time.strftime("%Y%m%d%H%M%SZ").to_string();
        let (from, until) = (at(until - SignedDuration::from_hours(48)), at(until));
        self.openssl(&format!(
            "ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in {file}.csr -out {file}.pem -notext -startdate {from} -enddate {until}"
        ))?;
        self.hand_over(file)
    }

    /// A certificate and its key under the name of a file.
    pub fn sign(&self, file: &str, subject: &str, names: &str) -> Result<()> {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -CA ca.pem -CAkey ca.key -keyout {file}.key -out {file}.pem \
             -subj {subject} -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE"
        ))?;
        self.hand_over(file)
    }

    /// To the user of the agents, and to nobody else.
    fn hand_over(&self, file: &str) -> Result<()> {
        let owner = std::fs::metadata(&self.0)?;
        for name in ["ca.pem".to_owned(), format!("{file}.pem"), format!("{file}.key")] {
            let path = self.file(&name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            chown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let mut openssl = Command::new("openssl");
        let openssl = openssl.args(arguments.split_whitespace()).current_dir(&self.0).stderr(Stdio::null());
        ensure!(openssl.status().context("openssl")?.success(), "openssl {arguments}");
        Ok(())
    }

    /// Where one of its files lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A request that trusts this authority, to the name in the server's certificate.
    fn trusting(&self, method: &str, address: &str, path: &str) -> Curl {
        let (_, port) = address.rsplit_once(':').unwrap_or(("", "0"));
        Curl::new(method, &format!("https://localhost:{port}{path}"))
            .with(&["--cacert", &self.file("ca.pem").display().to_string()])
            .with(&["--connect-to", &format!("localhost:{port}:{address}")])
    }

    /// The same with a certificate of the client.
    fn showing(&self, file: &str, method: &str, address: &str, path: &str) -> Curl {
        let shown = |ending: &str| self.file(&format!("{file}.{ending}")).display().to_string();
        self.trusting(method, address, path).with(&["--cert", &shown("pem"), "--key", &shown("key")])
    }
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// TLS for the control API of a node.
pub fn configure(stage: &Stage, node: &str, authority: &Authority) -> Result<()> {
    let tls = format!(
        "{{ cert = {}, key = {}, client_ca = {} }}",
        quoted(&authority.file("server.pem")),
        quoted(&authority.file("server.key")),
        quoted(&authority.file("ca.pem"))
    );
    stage.set(node, "control.tls", &tls)?;
    let known = "[{ name = \"ansible\", role = \"operate\" }, { name = \"looker.example.org\", role = \"read\" }]";
    stage.set(node, "control.certificates", known)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_say_who_it_is_and_are_replaced_while_it_runs() {
    on_empty_stage(&one_node(), async |stage| {
        let control = Controlled::prepare(stage)?;
        let authority = Authority::found(stage.cluster.make_directory("tls")?)?;
        authority.sign("server", "/CN=n1", "DNS:localhost")?;
        authority.sign("ansible", "/O=Acme/CN=ansible", "DNS:automation.example.org")?;
        authority.sign("looker", "/CN=whoever", "DNS:looker.example.org")?;
        authority.sign("stranger", "/CN=stranger", "DNS:stranger.example.org")?;
        configure(stage, "n1", &authority)?;
        stage.set("n1", "control.on_health_listener", "true")?;
        begins(stage).await?;
        let address = control.address("n1");
        let health = stage.node("n1")?.api_url().replace("http://", "");

        // On its own port and on that of the health API, which goes on answering in clear text.
        for address in [&address, &health] {
            let ask = |file: &str| authority.showing(file, "POST", address, "/reload");
            is(&ask("ansible").send().await?, 202, "reload scheduled")?;
            is(&ask("looker").send().await?, 403, "looker.example.org has the role read; that takes operate")?;
            is(&ask("stranger").send().await?, 401, "none of the names in yours: stranger.example.org, stranger")?;
            is(&ask("stranger").token(&token("ansible")).send().await?, 202, "reload scheduled")?;
            is(&authority.trusting("POST", address, "/reload").send().await?, 401, "Authorization: Bearer")?;
            is(&authority.trusting("POST", address, "/reload").token(&token("anna")).send().await?, 202, "reload")?;
        }
        let in_clear = Curl::new("POST", &format!("http://{health}/reload")).token(&token("anna"));
        is(&in_clear.send().await?, 401, "by TLS alone")?;
        ensure!(
            Curl::new("GET", &format!("http://{health}/primary")).send().await?.status == 200,
            "health is not open"
        );
        ensure!(Curl::new("POST", &format!("http://{address}/reload")).send().await.is_err(), "clear text is answered");

        let until = Timestamp::now() + SignedDuration::from_secs(10);
        authority.sign_until("short", until)?;
        let stream = authority.showing("short", "GET", &address, "/v1/events").stream()?;
        let begun = async || Ok(stream.text()?.contains("event: cluster"));
        stage.eventually("the stream does not begin", begun).await?;
        another_authority_is_not_trusted(stage, &address).await?;
        authority.sign_until("old", Timestamp::now() - SignedDuration::from_secs(60))?;
        let old = authority.showing("old", "POST", &address, "/reload").send().await;
        ensure!(old.is_err(), "a certificate that has run out is let in: {old:?}");
        certificates_are_replaced(stage, &authority, &address).await?;
        let ended = async || Ok(stream.text()?.contains("event: denied") && stream.text()?.contains("has run out"));
        stage.eventually("whoever's certificate has run out reads on", ended).await?;
        ensure!(Timestamp::now() > until, "it has ended before");
        the_audit_tells_who_was_turned_away(stage)?;
        their_ends_are_counted_down_to(stage, &authority).await
    })
    .await;
}

fn the_audit_tells_who_was_turned_away(stage: &Stage) -> Result<()> {
    let told = std::fs::read_to_string(stage.node("n1")?.agent().log())?;
    let records: Vec<&str> = told.lines().filter(|line| line.contains("audit: ")).collect();
    for (verb, words) in [
        ("audit: TLS by nobody: denied", ["a certificate that does not count: ", "BadSignature", "from=127.0.0.1"]),
        ("audit: TLS by nobody: denied", ["a certificate that does not count: ", "xpired", "from=127.0.0.1"]),
        ("audit: POST /reload by nobody: denied", ["no token: send the header", "status=401", "from=127.0.0.1"]),
        ("audit: POST /reload by nobody: denied", ["control is by TLS alone", "status=401", "from=127.0.0.1"]),
        ("audit: POST /reload by looker.example.org: denied", ["that takes operate", "status=403", "role=\"read\""]),
        ("audit: POST /reload by stranger.example.org: denied", ["none of the names", "status=401", "role=\"none\""]),
        ("audit: look by ansible: denied", ["the stream was ended: ", "has run out", "role=\"operate\""]),
        ("audit: POST /reload by ansible: accepted", ["from=127.0.0.1", "status=202", "role=\"operate\""]),
    ] {
        let is_it = |line: &&&str| line.contains(verb) && words.iter().all(|word| line.contains(word));
        ensure!(records.iter().any(|line| is_it(&line)), "no record of {verb} with {words:?}: {records:#?}");
    }
    Ok(())
}

/// By the metric, and in `status` once there is a day for each of the two that they live.
async fn their_ends_are_counted_down_to(stage: &Stage, authority: &Authority) -> Result<()> {
    let left = async |of: &str| {
        let page = crate::http::ask(stage.node("n1")?, "GET", "/metrics").await?.body;
        let line = page.lines().find(|line| line.starts_with("pgvigil_certificate_left_seconds") && line.contains(of));
        let left = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        left.with_context(|| format!("nothing is told of {of}: {page}"))
    };
    for of in ["of=\"control\"", "of=\"control_clients\""] {
        ensure!((86_400.0..=172_800.0).contains(&left(of).await?), "{of}: {}", left(of).await?);
    }
    let status = stage.pgvigil("n1", &["status", "-o", "json"]).await?;
    ensure!(!status.contains("certificate_ends"), "it is told too soon: {status}");
    authority.sign_until("server", Timestamp::now() + SignedDuration::from_hours(9))?;
    stage.stop("n1").await?;
    stage.start("n1")?;
    let told = async || {
        let status = stage.cluster.pgvigil("n1", &["status", "-o", "json"]).await?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        Ok(status.contains("certificate_ends")
            && status.contains("ends in 8 h")
            && status.contains("counts without a restart"))
    };
    stage.eventually("status does not tell of a certificate that ends soon", told).await?;
    let log = std::fs::read_to_string(stage.node("n1")?.agent().log())?;
    ensure!(log.contains("`control.tls.cert` (") && log.contains("ends in 8 h"), "the log does not tell: {log}");
    Ok(())
}

async fn another_authority_is_not_trusted(stage: &Stage, address: &str) -> Result<()> {
    let other = Authority::found(stage.cluster.make_directory("other-tls")?)?;
    other.sign("ansible", "/CN=ansible", "DNS:ansible")?;
    let forged = other.showing("ansible", "POST", address, "/reload").with(&["-k"]).send().await;
    let refused = forged.as_ref().is_err_and(|error| format!("{error:#}").contains("alert"));
    ensure!(refused, "a certificate that anybody can make is not refused as such: {forged:?}");
    Ok(())
}

async fn certificates_are_replaced(stage: &Stage, authority: &Authority, address: &str) -> Result<()> {
    let served = async || {
        let told = authority.showing("ansible", "GET", address, "/history").with(&["-w", "%{certs}"]).send().await?;
        ensure!(told.status == 200, "{told:?}");
        Ok(told.body.contains("n1-anew"))
    };
    ensure!(!served().await?, "it has the new certificate already");
    // One half of a pair, as when somebody copies the files one after the other.
    std::fs::write(authority.file("server.key"), "no key")?;
    let told = async || {
        served().await?;
        Ok(std::fs::read_to_string(stage.node("n1")?.agent().log())?
            .contains("the certificate of the control API cannot be used"))
    };
    stage.eventually("nobody says that the key will not do", told).await?;
    authority.sign("server", "/CN=n1-anew", "DNS:localhost")?;
    stage.eventually("the new certificate does not count", served).await
}
