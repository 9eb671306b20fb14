//! Parameters: what the server knows of them, how they get into it, and what becomes of those that it does not take.

use decision::catalogue::{Kind, check};
use decision::durability::Quorum;
use decision::names::Term;
use decision::parameters::Parameters;
use pg_control::{Error, Instance};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::world::{Node, PATIENCE, empty, eventually, primary};

fn with(parameters: &Parameters, name: &str, value: &str) -> Parameters {
    let mut parameters = parameters.clone();
    parameters.insert(name.to_owned(), value.to_owned());
    parameters
}

async fn shows(node: &Node, name: &str) -> Result<String, crate::world::Failure> {
    node.ask(&format!("current_setting('{name}')")).await
}

pub async fn every_parameter_is_known_and_what_it_is_would_do() -> Outcome {
    let node = primary("pg1").await?;
    let catalogue = node.instance.catalogue().await?;
    assert!(catalogue.len() > 300, "{}", catalogue.len());
    let all = "SELECT lower(name), current_setting(name) FROM pg_settings WHERE context <> 'internal'";
    for row in node.sql().await?.query(all, &[]).await? {
        let (name, value): (String, String) = (row.get(0), row.get(1));
        let found = check(&catalogue, &name, &value);
        let good = found.as_ref().map_err(|error| format!("{name} = {value:?}: {error}"))?;
        // Modes of files are shown in octal digits.
        if matches!(catalogue[&name].kind, Kind::Whole | Kind::Number) && !(value.len() > 1 && value.starts_with('0')) {
            assert!(*good == value || value.contains('.'), "{name}: {value} became {good}");
        }
    }
    Ok(())
}

pub async fn parameters_are_taken_up_while_the_server_runs() -> Outcome {
    let node = primary("pg1").await?;
    let catalogue = node.instance.catalogue().await?;
    let usual = node.instance.parameters();
    assert_eq!(usual["max_connections"], "30");
    let wanted = with(&usual, "work_mem", "8MB");
    node.instance.configure(&wanted).await?;
    assert_eq!(shows(&node, "work_mem").await?, "8MB");
    assert!(node.instance.running(&catalogue).await?.pending.is_empty());

    let wanted = with(&with(&wanted, "log_min_duration_statement", "soon"), "maintenance_work_mem", "32MB");
    node.instance.configure(&wanted).await?;
    let refused = node.instance.refused().ok_or("nothing was refused")?;
    assert_eq!(refused.values, with(&Parameters::new(), "log_min_duration_statement", "soon"));
    assert!(refused.why.contains("invalid value for parameter"), "{}", refused.why);
    assert_eq!(shows(&node, "maintenance_work_mem").await?, "32MB", "what is good is taken up");
    node.instance.configure(&usual).await?;
    assert_eq!((node.instance.refused(), shows(&node, "work_mem").await?.as_str()), (None, "4MB"));

    let raised = with(&usual, "max_connections", "40");
    node.instance.configure(&raised).await?;
    let running = node.instance.running(&catalogue).await?;
    assert_eq!(running.pending["max_connections"], ("30".to_owned(), "40".to_owned()));
    assert_eq!(running.capacities["max_connections"], 30);
    node.instance.configure(&usual).await?;
    assert!(node.instance.running(&catalogue).await?.pending.is_empty(), "what is taken back waits for nothing");

    node.instance.configure(&raised).await?;
    node.instance.stop_fast(PATIENCE).await?;
    node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
    node.instance.wait_ready(PATIENCE).await?;
    assert_eq!(node.instance.running(&catalogue).await?.capacities["max_connections"], 40);
    assert_eq!(node.instance.capacities_on_disk().await?["max_connections"], 40);
    Ok(())
}

pub async fn a_start_that_fails_with_other_parameters_goes_back_once() -> Outcome {
    let node = primary("pg1").await?;
    node.instance.runs_well().await?;
    // Good by itself, and more than there are connections.
    let wanted = with(&node.instance.parameters(), "superuser_reserved_connections", "50");
    node.instance.configure(&wanted).await?;
    assert_eq!(node.instance.refused(), None);
    node.instance.stop_fast(PATIENCE).await?;
    let started = node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await;
    eventually("ended", async || Ok(node.instance.postmaster().is_none())).await?;
    let why = match started {
        Err(error) => error,
        Ok(_) => node.instance.why_it_did_not_start(),
    };
    assert!(matches!(&why, Error::StartFailed(words) if words.contains("superuser_reserved_connections")), "{why}");
    assert!(node.instance.fall_back(&why.to_string()).await?.is_some());
    node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
    node.instance.wait_ready(PATIENCE).await?;
    // It is asked for still, and stays out, in another life of the agent as well.
    let again = Instance::new(node.instance.config().clone())?;
    again.configure(&wanted).await?;
    assert!(!again.parameters().contains_key("superuser_reserved_connections"));
    assert!(again.refused().is_some_and(|refused| refused.why.contains("superuser_reserved_connections")));
    assert!(again.fall_back("it was not to blame").await?.is_none());
    Ok(())
}

