//! HAProxy's runtime API: a connection, commands with `;` between them, an answer to each, and the other end hangs up. A command that was
//! carried out is answered by an empty line, another by a sentence and an empty line. Checked with HAProxy 2.6.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::config::RuntimeSocket;

/// No answer that is waited for is longer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a way to HAProxy. Each names its mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody is there, or we are not let in.
    #[error("cannot reach HAProxy at {socket}: {why}; {mend}")]
    Unreachable {
        /// Where.
        socket: String,
        /// What the system says.
        why: String,
        /// What to do.
        mend: String,
    },
    /// It has not answered in time.
    #[error("HAProxy at {socket} has not answered within {within:?}: is that port its runtime socket?")]
    Silent {
        /// Where.
        socket: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// It has answered that it will not.
    #[error("HAProxy at {socket} refuses \"{command}\": {said}; {mend}")]
    Refused {
        /// Where.
        socket: String,
        /// What it was told.
        command: String,
        /// What it said.
        said: String,
        /// What to do.
        mend: String,
    },
}

impl Trouble {
    /// In one word, for a metric.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Silent { .. } => "timeout",
            Self::Refused { .. } => "refused",
        }
    }
}

/// What it answers to one question, as it is.
///
/// # Errors
/// Nobody answers within the given time.
pub async fn ask(socket: &RuntimeSocket, question: &str, within: Duration) -> Result<String, Trouble> {
    let asked = async {
        match socket {
            RuntimeSocket::Unix(path) => exchange(UnixStream::connect(path).await?, question).await,
            RuntimeSocket::Tcp(address) => {
                let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
                stream.set_nodelay(true)?;
                exchange(stream, question).await
            }
        }
    };
    match tokio::time::timeout(within, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unreachable(socket, &error)),
        Err(_) => Err(Trouble::Silent { socket: socket.to_string(), within }),
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, question: &str) -> io::Result<String> {
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hangs up without an answer"));
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn unreachable(socket: &RuntimeSocket, error: &io::Error) -> Trouble {
    let mend = match (socket, error.kind()) {
        (RuntimeSocket::Unix(path), io::ErrorKind::PermissionDenied) => format!(
            "let the user of this agent in: `stats socket {} mode 660 group postgres level admin` in its `global` section, and a directory that \
             it may enter",
            path.display()
        ),
        (RuntimeSocket::Unix(path), _) => format!(
            "is HAProxy running, with `stats socket {} mode 660 group postgres level admin` in its `global` section?",
            path.display()
        ),
        (RuntimeSocket::Tcp(address), _) => format!(
            "is HAProxy running, with `stats socket ipv4@{address} level admin` in its `global` section, and no firewall between?"
        ),
    };
    Trouble::Unreachable { socket: socket.to_string(), why: error.to_string(), mend }
}

/// Carries out commands, one after another.
///
/// # Errors
/// Nobody answers in time, or the first that is refused, save those that `may_fail`.
pub async fn say(
    socket: &RuntimeSocket,
    commands: &[String],
    within: Duration,
    may_fail: impl Fn(&str, &str) -> bool,
) -> Result<(), Trouble> {
    let answer = ask(socket, &commands.join(";"), within).await?;
    let said = answers(&answer);
    for (index, command) in commands.iter().enumerate() {
        let said = match said.get(index).map(String::as_str) {
            Some("") => continue,
            Some(said) if may_fail(command, said) => continue,
            said => said.unwrap_or("no answer").to_owned(),
        };
        let mend = mend(&said, command);
        return Err(Trouble::Refused { socket: socket.to_string(), command: command.clone(), said, mend });
    }
    Ok(())
}

/// What there is to do about an answer.
pub fn mend(said: &str, command: &str) -> String {
    let (backend, server) = command.split(' ').nth(2).and_then(|place| place.split_once('/')).unwrap_or(("?", "?"));
    if said.contains("backend") {
        format!(
            "`haproxy.primary_backend` and `haproxy.standbys_backend` are the names behind `listen` or `backend` in its configuration, and \
             \"{backend}\" is none of them"
        )
    } else if said.contains("No such server") {
        format!(
            "in its backend {backend} a server must be called as its member, {server}; `pgvigil show haproxy` prints them"
        )
    } else if said.contains("Permission denied") {
        "its `stats socket` line needs `level admin`".to_owned()
    } else if said.contains("tracking") {
        format!("the server {server} of its backend {backend} needs a check of its own in place of `track`")
    } else {
        "is it HAProxy 2.6 or newer?".to_owned()
    }
}

/// The answers in the order of the commands; an empty one: it was carried out.
fn answers(text: &str) -> Vec<String> {
    let (mut answers, mut lines) = (Vec::new(), text.lines());
    while let Some(line) = lines.next() {
        let mut said = line.to_owned();
        if !line.is_empty() {
            for more in lines.by_ref().take_while(|line| !line.is_empty()) {
                said = format!("{said} {more}");
            }
        }
        answers.push(said);
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_an_answer_of_its_own() {
        assert_eq!(answers("\n"), [""]);
        assert_eq!(
            answers("\n\nNo such server.\n\nNo such backend.\n\n"),
            ["", "", "No such server.", "No such backend."]
        );
        assert_eq!(answers("No such server.\n\n\n\n"), ["No such server.", "", ""]);
        assert_eq!(answers("Unknown command\n  help\n\n\n"), ["Unknown command   help", ""]);
    }

    #[test]
    fn what_it_says_leads_to_a_mend() {
        let mend = |said| mend(said, "set server primary/pg1 health up");
        assert!(mend("No such backend.").contains("\"primary\" is none of them"));
        assert!(mend("Can't find backend.").contains("primary_backend"));
        assert!(mend("No such server.").contains("as its member, pg1"));
        assert!(mend("Permission denied").contains("level admin"));
    }
}
