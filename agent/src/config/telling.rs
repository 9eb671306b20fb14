//! `[hooks]` and `[[webhooks]]`: whom this node's agent tells what happened. They stand in the node's own file alone: what lies in etcd names no program
//! that any host would run.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use nix::unistd::{AccessFlags, Uid, access};

use super::HostPort;
use super::control::{Fault, is_loopback};
use super::problem::Problem;
use super::raw::{RawHooks, RawWebhook};
use crate::secret::Secret;

/// A program that takes longer is killed, unless the file says otherwise.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// A receiver that takes longer has not answered.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a delivery that failed is tried again.
const RETRIES: u32 = 5;
/// More would wait longer than anybody reads the log.
const RETRIES_MAX: u32 = 20;
/// Longer than this nothing is waited for.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Where systems keep whom they trust, in this order.
const SYSTEM_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The programs of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Told of each transition: the program and its arguments; empty: none.
    pub on_transition: Vec<String>,
    /// Told of each other role of this node, as Patroni's callback is; empty: none.
    pub on_role_change: Vec<String>,
    /// How long a program may run.
    pub timeout: Duration,
}

/// A receiver of transitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where it is.
    pub url: Uri,
    /// The file with its bearer token, read at each delivery.
    pub token_file: Option<PathBuf>,
    /// Who signs its certificate; `None`: whom the system trusts.
    pub ca: Option<PathBuf>,
    /// How long one delivery may take.
    pub timeout: Duration,
    /// How often one that failed is tried again.
    pub retries: u32,
}

/// The finished `[hooks]`; mistakes go to `found`.
pub fn hooks(raw: RawHooks, found: &mut Vec<Problem>) -> Hooks {
    for (key, command) in
        [("hooks.on_transition", &raw.on_transition.0), ("hooks.on_role_change", &raw.on_role_change.0)]
    {
        if let Some(program) = command.first().filter(|program| !Path::new(program).is_absolute()) {
            let problem = Problem::at("E17", key, format!("`{key}`: \"{program}\" is no absolute path"));
            found.push(problem.help("write the whole path of the program: no shell looks for it"));
        }
    }
    let timeout = raw.timeout.map_or(HOOK_TIMEOUT, |lasting| lasting.0);
    timeout_is_good("hooks.timeout", timeout, found);
    Hooks { on_transition: raw.on_transition.0, on_role_change: raw.on_role_change.0, timeout }
}

/// The finished `[[webhooks]]`; mistakes go to `found`.
pub fn webhooks(written: Vec<RawWebhook>, found: &mut Vec<Problem>) -> Vec<Webhook> {
    written.into_iter().filter_map(|raw| webhook(raw, found)).collect()
}

fn webhook(raw: RawWebhook, found: &mut Vec<Problem>) -> Option<Webhook> {
    let mut wrong = |message: String, help: &str| {
        found.push(Problem::at("E17", "webhooks", format!("`webhooks`: {message}")).help(help));
    };
    let uri = raw.url.parse::<Uri>().ok().filter(|uri| {
        uri.host().is_some_and(|host| !host.is_empty()) && matches!(uri.scheme_str(), Some("http" | "https"))
    });
    let Some(url) = uri else {
        wrong(format!("\"{}\" is no URL of a receiver", raw.url), "write url = \"https://HOST[:PORT]/PATH\"");
        return None;
    };
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        wrong(
            "a URL shows up in the log, and this one has a secret in it".to_owned(),
            "put it into a file of its own, and name that as token_file",
        );
        return None;
    }
    let encrypted = url.scheme_str() == Some("https");
    let local = || HostPort::parse(url.host().unwrap_or_default(), Some(80)).is_ok_and(|address| is_loopback(&address));
    if raw.token_file.is_some() && !encrypted && !local() {
        wrong(
            format!("the token would cross the network to {url} in clear text"),
            "write https://, or a receiver on this host",
        );
    }
    if raw.ca.is_some() && !encrypted {
        wrong(format!("{url} shows no certificate that `ca` could have signed"), "write https://, or remove ca");
    }
    let retries = raw.retries.unwrap_or(RETRIES);
    if retries > RETRIES_MAX {
        wrong(
            format!("retries = {retries} is too many"),
            "at most 20: each waits twice as long as the one before, up to a minute",
        );
    }
    let timeout = raw.timeout.map_or(WEBHOOK_TIMEOUT, |lasting| lasting.0);
    timeout_is_good("webhooks", timeout, found);
    Some(Webhook { url, token_file: raw.token_file, ca: raw.ca, timeout, retries })
}

fn timeout_is_good(key: &str, timeout: Duration, found: &mut Vec<Problem>) {
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        let message = format!("`{key}`: nobody waits for {timeout:?}");
        found.push(Problem::at("E17", key, message).help("write timeout = \"30s\", at most \"1h\""));
    }
}

impl Hooks {
    /// What keeps a program from being run on this host as it is now.
    pub fn faults(&self, owner: Uid) -> Vec<Fault> {
        let commands = [("hooks.on_transition", &self.on_transition), ("hooks.on_role_change", &self.on_role_change)];
        let fault = |(key, command): (&str, &Vec<String>)| {
            let why = unfit(Path::new(command.first()?), owner)?;
            let mend =
                "it must be there, executable, and writable by nobody but root and the user of the agent (chmod go-w)";
            Some(("E30", format!("`{key}`: {why}"), mend.to_owned()))
        };
        commands.into_iter().filter_map(fault).collect()
    }
}

