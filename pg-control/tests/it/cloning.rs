//! Copies by several methods: what fails leaves nothing behind and nothing replaced, and the next one is tried.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use decision::view::Data;
use pg_control::{CloneMethod, CloneOptions, Copying, Origin, Watched};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::loops::bound;
use crate::world::{Failure, Node, PATIENCE, empty, primary, standby_of};

fn program(script: &str) -> CloneMethod {
    CloneMethod::Program {
        name: "a program".to_owned(),
        command: ["/bin/sh", "-c", script, "sh", "{data_dir}"].map(str::to_owned).to_vec(),
        restore_command: Some("false # {data_dir}".to_owned()),
    }
}

pub async fn a_copy_that_cannot_be_made_one_way_is_made_another() -> Outcome {
    let leader = primary("pg1").await?;
    let other = primary_of_another_system().await?;
    let first = standby_of(&leader, "pg2", 1).await?;
    let node = empty("pg3")?;
    let data_dir = node.instance.config().data_dir.clone();
    std::fs::create_dir_all(&data_dir)?;
    std::fs::write(data_dir.join("kept"), "by the operator")?;
    let (upstream, options, progress, cancel) =
        (leader.as_upstream(1), CloneOptions::default(), Watched::default(), CancellationToken::new());
    let attempt = async |methods: &[CloneMethod]| {
        let copying = Copying { leader: &upstream, methods, options: &options, progress: &progress, cancel: &cancel };
        node.instance.clone_by(&copying).await
    };
    let of_another = program(&format!("cp -a {}/. \"$1\"", other.instance.config().data_dir.display()));
    let nonsense = program("mkdir -p \"$1/half\"; exit 3");
    let failed = attempt(&[nonsense.clone(), of_another.clone()]).await.expect_err("neither is a copy of this cluster");
    assert!(failed.to_string().contains("the backup is of database system"), "{failed}");
    assert!(data_dir.join("kept").exists(), "what was there stays until there is a copy");
    let left: Vec<_> = std::fs::read_dir(node.dir.path())?.filter_map(|entry| entry.ok()).collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().contains(".cloning-")), "{left:?}");

    let from_standby = CloneMethod::BaseBackup(first.as_upstream(1));
    let method = attempt(&[nonsense, of_another, from_standby]).await?;
    assert_eq!(method, "pg_basebackup from pg2");
    assert_eq!(progress.now(), None, "nothing is copied any more");
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    node.streams().await
}

pub async fn a_copy_that_stands_still_is_given_up_for_another() -> Outcome {
    let leader = primary("pg1").await?;
    let node = empty("pg2")?;
    let (upstream, progress, cancel) = (leader.as_upstream(1), Watched::default(), CancellationToken::new());
    let options = CloneOptions { stalls_after: Some(Duration::from_secs(4)), ..CloneOptions::default() };
    let stands_still = program("echo begun > \"$1/some\"; sleep 600");
    let copy = async |methods: &[CloneMethod]| {
        let copying = Copying { leader: &upstream, methods, options: &options, progress: &progress, cancel: &cancel };
        node.instance.clone_by(&copying).await
    };
    let failed = copy(std::slice::from_ref(&stands_still)).await.expect_err("it never ends").to_string();
    assert!(failed.contains("stands still at 6 bytes"), "{failed}");
    assert_eq!(copy(&[stands_still, CloneMethod::BaseBackup(upstream.clone())]).await?, "pg_basebackup from pg1");
    Ok(())
}

