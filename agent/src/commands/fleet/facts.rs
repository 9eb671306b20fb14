//! What `pgvigil fleet status` knows, in the shape of its JSON: `pgvigil.fleet/v1`. Fields may be added; none changes its meaning or unit.

use consensus::fleet::Owner;
use serde::Serialize;

use super::super::status::{Status, Trouble, Word as Verdict};
use super::super::words;
use crate::cli::Exit;

/// How a cluster stands, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Nobody accepts writes.
    NoPrimary,
    /// It could not be read.
    Unknown,
    /// A value in etcd cannot be understood.
    Corrupt,
    /// Writes work (or it is not known), and something is wrong.
    Degraded,
    /// Writes work, and nothing is wrong.
    Ok,
}

impl Word {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Word::NoPrimary => "NO PRIMARY",
            Word::Unknown => "UNKNOWN",
            Word::Corrupt => "CORRUPT",
            Word::Degraded => "DEGRADED",
            Word::Ok => "OK",
        }
    }

    fn exit(self) -> Exit {
        match self {
            Word::NoPrimary => Exit::NoPrimary,
            Word::Unknown => Exit::Unreachable,
            Word::Corrupt | Word::Degraded => Exit::Degraded,
            Word::Ok => Exit::Done,
        }
    }
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterRow {
    /// Its name.
    pub cluster: String,
    /// How it stands.
    pub word: Word,
    /// The same in one sentence.
    pub sentence: String,
    /// Who holds the lock.
    pub leader: Option<String>,
    /// Where that is.
    pub leader_zone: Option<String>,
    /// Whether the leader says that writes work; `null`: it does not answer.
    pub writable: Option<bool>,
    /// The present term.
    pub term: Option<u64>,
    /// The identity of the database.
    pub system_id: Option<String>,
    /// How many members there are, or ought to be.
    pub members: usize,
    /// How many of them answer.
    pub members_reachable: usize,
    /// What commits wait for, in words.
    pub durability: Option<String>,
    /// The furthest that a standby is behind in what it has received.
    pub receive_lag_bytes_max: Option<u64>,
    /// Automatic actions are paused.
    pub paused: bool,
    /// What is wrong.
    pub problems: Vec<Trouble>,
}

/// A scope of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignRow {
    /// Its name.
    pub scope: String,
    /// `patroni` where it has the keys of one; `unknown`.
    pub owner: &'static str,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fleet {
    /// `pgvigil.fleet/v1`
    pub schema: &'static str,
    /// The first part of every key.
    pub namespace: String,
    /// The revision of etcd at which all of it was so.
    pub revision: i64,
    /// The clusters, those with problems first.
    pub clusters: Vec<ClusterRow>,
    /// What others keep there.
    pub not_ours: Vec<ForeignRow>,
    /// The worst of them.
    pub verdict: FleetVerdict,
}

/// How they stand, all in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FleetVerdict {
    /// The word of the worst.
    pub word: Word,
    /// One sentence.
    pub sentence: String,
}

impl ClusterRow {
    /// From what `status` says of it.
    pub fn of(status: Status) -> Self {
        let corrupt = status.problems.iter().find(|problem| problem.code == "corrupt_key");
        let word = match status.verdict.word {
            Verdict::NoPrimary => Word::NoPrimary,
            _ if corrupt.is_some() => Word::Corrupt,
            Verdict::Degraded => Word::Degraded,
            Verdict::Ok => Word::Ok,
        };
        let gravest = match word {
            Word::Corrupt => corrupt,
            // Where it is not known whether writes work, that is what matters.
            Word::Degraded if status.writable.is_some() => status.problems.first(),
            _ => None,
        };
        let zone = |name: &String| status.members.iter().find(|member| member.name == *name)?.zone.clone();
        Self {
            word,
            sentence: gravest.map_or_else(|| status.verdict.sentence.clone(), |one| one.problem.clone()),
            leader_zone: status.leader.as_ref().and_then(zone),
            members: status.members.len(),
            members_reachable: status.members.iter().filter(|member| member.reachable).count(),
            receive_lag_bytes_max: status.members.iter().filter_map(|member| member.receive_lag_bytes).max(),
            durability: status.durability.map(|durability| durability.text),
            paused: status.pause.is_some(),
            cluster: status.cluster,
            leader: status.leader,
            writable: status.writable,
            term: status.term,
            system_id: status.system_id,
            problems: status.problems,
        }
    }

    /// Of a cluster that could not be read.
    pub fn unread(cluster: String, why: String) -> Self {
        Self {
            cluster,
            word: Word::Unknown,
            sentence: why,
            leader: None,
            leader_zone: None,
            writable: None,
            term: None,
            system_id: None,
            members: 0,
            members_reachable: 0,
            durability: None,
            receive_lag_bytes_max: None,
            paused: false,
            problems: Vec::new(),
        }
    }
}

impl ForeignRow {
    /// Whose scope it is, as far as its keys tell.
    pub fn of(scope: String, owner: Owner) -> Self {
        let owner = if owner == Owner::Patroni { "patroni" } else { "unknown" };
        Self { scope, owner }
    }
}

