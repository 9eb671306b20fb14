//! The screen itself: how the cluster stands above, its members, the transition under way or the last one, and what has changed. Every state
//! is told in words; colours only help the eye.

use decision::reason::bytes;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::super::status::{HEADINGS, MemberStatus, Status, Word, header, row};
use super::super::words;
use super::phases;
use super::scene::Scene;

/// The lease as a bar.
const LEASE_BAR: usize = 20;
/// Narrower screens leave out columns that `status` has.
const WIDE: u16 = 110;
/// What a narrow screen keeps: the member, its role, state, what it has not replayed, and whether it may lead.
const KEPT: [usize; 5] = [0, 1, 2, 5, CANDIDATE];
/// The column that tells whether a member may lead, and why not.
const CANDIDATE: usize = 7;
const HELP: &str = "q, Esc   leave\nF1, ?    these keys\nup, down choose a member\nEnter    what bars it from leading";
const KEYS: &str = " q leaves  F1 keys  up/down chooses  Enter tells more ";

/// All of it.
pub fn draw(frame: &mut Frame, scene: &Scene) {
    let area = frame.area();
    let Some(status) = &scene.status else {
        let told = scene.dark.as_deref().unwrap_or("looking …");
        frame.render_widget(Paragraph::new(told.to_owned()).wrap(Wrap { trim: true }).block(titled(scene)), area);
        return;
    };
    let mut told = told(scene, status);
    told.extend(status.scheduled.iter().map(|planned| Line::raw(format!("scheduled {}", planned.in_words()))));
    let rows = u16::try_from(status.members.len()).unwrap_or(u16::MAX).saturating_add(3);
    let high = height(&told, area.width.saturating_sub(2)).saturating_add(2);
    let [above, table, middle, below] = Layout::vertical([
        Constraint::Length(high.min(area.height / 2)),
        Constraint::Length(rows.min(area.height / 3)),
        Constraint::Fill(3),
        Constraint::Fill(2),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(told).wrap(Wrap { trim: false }).block(titled(scene)), above);
    members(frame, table, scene, status);
    match scene.chosen().filter(|_| scene.details) {
        Some(member) => details(frame, middle, member),
        None => transition(frame, middle, scene),
    }
    events(frame, below, scene);
    if scene.help {
        help(frame, area);
    }
}

fn titled(scene: &Scene) -> Block<'static> {
    let seen = scene.seen_at.map_or_else(String::new, |at| format!(", seen {}", words::moment(&at.to_string())));
    Block::bordered().title(format!(" pgvigil {}{seen} ", scene.cluster)).title_bottom(KEYS)
}

/// The colour of a tone, where colours are wanted; bold says it elsewhere.
fn tone(scene: &Scene, word: Word) -> Style {
    let colour = match word {
        Word::Ok => Color::Green,
        Word::Degraded => Color::Yellow,
        Word::NoPrimary => Color::Red,
    };
    let style = Style::new().add_modifier(Modifier::BOLD);
    if scene.colours { style.fg(colour) } else { style }
}

/// How the cluster stands: the verdict, the lease, and what is wrong.
fn told(scene: &Scene, status: &Status) -> Vec<Line<'static>> {
    let word = status.verdict.word;
    let verdict = Line::from(vec![
        Span::styled(word.text(), tone(scene, word)),
        Span::raw(format!(" - {}", status.verdict.sentence)),
    ]);
    let mut lines = vec![verdict, Line::raw(header(status))];
    lines.extend(status.lease_left_ms.map(|left| Line::raw(lease(scene, left))));
    lines.extend(troubles(scene, status));
    lines
}

/// How many rows these lines take where the longer ones go on in the next, at a space where there is one.
fn height(lines: &[Line], width: u16) -> u16 {
    let width = usize::from(width.max(1));
    let rows = |line: &Line| match line.width() {
        fits if fits <= width => 1,
        longer => longer.div_ceil((width * 9 / 10).max(1)),
    };
    u16::try_from(lines.iter().map(rows).sum::<usize>()).unwrap_or(u16::MAX)
}

/// How much is left of the lease: `lease left [#########...........]`.
fn lease(scene: &Scene, left: u64) -> String {
    let whole = scene.ttl.as_millis().max(1);
    let full = usize::try_from(u128::from(left) * LEASE_BAR as u128 / whole).unwrap_or(LEASE_BAR).min(LEASE_BAR);
    format!("lease left [{}{}]", "#".repeat(full), ".".repeat(LEASE_BAR - full))
}

