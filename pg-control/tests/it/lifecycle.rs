//! Creating, starting, finding and ending the server.

use std::time::{Duration, Instant};

use decision::durability::Quorum;
use decision::names::Term;
use decision::view::{Data, Server};
use nix::sys::signal::Signal;
use pg_control::{Error, Instance, Origin, process};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::world::{self, PATIENCE, empty, eventually, primary};

pub async fn a_new_cluster_has_roles_of_least_privilege() -> Outcome {
    let node = empty("pg1")?;
    assert_eq!(node.instance.observe().await?.postgres.data, Data::Empty);
    let begin = Instant::now();
    let id = node.instance.bootstrap(&Origin::default(), &CancellationToken::new()).await?.system_id;
    println!("      bootstrap {:?}", begin.elapsed());
    let seen = node.instance.observe().await?.postgres;
    let Data::Present(disk) = seen.data else { return Err(format!("{:?}", seen.data).into()) };
    assert_eq!(disk.system_id, id);
    assert!(matches!(&seen.server, Server::Primary(primary) if primary.marked_term == Term(0)), "{:?}", seen.server);
    assert!(node.instance.full_control().await?.data_checksums);
    let rights = "string_agg(rolname || rolsuper || rolcreaterole || rolreplication, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'pgvigil%'";
    let rights = node.ask(&format!("SELECT {rights}")).await?;
    assert_eq!(rights, "pgvigilfalsefalsetrue pgvigil_replicationfalsefalsetrue pgvigil_rewindfalsefalsefalse");
    assert_eq!(
        node.ask("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pgvigil'").await?,
        "pgvigil"
    );
    let seen_by = node
        .ask("SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE application_name = 'pgvigil'")
        .await?;
    assert_eq!(seen_by, "pgvigil", "the agent does not observe as a superuser");
    let verifier =
        node.ask("SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = 'pgvigil_replication'").await?;
    assert_eq!(verifier, "SCRAM-SHA-256$");
    assert!(matches!(
        node.instance.bootstrap(&Origin::default(), &CancellationToken::new()).await,
        Err(Error::WrongState(_))
    ));
    node.instance.mark(Term(1), &world::name("pg1"), PATIENCE).await?;
    node.instance.checkpoint(PATIENCE).await?;
    assert_eq!(node.as_primary().await?.marked_term, Term(1));
    Ok(())
}

pub async fn a_log_that_has_grown_large_is_copied_and_emptied_under_the_running_server() -> Outcome {
    let node = primary("pg1").await?;
    let log = node.instance.config().state_dir.join("postgres.log");
    assert!(!node.instance.bound_log()?, "a small one is left alone");
    let small = std::fs::read(&log)?;
    let large = 65 * 1024 * 1024;
    std::fs::File::options().write(true).open(&log)?.set_len(large)?;
    assert!(node.instance.bound_log()?);
    let copy = log.with_extension("log.1");
    assert_eq!(std::fs::metadata(&copy)?.len(), large);
    assert!(std::fs::read(&copy)?.starts_with(&small), "what was said is kept");
    node.run("DO $$ BEGIN RAISE LOG 'said afterwards'; END $$").await?;
    let told = std::fs::read_to_string(&log)?;
    assert!(told.contains("said afterwards") && !told.contains('\0') && told.len() < 10_000, "{} bytes", told.len());
    // Whoever does not append would go on behind the gap.
    node.instance.stop_fast(PATIENCE).await?;
    std::fs::File::options().write(true).open(&log)?.set_len(large)?;
    assert!(!node.instance.bound_log()?, "nobody is known to append to it");
    node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
    assert!(std::fs::metadata(&log)?.len() < large, "the next start has moved it aside");
    Ok(())
}

