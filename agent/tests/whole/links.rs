//! Links between one agent and etcd that can be cut without touching anybody else.

use anyhow::{Result, ensure};

use crate::stage::Stage;

/// TCP links to every member of etcd.
pub struct Links {
    urls: Vec<String>,
    up: tokio::sync::watch::Sender<bool>,
}

impl Links {
    /// Lets the agent of `leader` reach etcd over links alone; its restart changes nothing else.
    pub async fn between(stage: &Stage, leader: &str) -> Result<Self> {
        let links = Self::to(stage.cluster.etcd_urls()).await?;
        let config = stage.node(leader)?.config().to_owned();
        let mut text = std::fs::read_to_string(&config)?;
        for (direct, link) in stage.cluster.etcd_urls().iter().zip(&links.urls) {
            text = text.replace(direct, link);
        }
        stage.stop(leader).await?;
        std::fs::write(&config, text)?;
        stage.start(leader)?;
        stage.whole().await?;
        ensure!(stage.leader().await? == leader, "a restart of the agent has moved the lead");
        Ok(links)
    }

    async fn to(targets: &[String]) -> Result<Self> {
        let (up, is_up) = tokio::sync::watch::channel(true);
        let mut urls = Vec::new();
        for target in targets {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            urls.push(format!("http://{}", listener.local_addr()?));
            let (target, is_up) = (target.trim_start_matches("http://").to_owned(), is_up.clone());
            // The links outlive whoever cuts them.
            let kept = up.clone();
            tokio::spawn(async move {
                let _kept = kept;
                while let Ok((mut client, _)) = listener.accept().await {
                    let (target, mut is_up) = (target.clone(), is_up.clone());
                    tokio::spawn(async move {
                        // A link that is down accepts and says nothing, as a lost network does.
                        if *is_up.borrow_and_update()
                            && let Ok(mut server) = tokio::net::TcpStream::connect(&target).await
                        {
                            tokio::select! {
                                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                                _ = is_up.wait_for(|up| !up) => {}
                            }
                        }
                        let _ = is_up.wait_for(|up| *up).await;
                    });
                }
            });
        }
        Ok(Self { urls, up })
    }

    /// Nothing comes through any more, and nobody is told.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    /// As if nothing had been.
    pub fn mend(&self) {
        self.up.send_replace(true);
    }
}
