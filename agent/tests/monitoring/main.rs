//! What we ship for Prometheus and Grafana holds together: the rules do what their tests say, read only metrics that exist, and each alert says in words what is
//! wrong and has a runbook. Prometheus' own programs judge, and docs/metrics.md, which is compared with the registry, says what exists.

mod dashboards;
mod names;
mod programs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use names::{Rule, documented_metrics, read, recorded, rules, selectors};
use programs::{amtool, promtool};

/// Where the packaging for Prometheus is.
fn packaging() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus")
}

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn file_names(directory: &Path, ending: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

/// The files with tests of the rules, from the packaging on.
fn test_files() -> Vec<String> {
    let names = file_names(&packaging().join("tests"), ".yml");
    assert!(names.len() > 5, "the tests of the rules are not where they were: {names:?}");
    names.iter().map(|name| format!("tests/{name}.yml")).collect()
}

/// That `metric` is recorded by a rule, or exposed by agents with these labels; `reader` asks for it.
fn is_there(reader: &str, metric: &str, labels: &BTreeSet<String>, recorded: &BTreeSet<String>) {
    if metric == "up" || recorded.contains(metric) {
        return;
    }
    let metrics = documented_metrics();
    let known = metrics.get(metric).unwrap_or_else(|| panic!("{reader} reads {metric}, which no agent has"));
    let unknown: Vec<_> = labels.difference(known).collect();
    assert!(unknown.is_empty(), "{reader} asks {metric} for the labels {unknown:?}, it has {known:?}");
}

fn alerts() -> Vec<Rule> {
    rules().into_iter().filter(|rule| rule.alert).collect()
}

#[test]
fn prometheus_itself_takes_the_rules_and_the_examples() {
    promtool(&["check", "rules", "pgvigil.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    amtool(&["check-config", "alertmanager.yml"]);
}

#[test]
fn every_rule_does_what_its_tests_say() {
    let files = test_files();
    let mut arguments = vec!["test", "rules"];
    arguments.extend(files.iter().map(String::as_str));
    promtool(&arguments);
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to_fire_and_every_recording_rule_is_tested() {
    let tests: String = test_files().iter().map(|file| read(&packaging().join(file))).collect();
    for rule in rules() {
        let name = &rule.name;
        if rule.alert {
            let silent = format!("alertname: {name}, exp_alerts: [] }}");
            let fires = format!("alertname: {name}\n        exp_alerts:\n");
            assert!(tests.contains(&silent), "no test says when {name} is silent");
            assert!(tests.contains(&fires), "no test says when {name} fires");
        } else if !name.contains(":pgvigil_burn_rate:") {
            // Burn rates are one formula over the samples of the objective, and the alerts on them are tested.
            assert!(tests.contains(&format!("'{name}{{")), "no test says what {name} is");
        }
    }
}

#[test]
fn rules_read_only_metrics_that_exist_with_labels_that_they_have() {
    let metrics = documented_metrics();
    assert!(metrics.len() > 60, "docs/metrics.md is not as it was: {metrics:?}");
    let recorded = recorded();
    let mut count = 0;
    for rule in rules() {
        for (metric, labels) in selectors(&rule.expression) {
            is_there(&rule.name, &metric, &labels, &recorded);
            count += 1;
        }
    }
    assert!(count > 60, "the expressions are not understood any more: {count} selectors");
}

#[test]
fn every_alert_says_what_is_wrong_and_has_a_runbook_and_no_runbook_is_left_over() {
    let runbooks = file_names(&docs().join("runbooks"), ".md");
    let index = read(&docs().join("runbooks/README.md"));
    for alert in alerts() {
        let name = &alert.name;
        assert!(
            ["critical", "warning", "info"].contains(&alert.text("labels", "severity").as_str()),
            "{name} has no severity"
        );
        let (summary, description) = (alert.text("annotations", "summary"), alert.text("annotations", "description"));
        assert!(summary.contains("$labels."), "the summary of {name} does not say where: {summary}");
        assert!(
            description.len() > summary.len(),
            "the description of {name} says no more than its summary: {description}"
        );
        let url = alert.text("annotations", "runbook_url");
        assert_eq!(url, format!("file:///usr/share/doc/pgvigil/runbooks/{name}.md"));
        assert!(runbooks.contains(name), "docs/runbooks/{name}.md is not there");
        assert!(index.contains(&format!("({name}.md)")), "docs/runbooks/README.md does not list {name}");
        let runbook = read(&docs().join(format!("runbooks/{name}.md")));
        for part in ["## What it means", "## Look here first", "## What to do", "## Whom to wake", "## What not to do"]
        {
            assert!(runbook.contains(part), "the runbook of {name} lacks \"{part}\"");
        }
    }
    let alerts: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    let left_over: Vec<_> = runbooks.iter().filter(|name| *name != "README" && !alerts.contains(*name)).collect();
    assert!(left_over.is_empty(), "runbooks without an alert: {left_over:?}");
}
