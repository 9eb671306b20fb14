//! Logs: one line for each change of decision and each action that ends, for people on a terminal and as JSON for machines.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What puts another filter in force.
type Refilter = Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>;

static REFILTER: OnceLock<Refilter> = OnceLock::new();

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
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
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
    Ok(())
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
