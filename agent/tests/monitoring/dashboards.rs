//! The dashboards for Grafana: every expression in them is one, and reads metrics that exist, with labels that they have.

use std::path::PathBuf;

use serde_json::Value;

use super::names::{read, recorded, selectors};
use super::programs::promtool_about;
use super::{file_names, is_there};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana")
}

/// Every expression of a dashboard, each with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of_panels = dashboard["panels"].as_array().expect("panels").iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("targets");
        targets.iter().map(|target| (text(&panel["title"]), text(&target["expr"])))
    });
    let annotations = dashboard["annotations"]["list"].as_array().expect("annotations").iter();
    let of_annotations =
        annotations.filter(|one| one["expr"].is_string()).map(|one| (text(&one["name"]), text(&one["expr"])));
    of_panels.chain(of_annotations).collect()
}

#[test]
fn every_expression_of_every_dashboard_reads_metrics_that_exist() {
    let recorded = recorded();
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    let mut count = 0;
    for name in file_names(&directory(), ".json") {
        let dashboard: Value = serde_json::from_str(&read(&directory().join(format!("{name}.json")))).expect("JSON");
        assert_eq!(dashboard["uid"], format!("pgvigil-{name}"));
        for (panel, expression) in expressions(&dashboard) {
            let found = selectors(&expression);
            assert!(!found.is_empty(), "{name}, {panel}: {expression} reads nothing of ours");
            for (metric, labels) in found {
                is_there(&format!("{name}, {panel}"), &metric, &labels, &recorded);
            }
            rules += &format!("      - record: dashboard:{name}:{count}\n        expr: {}\n", Value::from(expression));
            count += 1;
        }
    }
    assert!(count > 60, "the dashboards are not where they were: {count} expressions");
    promtool_about("dashboards.yml", &rules, &["check", "rules"]);
}
