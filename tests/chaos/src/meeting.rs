//! Questions to etcd about itself.

use agent::demo::account::Account;
use serde_json::Value;

/// Which of the members leads the others, as they say themselves.
pub async fn leading(account: Account, urls: &[String]) -> Option<usize> {
    let mut command = account.command("etcdctl");
    command.args(["endpoint", "status", "--command-timeout=2s", "-w", "json", "--endpoints"]).arg(urls.join(","));
    command.env("ETCDCTL_API", "3");
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await.ok()?;
    // A member that does not answer makes it fail, and the others are told all the same.
    let statuses: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
    let leads = |status: &&Value| status["Status"]["header"]["member_id"] == status["Status"]["leader"];
    let leader = statuses.iter().find(leads)?["Endpoint"].as_str()?;
    urls.iter().position(|url| url == leader)
}
