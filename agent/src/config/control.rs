//! `[control]`: who may tell this node's agent what to do, and from where. A way in that everybody could take, or on which a token could be
//! overheard, is a mistake that no agent starts with.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use super::HostPort;
use super::problem::Problem;
use super::raw::{Certificate, RawControl, RawControlTls, RawToken, Role};
use super::resolve::address;
use super::rules::LONGEST_SOCKET_PATH;
use crate::control::tls_server;
use crate::secret::Secret;

/// A token that is shorter can be guessed.
const SHORTEST_TOKEN: usize = 16;
const HOW_TO_WRITE_TOKENS: &str = "write tokens = [{ name = \"ansible\", role = \"operate\", file = \"/etc/pgvigil/tokens/ansible\" }] under [control]";

/// The control API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Its unix socket.
    pub socket: PathBuf,
    /// The group whose members may operate by that socket.
    pub group: Option<String>,
    /// Where it listens on TCP, if it does.
    pub listen: Option<HostPort>,
    /// Whether the health API's address carries it as well.
    pub on_health_listener: bool,
    /// Who comes in over TCP.
    pub tokens: Vec<Token>,
    /// TLS over TCP; `None`: clear text, on loopback alone.
    pub tls: Option<ControlTls>,
    /// Who comes in over TCP with a certificate.
    pub certificates: Vec<Certificate>,
}

/// The files of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlTls {
    /// Its certificate, with those between it and its authority, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// Who signs the certificates of clients, PEM.
    pub client_ca: Option<PathBuf>,
}

/// One who comes in with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// By which name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The file with the token, read again when it changes.
    pub file: PathBuf,
}

/// The finished section; mistakes go to `found`.
pub fn resolve(raw: RawControl, health: &HostPort, state_dir: &Path, found: &mut Vec<Problem>) -> Control {
    let tokens = tokens(raw.tokens, found);
    let (encrypted, certificates) = (raw.tls.is_some(), raw.certificates);
    let checks = raw.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let tls = raw.tls.and_then(|tls| files_of_tls(tls, found));
    if !certificates.is_empty() && !checks {
        let message = "`control.certificates`: without `control.tls.client_ca` anybody could make one of any name";
        let problem = Problem::at("E16", "control.certificates", message);
        found.push(problem.help("write client_ca = \"/etc/pgvigil/tls/ca.crt\" into control.tls"));
    }
    let door = Door { known: tokens.len() + certificates.len(), encrypted };
    let listen = raw.listen.as_deref().and_then(|text| address("control.listen", text, None, found));
    let on_health_listener = raw.on_health_listener.unwrap_or(false);
    if let Some(listen) = &listen {
        if listen == health {
            let problem = Problem::at("E12", "control.listen", format!("{listen} is the address of the health API"));
            found.push(problem.help("write on_health_listener = true instead, or give it a port of its own"));
        }
        door.closed_to_strangers("control.listen", listen, found);
    }
    if on_health_listener {
        door.closed_to_strangers("control.on_health_listener", health, found);
    }
    let socket = socket(raw.socket, raw.group.as_deref(), state_dir, found);
    Control { socket, group: raw.group, listen, on_health_listener, tokens, tls, certificates }
}

/// What stands between an address and whoever reaches it.
struct Door {
    /// So many may come in.
    known: usize,
    encrypted: bool,
}

impl Door {
    /// Whoever reaches the address must show who it is, and nobody on the way may learn how.
    fn closed_to_strangers(&self, key: &str, address: &HostPort, found: &mut Vec<Problem>) {
        if self.known == 0 {
            let message = format!(
                "`{key}`: whoever reaches {address} could switch over and restart: nobody has to show who it is"
            );
            found.push(Problem::at("E16", key, message).help(HOW_TO_WRITE_TOKENS));
        }
        if !self.encrypted && !is_loopback(address) {
            let message = format!("`{key}`: tokens would cross the network to {address} in clear text");
            found.push(Problem::at("E16", key, message).help(
                "tls = { cert = \"...\", key = \"...\" } under [control], or an address of this host alone, such as 127.0.0.1:8009",
            ));
        }
    }
}

fn files_of_tls(raw: RawControlTls, found: &mut Vec<Problem>) -> Option<ControlTls> {
    let (Some(cert), Some(key)) = (raw.cert, raw.key) else {
        let message = "`control.tls` needs a certificate and its key";
        let problem = Problem::about("E08", &["control.tls.cert", "control.tls.key", "control.tls"], message);
        found.push(problem.help("write tls = { cert = \"...\", key = \"...\" } under [control]"));
        return None;
    };
    Some(ControlTls { cert, key, client_ca: raw.client_ca })
}

