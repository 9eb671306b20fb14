//! What has changed between two looks at a cluster, one sentence each: the events of the screen.

use super::super::status::{MemberStatus, Status};

/// In the order in which people ask: who leads, whether writes work, the members, the pause.
pub fn changes(before: &Status, now: &Status) -> Vec<String> {
    let mut found = Vec::new();
    if before.leader != now.leader {
        let term = now.term.map(|term| format!(", term {term}")).unwrap_or_default();
        found.push(match &now.leader {
            Some(leader) => format!("{leader} holds the lock{term}"),
            None => "nobody holds the lock".to_owned(),
        });
    }
    if before.is_writable() != now.is_writable() {
        found.push(if now.is_writable() { "writes work" } else { "writes do not work" }.to_owned());
    }
    if before.etcd_reachable != now.etcd_reachable {
        found.push(if now.etcd_reachable { "etcd answers" } else { "etcd does not answer" }.to_owned());
    }
    for member in &now.members {
        match before.members.iter().find(|other| other.name == member.name) {
            None => found.push(format!("{} is there: {}", member.name, member.state)),
            Some(other) => found.extend(of_member(other, member)),
        }
    }
    let gone = before.members.iter().filter(|member| now.members.iter().all(|other| other.name != member.name));
    found.extend(gone.map(|member| format!("{} is no member any more", member.name)));
    match (&before.pause, &now.pause) {
        (None, Some(pause)) => found.push(format!("paused {}", pause.in_words())),
        (Some(_), None) => found.push("no longer paused".to_owned()),
        _ => {}
    }
    found
}

/// The state without its numbers: a copy that goes on is no event.
fn of_member(before: &MemberStatus, now: &MemberStatus) -> Option<String> {
    (first_words(&before.state) != first_words(&now.state) || before.role != now.role).then(|| {
        match now.role.as_str() {
            "leader" | "primary" | "standby" => format!("{}: {}, {}", now.name, now.role, now.state),
            _ => format!("{}: {}", now.name, now.state),
        }
    })
}

/// Up to the first number.
fn first_words(state: &str) -> String {
    state.chars().take_while(|letter| !letter.is_ascii_digit()).collect()
}
