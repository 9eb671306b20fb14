//! An agent that is told to end while Postgres keeps it waiting: it ends in good order, and the next one finds everything as it was.

use std::time::Duration;

use agent::demo::processes;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::stage::{Stage, on_stage, options};

/// Longer than a look at a server that answers.
const A_LOOK_IS_UNDER_WAY: Duration = Duration::from_millis(300);
const ENDS_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_end_in_the_middle_of_a_look_does_not_panic() {
    on_stage(&options(), async |stage| {
        let standby = stage.standby().await?;
        for _ in 0..3 {
            ends_while_its_server_stands_still(stage, &standby).await?;
        }
        stage.whole().await
    })
    .await;
}

async fn ends_while_its_server_stands_still(stage: &Stage, name: &str) -> Result<()> {
    let node = stage.node(name)?;
    let all = |what| processes::of_server(&node.data_dir()).into_iter().for_each(|pid| processes::signal(pid, what));
    all(Signal::SIGSTOP);
    tokio::time::sleep(A_LOOK_IS_UNDER_WAY).await;
    let ended = node.agent().stop(ENDS_WITHIN).await;
    all(Signal::SIGCONT);
    let told = std::fs::read_to_string(node.agent().log())?;
    ensure!(ended?.success(), "it did not end well: {told}");
    ensure!(!told.contains("panicked"), "it panicked: {told}");
    node.agent().start()
}
