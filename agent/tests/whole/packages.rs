//! What is installed: the Debian package, made from this build, has what its unit, its alerts and its readers look for, and Debian's own judge finds no
//! fault; and the files for containers say what the program says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent::show::{HaproxyOptions, ShowMember, haproxy};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program that scripts/setup.sh installs, and gives what it said on standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} (see scripts/setup.sh): {error}"));
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {told}{said}");
    told.into_owned()
}

/// A package of the binaries of this test.
fn package(directory: &Path) -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_pgvigil")).parent().expect("in a directory");
    let mut make = Command::new(root().join("scripts/deb.sh"));
    // Nobody installs it: quickly made is good enough.
    make.arg(binaries).arg(directory).env("PGVIGIL_DEB_COMPRESSION", "-Zgzip -z1");
    PathBuf::from(output(&mut make).trim())
}

/// Paths and their rights, as `tar -tv` tells them.
fn contents(package: &Path) -> BTreeMap<String, String> {
    let listed = output(Command::new("dpkg-deb").arg("--contents").arg(package));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[5].trim_start_matches('.').to_owned(), format!("{} {}", words[0], words[1]))
    };
    listed.lines().map(row).collect()
}

#[test]
fn the_debian_package_has_what_is_looked_for_and_ends_no_postgres() {
    let directory = tempfile::tempdir().expect("a directory");
    let package = package(directory.path());
    has_what_its_unit_its_alerts_and_its_readers_look_for(&package);
    asks_about_an_administrators_files_and_ends_no_postgres(&package, directory.path());
    output(Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(&package));
}

fn has_what_its_unit_its_alerts_and_its_readers_look_for(package: &Path) {
    let contents = contents(package);
    for (path, rights) in [
        ("/usr/bin/pgvigil", "-rwxr-xr-x root/root"),
        ("/usr/bin/pgvigil-fencer", "-rwxr-xr-x root/root"),
        ("/lib/systemd/system/pgvigil@.service", "-rw-r--r-- root/root"),
        ("/etc/pgvigil/pgvigil.toml.example", "-rw-r--r-- root/root"),
        ("/usr/share/man/man1/pgvigil-switchover.1.gz", "-rw-r--r-- root/root"),
        ("/usr/share/man/man8/pgvigil-fencer.8.gz", "-rw-r--r-- root/root"),
        ("/usr/share/bash-completion/completions/pgvigil", "-rw-r--r-- root/root"),
        ("/usr/share/zsh/vendor-completions/_pgvigil", "-rw-r--r-- root/root"),
        ("/usr/share/fish/vendor_completions.d/pgvigil.fish", "-rw-r--r-- root/root"),
    ] {
        assert_eq!(contents.get(path).map(String::as_str), Some(rights), "{path}");
    }
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a text");
    let pointers = ["packaging/systemd/pgvigil@.service", "packaging/prometheus/pgvigil.rules.yml"].map(read).concat();
    let documents: Vec<&str> =
        pointers.split("file://").skip(1).filter_map(|rest| rest.split_whitespace().next()).collect();
    assert!(documents.len() > 30, "{documents:?}");
    for document in documents {
        assert!(contents.contains_key(document), "{document} is pointed at, and not in the package");
    }
    let control = |field: &str| output(Command::new("dpkg-deb").arg("--field").arg(package).arg(field));
    assert_eq!(control("Version").trim(), env!("CARGO_PKG_VERSION"));
    // Nothing beyond the C library and what every Debian has: one file works on each host of its architecture.
    let needs = control("Depends");
    let others: Vec<&str> = needs
        .split(',')
        .filter_map(|need| need.split_whitespace().next())
        .filter(|name| !["libc6", "libgcc-s1", "adduser", "postgresql-common"].contains(name))
        .collect();
    assert!(others.is_empty(), "{needs}");
}

/// One file works on each host of its architecture: beyond the C library it needs what the compiler itself brings.
#[test]
fn both_programs_need_nothing_but_the_c_library_and_its_friends() {
    let friends = ["linux-vdso", "libc", "libm", "libgcc_s", "/lib64/ld-linux-x86-64", "/lib/ld-linux-aarch64"];
    for program in [env!("CARGO_BIN_EXE_pgvigil"), env!("CARGO_BIN_EXE_pgvigil-fencer")] {
        let needs = output(Command::new("ldd").arg(program));
        let strange: Vec<&str> = needs
            .lines()
            .map(str::trim)
            .filter(|line| !friends.iter().any(|one| line.starts_with(&format!("{one}.so"))))
            .collect();
        assert!(strange.is_empty(), "{program}: {strange:?}");
    }
}

/// What systemd itself thinks of a unit that it does not run is a little worse than of one that it does: 4.0, and 3.8 (`make deb-test`).
const EXPOSURE_MOST: &str = "--threshold=40";

#[test]
fn the_unit_exposes_no_more_than_it_did() {
    let unit = root().join("packaging/systemd/pgvigil@.service");
    let arguments = ["security", "--no-pager", "--offline=yes", EXPOSURE_MOST];
    match Command::new("systemd-analyze").args(arguments).arg(unit).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => eprintln!("SKIPPED: this machine has no systemd-analyze"),
        told => {
            let told = told.expect("systemd-analyze");
            let said = String::from_utf8_lossy(&told.stdout);
            assert!(told.status.success(), "{said}{}", String::from_utf8_lossy(&told.stderr));
        }
    }
}

