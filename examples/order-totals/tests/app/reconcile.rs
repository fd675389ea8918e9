//! The binaries `reconcile` and `audit` as processes.

use std::process::Output;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::support::{App, image, stderr};

const RECONCILE: &str = env!("CARGO_BIN_EXE_reconcile");
const AUDIT: &str = env!("CARGO_BIN_EXE_audit");

fn reconcile(app: &App) -> Command {
    let mut command = app.command(RECONCILE);
    command.args(["--table", &app.orders]);
    command
}

async fn run(app: &App, arguments: &[&str]) -> Output {
    reconcile(app).args(arguments).output().await.unwrap()
}

/// An application that has counted three orders.
async fn counted() -> App {
    let app = App::start().await;
    for (id, customer, cents) in [
        ("o-1", "alice", 100),
        ("o-2", "alice", 20),
        ("o-3", "bob", 3),
    ] {
        app.put_order(id, (customer, cents)).await;
    }
    let mut bootstrap = app.command(env!("CARGO_BIN_EXE_bootstrap"));
    let output = bootstrap.args(["--table", &app.orders]).output();
    assert_eq!(output.await.unwrap().status.code(), Some(0));
    app
}

/// The lines on standard output, without their days.
fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = |line: &str| {
        let (key, difference) = line.split_once("): ").expect("a key and a difference");
        let (key, _day) = key.rsplit_once(", ").expect("an entity and a day");
        format!("{key}: {difference}")
    };
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_listed_and_told_by_the_exit_status() {
    let app = counted().await;
    let output = run(&app, &["--lag", "0"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(stderr(&output).contains("3 rows"), "{}", stderr(&output));

    // Nobody is live, so this is missed.
    app.put_order("o-2", ("alice", 25)).await;
    app.put_order("o-4", ("carol", 7)).await;
    let mut bad = image("o-5", ("alice", 0));
    bad["amount_cents"] = json!({ "S": "a lot" });
    app.put(serde_json::from_value(bad).unwrap()).await;
    let output = run(&app, &["--lag", "0", "--segments", "2"]).await;
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let expected = [
        "order_totals (\"alice\": off by -5",
        "order_totals (\"carol\": off by -7",
        "order_counts (\"carol\": off by -1",
    ];
    assert_eq!(lines(&output), expected, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("rejected: ") && said.contains("o-5"),
        "{said}"
    );

    let output = run(&app, &["--lag", "0", "--max-listed", "1"]).await;
    assert_eq!(lines(&output).len(), 2, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("1 more keys differ"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_mended_and_then_nothing_does() {
    let app = counted().await;
    // Nobody is live, so this is missed.
    app.put_order("o-1", ("bob", 100)).await;
    app.put_order("o-4", ("carol", 7)).await;
    let output = run(&app, &["--lag", "0", "--repair"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = [
        "order_totals (\"alice\": off by 100",
        "order_totals (\"bob\": off by -100",
        "order_totals (\"carol\": off by -7",
        "order_counts (\"alice\": off by 1",
        "order_counts (\"bob\": off by -1",
        "order_counts (\"carol\": off by -1",
    ];
    assert_eq!(lines(&output), expected, "{}", stderr(&output));
    assert_eq!(app.state("alice").await, (Some(20), Some(1)));
    assert_eq!(app.state("bob").await, (Some(103), Some(2)));
    assert_eq!(app.state("carol").await, (Some(7), Some(1)));
    let again = run(&app, &["--lag", "0"]).await;
    let audit = app.command(AUDIT).output().await.unwrap();
    for output in [again, audit] {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_it_waits_it_says_so() {
    let app = counted().await;
    app.put_order("o-4", ("carol", 7)).await;
    for signal in ["INT", "TERM"] {
        let mut process = reconcile(&app).args(["--lag", "3600"]).spawn().unwrap();
        let mut told = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).await.unwrap();
        while !line.contains("\"step\":\"settle\"") {
            assert!(told.read_line(&mut line).await.unwrap() > 0, "{line}");
        }
        let id = process.id().unwrap().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .await;
        assert!(sent.unwrap().success());
        told.read_to_string(&mut line).await.unwrap();
        let status = process.wait().await.unwrap();
        assert_eq!(status.code(), Some(3), "{line}");
        assert!(line.contains("run it again"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_table_is_refused_and_takes_nothing_out() {
    let app = counted().await;
    let other = app.dynamo.table("stage");
    app.create(&other).await;
    let mut command = app.command(RECONCILE);
    command.args(["--table", &other, "--lag", "0", "--repair"]);
    let output = command.output().await.unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in [&*other, &*app.orders, "nothing was read or changed"] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(app.state("alice").await, (Some(120), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_unusable_is_named() {
    let app = App::without_tables().await;
    let output = app.command(RECONCILE).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--table"), "{}", stderr(&output));
    let output = run(&app, &["--lag", "soon"]).await;
    assert_eq!(output.status.code(), Some(2));

    let output = run(&app, &[]).await;
    assert_eq!(output.status.code(), Some(1), "no table is there");
    assert!(stderr(&output).contains("table"), "{}", stderr(&output));

    let mut unset = app.command(AUDIT);
    let output = unset.env_remove("COUNTS_TABLE").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("COUNTS_TABLE"),
        "{}",
        stderr(&output)
    );
}
