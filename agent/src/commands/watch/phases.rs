//! A transition as bars: each phase as long as it took, and for how long there were no writes.

use consensus::records::{Phase, Transition};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::transitions::direction;
use super::super::words;

/// The longest bar; shorter on a narrow screen.
const BAR_MAX: usize = 40;
/// What stands beside a bar.
const BESIDE: usize = 34;

/// What happened, line by line, on a screen of that width.
pub fn lines(record: &Transition, width: usize) -> Vec<Line<'static>> {
    let heading = format!(
        "{} {}  {}  {}  {}",
        record.kind,
        record.id,
        direction(record),
        record.outcome.replace('_', " "),
        words::moment(&record.started_at)
    );
    let mut lines = vec![Line::styled(heading, Style::new().add_modifier(Modifier::BOLD))];
    let cause = if record.cause_text.is_empty() { &record.cause } else { &record.cause_text };
    lines.push(Line::raw(cause.clone()));
    let longest = record.phases.iter().map(|phase| phase.duration_ms).fold(1.0, f64::max);
    let room = width.saturating_sub(BESIDE).clamp(4, BAR_MAX);
    lines.extend(record.phases.iter().map(|phase| bar(phase, longest, room)));
    if let Some(outage) = words::outage_of(record) {
        let sum = format!("no writes for {}, lost {}", outage, words::lost(record));
        lines.push(Line::styled(sum, Style::new().add_modifier(Modifier::BOLD)));
    }
    lines
}

fn bar(phase: &Phase, longest: f64, room: usize) -> Line<'static> {
    let (name, took, on) = (&phase.name, words::phase(phase.duration_ms), &phase.measured_on);
    Line::from(vec![
        Span::raw(format!("{name:<11}")),
        Span::raw(format!("{:<room$}", "█".repeat(length(phase.duration_ms, longest, room)))),
        Span::raw(format!(" {took:>8} on {on}")),
    ])
}

/// Never nothing: a phase that took no time was there.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn length(took: f64, longest: f64, room: usize) -> usize {
    ((took / longest * room as f64).round() as usize).clamp(1, room)
}