fn troubles(scene: &Scene, status: &Status) -> Vec<Line<'static>> {
    let dark = scene.dark.as_ref().map(|why| Line::styled(format!("! {why}"), tone(scene, Word::NoPrimary)));
    let told = status.problems.iter().map(|trouble| {
        Line::from(vec![
            Span::styled(format!("! {}", trouble.problem), tone(scene, Word::Degraded)),
            Span::raw(format!("   HINT: {}", trouble.hint)),
        ])
    });
    dark.into_iter().chain(told).collect()
}

fn members(frame: &mut Frame, area: Rect, scene: &Scene, status: &Status) {
    let columns: Vec<usize> = if area.width < WIDE { KEPT.to_vec() } else { (0..HEADINGS.len()).collect() };
    let cells: Vec<Vec<String>> = status.members.iter().map(|member| row(member, status.leader.as_deref())).collect();
    // Where the screen is too narrow, why somebody may not lead is cut off first: Enter tells it whole.
    let width = |column: &usize| {
        let widest = cells.iter().map(|row| row[*column].chars().count()).max().unwrap_or(0);
        let wanted = u16::try_from(widest.max(HEADINGS[*column].len())).unwrap_or(u16::MAX);
        if *column == CANDIDATE { Constraint::Max(wanted) } else { Constraint::Length(wanted) }
    };
    let heading =
        Row::new(columns.iter().map(|column| HEADINGS[*column])).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = cells.iter().map(|row| Row::new(columns.iter().map(|column| row[*column].clone())));
    let table = Table::new(rows, columns.iter().map(width).collect::<Vec<_>>())
        .header(heading)
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(" members "));
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(scene.chosen));
}

fn details(frame: &mut Frame, area: Rect, member: &MemberStatus) {
    let mut lines = vec![Line::raw(format!("{}, {}", member.role, member.state))];
    lines.extend(member.error.as_ref().map(|why| Line::raw(format!("its agent does not answer: {why}"))));
    if member.bars.is_empty() && member.may_lead == Some(true) {
        lines.push(Line::raw("nothing bars it from leading"));
    }
    lines.extend(member.bars.iter().map(|bar| Line::raw(format!("may not lead ({}): {}", bar.code, bar.sentence))));
    for (what, lag) in [("received", member.receive_lag_bytes), ("replayed", member.replay_lag_bytes)] {
        lines.extend(lag.map(|lag| Line::raw(format!("{} of WAL not {what}", bytes(lag)))));
    }
    for (name, change) in &member.pending_restart {
        lines.push(Line::raw(format!("waits for a restart: {name} {} -> {}", change.old_value, change.new_value)));
    }
    let place = member.host.as_ref().zip(member.port).map(|(host, port)| format!("Postgres at {host}:{port}"));
    lines.extend(place.map(Line::raw));
    boxed(frame, area, format!(" {} ", member.name), lines);
}

fn transition(frame: &mut Frame, area: Rect, scene: &Scene) {
    let lines = match scene.transition() {
        Some(record) => phases::lines(record, usize::from(area.width)),
        None => vec![Line::raw("none so far")],
    };
    let under_way = scene.transition().is_some_and(|record| record.outcome == "in_progress");
    let title = if under_way { " transition under way " } else { " last transition " };
    boxed(frame, area, title.to_owned(), lines);
}

fn events(frame: &mut Frame, area: Rect, scene: &Scene) {
    let told = |(at, what): &(jiff::Timestamp, String)| Line::raw(format!("{}  {what}", at.strftime("%H:%M:%S%.1fZ")));
    let lines: Vec<Line> = scene.events.iter().take(usize::from(area.height)).map(told).collect();
    let lines = if lines.is_empty() { vec![Line::raw("nothing has changed since the watch began")] } else { lines };
    boxed(frame, area, " events ".to_owned(), lines);
}

fn boxed(frame: &mut Frame, area: Rect, title: String, lines: Vec<Line>) {
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::bordered().title(title)), area);
}

fn help(frame: &mut Frame, area: Rect) {
    let area = area.centered(Constraint::Length(44), Constraint::Length(6));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" keys ")), area);
}
