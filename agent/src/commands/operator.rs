//! The person (or program) at the keyboard: who it is, and whether it means it. Without a terminal nobody is asked; the flag that
//! stands for the answer is named instead.

use super::screen::{ask, can_ask, tell};
use crate::cli::Exit;

/// `user@host`, as it goes into records. Behind `sudo` it is the person, not root.
pub fn who() -> String {
    let through_sudo = std::env::var("SUDO_USER").ok().filter(|user| !user.is_empty());
    let uid = nix::unistd::Uid::effective();
    let user = through_sudo
        .or_else(|| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name))
        .unwrap_or_else(|| format!("uid {uid}"));
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
    format!("{user}@{}", host.unwrap_or_else(|_| "unknown".to_owned()))
}

/// Told before anything else is done: a question will come up, and there is nobody to answer it.
pub fn must_be_able_to_ask(yes: bool, question: &str) -> Result<(), Exit> {
    if yes || can_ask() {
        return Ok(());
    }
    tell(&format!("error: there is no terminal to ask \"{question}\" on; say --yes (-y) if you mean it"));
    Err(Exit::Usage)
}

/// Asks a question that `y` agrees to.
pub fn agrees(question: &str) -> bool {
    let typed = ask(&format!("{question} [y/N] "));
    is_yes(typed.as_deref())
}

fn is_yes(typed: Option<&str>) -> bool {
    matches!(typed.map(str::to_ascii_lowercase).as_deref(), Some("y" | "yes"))
}

/// Asks for a word to be typed, where a quick `y` would be too cheap.
pub fn types(question: &str, word: &str) -> bool {
    ask(question).as_deref() == Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(is_yes(Some("y")) && is_yes(Some("YES")));
        assert!(!is_yes(Some("")) && !is_yes(Some("yeah")) && !is_yes(None));
    }

    #[test]
    fn records_name_user_and_host() {
        let who = who();
        assert!(who.split('@').count() == 2 && !who.starts_with('@') && !who.ends_with('@'), "{who}");
    }
}
