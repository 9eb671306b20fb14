//! `pgvigil failover --to MEMBER`: an operator's word where nobody leads. What is known is shown first, with the bytes at risk; where
//! nothing could be proven the loss of data must be accepted by name, and that is recorded.

use decision::names::MemberName;

use super::checks::report;
use super::follow::{conclude, follow};
use super::operator::{must_be_able_to_ask, types, who};
use super::screen::tell;
use super::told;
use super::world::Reach;
use crate::cli::{Exit, FailoverArgs, Output};
use crate::operate::failover::{afterwards, checked, known, lead, request};

/// Carries it out, or says why not.
pub async fn run(arguments: &FailoverArgs) -> Exit {
    match steps(arguments).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn steps(arguments: &FailoverArgs) -> Result<Exit, Exit> {
    if !arguments.dry_run {
        must_be_able_to_ask(arguments.yes, "type the name of the cluster to go on")?;
    }
    let to = MemberName::new(arguments.to.as_str()).map_err(|bad| {
        tell(&format!("error: {bad}"));
        Exit::Usage
    })?;
    let reach = Reach::new(&arguments.config)?;
    let world = reach.look().await;
    let snapshot = world.etcd.as_ref().map_err(|why| {
        tell(&format!("error: a failover is asked for in etcd, and it does not answer: {why}"));
        reach.silence()
    })?;
    let expected = arguments.expect_leader.as_ref();
    let preflight = checked(&world, snapshot, &to, expected, arguments.accept_data_loss);
    let how = (arguments.output, arguments.dry_run);
    if !preflight.passed() {
        match how {
            (Output::Table, false) => preflight.failures().for_each(|why| tell(&format!("refused: {why}"))),
            _ => report(&preflight, how, None, None),
        }
        return Ok(Exit::Refused);
    }
    for line in known(&world, snapshot, &to) {
        tell(&line);
    }
    if arguments.dry_run {
        report(&preflight, how, Some(&format!("Ready: {to} would lead, and what is missing would be lost.")), None);
        return Ok(Exit::Done);
    }
    let lead = lead(snapshot, expected).map_err(told)?;
    if !arguments.yes {
        let cluster = &reach.config.cluster;
        if !types(&format!("Type the name of the cluster to let {to} lead ({cluster}): "), cluster) {
            tell("that is not its name; nothing was changed");
            return Ok(Exit::Aborted);
        }
    }
    let (accepted, reason) = (arguments.accept_data_loss, arguments.reason.as_deref());
    let asked = request(&reach, snapshot, &to, (accepted, lead), &who(), reason).await.map_err(told)?;
    let followed = follow(&reach, &asked, arguments.wait).await;
    let exit = conclude(&asked, &followed, arguments.wait, arguments.output);
    if let Some(line) =
        afterwards(snapshot, &to, &reach.config.postgres.data_dir).filter(|_| accepted && exit == Exit::Done)
    {
        tell(&line);
    }
    Ok(exit)
}
