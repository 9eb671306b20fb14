//! Everything in this crate against a real PostgreSQL. Postgres never runs as root, so a run by root starts itself again as the user
//! `postgres`. Tests run one after another: several are about milliseconds.

mod cloning;
mod disk;
mod durability;
mod health;
mod lifecycle;
mod loops;
mod origin;
mod pulse;
mod rejoin;
mod replication;
mod settings;
mod slots;
mod world;

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// What a test returns.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;
type Start = fn() -> Pin<Box<dyn Future<Output = Outcome>>>;
type Test = (&'static str, Start);

/// Lists test functions by their names.
#[macro_export]
macro_rules! tests {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        vec![$($((concat!(stringify!($module), "::", stringify!($name)), (|| Box::pin($module::$name())) as Start),)+)+]
    };
}

/// Every test, in the order in which they run.
fn all() -> Vec<Test> {
    tests! {
        lifecycle: a_new_cluster_has_roles_of_least_privilege,
            a_log_that_has_grown_large_is_copied_and_emptied_under_the_running_server, another_agent_adopts_the_running_server,
            the_server_gets_a_clean_environment, death_is_noticed_at_once, nobody_survives_a_kill,
            orphans_are_found_and_killed, a_taken_port_is_explained, what_may_not_be_primary_any_more_is_not_started, a_fast_stop_tells_its_checkpoint_early, a_server_that_dies_without_its_shutdown_checkpoint_is_not_waited_for,
            a_stale_pid_file_of_another_process_is_no_server, an_address_that_somebody_else_has_is_known;
        cloning: a_copy_that_cannot_be_made_one_way_is_made_another,
            a_copy_that_stands_still_is_given_up_for_another,
            what_cannot_be_moved_aside_is_never_taken_for_a_copy_that_was_cut_off,
            a_link_to_nowhere_is_refused_and_one_to_a_directory_stays_one,
            a_bootstrap_that_failed_in_a_mount_point_is_tried_again,
            a_tablespace_in_the_way_is_told_before_anything_is_copied;
        origin: a_new_cluster_is_restored_to_the_end_of_an_archive_and_to_a_restore_point,
            a_backup_of_a_cluster_of_the_same_name_is_refused, what_an_operator_wants_in_a_new_cluster_is_there_before_anybody_else,
            a_bootstrap_that_fails_says_why_and_only_its_newest_attempt_is_kept;
        replication: a_clone_follows_and_is_promoted, a_standby_is_repointed_by_reload,
            a_pledge_ends_the_walreceiver_although_a_reader_blocks_replay, a_blocked_candidate_is_promoted_quickly,
            a_cancelled_clone_leaves_nothing_running, observing_is_cheap,
            a_standby_that_is_refused_its_wal_never_claims_to_stream,
            a_standby_that_was_torn_off_while_it_changed_timelines_is_promoted,
            paused_replay_goes_on_for_a_pledge,
            replay_that_somebody_has_stopped_goes_on_for_a_pledge_and_for_a_promotion, an_upstream_set_behind_our_back_is_a_stranger,
            wal_that_the_upstream_has_removed_is_missed;
        rejoin: a_cleanly_stopped_primary_rejoins_without_a_rewind, a_diverged_primary_is_found_and_rewound, a_rewind_takes_wal_that_is_not_here_any_more_from_the_archive,
            what_a_dead_primary_still_owes_the_archive_is_archived_before_its_rewind,
            the_end_of_wal_is_found_at_the_end_of_a_file, the_end_of_wal_follows_a_promotion,
            a_half_made_directory_is_never_started, overrides_are_struck_out,
            a_rewind_waits_for_the_checkpoint_after_a_promotion,
            a_reservation_that_was_not_used_does_no_harm, a_reserved_timeline_is_taken_and_followed,
            another_site_is_asked_copied_and_followed_under_no_voters_name;
        durability: a_commit_waits_when_its_voter_is_gone, a_cancelled_wait_is_no_acknowledgement,
            a_stranger_of_another_term_acknowledges_nothing, a_removed_voter_is_cut_off, a_proof_is_a_commit_that_waits,
            a_mark_that_was_given_up_leaves_no_backend,
            a_write_probe_waits_as_a_clients_commit_does_locks_nothing_and_leaves_no_backend,
            a_program_under_a_voters_name_releases_commits_and_under_another_does_not,
            a_timeout_in_a_block_is_a_false_acknowledgement_with_a_warning,
            orphans_of_a_postmaster_go_on_committing_until_they_are_killed,
            names_count_only_once_the_checkpointer_has_published_them,
            a_standby_that_is_promoted_by_hand_acknowledges_nothing,
            whoever_holds_a_lock_on_the_marker_table_is_named,
            what_an_operator_sets_against_the_promises_is_known,
            what_is_the_agents_own_is_put_back_for_the_marker,
            a_role_that_may_not_log_in_is_mended_and_stops_nobody;
        health: a_frozen_server_hangs, full_slots_are_no_outage, a_locked_marker_table_is_no_outage;
        pulse: a_frozen_server_is_silent_and_a_thawed_one_answers, one_stuck_backend_is_no_silence,
            full_slots_locks_and_checkpoints_are_no_silence, a_stuck_backend_of_the_probe_is_given_up_for_a_new_one,
            a_backend_frozen_inside_its_commit_stops_all_writes_and_is_noticed,
            a_postmaster_stopped_alone_is_noticed, an_open_transaction_and_many_commits_are_no_stuck_writes,
            a_backend_that_is_killed_cuts_every_session_and_postgres_mends_itself;
        settings: every_parameter_is_known_and_what_it_is_would_do, what_the_program_does_not_take_is_known_before_there_is_a_database, parameters_are_taken_up_while_the_server_runs,
            a_start_that_fails_with_other_parameters_goes_back_once,
            what_a_reload_ignores_and_a_start_dies_of_is_not_taken_for_good, a_standby_keeps_what_it_has_yet_to_replay_and_tells_afterwards_what_waits,
            a_copy_keeps_the_parameters_of_its_node;
        slots: a_standby_streams_by_a_slot_and_has_slots_of_its_own, what_an_agent_has_made_is_known_to_its_next_life,
            a_slot_that_has_lost_its_wal_is_made_anew;
        disk: a_frozen_disk_is_known_and_what_hangs_on_it_counts_as_dead_once_killed, a_read_only_disk_is_known,
            a_disk_that_fills_is_low_then_full;
    }
}

