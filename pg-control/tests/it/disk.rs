//! Disks that fill, freeze and refuse, made by root beforehand: see `loop.rs`. Without root there are none, and nothing is proven here.

use std::time::{Duration, Instant};

use decision::view::DiskFault;
use pg_control::{DiskWatch, process};

use crate::Outcome;
use crate::health::signal_all;
use crate::loops::{Disk, disk};
use crate::world::{Failure, Node, eventually, primary_on};

async fn on(disk: &Disk) -> Result<(Node, DiskWatch), Failure> {
    let node = primary_on(disk.place()).await?;
    let watch = DiskWatch::start(node.instance.clone(), Some(8 << 20))?;
    eventually("a first look at the disk", async || Ok(watch.disk().free_bytes.is_some())).await?;
    Ok((node, watch))
}

pub async fn a_frozen_disk_is_known_and_what_hangs_on_it_counts_as_dead_once_killed() -> Outcome {
    let Some(disk) = disk("frozen") else { return Ok(()) };
    let (node, watch) = on(&disk).await?;
    assert_eq!(watch.disk().frozen_for, None);
    let begin = Instant::now();
    disk.freeze()?;
    // Somebody writes, and hangs with the disk.
    let client = node.sql().await?;
    let write = tokio::spawn(async move { client.batch_execute("CREATE TABLE stuck AS SELECT 1; CHECKPOINT").await });
    eventually("a frozen disk", async || Ok(watch.disk().frozen_for > Some(Duration::from_secs(1)))).await?;
    println!("      one second of frozen disk, {:?} after the freeze", begin.elapsed());
    let data_dir = node.instance.config().data_dir.clone();
    let killed = tokio::task::spawn_blocking(move || process::kill_all(&data_dir)).await??;
    println!("      killed in {killed:?}");
    assert!(killed < Duration::from_secs(5), "what cannot die is not waited for");
    assert!(node.instance.postmaster().is_none());
    disk.thaw()?;
    assert!(write.await?.is_err(), "nothing was acknowledged");
    eventually("a disk that answers", async || Ok(watch.disk().frozen_for.is_none())).await
}

pub async fn a_read_only_disk_is_known() -> Outcome {
    let Some(disk) = disk("read-only") else { return Ok(()) };
    let (node, watch) = on(&disk).await?;
    disk.break_into_read_only()?;
    eventually("a read-only disk", async || Ok(watch.disk().fault == Some(DiskFault::ReadOnly))).await?;
    signal_all(&node, nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
}

pub async fn a_disk_that_fills_is_low_then_full() -> Outcome {
    let Some(disk) = disk("full") else { return Ok(()) };
    let (_node, watch) = on(&disk).await?;
    assert!(!watch.disk().low, "{:?}", watch.disk());
    disk.leave_free(6 << 20)?;
    eventually("a disk about to fill", async || Ok(watch.disk().low)).await?;
    eventually("a full disk", async || Ok(watch.disk().full)).await?;
    disk.leave_free(64 << 20)?;
    eventually("room again", async || Ok(!watch.disk().low && !watch.disk().full)).await
}
