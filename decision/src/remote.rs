//! Another site, as the settings and its servers tell of it: where it is, how far it had come when it ceased to lead, what it writes. What follows
//! from that is in `site`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
use crate::slots::SlotName;
use crate::view::Upstream;

/// Stands for the other site wherever a member is named; a member may not have this name.
const ANOTHER_SITE: &str = "the-other-site";

/// What the settings say of another site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Where it is to be reached; `None`: the settings name none, or cannot be read.
    pub remote: Option<Remote>,
    /// An operator's word that this site is to lead by itself; it counts for more than `remote`.
    pub promote: Option<Promotion>,
}

/// An operator's word that this site is to lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Not before it has everything up to here; `None`: with what it has.
    pub after: Option<Token>,
}

/// How far a site had come when it ceased to lead: with everything up to the end of this checkpoint nothing that it acknowledged is lost.
/// Written as `SYSTEM:TIMELINE:LSN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The database.
    pub system_id: SystemId,
    /// The timeline that it wrote last.
    pub timeline: Timeline,
    /// Where the record of its shutdown checkpoint begins; it was the last.
    pub lsn: Lsn,
}

/// Where the servers of another site are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Host and port of each; whichever of them is primary is followed.
    pub addresses: Vec<(String, u16)>,
    /// The slot there by which this site streams; an operator has made it. `None`: by none.
    #[serde(default)]
    pub slot: Option<SlotName>,
}

/// What a server of the other site says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSeen {
    /// The database.
    pub system_id: SystemId,
    /// The timeline that it writes; `None`: it is a standby itself.
    pub timeline: Option<Timeline>,
    /// The ancestors of that timeline, and where each ended.
    pub history: Vec<(Timeline, Lsn)>,
    /// False while its control file still shows the timeline before its promotion: a rewind from it would see nothing to do.
    pub rewind_source_ready: bool,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.system_id, self.timeline, self.lsn)
    }
}

impl std::str::FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let mut parts = text.trim().splitn(3, ':');
            let system_id = SystemId(parts.next()?.parse().ok()?);
            let timeline = Timeline(parts.next()?.parse().ok()?);
            Some(Token { system_id, timeline, lsn: parts.next()?.parse().ok()? })
        };
        parts().ok_or_else(|| {
            format!("\"{text}\" is no token of `pgvigil site demote`, such as 7301122334455667788:4:0/5000028")
        })
    }
}

impl Remote {
    /// Reads a list of hosts, each with a port of its own (`db1:5433`, `[::1]:5433`) or with `port`.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(hosts: &str, port: u16) -> Result<Self, String> {
        let addresses: Result<Vec<_>, String> = hosts.split(',').map(|host| address(host.trim(), port)).collect();
        addresses.map(|addresses| Self { addresses, slot: None })
    }

    /// The other site as an upstream. It knows no terms of ours, so it has none.
    pub fn upstream(&self) -> Upstream {
        Upstream { member: another_site(), host: self.to_string(), port: 0, term: Term(0), slot: self.slot.clone() }
    }
}

fn address(text: &str, port: u16) -> Result<(String, u16), String> {
    let (host, own) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None if text.matches(':').count() == 1 => {
            text.split_once(':').map_or((text, None), |(host, own)| (host, Some(own)))
        }
        None => (text, None),
    };
    let good_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "'\\=,/[]".contains(c));
    let port = own.map_or(Some(port), |own| own.parse().ok()).filter(|port| *port > 0);
    match port {
        Some(port) if good_host => Ok((host.to_owned(), port)),
        _ => Err(format!("\"{text}\" is no HOST or HOST:PORT")),
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |(host, port): &(String, u16)| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        f.write_str(&self.addresses.iter().map(one).collect::<Vec<_>>().join(","))
    }
}

impl Upstream {
    /// Whether this is another site, and not a member of this cluster.
    pub fn is_another_site(&self) -> bool {
        is_another_site(&self.member)
    }

    /// Where its servers are; a member has one.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        let remote = self.is_another_site().then(|| Remote::parse(&self.host, 5432).ok()).flatten();
        remote.map_or_else(|| vec![(self.host.clone(), self.port)], |remote| remote.addresses)
    }
}

/// Whether a name stands for another site.
pub fn is_another_site(name: &MemberName) -> bool {
    name.as_str() == ANOTHER_SITE
}

#[allow(clippy::expect_used, reason = "the name is a constant, and a test makes it")]
pub(crate) fn another_site() -> MemberName {
    MemberName::new(ANOTHER_SITE).expect("a good name")
}
