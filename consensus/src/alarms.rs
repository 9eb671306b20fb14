//! The alarms of etcd, which no read and no watch tells of. They are asked for by the status of a member, which names them all: the call made
//! for alarms goes through the log of etcd, and would be a write at rest.

use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::records::Problem;

/// What is amiss with etcd itself.
///
/// # Errors
/// No member answers.
pub async fn ask(endpoints: &Endpoints) -> Result<Vec<Problem>, Error> {
    let status = endpoints.call(|mut client: etcd_client::Client| async move { client.status().await }).await?;
    Ok(status.errors().iter().filter_map(|told| problem(told)).collect())
}

/// An alarm as etcd writes it (`memberID:1234 alarm:NOSPACE`); anything else that a status tells is no alarm.
fn problem(told: &str) -> Option<Problem> {
    let value = |name: &str| told.split_whitespace().find_map(|word| word.strip_prefix(name));
    let why = match value("alarm:")? {
        "NOSPACE" => {
            "etcd has no space left and refuses every write: the leader stays, but nobody can take over from it; compact and \
             defragment etcd, or raise --quota-backend-bytes, then `etcdctl alarm disarm`"
        }
        "CORRUPT" => "etcd has found its data corrupt: restore the member that says so, then `etcdctl alarm disarm`",
        _ => return None,
    };
    let member = value("memberID:").and_then(|id| id.parse::<u64>().ok()).unwrap_or_default();
    Some(Problem { key: format!("alarm of etcd member {member:x}"), why: why.to_owned(), revision: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_told_apart_from_other_troubles() {
        let found = problem("memberID:255 alarm:NOSPACE ").map(|problem| problem.key);
        assert_eq!(found.as_deref(), Some("alarm of etcd member ff"));
        assert!(problem("memberID:255 alarm:CORRUPT").is_some_and(|problem| problem.why.contains("corrupt")));
        assert_eq!(problem("etcdserver: no leader"), None);
    }
}