/// Why this program is not to be run; `None`: it may be.
pub fn unfit(program: &Path, owner: Uid) -> Option<String> {
    let shown = program.display();
    let found = match std::fs::metadata(program) {
        Ok(found) => found,
        Err(error) => return Some(format!("{shown} cannot be seen: {error}")),
    };
    if !found.is_file() || access(program, AccessFlags::X_OK).is_err() {
        return Some(format!("{shown} is no program that can be run"));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Some(format!("others may write to {shown} (mode {mode:04o}), and so run what they like"));
    }
    let of = Uid::from_raw(found.uid());
    (!of.is_root() && of != owner).then(|| format!("{shown} belongs to uid {of}, who could make anything of it"))
}

impl Webhook {
    /// By what it is known in metrics and in the log: the URL without its path, which is the secret of many receivers.
    pub fn label(&self) -> String {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}", self.url.scheme_str().unwrap_or_default())
    }

    /// What of its URL is not to be told, where it could be a secret.
    pub fn path_and_query(&self) -> Option<String> {
        let path = self.url.path_and_query()?.as_str().trim_start_matches('/');
        (path.len() > 8).then(|| path.to_owned())
    }

    /// Who signs its certificate, where it has one to show.
    pub fn trusts(&self) -> Option<PathBuf> {
        let system = || SYSTEM_CAS.iter().map(PathBuf::from).find(|file| file.exists());
        self.ca.clone().or_else(system)
    }

    /// What keeps anything from being delivered from this host as it is now.
    pub fn faults(&self) -> Vec<Fault> {
        let label = self.label();
        let token = self.token_file.as_ref().and_then(|file| Secret::read(file).err()).map(|error| {
            let mend = "its owner alone may read it: the user of the agent".to_owned();
            ("E09", format!("`webhooks`: {label}: {error}"), mend)
        });
        let encrypted = self.url.scheme_str() == Some("https");
        let authorities = encrypted.then(|| self.trusts().ok_or_else(|| "nobody is trusted here".to_owned()));
        let authorities = authorities.and_then(|file| match file {
            Ok(file) => crate::telling::trust(&file).err().map(|error| format!("{error:#}")),
            Err(why) => Some(why),
        });
        let mend =
            "write ca = \"/etc/pgvigil/tls/receiver-ca.crt\" beside its url, or install ca-certificates".to_owned();
        let authorities = authorities.map(|why| ("E09", format!("`webhooks`: {label}: {why}"), mend));
        token.into_iter().chain(authorities).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{assert_complaint, good, with};
    use super::*;

    #[test]
    fn whom_this_node_tells_is_read_with_its_defaults() {
        let config = good(
            &with(
                "[hooks]\non_transition = ['/usr/local/bin/told', '--page']\n[[webhooks]]\nurl = 'https://alerts.example.org/pg?k=v'\n\
                 [[webhooks]]\nurl = 'http://127.0.0.1:9999/'\ntoken_file = '/etc/token'\ntimeout = '2s'\nretries = 0",
            ),
            &[],
        );
        assert_eq!(config.hooks.on_transition, ["/usr/local/bin/told", "--page"]);
        assert_eq!((config.hooks.timeout, config.hooks.on_role_change.len()), (HOOK_TIMEOUT, 0));
        let [first, second] = config.webhooks.as_slice() else { panic!("{:?}", config.webhooks) };
        assert_eq!(
            (first.label().as_str(), first.retries, first.timeout),
            ("https://alerts.example.org", 5, WEBHOOK_TIMEOUT)
        );
        assert_eq!((second.retries, second.timeout), (0, Duration::from_secs(2)));
    }

    #[test]
    fn what_would_run_something_else_or_tell_a_secret_is_refused() {
        for (written, complaint) in [
            ("[hooks]\non_transition = ['told']", "`hooks.on_transition`: \"told\" is no absolute path"),
            ("[hooks]\ntimeout = '0s'", "`hooks.timeout`: nobody waits for 0ns"),
            ("[[webhooks]]\nurl = 'ftp://a/'", "\"ftp://a/\" is no URL of a receiver"),
            ("[[webhooks]]\nurl = 'https://u:p@a/'", "this one has a secret in it"),
            ("[[webhooks]]\nurl = 'http://10.0.0.1/'\ntoken_file = '/t'", "the token would cross the network"),
            ("[[webhooks]]\nurl = 'http://10.0.0.1/'\nca = '/t'", "shows no certificate"),
            ("[[webhooks]]\nurl = 'http://10.0.0.1/'\nretries = 21", "retries = 21 is too many"),
        ] {
            assert_complaint(&with(written), complaint);
        }
    }

    #[test]
    fn a_program_that_others_could_replace_is_not_run() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("told");
        let me = Uid::effective();
        let told = || unfit(&program, me).unwrap_or_default();
        assert!(told().contains("cannot be seen"), "{}", told());
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        for (mode, complaint) in
            [(0o600, "can be run"), (0o722, "others may write"), (0o770, "others may write"), (0o700, "")]
        {
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(told().contains(complaint) && (complaint.is_empty() == told().is_empty()), "{mode:o}: {}", told());
        }
        let hooks = Hooks {
            on_transition: vec![home.path().display().to_string()],
            on_role_change: vec![],
            timeout: HOOK_TIMEOUT,
        };
        assert_eq!(hooks.faults(me).len(), 1, "a directory is no program");
    }
}
