//! Whether the programs around this node that are to be told of a change agree: HAProxy takes commands, has the backends, and a server with a check
//! in each for this node.

use std::future::Future;
use std::time::Duration;

use super::world::{Report, is_loopback};
use super::{Config, Haproxy, RuntimeSocket};
use crate::routing::pooler;
use crate::routing::runtime::{self, Trouble};

const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// No server is called so.
const NOBODY: &str = "pgvigil.validate";
/// The bit of `srv_check_state` that says that a server is checked.
const CHECKED: u32 = 0x04;

/// Asks each HAProxy.
pub(super) fn haproxy(config: &Config, report: &mut Report) {
    let settings = &config.haproxy;
    for socket in &settings.sockets {
        if let RuntimeSocket::Tcp(address) = socket
            && !is_loopback(&address.host)
        {
            let text = format!(
                "whoever reaches {address} commands that HAProxy: its runtime socket asks nobody for a password"
            );
            report.warn(
                "W10",
                text,
                "let only the database hosts through to it, or run HAProxy beside them with a unix socket",
            );
        }
        let me = config.name.as_str();
        match asked(socket, settings, me) {
            Ok(wrong) if wrong.is_empty() => report.ok(format!("HAProxy at {socket} can be told about {me}")),
            Ok(wrong) => wrong.into_iter().for_each(|(text, help)| report.error("E29", text, help)),
            // It need not run yet.
            Err(trouble) => {
                report.warn(
                    "W09",
                    trouble.to_string(),
                    "without it clients find the new primary by HAProxy's checks alone",
                );
            }
        }
    }
}

/// Asks each PgBouncer.
pub(super) fn pgbouncer(config: &Config, report: &mut Report) {
    let settings = &config.pgbouncer;
    for address in &settings.admin {
        let asked = blocking(async {
            let client = pooler::admin(settings, address).await?;
            tokio::time::timeout(ANSWERS_WITHIN, pooler::databases(&client)).await?
        });
        let there = match asked {
            Ok(there) => there,
            Err(error) => {
                let help = "without it a switchover holds nobody there, and clients see their transactions end";
                report.warn("W09", format!("{error:#}"), help);
                continue;
            }
        };
        let missing = settings.databases.iter().filter(|name| !there.iter().any(|(database, _)| database == *name));
        let missing: Vec<&str> = missing.map(String::as_str).collect();
        if missing.is_empty() {
            report
                .ok(format!("PgBouncer at {address} can be told to hold clients of {}", settings.databases.join(", ")));
        } else {
            let text = format!("PgBouncer at {address} has no database {}", missing.join(", "));
            report.error(
                "E29",
                text,
                "`pgbouncer.databases` are the names in the section [databases] of pgbouncer.ini",
            );
        }
    }
}

/// This is called from within a runtime and without one.
fn blocking<T: Send>(asking: impl Future<Output = anyhow::Result<T>> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let asking =
            scope.spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asking));
        asking.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the question has failed")))
    })
}

/// What is wrong there, and its mend.
fn asked(socket: &RuntimeSocket, settings: &Haproxy, me: &str) -> Result<Vec<(String, String)>, Trouble> {
    let asked = blocking(async { Ok(ask(socket, settings, me).await) });
    asked.unwrap_or_else(|error| {
        let mend = "this host has run out of something".to_owned();
        Err(Trouble::Unreachable { socket: socket.to_string(), why: format!("{error:#}"), mend })
    })
}

async fn ask(socket: &RuntimeSocket, settings: &Haproxy, me: &str) -> Result<Vec<(String, String)>, Trouble> {
    let mut wrong = Vec::new();
    for backend in [Some(&settings.primary_backend), settings.standbys_backend.as_ref()].into_iter().flatten() {
        // What only an administrator may say, of a server that is not there.
        let nothing = format!("set server {backend}/{NOBODY} health up");
        match runtime::say(socket, &[nothing], ANSWERS_WITHIN, |_, said| said.contains("No such server")).await {
            Err(refused @ Trouble::Refused { .. }) => {
                wrong.push((refused.to_string(), "HAProxy would be told in vain".to_owned()));
                continue;
            }
            said => said?,
        }
        let servers = runtime::ask(socket, &format!("show servers state {backend}"), ANSWERS_WITHIN).await?;
        wrong.extend(judged(&servers, socket, backend, me));
    }
    Ok(wrong)
}

/// What is wrong with the server of this node, by the lines of `show servers state`.
fn judged(servers: &str, socket: &RuntimeSocket, backend: &str, me: &str) -> Option<(String, String)> {
    let columns = servers.lines().find_map(|line| line.strip_prefix("# "))?;
    let at = |name: &str| columns.split(' ').position(|column| column == name);
    let (name, checks) = (at("srv_name")?, at("srv_check_state")?);
    let rows = servers.lines().skip(2).map(|line| line.split(' ').collect::<Vec<_>>());
    let own = rows.into_iter().find(|row| row.get(name) == Some(&me));
    let Some(own) = own else {
        let text = format!("HAProxy at {socket} has no server {me} in its backend {backend}");
        return Some((text, runtime::mend("No such server.", &format!("set server {backend}/{me}"))));
    };
    let checked = own.get(checks).and_then(|state| state.parse::<u32>().ok()).is_none_or(|state| state & CHECKED != 0);
    let text = format!(
        "HAProxy at {socket} does not check {me} in its backend {backend}: what it is told would count for ever"
    );
    (!checked)
        .then(|| (text, "put `check port ...` behind that server, as `pgvigil show haproxy` prints it".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_missing_or_not_checked_is_told() {
        let servers = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_check_state\n\
                       2 primary 1 n1 127.0.0.1 0 6\n2 primary 3 n3 127.0.0.1 2 0\n\n";
        let socket = RuntimeSocket::Unix("/run/haproxy/admin.sock".into());
        let told = |me| judged(servers, &socket, "primary", me).map(|(text, _)| text).unwrap_or_default();
        assert_eq!(told("n1"), "");
        assert!(told("n2").contains("no server n2 in its backend primary"), "{}", told("n2"));
        assert!(told("n3").contains("does not check n3"), "{}", told("n3"));
    }
}
