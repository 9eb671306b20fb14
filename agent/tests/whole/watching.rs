//! `pgvigil watch` on a real terminal (a pseudo one): what it draws is read as a terminal would show it, while the cluster under it loses its leader.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::pty::{Winsize, openpty};

use crate::stage::{SOON, Stage, on_stage, options};

const SIZE: Winsize = Winsize { ws_row: 45, ws_col: 150, ws_xpixel: 0, ws_ypixel: 0 };

/// What a terminal of that size makes of what is written to it.
fn screen() -> Result<vt100::Parser> {
    let size = |count| NonZero::new(count).context("a terminal without a size");
    Ok(vt100::Parser::new(size(SIZE.ws_row)?, size(SIZE.ws_col)?, 0))
}

/// Somebody who sits before a terminal.
struct Viewer {
    terminal: File,
    shown: Arc<Mutex<vt100::Parser>>,
    watch: Child,
}

impl Viewer {
    fn begins(stage: &Stage, node: &str) -> Result<Self> {
        let pty = openpty(&SIZE, None)?;
        let slave = File::from(pty.slave);
        let (input, output, errors) = (slave.try_clone()?, slave.try_clone()?, slave);
        // The pseudo terminal is its own, whatever terminal the tests are started from.
        let mut command = stage.cluster.command_on(node, "setsid")?;
        command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_pgvigil"), "watch"]);
        command.env("TERM", "xterm-256color");
        let watch =
            command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors)).spawn()?;
        let terminal = File::from(pty.master);
        let shown = Arc::new(Mutex::new(screen()?));
        let (mut reader, screen) = (terminal.try_clone()?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                screen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        Ok(Self { terminal, shown, watch })
    }

    fn sees(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// On the screen that a program has for itself.
    fn is_on_a_screen_of_its_own(&self) -> bool {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).screen().alternate_screen()
    }

    async fn sees_soon(&self, told: &str) -> Result<()> {
        let begin = Instant::now();
        while !self.sees().contains(told) {
            ensure!(begin.elapsed() < SOON, "\"{told}\" does not appear on\n{}", self.sees());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn presses(&mut self, keys: &str) -> Result<()> {
        self.terminal.write_all(keys.as_bytes()).context("pressing a key")
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_the_failover_and_gets_the_terminal_back() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let standby = stage.standby().await?;
        let mut viewer = Viewer::begins(stage, &standby)?;
        viewer.sees_soon(&format!("lease {leader}")).await?;
        viewer.sees_soon("OK - ").await?;
        viewer.presses("?")?;
        viewer.sees_soon("choose a member").await?;
        viewer.presses("?")?;

        stage.node(&leader)?.kill_everything()?;
        let heir = stage.leader_other_than(&leader).await?;
        viewer.sees_soon(&format!("{heir} holds the lock")).await?;
        viewer.sees_soon(&format!("{leader} -> {heir}  done")).await?;
        viewer.sees_soon("no writes for").await?;
        stage.start(&leader)?;
        stage.whole().await?;
        viewer.sees_soon("OK - ").await?;

        ensure!(viewer.is_on_a_screen_of_its_own(), "it draws over what was there");
        viewer.presses("q")?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = viewer.watch.try_wait()? {
                break status;
            }
            ensure!(begin.elapsed() < SOON, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(status.success(), "it ended with {status}");
        ensure!(!viewer.is_on_a_screen_of_its_own(), "the terminal is not given back");

        let without = stage.pgvigil(&standby, &["watch"]).await.err().context("it watches without a terminal")?;
        ensure!(format!("{without:#}").contains("status -w"), "{without:#}");
        Ok(())
    })
    .await;
}
