//! What each word of the command line does. Standard output carries the answer and nothing else; chatter and errors go to standard
//! error; the exit code says which way it ended. The work is in `operate`, which the control API shares; `screen.rs` says what
//! came of it.

mod adopt;
mod check;
mod checks;
mod complete;
mod daemon;
mod failover;
mod fleet;
mod follow;
mod gate;
mod hold;
mod later;
mod manual;
mod member;
mod operator;
mod orders;
mod pause;
mod postmortem;
mod report;
mod screen;
mod settings;
mod shown;
mod site;
mod slo;
mod status;
mod switchover;
mod transitions;
mod validate;
mod watch;
mod why;
mod world;

pub use self::complete::{complete, health_paths, members, setting_assignments, setting_names, transition_ids};
pub use self::why::explained;
use crate::cli::{Cli, Command, Exit};
use crate::operate::{Kind, Unable, has_asked, words};

/// Carries out one command.
pub fn run(cli: Cli) -> Exit {
    let exit = match cli.command {
        Command::Agent(arguments) => daemon::run(&arguments.config),
        Command::Demo(arguments) => crate::demo::run(&arguments),
        Command::Status(arguments) => in_runtime(status::run(&arguments)),
        Command::Watch(arguments) => in_runtime(watch::run(&arguments)),
        Command::Fleet(command) => in_runtime(fleet::run(&command)),
        Command::Why(arguments) => in_runtime(why::run(&arguments)),
        Command::Check(arguments) => in_runtime(check::run(&arguments)),
        Command::Switchover(arguments) => in_runtime(switchover::run(&arguments)),
        Command::Failover(arguments) => in_runtime(failover::run(&arguments)),
        Command::Restart(arguments) => in_runtime(orders::restart(&arguments)),
        Command::Reload(arguments) => in_runtime(orders::reload(&arguments)),
        Command::Reinit(arguments) => in_runtime(orders::reinit(&arguments)),
        Command::Adopt(arguments) => in_runtime(adopt::run(&arguments)),
        Command::Member(command) => in_runtime(member::run(&command)),
        Command::Hold(arguments) => to_its_end(hold::hold(&arguments)),
        Command::Release(arguments) => in_runtime(hold::release(&arguments)),
        Command::Gate(command) => in_runtime(gate::run(&command)),
        Command::Pause(arguments) => in_runtime(pause::pause(&arguments)),
        Command::Resume(arguments) => in_runtime(pause::resume(&arguments)),
        Command::Config(command) => in_runtime(settings::run(&command)),
        Command::Site(command) => in_runtime(site::run(&command)),
        Command::Slo(arguments) => in_runtime(slo::run(&arguments)),
        Command::Transitions(arguments) => in_runtime(transitions::run(&arguments)),
        Command::Report(arguments) => in_runtime(report::run(&arguments)),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Show(command) => in_runtime(shown::run(&command)),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
    };
    if exit == Exit::Done && screen::output_lost() { Exit::Failed } else { exit }
}

/// As most commands: Ctrl-C ends it.
fn in_runtime(work: impl Future<Output = Exit>) -> Exit {
    to_its_end(unless_interrupted(work))
}

/// One thread is enough to ask everybody at once.
fn to_its_end(work: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(work);
            // A name that the resolver is still looking for must not hold up the end.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            screen::tell(&format!("error: cannot start: {error}"));
            Exit::Failed
        }
    }
}

/// Ctrl-C ends a command, and nothing else: what it has asked the agents for goes on.
async fn unless_interrupted(work: impl Future<Output = Exit>) -> Exit {
    tokio::select! {
        // A command that ends by itself when it is interrupted says with which code.
        biased;
        exit = work => exit,
        Ok(()) = tokio::signal::ctrl_c() => match has_asked() {
            false => Exit::Aborted,
            true => {
                screen::tell("interrupted; what was asked for stands: see `pgvigil status`");
                Exit::StillRunning
            }
        },
    }
}

/// Tells why something was not done.
fn told(unable: Unable) -> Exit {
    let exit = exit_of(&unable);
    let word = if exit == Exit::Refused { "refused" } else { "error" };
    unable.why.iter().for_each(|why| screen::tell(&format!("{word}: {why}")));
    exit
}

/// With which code a command ends that could not do its work.
fn exit_of(unable: &Unable) -> Exit {
    match unable.kind {
        Kind::Misused => Exit::Usage,
        Kind::Refused | Kind::Held | Kind::Unexpected | Kind::Overtaken => Exit::Refused,
        Kind::Failed => Exit::Failed,
        Kind::Unreachable | Kind::Unknown => Exit::Unreachable,
        Kind::Unauthorised => Exit::Unauthorised,
    }
}
