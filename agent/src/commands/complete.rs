//! What a shell is told when somebody presses TAB: commands, options and their values from the command line itself, and the members of the cluster
//! from etcd or from this host's agent. Whoever waits at a prompt waits for a moment at most, and nothing is ever said of what went wrong.

use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;

use super::settings::names_of_settings;
use crate::cli::{Cli, usual_config};
use crate::config;
use crate::http::health::PATHS;
use crate::operate::world::Reach;

/// The variable by which a shell asks.
pub const VARIABLE: &str = "PGVIGIL_COMPLETE";
/// No key is held up for longer.
const WITHIN: Duration = Duration::from_millis(300);

/// Answers a shell that asks, and ends; does nothing where none does.
pub fn complete() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// The paths that load balancers ask for.
pub fn health_paths() -> Vec<CompletionCandidate> {
    PATHS.iter().map(CompletionCandidate::new).collect()
}

/// The members of the cluster; none where that cannot be found out in time.
pub fn members() -> Vec<CompletionCandidate> {
    asked(async |reach: &Reach| names(reach).await)
}

/// The ids of the transitions that are on record, the newest first.
pub fn transition_ids() -> Vec<CompletionCandidate> {
    asked(async |reach: &Reach| {
        let records = reach.store.transitions().await.map(|(records, _)| records).unwrap_or_default();
        records.into_iter().rev().map(|record| record.id).collect()
    })
}

/// What `config set` takes, as far as that has a name of ours.
pub fn setting_assignments() -> Vec<CompletionCandidate> {
    names_of_settings().map(|name| CompletionCandidate::new(format!("{name}="))).collect()
}

/// The same, to be taken out.
pub fn setting_names() -> Vec<CompletionCandidate> {
    names_of_settings().map(CompletionCandidate::new).collect()
}

fn asked(what: impl AsyncFnOnce(&Reach) -> Vec<String>) -> Vec<CompletionCandidate> {
    let words: Vec<String> = std::env::args().collect();
    let file = config_in(&words).or_else(|| std::env::var_os("PGVIGIL_CONFIG").map(PathBuf::from));
    let Ok(config) = config::load(&file.unwrap_or_else(usual_config), std::env::vars()) else {
        return Vec::new();
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let found = runtime.block_on(async {
        let reach = Reach::of(config).ok()?;
        tokio::time::timeout(WITHIN, what(&reach)).await.ok()
    });
    // A name that the resolver is still looking for must not hold up the end.
    runtime.shutdown_background();
    found.unwrap_or_default().into_iter().map(CompletionCandidate::new).collect()
}

async fn names(reach: &Reach) -> Vec<String> {
    let own_api = reach.own_api();
    let of_agent = |told: &serde_json::Value| -> Vec<String> {
        let members = told["members"].as_array().into_iter().flatten();
        members.filter_map(|member| member["name"].as_str().map(str::to_owned)).collect()
    };
    let registered =
        |snapshot: consensus::Snapshot| snapshot.cluster.members.into_keys().map(|name| name.to_string()).collect();
    tokio::select! {
        Ok(snapshot) = reach.store.read() => registered(snapshot),
        Ok(told) = reach.peers.get(&own_api, "/cluster", WITHIN) => of_agent(&told),
        else => Vec::new(),
    }
}

/// The file that the words name which have been typed already.
fn config_in(words: &[String]) -> Option<PathBuf> {
    let pairs = words.iter().zip(words.iter().skip(1));
    let apart = pairs.filter(|(option, _)| *option == "-c" || *option == "--config").map(|(_, file)| file.clone());
    let joined = words.iter().filter_map(|word| word.strip_prefix("--config=").map(str::to_owned));
    apart.chain(joined).next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// What may come in place of the last word.
    fn completed(words: &[&str]) -> Vec<String> {
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        let found = clap_complete::engine::complete(&mut Cli::command(), arguments, words.len() - 1, None);
        found.expect("an answer").iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn commands_options_and_values_complete() {
        assert_eq!(completed(&["pgvigil", "sw"]), ["switchover"]);
        assert_eq!(completed(&["pgvigil", "config", "ro"]), ["rollback"]);
        assert_eq!(completed(&["pgvigil", "switchover", "--exp"]), ["--expect-leader"]);
        assert_eq!(completed(&["pgvigil", "status", "--output", "j"]), ["json"]);
        assert_eq!(completed(&["pgvigil", "why", "--path", "/liv"]), ["/liveness"]);
        assert_eq!(completed(&["pgvigil", "fleet", "sw"]), ["switchover"]);
        assert_eq!(completed(&["pgvigil", "config", "set", "durability.mo"]), ["durability.mode="]);
        assert_eq!(completed(&["pgvigil", "config", "set", "--unset", "failover.p"]), ["failover.prefer_zone"]);
    }

    #[test]
    fn the_file_is_the_one_that_was_typed() {
        let file = |words: &[&str]| config_in(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(file(&["pgvigil", "why", "-c", "/x"]), Some("/x".into()));
        assert_eq!(file(&["pgvigil", "--config=/y", "why"]), Some("/y".into()));
        assert_eq!(file(&["pgvigil", "why", "-c"]), None);
    }
}
