//! A fencer that the next agent would not find, for somebody has deleted the way to it. It still hears this agent; but the next one would
//! start another, and this one would strike at the last deadline that it was given. So another takes its place while this agent is there.

use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fencer::protocol::{Answer, Order, State, VERSION, socket_name};

use super::Wanted;
use super::keeper::{Keeper, kill_fencer};
use super::wire::Wire;

/// How long the one that was told to go may take.
const GONE_WITHIN: Duration = Duration::from_millis(200);

impl Keeper {
    /// Puts another in the place of a fencer that cannot be reached any more by its name. Where that fails everything stays as it is.
    pub(super) async fn replace_what_is_out_of_reach(&mut self) {
        // What it was told in an earlier life is in nobody's memory but its own.
        let inherited = matches!(*self.wanted.borrow(), Wanted::Inherited);
        let way = self.options.state_dir.join(socket_name(VERSION));
        // One that has begun to kill goes on until nobody is left.
        let kills = matches!(self.report.state, State::Killing { .. });
        if inherited || kills || way.exists() {
            return;
        }
        let Some(before) = self.wire.take() else { return };
        let (child, report, sent) = (self.child.take(), self.report.clone(), self.sent.take());
        // The one that is replaced hears of no deadline meanwhile.
        let within = self.options.ttl / 4;
        let replaced = tokio::time::timeout(within, self.put_another_in_place()).await;
        let failure = match replaced {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no other stands guard within {within:?}")),
        };
        match failure {
            None => {
                tracing::warn!(pid = before.pid, "the way to the fencer was deleted: another has taken its place");
                self.out_of_reach = None;
                dismiss(before, child).await;
                // The watchdog is free now.
                self.sent = None;
                if let Err(error) = self.give_orders().await {
                    tracing::warn!("the new fencer does not say how it stands: {error:#}");
                }
            }
            Some(why) => {
                // One that was armed and hears no more would strike.
                if let Some(wire) = self.wire.take() {
                    kill_fencer(wire.pid);
                }
                // One that came too late has no orders and ends by itself; it is not the one to be found.
                if !self.superseded {
                    let _ = std::fs::remove_file(&way);
                }
                (self.wire, self.child, self.report, self.sent) = (Some(before), child, report, sent);
                self.out_of_reach = Some(why);
            }
        }
    }

    async fn put_another_in_place(&mut self) -> Result<()> {
        self.have_a_fencer().await?;
        self.give_orders().await
    }

    /// Sends what is wanted, and waits until it is confirmed.
    async fn give_orders(&mut self) -> Result<()> {
        self.order();
        let wire = self.wire.as_mut().context("it was lost at once")?;
        let answer = wire.answer().await?;
        let armed = matches!(&answer, Answer::Report(report) if matches!(report.state, State::Armed { .. }));
        if matches!(self.sent, Some(Order::Arm(_))) && !armed {
            bail!("it does not confirm its deadline");
        }
        self.hear(answer);
        Ok(())
    }
}

/// Tells a fencer to go, and sees it off where it is a child of this agent.
async fn dismiss(mut wire: Wire, child: Option<Child>) {
    if wire.send(&Order::Leave).is_err() {
        kill_fencer(wire.pid);
    }
    let Some(mut child) = child else { return };
    let begin = tokio::time::Instant::now();
    while matches!(child.try_wait(), Ok(None)) && begin.elapsed() < GONE_WITHIN {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
