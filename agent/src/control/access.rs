//! Who somebody is, and what they may do. On the unix socket the kernel says who it is: root and the agent's own user may do everything, members
//! of the configured group may operate. Over TCP a token says it, or a certificate that a trusted authority has signed.

use std::net::SocketAddr;

use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::credentials::Presented;
use super::encryption::Shown;
use super::tokens::Tokens;
use crate::config::{self, Certificate, Role};

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as the kernel knows it.
    Socket {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// Some host, in clear text.
    Address(SocketAddr),
    /// Some host, over TLS.
    Encrypted {
        /// Its address.
        address: SocketAddr,
        /// Its certificate.
        shown: Shown,
    },
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Socket { .. } => f.write_str("socket"),
            Peer::Address(address) | Peer::Encrypted { address, .. } => write!(f, "{}", address.ip()),
        }
    }
}

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name of the user, or of the token.
    pub name: String,
    /// Where from: an address, or this host.
    pub from: String,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// `anna@db1`, as it goes into records.
    pub fn who(&self) -> String {
        format!("{}@{}", self.name, self.from)
    }
}

/// Somebody who is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Whom they say, or the kernel says, that they are.
    pub name: String,
    /// Why that does not do, and what would.
    pub why: String,
}

/// Who may come in.
pub struct Access {
    owner: Uid,
    group: Option<String>,
    host: String,
    tokens: Tokens,
    certificates: Vec<Certificate>,
    only_encrypted: bool,
}

impl Access {
    /// As the configuration says.
    pub fn new(control: &config::Control) -> Self {
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let (owner, group) = (Uid::effective(), control.group.clone());
        let (tokens, certificates) = (Tokens::new(control.tokens.clone()), control.certificates.clone());
        Self { owner, group, host, tokens, certificates, only_encrypted: control.tls.is_some() }
    }

    /// Who somebody is.
    ///
    /// # Errors
    /// Nobody who is known here.
    pub async fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Stranger> {
        let (address, shown) = match peer {
            Peer::Socket { uid, gid } => return self.of_process(Uid::from_raw(*uid), Gid::from_raw(*gid)).await,
            Peer::Address(_) if self.only_encrypted => {
                let why = "control is by TLS alone here: https://".to_owned();
                return Err(Stranger { name: "nobody".to_owned(), why });
            }
            Peer::Address(address) => (address, None),
            Peer::Encrypted { address, shown } => (address, Some(shown).filter(|shown| !shown.names.is_empty())),
        };
        let from = address.ip().to_string();
        // A token says more than the certificate of the host that many share.
        let Some(shown) = shown.filter(|_| !headers.contains_key(header::AUTHORIZATION)) else {
            let (name, role) = self.tokens.find(Presented::in_headers(headers)?).await?;
            return Ok(Caller { name, from, role });
        };
        // It was good when the connection was made, which may have been long ago.
        if let Some(until) = shown.until.filter(|until| *until < Timestamp::now()) {
            let name = shown.names.first().map_or("nobody", String::as_str).to_owned();
            return Err(Stranger { name, why: format!("your certificate has run out: it was valid until {until}") });
        }
        let names = shown.names.iter();
        let known = |name: &&String| self.certificates.iter().find(|one| one.name == **name);
        match names.clone().find_map(|name| known(&name)) {
            Some(Certificate { name, role }) => Ok(Caller { name: name.clone(), from, role: *role }),
            None => {
                let shown: Vec<&str> = names.map(String::as_str).collect();
                let why = format!("[control] certificates has none of the names in yours: {}", shown.join(", "));
                Err(Stranger { name: shown.first().map_or("nobody", |name| name).to_owned(), why })
            }
        }
    }

    async fn of_process(&self, uid: Uid, gid: Gid) -> Result<Caller, Stranger> {
        let group = self.group.clone();
        let all_powerful = uid.is_root() || uid == self.owner;
        // The user database may be far away.
        let asked = tokio::task::spawn_blocking(move || {
            let user = User::from_uid(uid).ok().flatten();
            let member = !all_powerful && group.is_some_and(|group| is_member(user.as_ref(), gid, &group));
            (user.map_or_else(|| format!("uid {uid}"), |user| user.name), member)
        });
        let (name, member) = asked.await.unwrap_or_else(|_| (format!("uid {uid}"), false));
        let role = match (all_powerful, member) {
            (true, _) => Role::Admin,
            (false, true) => Role::Operate,
            (false, false) => {
                let why = match &self.group {
                    Some(group) => format!("{name} is neither root nor the agent's user nor in the group {group}"),
                    None => format!("{name} is neither root nor the agent's user, and no [control] group is set"),
                };
                return Err(Stranger { name, why });
            }
        };
        Ok(Caller { name, from: self.host.clone(), role })
    }
}

fn is_member(user: Option<&User>, gid: Gid, group: &str) -> bool {
    let Ok(Some(group)) = Group::from_name(group) else { return false };
    let listed = |user: &User| {
        let name = std::ffi::CString::new(user.name.as_str()).ok();
        name.and_then(|name| getgrouplist(&name, user.gid).ok()).is_some_and(|all| all.contains(&group.gid))
    };
    gid == group.gid || user.is_some_and(listed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn access(group: Option<&str>) -> Access {
        let control = config::Control { group: group.map(str::to_owned), ..config::Control::default() };
        Access { owner: Uid::from_raw(4_000_001), ..Access::new(&control) }
    }

    #[tokio::test]
    async fn the_kernel_says_who_it_is_and_the_group_what_they_may() {
        let role = async |access: &Access, uid, gid| {
            access.caller(&Peer::Socket { uid, gid }, &HeaderMap::new()).await.map(|caller| caller.role)
        };
        let (without, with) = (access(None), access(Some("daemon")));
        let daemon = Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
        assert_eq!(role(&without, 0, 0).await, Ok(Role::Admin));
        assert_eq!(role(&without, 4_000_001, 9).await, Ok(Role::Admin));
        assert_eq!(role(&with, 4_000_002, daemon).await, Ok(Role::Operate));
        // By the user database alone: the user daemon is in its group whatever its process says.
        assert_eq!(
            role(&with, User::from_name("daemon").unwrap().unwrap().uid.as_raw(), 4_000_009).await,
            Ok(Role::Operate)
        );
        assert!(role(&with, 4_000_002, 4_000_009).await.unwrap_err().why.contains("nor in the group daemon"));
        assert!(role(&without, 4_000_002, daemon).await.unwrap_err().why.contains("no [control] group is set"));
    }
}
