//! What a person sees while the demo works: lines of what happened, and under them a small table of the nodes. On a terminal the table is
//! drawn anew in its place; elsewhere a line is printed when something in it changes.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::lookout::{Lookout, Sight};

/// How often the nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const CLEAR_TO_END: &str = "\x1b[J";

/// The screen. Clones draw on the same one.
#[derive(Clone)]
pub struct Screen {
    paper: Arc<Mutex<Paper>>,
}

struct Paper {
    begun: Instant,
    out: Box<dyn Write + Send>,
    terminal: bool,
    table: Vec<String>,
    /// How many lines of the table are on the terminal, to be drawn over.
    drawn: usize,
    told: Vec<(String, String, String)>,
}

impl Screen {
    /// On standard output, or on standard error where standard output is for a program.
    pub fn new(standard_error: bool) -> Self {
        let (out, terminal): (Box<dyn Write + Send>, bool) = if standard_error {
            (Box::new(std::io::stderr()), std::io::stderr().is_terminal())
        } else {
            (Box::new(std::io::stdout()), std::io::stdout().is_terminal())
        };
        let paper = Paper { begun: Instant::now(), out, terminal, table: Vec::new(), drawn: 0, told: Vec::new() };
        Self { paper: Arc::new(Mutex::new(paper)) }
    }

    /// Something happened: one line, with the time since the start.
    pub fn say(&self, what: &str) {
        let mut paper = self.paper();
        let line = format!("{:6.1} s  {what}", paper.begun.elapsed().as_secs_f64());
        paper.line(&line);
    }

    /// A line as it is.
    pub fn print(&self, line: &str) {
        self.paper().line(line);
    }

    /// Keeps a table of the nodes up to date until the guard is dropped. `acknowledged` counts the rows of the writer.
    pub fn follow(&self, lookout: Lookout, acknowledged: impl Fn() -> usize + Send + 'static) -> Following {
        let screen = self.clone();
        let work = tokio::spawn(async move {
            let (mut before, mut since) = (acknowledged(), Instant::now());
            loop {
                let sights = lookout.survey().await;
                let rows = acknowledged();
                let rate = rows.saturating_sub(before) as f64 / since.elapsed().as_secs_f64().max(0.001);
                (before, since) = (rows, Instant::now());
                screen.paper().show(&sights, rows, rate);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Following { work, screen: self.clone() }
    }

    fn paper(&self) -> MutexGuard<'_, Paper> {
        self.paper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table lives as long as this.
pub struct Following {
    work: JoinHandle<()>,
    screen: Screen,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.work.abort();
        let mut paper = self.screen.paper();
        paper.table.clear();
        paper.draw();
    }
}

impl Paper {
    fn line(&mut self, line: &str) {
        self.erase();
        // A reader that has gone away is no reason to leave a cluster half-started.
        let _ = writeln!(self.out, "{line}");
        self.draw();
    }

    fn show(&mut self, sights: &[Sight], rows: usize, rate: f64) {
        if self.terminal {
            self.table = table(sights);
            self.table.push(format!("          {rate:.0} rows/s through HAProxy, {rows} acknowledged"));
            self.draw();
            return;
        }
        for sight in sights {
            let told = (sight.name.clone(), role(sight), sight.state.clone());
            if !self.told.contains(&told) {
                self.told.retain(|(name, ..)| *name != sight.name);
                let line =
                    format!("{:6.1} s    {}: {}, {}", self.begun.elapsed().as_secs_f64(), told.0, told.1, told.2);
                self.told.push(told);
                let rate = if rows > 0 { format!(" ({rate:.0} rows/s)") } else { String::new() };
                self.line(&format!("{line}{rate}"));
            }
        }
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            let _ = write!(self.out, "\x1b[{}A\r{CLEAR_TO_END}", self.drawn);
            self.drawn = 0;
        }
    }

    fn draw(&mut self) {
        self.erase();
        for line in &self.table {
            let _ = writeln!(self.out, "{line}");
        }
        self.drawn = self.table.len();
        let _ = self.out.flush();
    }
}

fn role(sight: &Sight) -> String {
    match (sight.answers, sight.leads) {
        (false, _) => "no answer".to_owned(),
        (true, true) => "leader".to_owned(),
        (true, false) if sight.votes => format!("{}, voter", sight.role),
        (true, false) => sight.role.clone(),
    }
}

fn table(sights: &[Sight]) -> Vec<String> {
    let mut lines = vec![format!("          {:<8}{:<18}{:<22}{}", "MEMBER", "ROLE", "STATE", "REPLAY LAG")];
    lines.extend(sights.iter().map(|sight| {
        let lag = match sight.lag_bytes {
            Some(bytes) if sight.streams() => format!("{bytes} B"),
            _ => "-".to_owned(),
        };
        format!("          {:<8}{:<18}{:<22}{lag}", sight.name, role(sight), sight.state)
    }));
    lines
}
