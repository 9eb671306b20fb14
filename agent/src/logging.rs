//! Logs: one line for each change of decision and each action that ends, for people on a terminal and as JSON for machines.

mod lines;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use lines::Lines;

/// An agent that ends waits so long for whoever reads its last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

/// What puts another filter in force.
type Refilter = Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>;

static REFILTER: OnceLock<Refilter> = OnceLock::new();
static LINES: OnceLock<Lines> = OnceLock::new();

/// Sends the agent's events to standard error, which systemd hands to the journal. `auto` means human on a terminal and JSON elsewhere.
///
/// # Errors
/// The filter cannot be understood, or logging was set up before.
pub fn start(log: &Log) -> Result<()> {
    let filter = parse(&log.filter)?;
    let human = match log.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let out =
        Lines::start(std::io::stderr(), if human { gap } else { gap_as_json }).context("logging has no thread")?;
    let writer = out.clone();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    let (started, refilter): (_, Refilter) = if human {
        let lines = lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |filter| Ok(handle.reload(filter)?)))
    } else {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |filter| Ok(handle.reload(filter)?)))
    };
    started.map_err(|error| anyhow!("logging cannot be started: {error}"))?;
    let _ = REFILTER.set(refilter);
    let _ = LINES.set(out);
    Ok(())
}

/// Waits for a moment until what was logged has been written: this process is about to end.
pub fn finish() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES_WITHIN);
    }
}

/// The line that stands where `count` others are missing.
fn gap(count: u64) -> String {
    format!("{}  WARN {}", jiff::Timestamp::now(), missing(count))
}

fn gap_as_json(count: u64) -> String {
    let at = jiff::Timestamp::now();
    serde_json::json!({"timestamp": at, "level": "WARN", "message": missing(count), "dropped": count, "target": module_path!()})
        .to_string()
}

fn missing(count: u64) -> String {
    let lines = if count == 1 { "line was" } else { "lines were" };
    format!("{count} {lines} dropped here: whoever reads the log did not keep up")
}

/// Logs by another filter from now on.
///
/// # Errors
/// It cannot be understood.
pub fn filter(text: &str) -> Result<()> {
    let filter = parse(text)?;
    REFILTER.get().map_or(Ok(()), |refilter| refilter(filter))
}

fn parse(text: &str) -> Result<EnvFilter> {
    let filter = EnvFilter::try_new(text).map_err(|error| anyhow!("[log] filter \"{text}\": {error}"))?;
    // Who did what is told whatever else is left out.
    Ok(filter.add_directive("audit=info".parse()?))
}
