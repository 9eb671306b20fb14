//! Links between one agent and etcd that can be cut without touching anybody else, and that can hold up a claim to the leader lock on its way.

use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::stage::Stage;

/// TCP links to every member of etcd.
pub struct Links {
    urls: Vec<String>,
    up: watch::Sender<bool>,
    claims: watch::Sender<Claims>,
}

/// What becomes of claims to the leader lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claims {
    Pass,
    Wait,
    /// One does.
    Waiting,
}

impl Links {
    /// Lets the agent of `name` reach etcd over links alone; its restart changes nothing else.
    pub async fn between(stage: &Stage, name: &str) -> Result<Self> {
        let leader = stage.leader().await?;
        let links = Self::to(stage.cluster.etcd_urls()).await?;
        let config = stage.node(name)?.config().to_owned();
        let mut text = std::fs::read_to_string(&config)?;
        for (direct, link) in stage.cluster.etcd_urls().iter().zip(&links.urls) {
            text = text.replace(direct, link);
        }
        stage.stop(name).await?;
        std::fs::write(&config, text)?;
        stage.start(name)?;
        stage.whole().await?;
        ensure!(stage.leader().await? == leader, "a restart of the agent has moved the lead");
        Ok(links)
    }

    async fn to(targets: &[String]) -> Result<Self> {
        let (up, claims) = (watch::Sender::new(true), watch::Sender::new(Claims::Pass));
        let mut urls = Vec::new();
        for target in targets {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            urls.push(format!("http://{}", listener.local_addr()?));
            let target = target.trim_start_matches("http://").to_owned();
            // The links outlive whoever cuts them.
            let (up, claims) = (up.clone(), claims.clone());
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(link(client, target.clone(), up.subscribe(), claims.clone()));
                }
            });
        }
        Ok(Self { urls, up, claims })
    }

    /// Nothing comes through any more, and nobody is told.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    /// As if nothing had been.
    pub fn mend(&self) {
        self.up.send_replace(true);
    }

    /// From now on claims to the leader lock do not arrive.
    pub fn hold_claims(&self) {
        self.claims.send_replace(Claims::Wait);
    }

    /// Whether a claim has been sent that does not arrive.
    pub fn hold_a_claim(&self) -> bool {
        *self.claims.borrow() == Claims::Waiting
    }

    /// They arrive, late.
    pub fn let_claims_go(&self) {
        self.claims.send_replace(Claims::Pass);
    }
}

/// One connection. A link that is down accepts and says nothing, as a lost network does.
async fn link(mut client: TcpStream, target: String, mut up: watch::Receiver<bool>, claims: watch::Sender<Claims>) {
    if *up.borrow_and_update()
        && let Ok(mut server) = TcpStream::connect(&target).await
    {
        let ((mut asked, mut answered), (mut answers, mut asks)) = (client.split(), server.split());
        tokio::select! {
            _ = tokio::io::copy(&mut answers, &mut answered) => return,
            _ = questions(&mut asked, &mut asks, &claims) => return,
            _ = up.wait_for(|up| !up) => {}
        }
    }
    let _ = up.wait_for(|up| *up).await;
}

async fn questions(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    claims: &watch::Sender<Claims>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        if claims_the_lock(&bytes[..count]) {
            claims.send_if_modified(|claims| {
                *claims == Claims::Wait && std::mem::replace(claims, Claims::Waiting) == Claims::Wait
            });
            let _ = claims.subscribe().wait_for(|claims| *claims == Claims::Pass).await;
        }
        to.write_all(&bytes[..count]).await?;
    }
}

/// A claim is the one transaction in which both the lock and ballots are named. Names travel as they are, for nothing is compressed.
fn claims_the_lock(bytes: &[u8]) -> bool {
    let names = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    names(b"/demo/leader") && names(b"/demo/ballots/")
}
