//! Where the server listens, as the kernel says: the listening sockets that its postmaster holds. No connection is made, for one can fail or
//! hang for many reasons (a firewall that forbids a host to reach itself, a full queue, no slot left) of which none says that clients fare the
//! same; a socket that is not there lets nobody in. Postgres goes on with a warning in its log where it gets one of its addresses and not
//! another, and a postmaster never opens a further one, so one look at each is enough.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};

use crate::error::Result;
use crate::instance::Instance;
use crate::process;

/// Where a running server was told to listen, and where it does.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The process id of its postmaster.
    pub postmaster: i32,
    /// Its port.
    pub port: u16,
    told: String,
    sockets: Vec<SocketAddr>,
}

impl Instance {
    /// Where the server listens; `None`: it does not run, or the kernel does not say.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn listening(&self) -> Result<Option<Listening>> {
        let Some((postmaster, port)) = self.postmaster().and_then(|found| Some((found.pid, found.port?))) else {
            return Ok(None);
        };
        let rows = self.ask("SELECT current_setting('listen_addresses')", &[]).await?;
        let told = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        Ok(sockets(postmaster).map(|sockets| Listening { postmaster, port, told, sockets }))
    }
}

impl Listening {
    /// Whether nobody who looks for the server at this host name or address gets in, for sure: it was told to listen there, the address is one of
    /// this host, and no socket of its takes connections there. False where anything of that is not known. Resolves names, which may block.
    pub fn misses(&self, host: &str) -> bool {
        let sought = resolved(host);
        let own = own_addresses();
        let missed = |address: &IpAddr| {
            (address.is_loopback() || own.contains(address)) && self.was_told(*address) && !self.takes(*address)
        };
        // A postmaster that runs with addresses to listen on has a socket at least: where none is seen, the kernel hides them.
        !self.sockets.is_empty() && !sought.is_empty() && sought.iter().all(missed)
    }

    fn was_told(&self, address: IpAddr) -> bool {
        self.told.split(',').map(|word| word.trim().trim_matches('"')).any(|word| match word {
            "*" => true,
            "0.0.0.0" => address.is_ipv4(),
            "::" => address.is_ipv6(),
            word => resolved(word).contains(&address),
        })
    }

    fn takes(&self, address: IpAddr) -> bool {
        self.sockets.iter().any(|socket| socket.port() == self.port && reaches(socket.ip(), address))
    }
}

/// Whether the server of this data directory, and nobody else, takes connections at an address; `None`: it does not run, or cannot be seen.
pub fn server_takes(data_dir: &Path, address: SocketAddr) -> Option<bool> {
    let sockets = sockets(process::find(data_dir)?.pid)?;
    Some(sockets.iter().any(|socket| socket.port() == address.port() && reaches(socket.ip(), address.ip())))
}

/// Whether a socket takes what is sent to an address. One on `::` takes no IPv4: Postgres wants it so.
fn reaches(socket: IpAddr, address: IpAddr) -> bool {
    let (socket, address) = (socket.to_canonical(), address.to_canonical());
    socket == address || (socket.is_unspecified() && socket.is_ipv4() == address.is_ipv4())
}

/// The sockets on which a process listens; `None`: it may not be looked at.
fn sockets(pid: i32) -> Option<Vec<SocketAddr>> {
    let process = Process::new(pid).ok()?;
    let open = process.fd().ok()?.filter_map(|file| match file.ok()?.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    });
    let held: HashSet<u64> = open.collect();
    let (four, six) = (process.tcp().unwrap_or_default(), process.tcp6().unwrap_or_default());
    let all = four.into_iter().chain(six);
    Some(all.filter(|it| it.state == TcpState::Listen && held.contains(&it.inode)).map(|it| it.local_address).collect())
}

fn resolved(host: &str) -> Vec<IpAddr> {
    (host, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}

fn own_addresses() -> HashSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let address = |found: nix::sys::socket::SockaddrStorage| {
        let four = found.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        four.or_else(|| found.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
    };
    all.filter_map(address).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listening(told: &str, sockets: &[&str]) -> Listening {
        let sockets = sockets.iter().map(|text| text.parse().unwrap()).collect();
        Listening { postmaster: 1, port: 5432, told: told.to_owned(), sockets }
    }

    #[test]
    fn only_an_address_of_this_host_where_it_was_told_to_listen_and_does_not_is_missed() {
        for (told, sockets, host, missed) in [
            ("*", &["[::]:5432"][..], "127.0.0.1", true),
            ("*", &["0.0.0.0:5432"], "::1", true),
            ("0.0.0.0, ::", &["[::]:5432"], "127.0.0.1", true),
            ("127.0.0.1,127.0.0.2", &["127.0.0.2:5432"], "127.0.0.1", true),
            ("*", &["127.0.0.1:9"], "127.0.0.1", true),
            ("*", &["0.0.0.0:5432", "[::]:5432"], "127.0.0.1", false),
            ("*", &["0.0.0.0:5432"], "127.0.0.1", false),
            ("*", &["[::ffff:127.0.0.1]:5432"], "127.0.0.1", false),
            // Somebody else may stand there on purpose, and hand on what comes in.
            ("127.0.0.2", &["127.0.0.2:5432"], "127.0.0.1", false),
            ("::", &["[::]:5432"], "127.0.0.1", false),
            // Addresses of others, which something between may translate (TEST-NET-1).
            ("*", &["[::]:5432"], "192.0.2.1", false),
            ("*", &["[::]:5432"], "no.such.name.invalid", false),
            ("*", &[], "127.0.0.1", false),
        ] {
            assert_eq!(listening(told, sockets).misses(host), missed, "{told} {sockets:?} {host}");
        }
    }

    #[test]
    fn the_sockets_of_a_process_are_those_that_it_holds_itself() {
        let mine = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let found = sockets(me).unwrap();
        assert!(found.contains(&held.local_addr().unwrap()) && !found.contains(&mine), "{found:?}");
    }
}