fn main() -> ExitCode {
    if nix::unistd::geteuid().is_root() {
        return run_as_postgres();
    }
    // Orphans come to this process, as they come to an agent that is the first of its container; the init of some machines is slow.
    nix::sys::prctl::set_child_subreaper(true).expect("Linux");
    let tests = all();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| name.contains(argument.as_str()));
    let begin = Instant::now();
    let mut failures = 0;
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted(name)) {
        let started = Instant::now();
        let verdict = std::panic::catch_unwind(|| run(test));
        let took = started.elapsed().as_millis();
        match verdict {
            Ok(Ok(())) => println!("ok    {name} ({took} ms)"),
            Ok(Err(error)) => {
                failures += 1;
                println!("FAILED {name} ({took} ms): {error}");
            }
            Err(_) => {
                failures += 1;
                println!("FAILED {name} ({took} ms): panicked");
            }
        }
    }
    world::remove_template();
    println!("{failures} failures, {:.1} s", begin.elapsed().as_secs_f32());
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(test: Start) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let limited = async { tokio::time::timeout(std::time::Duration::from_secs(60), test()).await };
    runtime.block_on(limited)?
}

fn run_as_postgres() -> ExitCode {
    if std::env::var_os(loops::INSIDE).is_none() {
        // Disks are mounted in a namespace of their own, and vanish with it. Where there is none, their tests say so.
        let me = std::env::current_exe().expect("own path");
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--propagation", "private"]).arg(me).args(std::env::args_os().skip(1));
        let _ = inside.env(loops::INSIDE, "1").exec();
    }
    let user = nix::unistd::User::from_name("postgres").ok().flatten().expect("a user named postgres");
    let dir = tempfile::Builder::new().prefix("pgvigil-it-").tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let copy = dir.path().join("it");
    std::fs::copy(std::env::current_exe().expect("own path"), &copy).expect("a copy of this program");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut command = Command::new(&copy);
    let socket = dir.path().join("root.sock");
    if loops::serve(&socket).is_ok() {
        command.env(loops::SOCKET, &socket);
    }
    command.args(std::env::args_os().skip(1)).current_dir("/").env("HOME", "/tmp").env("NOTIFY_SOCKET", "/nowhere");
    let status = command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).status().expect("the copy runs");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