pub async fn another_agent_adopts_the_running_server() -> Outcome {
    let node = primary("pg1").await?;
    let pid = node.pid();
    let second = Instance::new(node.instance.config().clone())?;
    // The acknowledgement is known from the table alone.
    let look = async || match second.observe().await?.postgres.server {
        Server::Primary(seen) => Ok(seen),
        other => Err(world::Failure::from(format!("{other:?}"))),
    };
    eventually("an acknowledged marker", async || Ok(look().await?.marked_term == Term(1))).await?;
    let seen = look().await?;
    assert_eq!(seen.waits_for, Some((Quorum::none(), Term(1))));
    assert_eq!(second.start_as_primary(&Quorum::none(), Term(1), || true).await?.pid, pid, "nothing is started twice");
    Ok(())
}

pub async fn the_server_gets_a_clean_environment() -> Outcome {
    // The runner is told nothing of services; a variable that must go is put there by starting through `env` in a child agent.
    let node = primary("pg1").await?;
    let text = std::fs::read(format!("/proc/{}/environ", node.pid()))?;
    let text = String::from_utf8_lossy(&text);
    for name in text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name) {
        let known = [
            "PATH",
            "HOME",
            "TZ",
            "LANG",
            "LANGUAGE",
            "PGDATA",
            "PG_GRANDPARENT_PID",
            "PG_OOM_ADJUST_FILE",
            "PG_OOM_ADJUST_VALUE",
            "PGLOCALEDIR",
            "PGSYSCONFDIR",
        ];
        let shell = ["PWD", "OLDPWD", "SHLVL", "_"];
        assert!(known.contains(&name) || shell.contains(&name) || name.starts_with("LC_"), "{name} leaks");
    }
    assert!(std::env::var_os("NOTIFY_SOCKET").is_some(), "the runner sets it, so that there is something to leak");
    let session = procfs::process::Process::new(node.pid())?.stat()?.session;
    assert_ne!(session, procfs::process::Process::myself()?.stat()?.session, "a session of its own");
    Ok(())
}

