//! `/ui`: what an agent serves to a browser, and what a real one makes of it, before and after a switchover.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::spoken::tables_have_the_columns_that_the_document_shows;
use crate::stage::{SOON, Stage, on_stage, options};

/// The base URL of a node's health API.
fn base(stage: &Stage, node: &str) -> Result<String> {
    Ok(stage.node(node)?.api_url())
}

/// What `curl` prints of an answer, with its head; it is given up after some seconds, for one of them never ends.
fn curl(url: &str, seconds: &str) -> Result<String> {
    let output = Command::new("curl").args(["-siN", "--max-time", seconds, url]).output().context("curl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The page as a browser has it after a while, or nothing where there is no browser.
fn in_a_browser(url: &str) -> Result<Option<String>> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--timeout=4000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", home.path().display())).arg(url).env("HOME", home.path());
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: this machine has no chromium");
            return Ok(None);
        }
        output => output.context("chromium")?,
    };
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Waits until the page shows all of this; a browser on a busy machine may need more than one try.
async fn shows(url: &str, wanted: &[String]) -> Result<()> {
    let began = Instant::now();
    loop {
        let asked = url.to_owned();
        let Some(page) = tokio::task::spawn_blocking(move || in_a_browser(&asked)).await?? else { return Ok(()) };
        let missing: Vec<&String> = wanted.iter().filter(|text| !page.contains(text.as_str())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < SOON, "the page lacks {missing:?}: {page}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_shown_who_leads_who_follows_and_what_happened() {
    on_stage(&options(), async |stage: &mut Stage| {
        let leader = stage.leader().await?;
        let url = base(stage, &stage.others(&leader)[0])?;
        what_is_served_comes_from_here_alone(&url)?;
        let to = stage.others(&leader)[1].clone();
        stage.pgvigil(&leader, &["switchover", "--to", &to, "--reason", "<b>not bold</b>", "-y"]).await?;
        stage.whole().await?;
        let wanted = [
            "99.95 % allows are left".to_owned(),
            format!("{to} leads"),
            format!("{leader} → {to}"),
            "&lt;b&gt;not bold&lt;/b&gt;".to_owned(),
        ];
        shows(&format!("{url}/ui"), &wanted).await?;
        a_hundred_pages_are_told_the_same(&url).await?;
        nothing_is_called_well_that_is_paused_or_lacks_a_member(stage, &leader, &url).await?;
        tables_have_the_columns_that_the_document_shows(stage, &to).await?;
        let (_, picture) = first_event(&url)?;
        ensure!(picture["transitions"].as_array().is_some_and(|all| all.len() >= 2), "{picture}");
        let told = stage.pgvigil(&leader, &["slo", "-o", "json"]).await?;
        let slo: Value = serde_json::from_str(&told)?;
        ensure!(slo["schema"] == "pgvigil.slo/v1" && slo["costs"][0]["kind"] == "switchover", "{slo}");
        ensure!(slo["write_outage_ms"].as_f64().is_some_and(|outage| outage > 0.0), "{slo}");
        ensure!(stage.ask(&leader, "/slo").await?["costs"] == slo["costs"], "the agent tells otherwise");
        Ok(())
    })
    .await;
}

/// The old leader is a standby now; it dies in a pause, which is no failover, and comes back.
async fn nothing_is_called_well_that_is_paused_or_lacks_a_member(stage: &Stage, gone: &str, url: &str) -> Result<()> {
    let asked = stage.leader().await?;
    stage.pgvigil(&asked, &["pause", "--for", "1h", "--reason", "a kernel"]).await?;
    stage.node(gone)?.kill_everything()?;
    let wanted = [
        "▲ DEGRADED".to_owned(),
        format!("down: {gone}"),
        format!("{gone} is down: its agent is not registered in etcd"),
        "paused, so nothing fails over".to_owned(),
        "a kernel. HINT: pgvigil resume".to_owned(),
    ];
    shows(&format!("{url}/ui"), &wanted).await?;
    stage.pgvigil(&asked, &["resume"]).await?;
    stage.start(gone)?;
    stage.whole().await
}

/// How long pages are listened to.
const LISTENED_FOR: Duration = Duration::from_secs(3);

/// The pictures that come within some seconds.
async fn pictures(host: String) -> Result<BTreeSet<String>> {
    let mut stream = TcpStream::connect(&host).await?;
    stream.write_all(format!("GET /ui/events HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut told = Vec::new();
    let _ = tokio::time::timeout(LISTENED_FOR, stream.read_to_end(&mut told)).await;
    let told = String::from_utf8(told).context("text")?;
    // The last one may have come in part.
    let whole = told.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    Ok(whole.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect())
}

/// Each picture says how old it is, so that one which is made for each page would be another one for each.
async fn a_hundred_pages_are_told_the_same(url: &str) -> Result<()> {
    let host = url.trim_start_matches("http://").to_owned();
    let began = Instant::now();
    let mut pages: JoinSet<Result<BTreeSet<String>>> = (0..100).map(|_| pictures(host.clone())).collect();
    let mut all = BTreeSet::new();
    while let Some(told) = pages.join_next().await {
        let told = told??;
        ensure!(!told.is_empty(), "a page was told nothing");
        all.extend(told);
    }
    // At most four in a second, one at once, and one for the beginning.
    let most = began.elapsed().as_millis() / 250 + 2;
    ensure!((all.len() as u128) <= most, "{} pictures in {:?}", all.len(), began.elapsed());
    Ok(())
}

fn what_is_served_comes_from_here_alone(url: &str) -> Result<()> {
    for (path, kind) in [("/ui", "text/html"), ("/ui/page.css", "text/css"), ("/ui/page.js", "text/javascript")] {
        let told = curl(&format!("{url}{path}"), "10")?;
        ensure!(told.starts_with("HTTP/1.1 200") && told.contains(&format!("content-type: {kind}")), "{told}");
        ensure!(told.contains("content-security-policy: default-src 'none'") && told.contains("nosniff"), "{told}");
        ensure!(!told.contains("http://") && !told.contains("https://"), "it asks somebody else: {told}");
    }
    let (told, picture) = first_event(url)?;
    ensure!(told.contains("content-type: text/event-stream"), "{told}");
    ensure!(picture["schema"] == "pgvigil.ui/v1" && picture["cluster"]["members"].is_array(), "{picture}");
    Ok(())
}

/// What comes first, and may be followed by more.
fn first_event(url: &str) -> Result<(String, Value)> {
    let told = curl(&format!("{url}/ui/events"), "3")?;
    let data =
        told.lines().find_map(|line| line.strip_prefix("data: ")).with_context(|| format!("no event: {told}"))?;
    let picture = serde_json::from_str(data)?;
    Ok((told, picture))
}
