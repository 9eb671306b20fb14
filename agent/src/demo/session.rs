//! A connection to Postgres as an ordinary client has it, which takes its background task with it when it is dropped.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

/// The client's user: an ordinary one, who may also look at replication.
pub const USER: &str = "demo";
/// Its database.
pub const DATABASE: &str = "demo";

/// An open connection.
pub struct Session {
    client: Client,
    io: JoinHandle<()>,
}

impl Session {
    /// Connects to a loopback port.
    ///
    /// # Errors
    /// Nobody there lets us in within the given time.
    pub async fn open(port: u16, within: Duration) -> Result<Self> {
        Self::to("127.0.0.1", port, within).await
    }

    /// Connects to a port of some host.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn to(host: &str, port: u16, within: Duration) -> Result<Self> {
        let mut config = Config::new();
        config.host(host).port(port).user(USER).dbname(DATABASE).application_name("pgvigil demo");
        let connecting = tokio::time::timeout(within, config.connect(NoTls)).await;
        let (client, connection) = connecting
            .map_err(|_| anyhow!("no answer within {within:?}"))
            .and_then(|connected| connected.map_err(Into::into))
            .with_context(|| format!("connecting to {host}:{port}"))?;
        let io = tokio::spawn(async move {
            // What ends the connection is seen by whoever uses it.
            let _ = connection.await;
        });
        Ok(Self { client, io })
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.io.abort();
    }
}
