//! Requests as operators' programs send them: by curl, over TCP or a unix socket, as any user of this host.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;

/// One request.
pub struct Curl(Command);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, as they came.
    pub head: String,
    /// The rest.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// An answer that goes on, which somebody reads in the background into a file.
pub struct Stream {
    child: Child,
    file: NamedTempFile,
}

impl Stream {
    /// What has come, with its head.
    pub fn text(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.file.path())?)
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Curl {
    /// `curl -X METHOD URL`
    pub fn new(method: &str, url: &str) -> Self {
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "--max-time", "90", "-X", method, url]);
        Self(command)
    }

    /// The same by a unix socket.
    pub fn by_socket(socket: &Path, method: &str, path: &str) -> Self {
        Self::new(method, &format!("http://localhost{path}")).with(&["--unix-socket", &socket.display().to_string()])
    }

    /// More words for curl.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.0.args(arguments);
        self
    }

    /// With a token.
    pub fn token(self, token: &str) -> Self {
        self.with(&["-H", &format!("Authorization: Bearer {token}")])
    }

    /// With a body of JSON.
    pub fn json(self, body: &str) -> Self {
        self.with(&["-H", "Content-Type: application/json", "-d", body])
    }

    /// As another user of this host.
    pub fn by_user(mut self, uid: u32, gid: u32) -> Self {
        self.0.uid(uid).gid(gid);
        self
    }

    /// Sends it, for an answer that goes on.
    pub fn stream(mut self) -> Result<Stream> {
        let file = NamedTempFile::new()?;
        self.0.args(["-N", "--max-time", "120"]).stdout(file.reopen()?).stderr(Stdio::null());
        Ok(Stream { child: self.0.spawn().context("curl")?, file })
    }

    /// Sends it.
    pub async fn send(mut self) -> Result<Answer> {
        let output = tokio::task::spawn_blocking(move || self.0.output()).await?.context("curl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        // Before a long body curl asks whether it may come.
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text);
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {text}"))?;
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status: {head}"))?;
        Ok(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }
}
