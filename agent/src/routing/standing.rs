//! What HAProxy should know of this cluster, and the commands that bring it there. Pure: two standings and the names.
//!
//! The rule: *up* is said of a member's server only because that member itself has just answered 200 on `/primary` (or `/replica`), and *down* of
//! another only by whoever answers 200 on `/primary` itself, or has that answer at first hand. So a command never says more than a check would
//! have found in the same moment, and the next check has the last word.

use std::collections::BTreeSet;

use decision::names::MemberName;

use crate::config::Haproxy;

/// Where writes go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Not here, and nobody has said that they go to it.
    #[default]
    Nowhere,
    /// Here.
    Here,
    /// To that member, by its own word.
    There(MemberName),
}

/// What HAProxy should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where writes go.
    pub writes: Writes,
    /// Whether this member answers 200 on `/replica`.
    pub reads: bool,
}

impl Standing {
    /// As somebody is told who hears from every member: what another says of itself is its own to say.
    pub fn of_this_member_alone(self) -> Self {
        let writes = if let Writes::There(_) = self.writes { Writes::Nowhere } else { self.writes };
        Self { writes, ..self }
    }

    /// What to say to whoever knows `before`; `None`: nobody can tell what it knows. Whoever takes no writes any more comes first.
    pub fn commands(
        &self,
        before: Option<&Self>,
        me: &MemberName,
        members: &BTreeSet<MemberName>,
        names: &Haproxy,
    ) -> Vec<String> {
        let set = |backend: &str, member: &MemberName, up: bool| {
            format!("set server {backend}/{member} health {}", if up { "up" } else { "down" })
        };
        let primary = names.primary_backend.as_str();
        let alone = |leader: &MemberName| -> Vec<String> {
            let others =
                members.iter().chain([me]).collect::<BTreeSet<_>>().into_iter().filter(|member| *member != leader);
            others.map(|other| set(primary, other, false)).chain([set(primary, leader, true)]).collect()
        };
        let mut commands = match (&self.writes, before.map(|before| &before.writes)) {
            (now, Some(before)) if now == before => Vec::new(),
            (Writes::Here, _) => alone(me),
            (Writes::There(leader), _) => alone(leader),
            // That another is not heard any more is no reason: its own agent says so, or a check finds out.
            (Writes::Nowhere, Some(Writes::There(_))) => Vec::new(),
            (Writes::Nowhere, _) => vec![set(primary, me, false)],
        };
        let told = before.map(|before| before.reads);
        if let Some(standbys) = names.standbys_backend.as_ref().filter(|_| told != Some(self.reads)) {
            commands.push(set(standbys, me, self.reads));
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a good name")
    }

    fn said(before: Option<Standing>, now: &Standing, standbys: Option<&str>) -> String {
        let names = Haproxy {
            sockets: Vec::new(),
            primary_backend: "w".to_owned(),
            standbys_backend: standbys.map(str::to_owned),
        };
        let members = ["n1", "n2", "n3"].map(name).into();
        let commands = now.commands(before.as_ref(), &name("n1"), &members, &names);
        commands.join(";").replace("set server ", "").replace(" health", "")
    }

    #[test]
    fn up_is_said_of_whoever_answers_so_and_after_the_others_are_down() {
        let standing = |writes, reads| Standing { writes, reads };
        let usual = Some(Standing::default());
        let there = || Writes::There(name("n2"));
        for (before, now, told) in [
            (usual.clone(), standing(Writes::Nowhere, false), ""),
            (usual.clone(), standing(Writes::Here, false), "w/n2 down;w/n3 down;w/n1 up"),
            (usual.clone(), standing(there(), false), "w/n1 down;w/n3 down;w/n2 up"),
            (Some(standing(Writes::Here, false)), standing(Writes::Nowhere, false), "w/n1 down"),
            (Some(standing(Writes::Here, false)), standing(there(), false), "w/n1 down;w/n3 down;w/n2 up"),
            (Some(standing(there(), false)), standing(Writes::Nowhere, false), ""),
            (Some(standing(Writes::Here, false)), standing(Writes::Here, false), ""),
            (None, standing(Writes::Nowhere, false), "w/n1 down"),
            (None, standing(Writes::Here, false), "w/n2 down;w/n3 down;w/n1 up"),
        ] {
            assert_eq!(said(before.clone(), &now, None), told, "{before:?} {now:?}");
        }
    }

    #[test]
    fn of_reads_each_speaks_for_itself_alone() {
        let standing = |reads| Standing { writes: Writes::Nowhere, reads };
        assert_eq!(said(Some(standing(false)), &standing(true), Some("r")), "r/n1 up");
        assert_eq!(said(Some(standing(true)), &standing(false), Some("r")), "r/n1 down");
        assert_eq!(said(Some(standing(true)), &standing(true), Some("r")), "");
        assert_eq!(said(None, &standing(true), Some("r")), "w/n1 down;r/n1 up");
        assert_eq!(said(Some(standing(true)), &standing(false), None), "");
    }

    #[test]
    fn whoever_hears_from_everybody_is_told_by_each_of_itself() {
        let there = Standing { writes: Writes::There(name("n2")), reads: true };
        assert_eq!(there.of_this_member_alone(), Standing { writes: Writes::Nowhere, reads: true });
        let here = Standing { writes: Writes::Here, reads: false };
        assert_eq!(here.clone().of_this_member_alone(), here);
    }
}
