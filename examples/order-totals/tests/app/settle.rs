//! The binary `settle` as a process.

use std::process::{Output, Stdio};
use std::time::Duration;

use murmur_testkit::lambda::RuntimeApi;
use serde_json::json;

use crate::support::{App, change, image, stderr};

async fn settle(app: &App, arguments: &[&str]) -> Output {
    let mut command = app.command(env!("CARGO_BIN_EXE_settle"));
    command.args(arguments).output().await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_lets_orders_settle_and_they_do_by_their_changes() {
    let app = App::start().await;
    for (id, cents) in [("o-1", 100), ("o-2", 20), ("o-3", 3)] {
        app.put_order(id, ("alice", cents)).await;
    }
    let table = ["--table", app.orders.as_str()];
    let early = settle(&app, &table).await;
    assert_eq!(early.status.code(), Some(1), "{}", stderr(&early));
    assert!(stderr(&early).contains("bootstrap"), "{}", stderr(&early));

    let mut bootstrap = app.command(env!("CARGO_BIN_EXE_bootstrap"));
    let output = bootstrap.args(table).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again = settle(&app, &table).await;
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(
        stderr(&again).contains("as they did before"),
        "{}",
        stderr(&again)
    );

    let api = RuntimeApi::start().await;
    let mut lambda = app.command(env!("CARGO_BIN_EXE_lambda"));
    let lambda = lambda
        .envs(api.env())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = lambda.kill_on_drop(true).spawn().unwrap();
    let image = |cents| Some(image("o-2", ("alice", cents)));
    let mut records = [
        change(1, "o-2", image(20), image(25)),
        change(2, "o-2", image(25), None),
    ];
    let stream = app.stream().await;
    for record in &mut records {
        record["eventSourceARN"] = json!(stream);
    }
    let answer = api
        .invoke(json!({ "Records": records }), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(answer, json!({ "batchItemFailures": [] }));
    process.kill().await.unwrap();

    let status = settle(&app, &[]).await;
    assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
    let wanted = "order_totals: orders settle; 1 of 3 orders have left the ledger\n\
                  order_counts: orders settle; 1 of 3 orders have left the ledger\n";
    assert_eq!(stdout(&status), wanted);
    assert_eq!(app.state("alice").await, (Some(103), Some(2)));

    // What compares totals with the ledger alone says what does it instead.
    let audit = app
        .command(env!("CARGO_BIN_EXE_audit"))
        .output()
        .await
        .unwrap();
    assert_eq!(audit.status.code(), Some(1), "{}", stderr(&audit));
    assert!(stderr(&audit).contains("reconcile"), "{}", stderr(&audit));
}
