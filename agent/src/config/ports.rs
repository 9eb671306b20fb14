//! Whether the ports of this node are free, or in use by this very node. A program on the port of Postgres at one address of several lets it
//! start all the same, on what is left.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::Config;
use super::world::Report;

/// How long an answer from the network may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the API can listen.
pub(super) fn api(config: &Config, report: &mut Report) {
    let listen = &config.api.listen;
    match TcpListener::bind((listen.host.as_str(), listen.port)) {
        Ok(_) => report.ok(format!("{listen} is free for the API")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if answers_as_this_node(config) {
                report.ok(format!("{listen} is in use by this very node"));
            } else {
                let who = format!("ss -ltnp 'sport = :{}' names who has it; or set `api.listen`", listen.port);
                report.error("E24", format!("{listen} is taken by another program"), who);
            }
        }
        Err(error) => {
            let text = format!("the API cannot listen on {listen}: {error}");
            report.error("E24", text, "an address of this host, or 0.0.0.0, in `api.listen`");
        }
    }
}

/// Whether the agent of this very node answers on the API port.
pub(super) fn answers_as_this_node(config: &Config) -> bool {
    let listen = &config.api.listen;
    let host = if listen.is_wildcard() { "localhost" } else { &listen.host };
    let Ok(mut stream) = connect(host, listen.port) else { return false };
    let timeouts = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    let mut answer = String::new();
    let asked = timeouts.and_then(|()| stream.write_all(b"GET /patroni HTTP/1.0\r\n\r\n"));
    let told = asked.and_then(|()| stream.take(64 * 1024).read_to_string(&mut answer));
    let names = [config.cluster.as_str(), config.name.as_str()];
    told.is_ok() && names.iter().all(|name| answer.contains(&format!("\"{name}\"")))
}

/// A connection to the first address of a host that takes one; else in a few words what keeps it from that.
pub(super) fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = (host, port).to_socket_addrs().map_err(|_| format!("the name {host} cannot be resolved"))?;
    let mut why = format!("the name {host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = in_words(&error),
        }
    }
    Err(why)
}

fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            "no answer: the host is down, or a firewall is between".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Whether Postgres can listen where everybody will look for it, and on all that it would be told to.
pub(super) fn postgres(config: &Config, report: &mut Report) {
    let (advertise, listen) = (&config.postgres.advertise, &config.postgres.listen);
    let port = advertise.port;
    let mut held = false;
    for address in wanted(&advertise.host, listen).into_iter().map(|ip| SocketAddr::new(ip, port)) {
        // An address of another host (behind a translation), and a port that only root may take, say nothing.
        if !TcpListener::bind(address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse) {
            continue;
        }
        if pg_control::server_takes(&config.postgres.data_dir, address) == Some(true) {
            held = true;
            continue;
        }
        // A server whose sockets this user may not see, or that has been told to listen elsewhere since, may be the one that has it.
        let own = config.postgres.data_dir.join("postmaster.pid");
        if own.try_exists().unwrap_or(true) {
            let help = "where it is another program's, `ss -ltnp` names it: no client would reach Postgres".to_owned();
            report.warn("W07", format!("{address} is in use, as it seems by the Postgres of this node"), help);
            continue;
        }
        let text = format!(
            "{address} is taken by another program, and Postgres is to listen there: no client would reach it at {advertise}"
        );
        let help =
            format!("ss -ltnp 'sport = :{port}' names who has it; stop that, or another port in `postgres.advertise`");
        return report.error("E27", text, help);
    }
    report.ok(match held {
        true => format!("{advertise} is in use by the Postgres of this very node"),
        false => format!("{advertise} is free for Postgres"),
    });
}

/// The addresses that Postgres takes, as far as clients that come to the advertised one depend on them.
fn wanted(advertised: &str, listen: &str) -> Vec<IpAddr> {
    let resolved =
        |host: &str| (host, 0).to_socket_addrs().map(|all| all.map(|one| one.ip()).collect()).unwrap_or_default();
    let sought: Vec<IpAddr> = resolved(advertised);
    let words: Vec<&str> = listen.split(',').map(str::trim).collect();
    let everywhere = |ip: &&IpAddr| ip.is_ipv4() && words.iter().any(|word| ["*", "0.0.0.0"].contains(word));
    let all_of_four = sought.iter().find(everywhere).map(|_| IpAddr::from([0, 0, 0, 0]));
    let told = |ip: &&IpAddr| {
        words.iter().any(|word| match *word {
            "*" => true,
            "0.0.0.0" => ip.is_ipv4(),
            "::" => ip.is_ipv6(),
            word => resolved(word).contains(ip),
        })
    };
    sought.iter().filter(told).copied().chain(all_of_four).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_told_apart_from_a_closed_port() {
        assert_eq!(connect("no-such-host.invalid", 1).unwrap_err(), "the name no-such-host.invalid cannot be resolved");
        assert_eq!(connect("127.0.0.1", 1).unwrap_err(), "nothing listens there");
    }

    #[test]
    fn what_postgres_would_take_is_what_it_is_told_to_and_clients_look_for() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (one, all) = (ip("10.0.0.11"), ip("0.0.0.0"));
        assert_eq!(wanted("10.0.0.11", "*"), [one, all]);
        assert_eq!(wanted("10.0.0.11", "127.0.0.1, 10.0.0.11"), [one]);
        assert_eq!(wanted("10.0.0.11", "127.0.0.1"), [] as [IpAddr; 0], "somebody else hands it on");
        assert_eq!(wanted("fd00::11", "*"), [ip("fd00::11")]);
    }
}