impl Fleet {
    /// Puts them in order, and says how they stand.
    pub fn of(namespace: &str, revision: i64, mut clusters: Vec<ClusterRow>, mut not_ours: Vec<ForeignRow>) -> Self {
        clusters.sort_by(|one, other| (one.word, &one.cluster).cmp(&(other.word, &other.cluster)));
        not_ours.sort_by(|one, other| one.scope.cmp(&other.scope));
        let verdict = FleetVerdict {
            // Whoever looks at the wrong place must not take it for one where all is well.
            word: clusters.first().map_or(Word::Unknown, |worst| worst.word),
            sentence: sentence(namespace, &clusters, &not_ours),
        };
        let namespace = namespace.to_owned();
        Self { schema: "pgvigil.fleet/v1", namespace, revision, clusters, not_ours, verdict }
    }

    /// What the worst of them means for whoever asked for it.
    pub fn exit(&self) -> Exit {
        self.verdict.word.exit()
    }
}

/// `4 clusters: in 1 nobody accepts writes (lost), 1 is degraded (orders), 2 are well; 1 other scope is not ours`
fn sentence(namespace: &str, clusters: &[ClusterRow], not_ours: &[ForeignRow]) -> String {
    let foreign = match not_ours {
        [] => String::new(),
        [one] => format!("; 1 scope is not ours ({})", one.scope),
        several => format!("; {} scopes are not ours", several.len()),
    };
    if clusters.is_empty() {
        return format!(
            "no cluster of pgvigil is under /{namespace}/: is it `etcd.namespace` of another file?{foreign}"
        );
    }
    let of = |word: Word| -> Vec<&str> {
        clusters.iter().filter(|row| row.word == word).map(|row| row.cluster.as_str()).collect()
    };
    let are = |count: usize| if count == 1 { "is" } else { "are" };
    let told = |word: Word, says: &dyn Fn(usize) -> String| {
        let names = of(word);
        (!names.is_empty()).then(|| match word {
            Word::Ok => says(names.len()),
            _ => format!("{} ({})", says(names.len()), words::list(&names)),
        })
    };
    let parts: Vec<String> = [
        told(Word::NoPrimary, &|count| format!("in {count} nobody accepts writes")),
        told(Word::Unknown, &|count| format!("{count} could not be read")),
        told(Word::Corrupt, &|count| format!("{count} {} corrupt in etcd", are(count))),
        told(Word::Degraded, &|count| format!("{count} {} degraded", are(count))),
        told(Word::Ok, &|count| format!("{count} {} well", are(count))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let clusters = match clusters.len() {
        1 => "1 cluster".to_owned(),
        count => format!("{count} clusters"),
    };
    format!("{clusters}: {}{foreign}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(cluster: &str, word: Verdict, codes: &[&'static str]) -> Status {
        let mut status = Status { cluster: cluster.to_owned(), writable: Some(true), ..Status::default() };
        status.verdict.word = word;
        status.verdict.sentence = "the verdict".to_owned();
        status.problems = codes.iter().map(|code| Trouble::new(code, format!("it is {code}"), "mend it")).collect();
        status
    }

    #[test]
    fn each_cluster_is_told_by_its_worst() {
        for (verdict, codes, word, sentence, exit) in [
            (Verdict::Ok, &[][..], Word::Ok, "the verdict", Exit::Done),
            (Verdict::Degraded, &["paused", "corrupt_key"], Word::Corrupt, "it is corrupt_key", Exit::Degraded),
            (Verdict::Degraded, &["member_down"], Word::Degraded, "it is member_down", Exit::Degraded),
            (Verdict::Degraded, &[], Word::Degraded, "the verdict", Exit::Degraded),
            (Verdict::NoPrimary, &["corrupt_key"], Word::NoPrimary, "the verdict", Exit::NoPrimary),
        ] {
            let row = ClusterRow::of(status("a", verdict, codes));
            assert_eq!((row.word, row.sentence.as_str(), row.word.exit()), (word, sentence, exit), "{codes:?}");
        }
    }

    #[test]
    fn those_with_problems_come_first_and_the_last_line_counts_them() {
        let row = |cluster: &str, word, codes: &[&'static str]| ClusterRow::of(status(cluster, word, codes));
        let clusters = vec![
            row("well", Verdict::Ok, &[]),
            row("also", Verdict::Ok, &[]),
            row("slow", Verdict::Degraded, &["replay_behind"]),
            ClusterRow::unread("late".to_owned(), "no answer".to_owned()),
            row("lost", Verdict::NoPrimary, &[]),
        ];
        let foreign = vec![ForeignRow::of("batman".to_owned(), Owner::Patroni)];
        let fleet = Fleet::of("service", 7, clusters, foreign);
        let order: Vec<&str> = fleet.clusters.iter().map(|row| row.cluster.as_str()).collect();
        assert_eq!(order, ["lost", "late", "slow", "also", "well"]);
        assert_eq!(
            fleet.verdict.sentence,
            "5 clusters: in 1 nobody accepts writes (lost), 1 could not be read (late), 1 is degraded (slow), 2 are well; \
             1 scope is not ours (batman)"
        );
        assert_eq!(fleet.exit(), Exit::NoPrimary);
        let none = Fleet::of("service", 7, Vec::new(), Vec::new());
        assert_eq!(
            (none.verdict.sentence.as_str(), none.exit()),
            ("no cluster of pgvigil is under /service/: is it `etcd.namespace` of another file?", Exit::Unreachable)
        );
    }
}