/// The volume of Debian's directories is waited for, an agent that hangs is not, and systemd finds no fault.
#[test]
fn the_unit_waits_for_the_volume_of_the_data_and_for_no_agent_that_hangs() {
    let unit = std::fs::read_to_string(root().join("packaging/systemd/pgvigil@.service")).expect("a text");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let below = |place: &str| Path::new("/var/lib/postgresql/15/orders").starts_with(place);
    assert!(value("RequiresMountsFor").is_some_and(below), "{:?}", value("RequiresMountsFor"));
    assert_eq!(value("KillMode"), Some("process"));
    assert_eq!(value("TimeoutStopSec"), Some("15s"));
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("pgvigil@orders.service");
    // It looks for the program.
    std::fs::write(&copy, unit.replace("/usr/bin/pgvigil ", concat!(env!("CARGO_BIN_EXE_pgvigil"), " ")))
        .expect("written");
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(copy).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => eprintln!("SKIPPED: this machine has no systemd-analyze"),
        told => {
            let told = told.expect("systemd-analyze");
            let said = String::from_utf8_lossy(&told.stderr);
            assert!(told.status.success() && !said.contains("pgvigil"), "{said}");
        }
    }
}

fn asks_about_an_administrators_files_and_ends_no_postgres(package: &Path, directory: &Path) {
    let files = |name: &str| output(Command::new("dpkg-deb").arg("--info").arg(package).arg(name));
    assert_eq!(files("conffiles"), "/etc/pgvigil/pgvigil.toml.example\n");
    let scripts = ["postinst", "prerm", "postrm"].map(|name| (name, files(name)));
    for (name, script) in &scripts {
        let path = directory.join(name);
        std::fs::write(&path, script).expect("written");
        output(Command::new("sh").arg("-n").arg(&path));
        for word in ["pg_ctl", "pg_ctlcluster", "kill", "postgresql.service"] {
            let told = script.lines().filter(|line| !line.trim_start().starts_with('#')).find(|line| {
                line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).any(|one| one == word)
            });
            assert_eq!(told, None, "{name}");
        }
    }
    // Only where the package is taken away does an agent end without a successor.
    assert!(scripts[1].1.contains("[ \"$1\" = remove ]"));
}

#[test]
fn haproxy_in_containers_is_configured_as_the_program_says() {
    let member = |number: u16| ShowMember {
        name: format!("pg{number}"),
        host: format!("172.30.80.2{number}"),
        port: 5432,
        api_host: format!("172.30.80.2{number}"),
        api_port: 8008,
    };
    let members = [member(1), member(2), member(3)];
    let there = std::fs::read_to_string(root().join("packaging/docker/haproxy.cfg")).expect("a text");
    let wanted = haproxy(&members, &HaproxyOptions::default());
    assert_eq!(there.trim_end(), wanted.trim_end(), "put `pgvigil show haproxy` into packaging/docker/haproxy.cfg");
}

/// What Terraform's own parser makes of a text: `loads` throws where it is none.
const HCL: &str = "import json, sys, pygohcl; json.dump(pygohcl.loads(sys.stdin.read()), sys.stdout)";

/// A text in Terraform's language as its own parser reads it; `None`: that parser is not here.
fn hcl(text: &str) -> Option<serde_json::Value> {
    let told =
        std::env::var_os("PGVIGIL_TEST_PROGRAMS").map_or_else(|| "/var/tmp/pgvigil-programs".into(), PathBuf::from);
    let python = told.join("terraform/bin/python");
    if !python.is_file() {
        eprintln!("SKIPPED: Terraform's parser is not here; scripts/programs.sh brings it");
        return None;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let read = std::fs::File::open(file.path()).expect("a file");
    let told = output(Command::new(python).args(["-c", HCL]).stdin(read));
    Some(serde_json::from_str(&told).expect("JSON"))
}

/// The words that follow `before` anywhere in a text.
fn words_after(text: &str, before: &str) -> BTreeSet<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    text.split(before).skip(1).map(word).collect()
}

#[test]
fn terraforms_own_parser_reads_the_example_and_every_variable_is_used_and_declared() {
    let read = |name: &str| std::fs::read_to_string(root().join("packaging/terraform").join(name)).expect("a text");
    let (example, template) = (read("main.tf"), read("inventory.ini.tftpl"));
    let Some(parsed) = hcl(&example) else { return };
    let declared: BTreeSet<String> = parsed["variable"].as_object().expect("variables").keys().cloned().collect();
    assert_eq!(words_after(&example, "var."), declared);

    // A template is read as the rest of a string is.
    let read = hcl(&format!("content = <<END\n{template}END\n")).expect("as above");
    assert!(read["content"].as_str().is_some_and(|text| text.contains("[pgvigil:vars]")), "{read}");
    let (_, call) = example.split_once("inventory.ini.tftpl\", {").expect("the call");
    let (given, _) = call.split_once("})").expect("its end");
    for name in given.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim()) {
        let within = |from: &str| {
            template.split(from).skip(1).any(|rest| rest.split('}').next().is_some_and(|used| used.contains(name)))
        };
        assert!(within("${") || within("%{"), "the template does not use {name}");
    }
    let known =
        |name: &String| given.contains(name.as_str()) || ["jsonencode", "name", "address"].contains(&name.as_str());
    let used = ["${", "jsonencode(", " in "].into_iter().flat_map(|before| words_after(&template, before));
    let strange: Vec<String> = used.filter(|name| !known(name)).collect();
    assert!(strange.is_empty(), "the template uses {strange:?}, and is not given them");
}