pub async fn death_is_noticed_at_once() -> Outcome {
    let node = primary("pg1").await?;
    let (postmaster, death) = node.instance.watch_death()?.ok_or("not running")?;
    assert_eq!(postmaster.pid, node.pid());
    let begin = Instant::now();
    node.signal(Signal::SIGKILL)?;
    tokio::time::timeout(PATIENCE, death).await?;
    println!("      death noticed after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2));
    eventually("stopped", async || Ok(node.server().await? == Server::Stopped)).await
}

pub async fn nobody_survives_a_kill() -> Outcome {
    let node = primary("pg1").await?;
    let mut clients = Vec::new();
    for _ in 0..15 {
        clients.push(node.sql().await?);
    }
    let pid = node.pid();
    let took = node.instance.kill_all().await?;
    println!("      15 clients killed in {took:?}");
    assert!(took < Duration::from_secs(2));
    assert!(procfs::process::Process::new(pid).is_err() || node.instance.postmaster().is_none());
    assert!(process::orphans(&node.instance.config().data_dir).is_empty());
    assert_eq!(node.server().await?, Server::Stopped);
    Ok(())
}

pub async fn orphans_are_found_and_killed() -> Outcome {
    let node = primary("pg1").await?;
    let data_dir = node.instance.config().data_dir.clone();
    let client = node.sql().await?;
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    // A frozen backend outlives its postmaster for certain.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(backend), Signal::SIGSTOP)?;
    node.signal(Signal::SIGKILL)?;
    eventually("postmaster gone", async || Ok(node.instance.postmaster().is_none())).await?;
    assert!(process::orphans(&data_dir).contains(&backend));
    let took = node.instance.kill_all().await?;
    println!("      orphans killed in {took:?}");
    assert!(process::orphans(&data_dir).is_empty());
    node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
    node.instance.wait_ready(PATIENCE).await?;
    Ok(())
}

pub async fn a_taken_port_is_explained() -> Outcome {
    let node = primary("pg1").await?;
    node.instance.stop_fast(PATIENCE).await?;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", node.instance.config().port))?;
    let started = async {
        node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
        node.instance.wait_ready(PATIENCE).await
    };
    let error = started.await.expect_err("the port is taken");
    assert!(error.to_string().contains("port is taken"), "{error}");
    Ok(())
}

pub async fn what_may_not_be_primary_any_more_is_not_started() -> Outcome {
    let node = primary("pg1").await?;
    node.instance.stop_fast(PATIENCE).await?;
    let started = node.instance.start_as_primary(&Quorum::none(), Term(1), || false).await;
    assert!(matches!(started, Err(Error::WrongState(_))), "{started:?}");
    assert!(node.instance.postmaster().is_none());
    Ok(())
}

pub async fn a_fast_stop_tells_its_checkpoint_early() -> Outcome {
    let node = primary("pg1").await?;
    let (_, death) = node.instance.watch_death()?.ok_or("not running")?;
    let begin = Instant::now();
    assert!(node.instance.begin_stop());
    let checkpoint = node.instance.shutdown_checkpoint(PATIENCE).await?;
    let early = begin.elapsed();
    tokio::time::timeout(PATIENCE, death).await?;
    println!("      shut down in pg_control after {early:?}, exited after {:?}", begin.elapsed());
    let control = node.instance.full_control().await?.control;
    assert_eq!(control.checkpoint, checkpoint);
    assert_eq!(pg_control::controldata::read_direct(&node.instance.config().data_dir)?, Some(control));
    Ok(())
}

pub async fn a_server_that_dies_without_its_shutdown_checkpoint_is_not_waited_for() -> Outcome {
    let node = primary("pg1").await?;
    let waited = tokio::time::timeout(PATIENCE / 2, async {
        let killed_later = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            node.instance.kill_all().await
        };
        tokio::join!(node.instance.shutdown_checkpoint(PATIENCE), killed_later)
    });
    let (checkpoint, killed) = waited.await?;
    killed?;
    assert!(matches!(checkpoint, Err(Error::WrongState(_))), "{checkpoint:?}");
    let of_the_dead = node.instance.shutdown_checkpoint(PATIENCE).await;
    assert!(matches!(of_the_dead, Err(Error::WrongState(_))), "{of_the_dead:?}");
    Ok(())
}

pub async fn a_stale_pid_file_of_another_process_is_no_server() -> Outcome {
    let node = primary("pg1").await?;
    node.instance.stop_fast(PATIENCE).await?;
    let me = std::process::id();
    let data_dir = &node.instance.config().data_dir;
    std::fs::write(
        data_dir.join("postmaster.pid"),
        format!("{me}\n{}\n1700000000\n5432\n\n\n\nready\n", data_dir.display()),
    )?;
    assert!(node.instance.postmaster().is_none());
    assert_eq!(node.server().await?, Server::Stopped);
    node.instance.kill_all().await?;
    Ok(())
}

pub async fn an_address_that_somebody_else_has_is_known() -> Outcome {
    let mut taken = None;
    let node = world::primary_with("pg1", |config| {
        config.listen_addresses = "127.0.0.1, 127.0.0.2".to_owned();
        taken = std::net::TcpListener::bind(("127.0.0.1", config.port)).ok();
    })
    .await?;
    let listening = node.instance.listening().await?.ok_or("it runs, and its sockets can be seen")?;
    assert!(listening.misses("127.0.0.1") && !listening.misses("127.0.0.2"), "{listening:?}");
    // It was not told to listen there: whoever does may do so on purpose.
    assert!(!listening.misses("127.0.0.3"), "{listening:?}");
    let takes =
        |host: [u8; 4]| pg_control::server_takes(&node.instance.config().data_dir, (host, listening.port).into());
    assert_eq!((takes([127, 0, 0, 1]), takes([127, 0, 0, 2])), (Some(false), Some(true)));
    Ok(())
}
