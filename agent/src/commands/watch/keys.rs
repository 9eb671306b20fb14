//! The keyboard: what was pressed, as a wish. Reading a terminal blocks, so a thread of its own does it, and ends with the program.

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

/// What somebody wants who has pressed a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To leave.
    End,
    /// To know the keys, or to know them no longer.
    Help,
    /// The member below.
    Next,
    /// The member above.
    Previous,
    /// What bars the chosen member, and back.
    Details,
    /// Nothing but a new drawing: the window has another size.
    Redraw,
}

/// Wishes as they come; closed when the terminal is.
pub fn listen() -> mpsc::UnboundedReceiver<Wish> {
    let (tell, wishes) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if wish(&event).is_some_and(|wish| tell.send(wish).is_err()) {
                break;
            }
        }
    });
    wishes
}

/// What an event asks for, if it asks for anything.
fn wish(event: &Event) -> Option<Wish> {
    match event {
        Event::Resize(..) => Some(Wish::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => of_key(key),
        _ => None,
    }
}

fn of_key(key: &KeyEvent) -> Option<Wish> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        // In raw mode the terminal makes no signal of it.
        KeyCode::Char('c' | 'd') if control => Some(Wish::End),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::End),
        KeyCode::F(1) | KeyCode::Char('?' | 'h') => Some(Wish::Help),
        KeyCode::Down | KeyCode::Char('j') => Some(Wish::Next),
        KeyCode::Up | KeyCode::Char('k') => Some(Wish::Previous),
        KeyCode::Enter | KeyCode::Char(' ') => Some(Wish::Details),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_wishes() {
        let pressed = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |code| pressed(code, KeyModifiers::NONE);
        assert_eq!(plain(KeyCode::Char('q')), Some(Wish::End));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::End));
        assert_eq!(plain(KeyCode::Char('c')), None);
        assert_eq!(plain(KeyCode::F(1)), Some(Wish::Help));
        assert_eq!((plain(KeyCode::Down), plain(KeyCode::Up)), (Some(Wish::Next), Some(Wish::Previous)));
        assert_eq!(wish(&Event::Resize(80, 24)), Some(Wish::Redraw));
        let released = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(wish(&Event::Key(released)), None);
    }
}