/// Whether only programs of this host reach it.
pub fn is_loopback(address: &HostPort) -> bool {
    address.host == "localhost" || address.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tokens(written: Vec<RawToken>, found: &mut Vec<Problem>) -> Vec<Token> {
    let mut names = BTreeSet::new();
    let mut wrong = |code, message: String, help: &str| {
        found.push(Problem::at(code, "control.tokens", format!("`control.tokens`: {message}")).help(help));
    };
    for RawToken { name, .. } in &written {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(1..=63).contains(&name.len()) || !name.bytes().all(good) {
            wrong("E16", format!("\"{name}\" is no name"), "use 1 to 63 ASCII letters, digits, '-', '.' or '_'");
        }
        if !names.insert(name.clone()) {
            wrong("E16", format!("\"{name}\" is there twice"), "one token a name: whoever came in is known by it");
        }
    }
    written.into_iter().map(|RawToken { name, role, file }| Token { name, role, file }).collect()
}

/// What does not come to anything on this host as it is now: a code, what is wrong, and the mend.
pub type Fault = (&'static str, String, String);

impl Token {
    /// The token itself, as its file has it now.
    ///
    /// # Errors
    /// It does not count: others may know it, or nobody has one.
    pub fn read(&self) -> Result<Secret, Fault> {
        let owner = "its owner alone may read it: the user of the agent";
        let token = Secret::read(&self.file).map_err(|error| ("E09", error.to_string(), owner.to_owned()))?;
        if !is_strong(&token) {
            let text = format!("what is in {} can be guessed or is no token", self.file.display());
            let mend = "openssl rand -hex 32 makes one: 16 or more printable characters, without spaces";
            return Err(("E16", text, mend.to_owned()));
        }
        Ok(token)
    }
}

impl Control {
    /// Ways in that are closed at the moment. No agent stays away for them, for a token is withdrawn by taking its file away, and the database of
    /// groups may not be there yet.
    pub fn closed_ways(&self) -> Vec<Fault> {
        let mut found = self.faults_of_tokens();
        if let Some(Err(error)) = self.tls.as_ref().map(tls_server) {
            let help = "PEM files: BEGIN CERTIFICATE in cert and client_ca, BEGIN PRIVATE KEY in key".to_owned();
            found.push(("E09", format!("`tls`: {error:#}"), help));
        }
        if let Some(group) = &self.group
            && !matches!(Group::from_name(group), Ok(Some(_)))
        {
            let help = format!("groupadd --system {group}, and usermod -aG {group} for the user of the agent");
            found.push(("E16", format!("this host has no group \"{group}\""), help));
        }
        found
    }

    fn faults_of_tokens(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        let mut seen: Vec<(&str, Secret)> = Vec::new();
        for token in &self.tokens {
            let (name, text) = match token.read() {
                Ok(text) => (token.name.as_str(), text),
                Err(fault) => {
                    found.push(fault);
                    continue;
                }
            };
            if let Some((other, _)) = seen.iter().find(|(_, theirs)| *theirs == text) {
                let told = format!("{name} and {other} have the same token: neither comes in by it alone");
                found.push(("E16", told, "one token a name: openssl rand -hex 32".to_owned()));
            }
            seen.push((name, text));
        }
        found
    }
}

/// Whether a token is long enough, and can be sent in a header.
fn is_strong(token: &Secret) -> bool {
    let text = token.expose();
    text.len() >= SHORTEST_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn socket(written: Option<PathBuf>, group: Option<&str>, state_dir: &Path, found: &mut Vec<Problem>) -> PathBuf {
    if group.is_some() && written.as_ref().is_none_or(|socket| socket.starts_with(state_dir)) {
        let message = "`control.group`: nobody but the agent's own user gets to a socket in `state_dir`";
        let problem = Problem::about("E16", &["control.group", "control.socket"], message);
        found.push(problem.help("write socket = \"/run/pgvigil/orders.sock\" under [control]"));
    }
    let is_relative = written.as_ref().is_some_and(|socket| socket.is_relative());
    let socket = written.unwrap_or_else(|| state_dir.join("control.sock"));
    if is_relative {
        let message = format!("`control.socket`: \"{}\" depends on where the agent is started", socket.display());
        found.push(Problem::at("E15", "control.socket", message).help("write the whole path, from /"));
    }
    if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
        let message = format!("`control.socket`: {} is longer than {LONGEST_SOCKET_PATH} bytes", socket.display());
        found.push(Problem::about("E15", &["control.socket", "state_dir"], message).help("choose a shorter path"));
    }
    socket
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{assert_complaint, complaints, good, with};
    use super::*;

    fn token_file(home: &tempfile::TempDir, text: &str, mode: u32) -> String {
        let file = home.path().join(format!("token-{mode:o}-{}", text.len()));
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file.display().to_string()
    }

    #[test]
    fn without_a_word_there_is_a_socket_and_nothing_else() {
        let control = good(&with(""), &[]).control;
        assert_eq!(control.socket, Path::new("/var/lib/postgresql/15/main.pgvigil/control.sock"));
        assert_eq!((control.listen, control.on_health_listener, control.tokens), (None, false, Vec::new()));
    }

    #[test]
    fn a_way_in_for_everybody_or_for_listeners_on_the_wire_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = token_file(&home, "0123456789abcdef", 0o600);
        let tokens = format!("tokens = [{{ name = 'ansible', role = 'operate', file = '{file}' }}]");
        for (more, expected) in [
            (
                "listen = '127.0.0.1:8009'",
                "E16 13:1 `control.listen`: whoever reaches 127.0.0.1:8009 could switch over",
            ),
            (
                "group = 'daemon'",
                "E16 13:1 `control.group`: nobody but the agent's own user gets to a socket in `state_dir`",
            ),
            (
                "socket = 'control.sock'",
                "E15 13:1 `control.socket`: \"control.sock\" depends on where the agent is started",
            ),
        ] {
            assert_complaint(&with(&format!("[control]\n{more}")), expected);
        }
        for (more, expected) in [
            (
                "listen = '10.0.0.21:8009'",
                "E16 13:1 `control.listen`: tokens would cross the network to 10.0.0.21:8009",
            ),
            ("listen = '[::]:8009'", "E16 13:1 `control.listen`: tokens would cross the network to [::]:8009"),
            ("on_health_listener = true", "E16 13:1 `control.on_health_listener`: tokens would cross the network"),
            ("listen = '10.0.0.21:8008'", "E12 13:1 10.0.0.21:8008 is the address of the health API"),
        ] {
            let told = complaints(&with(&format!("[control]\n{more}\n{tokens}")), &[]);
            assert!(told.iter().any(|one| one.starts_with(expected)), "{told:#?}");
        }
        let config = good(&with(&format!("[control]\nlisten = 'localhost:8009'\n{tokens}")), &[]);
        assert_eq!(config.control.tokens[0].role, Role::Operate);
    }

    #[test]
    fn a_token_is_somebodys_alone_and_no_word_that_can_be_guessed() {
        let home = tempfile::tempdir().unwrap();
        let (good, open, weak) = (
            token_file(&home, "0123456789abcdef", 0o600),
            token_file(&home, "0123456789abcdef", 0o640),
            token_file(&home, "sesame", 0o600),
        );
        let one =
            |name: &str, role: &str, file: &str| format!("{{ name = '{name}', role = '{role}', file = '{file}' }}");
        for (tokens, expected) in [
            (one("a b", "read", &good), "E16 13:1 `control.tokens`: \"a b\" is no name".to_owned()),
            (
                format!("{}, {}", one("a", "read", &good), one("a", "admin", &good)),
                "E16 13:1 `control.tokens`: \"a\" is there twice".to_owned(),
            ),
            (
                one("a", "root", &good),
                "unknown variant `root`, expected one of `read`, `gate`, `operate`, `admin`".to_owned(),
            ),
        ] {
            assert_complaint(&with(&format!("[control]\ntokens = [{tokens}]")), &expected);
        }
        let (a, b, open, weak) =
            (one("a", "read", &good), one("b", "admin", &good), one("c", "read", &open), one("d", "read", &weak));
        let written =
            format!("[control]\ngroup = 'no-such-group'\nsocket = '/run/x'\ntokens = [{a}, {b}, {open}, {weak}]");
        let told = super::super::tests::good(&with(&written), &[]).control.closed_ways();
        let told: Vec<String> = told.into_iter().map(|(code, text, _)| format!("{code} {text}")).collect();
        assert_eq!(told.len(), 4, "{told:#?}");
        assert!(told[0].contains("b and a have the same token"), "{told:#?}");
        assert!(told[1].contains("is open to others than its owner (mode 0640)"), "{told:#?}");
        assert!(told[2].contains("can be guessed"), "{told:#?}");
        assert!(told[3].contains("no group \"no-such-group\""), "{told:#?}");
    }
}
