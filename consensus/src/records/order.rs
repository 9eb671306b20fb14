//! `orders/<member>`: what an operator asks of one node. One at a time; the node takes it away when it begins, and a transition record of the same
//! number tells how it went.

use decision::order::{Order, OrderKind};
use decision::view::MemberRole;
use serde::{Deserialize, Serialize};

use super::scheduled::named;
use super::{from_json, to_json};

/// An order as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderRecord {
    /// `restart`, `reinit` or `reload`.
    pub order: String,
    /// Only if the node is a `primary` or a `replica`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Who asks.
    pub requested_by: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was given (RFC 3339), for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_at: Option<String>,
    /// The hold against which it was given, by whom and why; `None`: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored_hold: Option<String>,
    /// The id that it was given when it was planned; `None`: that of its own revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The time for which it was planned (RFC 3339), for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<String>,
}

impl OrderRecord {
    /// Reads the stored text.
    ///
    /// # Errors
    /// It is no order.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// The id of the record that tells how it went, at this revision.
    pub fn record_id(&self, revision: i64) -> String {
        named(self.id.as_deref()).unwrap_or_else(|| order_id(revision))
    }

    /// What a decision needs of it; `None`: nothing, for it is obeyed whatever is decided.
    ///
    /// # Errors
    /// It asks for something that is not known here.
    pub fn to_order(&self, revision: i64) -> Result<Option<Order>, String> {
        let kind = match self.order.as_str() {
            "restart" => OrderKind::Restart,
            "reinit" => OrderKind::Reinit,
            "reload" => return Ok(None),
            other => return Err(format!("order \"{other}\" is neither restart, reinit nor reload")),
        };
        let only_role = match self.role.as_deref() {
            None => None,
            Some("primary" | "master") => Some(MemberRole::Primary),
            Some("replica" | "standby") => Some(MemberRole::Standby),
            Some(other) => return Err(format!("role \"{other}\" is neither primary nor replica")),
        };
        Ok(Some(Order { kind, only_role, ignores_hold: self.ignored_hold.is_some(), revision }))
    }
}

/// The id of the record that tells how the order of this revision went, unless it was planned and has one already.
pub fn order_id(revision: i64) -> String {
    format!("o-{revision}")
}

/// The revision in the id of an order's record.
pub fn order_of(id: &str) -> Option<i64> {
    id.strip_prefix("o-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_what_and_of_whom() {
        let read = |text: &str| OrderRecord::from_json(text).and_then(|record| record.to_order(3));
        let restart = Order { kind: OrderKind::Restart, only_role: None, ignores_hold: false, revision: 3 };
        assert_eq!(read(r#"{"order":"restart","requested_by":"anna"}"#), Ok(Some(restart.clone())));
        let of_replicas = Order { only_role: Some(MemberRole::Standby), ..restart };
        assert_eq!(read(r#"{"order":"restart","role":"replica"}"#), Ok(Some(of_replicas)));
        assert_eq!(read(r#"{"order":"reload"}"#), Ok(None));
        for nonsense in [r#"{"order":"dance"}"#, r#"{"order":"restart","role":"x"}"#, "[]", ""] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }
}
