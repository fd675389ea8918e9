//! The tasks as a person starts them, with a `cargo` of the tests' own underneath.

#![cfg(unix)]
// Clippy takes only `#[test]` functions for tests, not the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use murmur_testkit::{Dynamo, ENDPOINT_VAR, Embedded};
use tempfile::TempDir;

/// `cargo xtask` with `args`, where `cargo` is this shell script and nothing else is on the path.
fn xtask(folder: &Path, cargo: &str, args: &[&str]) -> Command {
    let script = folder.join("cargo");
    fs::write(&script, format!("#!/bin/sh\n{cargo}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    xtask.args(args).env("CARGO", script).env("PATH", folder);
    xtask
        .env_remove("CI")
        .env_remove("JAVA_HOME")
        .env_remove(ENDPOINT_VAR);
    xtask
}

fn run(mut xtask: Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = xtask.output().unwrap();
    let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code(), printed)
}

#[test]
fn itest_gives_the_tests_the_server_and_the_arguments() {
    let (folder, server) = (TempDir::new().unwrap(), Embedded::start().unwrap());
    let cargo = format!("echo \"$*\" with ${ENDPOINT_VAR}");
    let mut itest = xtask(
        folder.path(),
        &cargo,
        &["itest", "--", "-p", "a", "b", "--", "--c"],
    );
    itest.env(ENDPOINT_VAR, server.endpoint());
    let (code, printed) = run(itest);
    let expected = format!(
        "test --all-features -p a b -- --c with {}\n",
        server.endpoint()
    );
    assert!(printed.ends_with(&expected), "{printed}");
    assert_eq!(code, Some(0));
}

#[test]
fn itest_fails_with_1_when_tests_fail_and_with_2_when_they_cannot_run() {
    let (folder, server) = (TempDir::new().unwrap(), Embedded::start().unwrap());
    let itest = |endpoint: &str| {
        let mut itest = xtask(folder.path(), "exit 101", &["itest"]);
        itest.env(ENDPOINT_VAR, endpoint);
        run(itest).0
    };
    assert_eq!(itest(&server.endpoint()), Some(1));
    assert_eq!(itest("not a url"), Some(2));
}

#[test]
fn itest_without_docker_and_java_uses_the_embedded_one_and_says_so() {
    let folder = TempDir::new().unwrap();
    let cargo = format!("echo \"endpoint: ${{{ENDPOINT_VAR}-none}}\"");
    let (code, printed) = run(xtask(folder.path(), &cargo, &["itest"]));
    assert!(
        printed.contains("NOTICE") && printed.contains("endpoint: none"),
        "{printed}"
    );
    assert_eq!(code, Some(0));
}

#[test]
fn itest_without_docker_and_java_fails_on_a_build_server() {
    let folder = TempDir::new().unwrap();
    let mut itest = xtask(folder.path(), "echo tested", &["itest"]);
    itest.env("CI", "true");
    let (code, printed) = run(itest);
    assert!(
        printed.contains("CI=true") && !printed.contains("tested"),
        "{printed}"
    );
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn an_interrupted_demo_removes_its_tables() {
    let server = Embedded::start().unwrap();
    let client = Dynamo::embedded(server.clone()).client();
    let tables = async || {
        client
            .list_tables()
            .send()
            .await
            .unwrap()
            .table_names()
            .len()
    };

    let mut demo = Command::new(env!("CARGO_BIN_EXE_xtask"));
    demo.args(["demo", "--orders", "200000", "--endpoint"])
        .arg(server.endpoint())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut demo = demo.spawn().unwrap();
    while tables().await < 3 {
        tokio::task::yield_now().await;
        assert!(
            demo.try_wait().unwrap().is_none(),
            "the demo ended by itself"
        );
    }
    let kill = Command::new("/bin/kill")
        .args(["-INT", &demo.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(tables().await, 0);
}

#[test]
fn an_interrupt_leaves_no_process_behind() {
    for (signal, expected) in [("-INT", 130), ("-TERM", 143)] {
        let (folder, server) = (TempDir::new().unwrap(), Embedded::start().unwrap());
        // A cargo that runs a test for long.
        let cargo = "(/bin/sleep 20; echo survived) & echo started; wait";
        let mut itest = xtask(folder.path(), cargo, &["itest"]);
        itest.env(ENDPOINT_VAR, server.endpoint());
        let mut itest = itest.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = itest.stdout.take().unwrap();

        let mut printed = Vec::new();
        while !String::from_utf8_lossy(&printed).contains("started") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            printed.extend(byte);
        }
        let id = itest.id().to_string();
        assert!(
            Command::new("/bin/kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(itest.wait().unwrap().code(), Some(expected));
        // The output ends when the last process that holds it does.
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert!(!rest.contains("survived"), "the test went on");
    }
}

/// A test that does not end when it is told to, and what became of the task that started it, when it
/// got `signals`.
fn interrupted_with_a_stubborn_test(signals: &[&str]) -> (Option<i32>, String) {
    let (folder, server) = (TempDir::new().unwrap(), Embedded::start().unwrap());
    let cargo = "trap '' TERM; echo started >&2; /bin/sleep 20; echo survived >&2";
    let mut itest = xtask(folder.path(), cargo, &["itest"]);
    itest.env(ENDPOINT_VAR, server.endpoint());
    let mut itest = itest.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = itest.stderr.take().unwrap();
    let mut printed = String::new();
    let mut wanted = "started";
    for signal in signals {
        while !printed.contains(wanted) {
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap();
            printed.push_str(&String::from_utf8_lossy(&byte));
        }
        let kill = Command::new("/bin/kill")
            .args([*signal, &itest.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        wanted = "interrupted";
    }
    // The output ends when the last process that holds it does.
    stderr.read_to_string(&mut printed).unwrap();
    (itest.wait().unwrap().code(), printed)
}

#[test]
fn what_does_not_end_is_killed_and_a_second_signal_does_it_at_once() {
    for (signals, expected) in [
        (&["-INT"][..], 130),
        (&["-INT", "-TERM"], 143),
        (&["-TERM", "-INT"], 130),
    ] {
        let (code, printed) = interrupted_with_a_stubborn_test(signals);
        assert_eq!(code, Some(expected), "{printed}");
        assert!(!printed.contains("survived"), "{printed}");
        assert!(
            printed.contains("stopping what was started: cargo test"),
            "{printed}"
        );
    }
}

#[test]
fn ci_goes_on_after_a_failure_and_names_it() {
    let folder = TempDir::new().unwrap();
    let cargo = "case $1 in fmt) exit 1;; *) echo \"ran $1\";; esac";
    let (code, printed) = run(xtask(folder.path(), cargo, &["ci", "clippy", "fmt"]));
    assert!(
        printed.contains("ran clippy") && printed.contains("\nfmt         FAILED"),
        "{printed}"
    );
    assert!(!printed.contains("ran doc"), "{printed}");
    assert_eq!(code, Some(1));
}

#[test]
fn ci_lists_its_checks_and_runs_none() {
    let folder = TempDir::new().unwrap();
    let (code, printed) = run(xtask(folder.path(), "echo ran", &["ci", "--list"]));
    assert!(
        printed.starts_with("fmt ") && printed.contains("\ntest "),
        "{printed}"
    );
    assert!(!printed.contains("ran"), "{printed}");
    assert_eq!(code, Some(0));
}

#[test]
fn bench_runs_itself_built_for_release_with_the_same_arguments() {
    if !cfg!(debug_assertions) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let args = ["bench", "--quick", "--only", "steady"];
    let (code, printed) = run(xtask(folder.path(), "echo \"$*\"", &args));
    let expected = "run --quiet --release --package xtask -- bench --quick --only steady\n";
    assert!(printed.contains(expected), "{printed}");
    assert_eq!(code, Some(0));
}

#[test]
fn a_task_nobody_knows_is_refused_with_2() {
    let folder = TempDir::new().unwrap();
    assert_eq!(run(xtask(folder.path(), "", &["nothing"])).0, Some(2));
}
