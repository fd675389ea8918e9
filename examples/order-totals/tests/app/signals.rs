//! Ctrl-C and SIGTERM in every phase of every command, with a request that never gets its answer.
#![cfg(unix)]

use std::process::ExitStatus;
use std::time::Duration;

use murmur_testkit::gate::{Gate, Hold};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{App, stderr};

const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");
const RUN: &str = env!("CARGO_BIN_EXE_run");
const RECONCILE: &str = env!("CARGO_BIN_EXE_reconcile");
const AUDIT: &str = env!("CARGO_BIN_EXE_audit");

/// Two seconds, and what a machine that is busy with other tests may add. The held request alone
/// would take ten.
const LIMIT: Duration = Duration::from_secs(6);

/// An application with some orders.
async fn app() -> App {
    let app = App::start().await;
    for n in 1..=20 {
        app.put_order(&format!("o-{n}"), ("alice", n)).await;
    }
    app
}

fn started(app: &App, gate: &Gate, program: &str) -> Child {
    let mut command = app.command(program);
    command.envs(gate.env());
    if program != AUDIT {
        command.args(["--table", &app.orders]);
    }
    command.spawn().unwrap()
}

async fn send(process: &Child, signal: &str) {
    let id = process.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-s", signal, &id]).status();
    assert!(sent.await.unwrap().success());
}

/// What became of a process that got `signals`, each once the one before was told of.
async fn ended_by(mut process: Child, signals: &[&str]) -> (ExitStatus, String) {
    let mut told = BufReader::new(process.stderr.take().unwrap());
    let mut text = String::new();
    let work = async {
        for signal in signals {
            send(&process, signal).await;
            while !text.contains("stopping") {
                assert!(told.read_line(&mut text).await.unwrap() > 0, "{text}");
            }
        }
        told.read_to_string(&mut text).await.unwrap();
        process.wait().await.unwrap()
    };
    let status = tokio::time::timeout(LIMIT, work).await;
    let Ok(status) = status else {
        panic!("it goes on after {LIMIT:?}: {text}");
    };
    assert!(!text.contains('\r'), "{text:?}");
    (status, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_obeyed_while_any_request_is_without_an_answer() {
    let app = app().await;
    let gate = Gate::to(&app.dynamo).await;
    for (program, operation, nth, signal) in [
        // It looks at the table; it binds the state; it reads, writes and saves.
        (BOOTSTRAP, "DescribeTable", 0, "INT"),
        (BOOTSTRAP, "UpdateItem", 0, "TERM"),
        (BOOTSTRAP, "Scan", 0, "TERM"),
        (BOOTSTRAP, "TransactWriteItems", 0, "INT"),
        (RUN, "DescribeTable", 0, "TERM"),
        (RUN, "DescribeStream", 0, "INT"),
        (RUN, "TransactWriteItems", 0, "TERM"),
        (AUDIT, "Scan", 0, "INT"),
        (RECONCILE, "DescribeTable", 0, "TERM"),
        (RECONCILE, "Scan", 0, "INT"),
    ] {
        if (program, operation) == (AUDIT, "Scan") {
            // What is audited has been counted.
            let mut bootstrap = app.command(BOOTSTRAP);
            bootstrap.args(["--table", &app.orders]);
            let output = bootstrap.output().await.unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
        }
        let process = started(&app, &gate, program);
        let held = tokio::time::timeout(10 * LIMIT, gate.hold(Some(operation), nth, Hold::Before));
        held.await
            .unwrap_or_else(|_| panic!("{program} sends no {operation}"));
        let (status, text) = ended_by(process, &[signal]).await;
        assert_eq!(status.code(), Some(3), "{program} {operation}: {text}");
        assert!(text.contains("stopping"), "{text}");
        assert!(text.contains("run it again"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_is_stopped_while_it_waits_for_the_stream() {
    let app = app().await;
    let gate = Gate::to(&app.dynamo).await;
    let process = started(&app, &gate, RUN);
    gate.hold(Some("GetRecords"), 2, Hold::Before).await;
    let (status, text) = ended_by(process, &["TERM"]).await;
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("stopping: waiting for"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let app = app().await;
    let gate = Gate::to(&app.dynamo).await;
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let process = started(&app, &gate, BOOTSTRAP);
        gate.hold(Some("TransactWriteItems"), 0, Hold::Before).await;
        let (status, text) = ended_by(process, &["TERM", signal]).await;
        assert_eq!(status.code(), Some(code), "{text}");
        assert!(text.contains("pages under way"), "{text}");
        assert!(!text.contains("run it again"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_obeyed_while_nothing_answers() {
    let app = app().await;
    for (program, signal) in [(BOOTSTRAP, "INT"), (RECONCILE, "TERM"), (AUDIT, "INT")] {
        // A port that nobody listens at: every attempt is refused, and tried again.
        let mut command = app.command(program);
        command
            .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            .env("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9")
            .env("RUST_LOG", "debug");
        if program != AUDIT {
            command.args(["--table", &app.orders]);
        }
        let mut process = command.spawn().unwrap();
        // It has begun to listen when it has begun to ask.
        let mut told = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("127.0.0.1:9") {
            assert!(told.read_line(&mut line).await.unwrap() > 0, "{line}");
        }
        send(&process, signal).await;
        let ended = async {
            told.read_to_string(&mut line).await.unwrap();
            process.wait().await.unwrap()
        };
        let status = tokio::time::timeout(LIMIT, ended)
            .await
            .expect("it goes on");
        assert!([Some(3), Some(1)].contains(&status.code()), "{line}");
    }
}
