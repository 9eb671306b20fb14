//! Where everything lies in etcd: `/<namespace>/<cluster>/...`, named as Patroni names it where Patroni has it, so that tools made for
//! Patroni find their way.

use decision::names::MemberName;

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    base: String,
}

impl Keys {
    /// The keys under `/<namespace>/<cluster>/`; the usual namespace is `service`.
    pub fn new(namespace: &str, cluster: &str) -> Self {
        Self { base: format!("/{}/{cluster}/", namespace.trim_matches('/')) }
    }

    /// The common beginning of every key, with its final slash.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The rest of a key under the base; `None` for a key of somebody else.
    pub fn strip<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.base.as_str())
    }

    /// The key that follows the last possible key under `folder` (which ends in a slash).
    pub(crate) fn end_of(folder: &str) -> String {
        // '0' is the byte after '/', so this is the end of the range of everything in the folder.
        format!("{}0", folder.trim_end_matches('/'))
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.base)
    }

    /// Who holds the leader lock: the bare name, bound to the holder's lock lease.
    pub fn leader(&self) -> String {
        self.key("leader")
    }
    /// The folder of living members.
    pub fn members(&self) -> String {
        self.key("members/")
    }
    /// What one living member says about itself, bound to its member lease.
    pub fn member(&self, name: &MemberName) -> String {
        self.key(&format!("members/{name}"))
    }
    /// Cluster-wide settings.
    pub fn config(&self) -> String {
        self.key("config")
    }
    /// The folder of the states that the settings had.
    pub fn config_history(&self) -> String {
        self.key("config_history/")
    }
    /// One state of the settings. Numbers are padded, so that keys sort as numbers do.
    pub fn config_revision(&self, number: u64) -> String {
        self.key(&format!("config_history/{number:010}"))
    }
    /// The identity of the database system; empty while somebody runs initdb.
    pub fn initialize(&self) -> String {
        self.key("initialize")
    }
    /// The durability record.
    pub fn sync(&self) -> String {
        self.key("sync")
    }
    /// The leader's last published WAL position.
    pub fn status(&self) -> String {
        self.key("status")
    }
    /// Where each timeline ended.
    pub fn history(&self) -> String {
        self.key("history")
    }
    /// The highest number of a timeline that is in no history.
    pub fn stray_timeline(&self) -> String {
        self.key("stray_timeline")
    }
    /// An operator's request.
    pub fn failover(&self) -> String {
        self.key("failover")
    }
    /// That planned actions wait, for whom and until when.
    pub fn hold(&self) -> String {
        self.key("hold")
    }
    /// How far this site had come when it last ceased to lead.
    pub fn site_token(&self) -> String {
        self.key("site_token")
    }
    /// Patroni's failsafe topology.
    pub fn failsafe(&self) -> String {
        self.key("failsafe")
    }
    /// The highest term ever given out.
    pub fn term(&self) -> String {
        self.key("term")
    }
    /// One member's pledge.
    pub fn ballot(&self, name: &MemberName) -> String {
        self.key(&format!("ballots/{name}"))
    }
    /// What one member must have regained before it counts again.
    pub fn floor(&self, name: &MemberName) -> String {
        self.key(&format!("floors/{name}"))
    }
    /// The folder of what operators ask of single nodes.
    pub fn orders(&self) -> String {
        self.key("orders/")
    }
    /// What an operator asks of one node.
    pub fn order(&self, name: &MemberName) -> String {
        self.key(&format!("orders/{name}"))
    }
    /// The switchover that is to begin at a time.
    pub fn scheduled_switchover(&self) -> String {
        self.key("scheduled/switchover")
    }
    /// The restart of one node that is to begin at a time.
    pub fn scheduled_restart(&self, name: &MemberName) -> String {
        self.key(&format!("scheduled/restarts/{name}"))
    }
    /// That one member has been taken out of the cluster.
    pub fn departure(&self, name: &MemberName) -> String {
        self.key(&format!("departures/{name}"))
    }
    /// The folder of transition records.
    pub fn transitions(&self) -> String {
        self.key("transitions/")
    }
    /// One transition record.
    pub fn transition(&self, id: &str) -> String {
        self.key(&format!("transitions/{id}"))
    }
    /// The folder of generated passwords.
    pub fn secrets(&self) -> String {
        self.key("secrets/")
    }
    /// The generated passwords of the replication and rewind roles.
    pub fn replication_secrets(&self) -> String {
        self.key("secrets/replication")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_where_patroni_has_them() {
        let keys = Keys::new("/service/", "demo");
        let pg1 = MemberName::new("pg1").expect("good name");
        assert_eq!(keys.base(), "/service/demo/");
        assert_eq!(keys.leader(), "/service/demo/leader");
        assert_eq!(keys.member(&pg1), "/service/demo/members/pg1");
        assert_eq!(keys.strip("/service/demo/ballots/pg1"), Some("ballots/pg1"));
        assert_eq!(keys.strip("/service/demo2/leader"), None);
        assert_eq!(Keys::end_of(&keys.transitions()), "/service/demo/transitions0");
    }
}
