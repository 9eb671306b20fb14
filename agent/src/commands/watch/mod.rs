//! `pgvigil watch`: the cluster on a whole screen, drawn anew four times a second, until somebody presses `q`. It asks what `status` asks
//! and what `transitions` asks, and remembers nothing but what has changed while it was watching.

mod changes;
mod draw;
mod keys;
mod phases;
mod scene;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ratatui::DefaultTerminal;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::keys::Wish;
use self::scene::{Scene, Sight};
use super::screen::{can_watch, has_colours, tell};
use super::status;
use super::world::Reach;
use crate::cli::{Exit, WatchArgs};

/// While nothing happens the records are read so seldom.
const RECORDS_EVERY: Duration = Duration::from_secs(2);
/// No look is more often.
const SHORTEST: Duration = Duration::from_millis(100);

/// Watches until it is told to end.
pub async fn run(arguments: &WatchArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    if !can_watch() {
        tell("error: watch needs a terminal to draw on and to read keys from; pgvigil status -w prints line by line");
        return Exit::Usage;
    }
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            tell(&format!("error: this terminal cannot be drawn on: {error}"));
            return Exit::Failed;
        }
    };
    let scene = Scene::new(&reach.config.cluster, reach.config.timing.ttl, has_colours());
    let drawn = watched(&mut terminal, scene, &reach, arguments.every.max(SHORTEST)).await;
    ratatui::restore();
    match drawn {
        Ok(()) => Exit::Done,
        Err(error) => {
            tell(&format!("error: the terminal has gone: {error}"));
            Exit::Failed
        }
    }
}

/// Looks in the background, so that a silent host never holds up a key.
async fn watched(
    terminal: &mut DefaultTerminal,
    mut scene: Scene,
    reach: &Reach,
    every: Duration,
) -> std::io::Result<()> {
    let (tell_sight, mut sights) = mpsc::channel(1);
    let mut pressed = keys::listen();
    let looking = look_again_and_again(reach, every, tell_sight);
    tokio::pin!(looking);
    loop {
        terminal.draw(|frame| draw::draw(frame, &scene))?;
        tokio::select! {
            () = &mut looking => return Ok(()),
            Some(sight) = sights.recv() => scene.sees(sight),
            wish = pressed.recv() => match wish {
                None | Some(Wish::End) => return Ok(()),
                Some(wish) => scene.obeys(wish),
            },
        }
    }
}

async fn look_again_and_again(reach: &Reach, every: Duration, sights: mpsc::Sender<Sight>) {
    let (mut records, mut next_records) = (Vec::new(), Instant::now());
    loop {
        let began = Instant::now();
        let status = status::seen(reach).await;
        let calm = status.as_ref().is_ok_and(|status| status.is_writable());
        if (began >= next_records || !calm)
            && let Ok((read, _)) = reach.store.transitions().await
        {
            (records, next_records) = (read, began + RECORDS_EVERY);
        }
        if sights.send(Sight { status, records: records.clone() }).await.is_err() {
            return;
        }
        sleep_until(began + every).await;
    }
}
