//! Prometheus' own programs, which scripts/setup.sh installs. What they find wrong is what the test says.

use std::path::Path;
use std::process::Command;

use super::packaging;

fn run(program: &str, package: &str, arguments: &[&str], directory: &Path) {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} (package {package}, scripts/setup.sh installs it): {error}"));
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
}

/// Checks rules and configurations of Prometheus, and tests rules.
pub fn promtool(arguments: &[&str]) {
    run("promtool", "prometheus", arguments, &packaging());
}

/// Checks a configuration of Alertmanager.
pub fn amtool(arguments: &[&str]) {
    run("amtool", "prometheus-alertmanager", arguments, &packaging());
}

/// As [`promtool`], with the file of this name and text as the last argument.
pub fn promtool_about(name: &str, text: &str, arguments: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join(name), text).expect("a file");
    let arguments: Vec<&str> = arguments.iter().copied().chain([name]).collect();
    run("promtool", "prometheus", &arguments, directory.path());
}
