//! `pgvigil fleet status`: one row a cluster, those with problems first, and one sentence on all of them.

use super::super::screen::{self, Tone, answer, paint};
use super::facts::{ClusterRow, Fleet, Word};
use super::gather::fleet;
use crate::cli::{Exit, FleetStatusArgs, Output};
use crate::operate::world::Reach;

const HEADINGS: [&str; 7] = ["CLUSTER", "STATE", "LEADER", "ZONE", "MEMBERS", "DURABILITY", "WHAT"];

/// Prints it.
pub async fn run(arguments: &FleetStatusArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    match fleet(&reach).await {
        Ok(fleet) => {
            match arguments.output {
                Output::Json => answer(&serde_json::to_string_pretty(&fleet).unwrap_or_default()),
                Output::Table => answer(&render(&fleet, screen::has_colours())),
            };
            if arguments.exit_code || fleet.clusters.is_empty() { fleet.exit() } else { Exit::Done }
        }
        Err(exit) => exit,
    }
}

fn render(fleet: &Fleet, colours: bool) -> String {
    let mut rows: Vec<Vec<String>> = fleet.clusters.iter().map(row).collect();
    rows.extend(fleet.not_ours.iter().map(|foreign| {
        let whose =
            if foreign.owner == "patroni" { "kept by Patroni, it seems" } else { "its keys are none that we know" };
        let mut row = vec![foreign.scope.clone(), "not ours".to_owned()];
        row.extend(std::iter::repeat_n("-".to_owned(), 4));
        row.push(whose.to_owned());
        row
    }));
    let mut lines = Vec::new();
    if !rows.is_empty() {
        let table = screen::table(&HEADINGS, &rows);
        lines.extend(table.lines().enumerate().map(|(number, line)| match number {
            0 => paint(line, Tone::Strong, colours),
            _ => line.to_owned(),
        }));
    }
    let verdict = &fleet.verdict;
    lines.push(format!("{} - {}", paint(verdict.word.text(), tone(verdict.word), colours), verdict.sentence));
    lines.join("\n")
}

fn tone(word: Word) -> Tone {
    match word {
        Word::Ok => Tone::Good,
        Word::Degraded => Tone::Doubtful,
        Word::NoPrimary | Word::Unknown | Word::Corrupt => Tone::Bad,
    }
}

fn row(row: &ClusterRow) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let paused = if row.paused { ", paused" } else { "" };
    vec![
        row.cluster.clone(),
        format!("{}{paused}", row.word.text()),
        or_dash(&row.leader),
        or_dash(&row.leader_zone),
        format!("{}/{}", row.members_reachable, row.members),
        or_dash(&row.durability),
        row.sentence.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use consensus::fleet::Owner;

    use super::super::facts::ForeignRow;
    use super::*;

    #[test]
    fn one_row_a_cluster_and_one_sentence_on_all() {
        let clusters = vec![
            ClusterRow {
                word: Word::Ok,
                leader: Some("pg1".to_owned()),
                leader_zone: Some("a".to_owned()),
                members: 3,
                members_reachable: 3,
                durability: Some("quorum: any 1 of pg2, pg3".to_owned()),
                ..ClusterRow::unread("orders".to_owned(), "writes work on pg1".to_owned())
            },
            ClusterRow {
                word: Word::NoPrimary,
                members: 2,
                paused: true,
                ..ClusterRow::unread("lost".to_owned(), "nobody accepts writes".to_owned())
            },
        ];
        let fleet = Fleet::of("service", 9, clusters, vec![ForeignRow::of("batman".to_owned(), Owner::Patroni)]);
        let expected = "\
CLUSTER  STATE               LEADER  ZONE  MEMBERS  DURABILITY                 WHAT
lost     NO PRIMARY, paused  -       -     0/2      -                          nobody accepts writes
orders   OK                  pg1     a     3/3      quorum: any 1 of pg2, pg3  writes work on pg1
batman   not ours            -       -     -        -                          kept by Patroni, it seems
NO PRIMARY - 2 clusters: in 1 nobody accepts writes (lost), 1 is well; 1 scope is not ours (batman)";
        assert_eq!(render(&fleet, false), expected);
        assert!(render(&fleet, true).contains("\x1b[31mNO PRIMARY\x1b[0m - "));
    }
}