pub async fn what_cannot_be_moved_aside_is_never_taken_for_a_copy_that_was_cut_off() -> Outcome {
    let leader = primary("pg1").await?;
    let node = standby_of(&leader, "pg2", 1).await?;
    let data_dir = node.instance.config().data_dir.clone();
    node.instance.stop_fast(PATIENCE).await?;
    let Some(_mount) = bound(&data_dir) else { return Ok(()) };
    node.instance.condemn("reinit")?;
    let upstream = leader.as_upstream(1);
    let copy = async || node.instance.clone_from(&upstream, &CancellationToken::new()).await;
    let refused = copy().await.expect_err("a mount point cannot be moved").to_string();
    assert!(refused.contains("cannot be moved aside"), "{refused}");
    std::fs::set_permissions(node.dir.path(), std::fs::Permissions::from_mode(0o500))?;
    let again = copy().await;
    std::fs::set_permissions(node.dir.path(), std::fs::Permissions::from_mode(0o700))?;
    assert!(again.is_err(), "{again:?}");
    assert!(data_dir.join("PG_VERSION").exists(), "the old data is gone");
    let seen = node.instance.observe().await?.postgres.data;
    assert_eq!(seen, Data::HalfMade { by: "reinit".to_owned() }, "it is what it was");
    // Emptied by hand, it is filled where it is, and again after a copy that was cut off there.
    for entry in std::fs::read_dir(&data_dir)?.filter_map(|entry| entry.ok()) {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    let (options, progress, cancel) = (CloneOptions::default(), Watched::default(), CancellationToken::new());
    let methods = [program("mkdir \"$1/half\"; exit 3"), CloneMethod::BaseBackup(upstream.clone())];
    let copying =
        Copying { leader: &upstream, methods: &methods, options: &options, progress: &progress, cancel: &cancel };
    node.instance.clone_by(&copying).await?;
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    node.streams().await?;
    Ok(node.instance.stop_fast(PATIENCE).await?)
}

pub async fn a_link_to_nowhere_is_refused_and_one_to_a_directory_stays_one() -> Outcome {
    let leader = primary("pg1").await?;
    let node = empty("pg2")?;
    let (data_dir, place) = (node.instance.config().data_dir.clone(), node.dir.path().join("place"));
    std::os::unix::fs::symlink(&place, &data_dir)?;
    let upstream = leader.as_upstream(1);
    let copy = async || node.instance.clone_from(&upstream, &CancellationToken::new()).await;
    let refused = copy().await.expect_err("it leads nowhere").to_string();
    assert!(refused.contains("symbolic link") && refused.contains("install -d"), "{refused}");
    std::fs::create_dir(&place)?;
    // A failed bootstrap is tried again, and what a copy replaces lies beside the directory, not beside the link.
    let nonsense = Origin { post_command: vec!["/bin/false".to_owned()], ..Origin::default() };
    for origin in [&nonsense, &nonsense, &Origin::default()] {
        let made = node.instance.bootstrap(origin, &CancellationToken::new()).await;
        assert_eq!(made.is_ok(), *origin == Origin::default(), "{made:?}");
    }
    node.instance.stop_fast(PATIENCE).await?;
    copy().await?;
    assert!(data_dir.is_symlink() && place.join("standby.signal").exists());
    assert_eq!(node.instance.remove_old_copies().await?, 1);
    Ok(())
}

pub async fn a_bootstrap_that_failed_in_a_mount_point_is_tried_again() -> Outcome {
    let node = empty("pg1")?;
    let data_dir = node.instance.config().data_dir.clone();
    std::fs::create_dir(&data_dir)?;
    std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o700))?;
    let Some(_mount) = bound(&data_dir) else { return Ok(()) };
    let nonsense = Origin { post_command: vec!["/bin/false".to_owned()], ..Origin::default() };
    for origin in [&nonsense, &nonsense, &Origin::default()] {
        let made = node.instance.bootstrap(origin, &CancellationToken::new()).await;
        assert_eq!(made.is_ok(), *origin == Origin::default(), "{made:?}");
    }
    Ok(node.instance.stop_fast(PATIENCE).await?)
}

pub async fn a_tablespace_in_the_way_is_told_before_anything_is_copied() -> Outcome {
    let leader = primary("pg1").await?;
    let (node, place) = (empty("pg2")?, leader.dir.path().join("space"));
    std::fs::create_dir(&place)?;
    leader.run(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display())).await?;
    let (options, progress, cancel) = (CloneOptions::default(), Watched::default(), CancellationToken::new());
    let upstream = leader.as_upstream(1);
    let methods = [CloneMethod::BaseBackup(upstream.clone())];
    let copying =
        Copying { leader: &upstream, methods: &methods, options: &options, progress: &progress, cancel: &cancel };
    for refused in [node.instance.could_be_copied(&copying).await, node.instance.clone_by(&copying).await.map(drop)] {
        let why = refused.expect_err("the source's own files are there").to_string();
        assert!(why.contains(&format!("cannot copy the tablespace at {}", place.display())), "{why}");
    }
    leader.run("DROP TABLESPACE elsewhere").await?;
    Ok(node.instance.could_be_copied(&copying).await?)
}

/// The template of the other primaries has one identity for all.
async fn primary_of_another_system() -> Result<Node, Failure> {
    let node = empty("pg9")?;
    node.instance.bootstrap(&pg_control::Origin::default(), &CancellationToken::new()).await?;
    node.instance.stop_fast(PATIENCE).await?;
    Ok(node)
}
