//! Copies by several methods: what fails leaves nothing behind and nothing replaced, and the next one is tried.

use pg_control::{CloneMethod, CloneOptions, Copying, Watched};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
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

/// The template of the other primaries has one identity for all.
async fn primary_of_another_system() -> Result<Node, Failure> {
    let node = empty("pg9")?;
    node.instance.bootstrap(&pg_control::Origin::default(), &CancellationToken::new()).await?;
    node.instance.stop_fast(PATIENCE).await?;
    Ok(node)
}