pub async fn what_a_reload_ignores_and_a_start_dies_of_is_not_taken_for_good() -> Outcome {
    let node = primary("pg1").await?;
    // Nothing is known yet: whatever runs is better than nothing.
    node.instance.runs_well_so_far().await?;
    node.instance.configure(&with(&node.instance.parameters(), "ssl", "on")).await?;
    assert_eq!(node.instance.refused(), None, "Postgres says nothing against it while it runs");
    node.instance.runs_well_so_far().await?;
    node.instance.stop_fast(PATIENCE).await?;
    let started = node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await;
    eventually("ended", async || Ok(node.instance.postmaster().is_none())).await?;
    let why = started.err().unwrap_or_else(|| node.instance.why_it_did_not_start());
    assert!(node.instance.fall_back(&why.to_string()).await?.is_some(), "{why}");
    node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
    node.instance.wait_ready(PATIENCE).await?;
    assert!(node.instance.refused().is_some_and(|refused| refused.values.contains_key("ssl")));
    Ok(())
}

pub async fn a_standby_keeps_what_it_has_yet_to_replay_and_tells_afterwards_what_waits() -> Outcome {
    let leader = primary("pg1").await?;
    let lowered = leader.instance.parameters();
    let raised = with(&lowered, "max_connections", "40");
    let again = async |parameters: &Parameters| {
        leader.instance.configure(parameters).await?;
        leader.instance.stop_fast(PATIENCE).await?;
        leader.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
        leader.instance.wait_ready(PATIENCE).await
    };
    again(&raised).await?;
    let node = empty("pg2")?;
    node.instance.configure(&with(&node.instance.parameters(), "max_connections", "40")).await?;
    let upstream = leader.as_upstream(1);
    node.instance.clone_from(&upstream, &CancellationToken::new()).await?;
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    node.instance.stop_fast(PATIENCE).await?;

    again(&lowered).await?;
    let asked = with(&node.instance.parameters(), "max_connections", "30");
    node.instance.configure(&asked).await?;
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    assert_eq!((shows(&node, "max_connections").await?.as_str(), node.instance.refused()), ("40", None));
    let replayed = async || Ok(node.instance.capacities_on_disk().await?["max_connections"] == 30);
    eventually("the lowered value is replayed", replayed).await?;
    node.instance.configure(&asked).await?;
    let running = node.instance.running(&node.instance.catalogue().await?).await?;
    assert_eq!(running.pending["max_connections"], ("40".to_owned(), "30".to_owned()));
    node.instance.stop_fast(PATIENCE).await?;
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    assert_eq!(shows(&node, "max_connections").await?, "30");
    Ok(())
}

pub async fn a_copy_keeps_the_parameters_of_its_node() -> Outcome {
    let leader = primary("pg1").await?;
    let node = empty("pg2")?;
    node.instance.configure(&with(&node.instance.parameters(), "work_mem", "7MB")).await?;
    let upstream = leader.as_upstream(1);
    node.instance.clone_from(&upstream, &CancellationToken::new()).await?;
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    assert_eq!(shows(&node, "work_mem").await?, "7MB");
    Ok(())
}

pub async fn what_the_program_does_not_take_is_known_before_there_is_a_database() -> Outcome {
    let node = empty("pg1")?;
    let bin_dir = &node.instance.config().bin_dir;
    let good = [("max_connections", "150"), ("work_mem", "8MB"), ("some_extension.level", "3"), ("jit", "off")];
    let mut parameters = good.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(pg_control::objections(bin_dir, &parameters)?, []);
    parameters = with(&with(&parameters, "max_conections", "150"), "work_mem", "8 cows");
    let told = pg_control::objections(bin_dir, &parameters)?;
    let [(one, meant), (two, invalid)] = &told[..] else { return Err(format!("{told:?}").into()) };
    assert_eq!((one.as_str(), two.as_str()), ("max_conections", "work_mem"));
    assert!(meant.contains("did you mean `max_connections`?"), "{meant}");
    assert!(invalid.starts_with("invalid value for parameter \"work_mem\": \"8 cows\"; Valid units"), "{invalid}");
    Ok(())
}
