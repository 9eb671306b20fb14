//! Loopback ports for a cluster, one after another. They lie below the range from which the kernel takes ports for outgoing
//! connections: otherwise a health check could borrow the port of a node that is down, and the node could not come back.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Blocks begin at multiples of this, from `LOWEST` on.
const BLOCK: u16 = 32;
const LOWEST: u16 = 10_240;
const HIGHEST: u16 = 32_000;
const ATTEMPTS: usize = 200;

/// A run of ports.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    /// The port before the first is kept while the cluster lives, so that two clusters never choose the same block.
    _claim: Option<TcpListener>,
}

impl Ports {
    /// The port with this number, from 0.
    pub fn at(&self, index: u16) -> u16 {
        self.first + index
    }

    /// `count` ports from `base` on, or any free ones.
    ///
    /// # Errors
    /// One of them is taken; the message names it.
    pub fn choose(base: Option<u16>, count: u16) -> Result<Self> {
        match base {
            Some(first) => Self::from_base(first, count),
            None => Self::anywhere(count),
        }
    }

    fn from_base(first: u16, count: u16) -> Result<Self> {
        let Some(end) = first.checked_add(count) else {
            bail!("there are no {count} ports from {first} on: choose a smaller --base-port");
        };
        for port in first..end {
            if let Err(error) = bind(port) {
                bail!(
                    "port {port} cannot be used ({error}); {count} ports from {first} on are needed: choose another \
                     --base-port, or none. Who has it: ss -ltnp 'sport = :{port}'"
                );
            }
        }
        Ok(Self { first, _claim: None })
    }

    fn anywhere(count: u16) -> Result<Self> {
        let blocks = u64::from((HIGHEST - LOWEST) / BLOCK) - 1;
        let random = RandomState::new();
        for attempt in 0..ATTEMPTS {
            let block = u16::try_from(random.hash_one(attempt) % blocks).unwrap_or(0);
            let claimed = LOWEST + block * BLOCK;
            let Ok(claim) = bind(claimed) else { continue };
            let first = claimed + 1;
            if (first..first + count).all(|port| bind(port).is_ok()) {
                return Ok(Self { first, _claim: Some(claim) });
            }
        }
        bail!("no {count} free ports in a row between {LOWEST} and {HIGHEST}: name the first one with --base-port");
    }
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_get_ports_of_their_own() {
        let (one, other) = (Ports::choose(None, 20).unwrap(), Ports::choose(None, 20).unwrap());
        assert!(one.at(0).abs_diff(other.at(0)) >= BLOCK);
    }

    #[test]
    fn a_taken_port_is_named() {
        let ports = Ports::choose(None, 5).unwrap();
        let _taken = bind(ports.at(3)).unwrap();
        let told = Ports::choose(Some(ports.at(0)), 5).unwrap_err().to_string();
        assert!(told.starts_with(&format!("port {} cannot be used", ports.at(3))), "{told}");
    }
}
