//! The Lambda binary as a process, at Lambda's Runtime API.

use std::time::Duration;

use murmur_state_ddb::{create_dedup_table, create_int64_table};
use murmur_testkit::lambda::RuntimeApi;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::support::{App, change, image, number, stderr};

const LAMBDA: &str = env!("CARGO_BIN_EXE_lambda");
const TIMEOUT: Duration = Duration::from_secs(60);

fn start(app: &App, api: &RuntimeApi) -> Child {
    app.command(LAMBDA).envs(api.env()).spawn().unwrap()
}

async fn invoke(api: &RuntimeApi, records: &[Value]) -> Value {
    api.invoke(json!({ "Records": records }), TIMEOUT)
        .await
        .unwrap()
}

fn reports(numbers: &[u32]) -> Value {
    let failure = |n: &u32| json!({ "itemIdentifier": number(*n) });
    json!({ "batchItemFailures": numbers.iter().map(failure).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread")]
async fn events_become_totals_and_redelivered_ones_change_nothing() {
    let (app, api) = (App::start().await, RuntimeApi::start().await);
    let _process = start(&app, &api);
    let first = [
        change(1, "o-1", None, Some(image("o-1", ("alice", 1250)))),
        change(2, "o-2", None, Some(image("o-2", ("bob", 300)))),
        change(3, "o-3", None, Some(image("o-3", ("alice", 50)))),
    ];
    for _ in 0..2 {
        assert_eq!(invoke(&api, &first).await, reports(&[]));
        assert_eq!(app.state("alice").await, (Some(1300), Some(2)));
        assert_eq!(app.state("bob").await, (Some(300), Some(1)));
    }
    let second = [
        change(
            4,
            "o-1",
            Some(image("o-1", ("alice", 1250))),
            Some(image("o-1", ("bob", 1000))),
        ),
        change(5, "o-3", Some(image("o-3", ("alice", 50))), None),
    ];
    assert_eq!(invoke(&api, &second).await, reports(&[]));
    assert_eq!(app.state("alice").await, (Some(0), Some(0)));
    assert_eq!(app.state("bob").await, (Some(1300), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decoded_is_reported_and_its_neighbours_count() {
    let (app, api) = (App::start().await, RuntimeApi::start().await);
    let _process = start(&app, &api);
    let mut bad = image("o-2", ("bob", 300));
    bad["amount_cents"] = json!({ "S": "a lot" });
    // Nor can this be read at all.
    let mut unreadable = change(4, "o-4", None, Some(image("o-4", ("bob", 300))));
    unreadable["eventID"] = Value::Null;
    let batch = [
        change(1, "o-1", None, Some(image("o-1", ("alice", 1250)))),
        change(2, "o-2", None, Some(bad)),
        change(3, "o-3", None, Some(image("o-3", ("carol", 7)))),
        unreadable,
    ];
    assert_eq!(invoke(&api, &batch).await, reports(&[2, 4]));
    assert_eq!(app.state("alice").await, (Some(1250), Some(1)));
    assert_eq!(app.state("bob").await, (None, None));
    assert_eq!(app.state("carol").await, (Some(7), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_table_is_missing_its_events_are_reported_and_count_later() {
    let (app, api) = (App::without_tables().await, RuntimeApi::start().await);
    create_int64_table(&app.client, &app.tables.totals)
        .await
        .unwrap();
    create_dedup_table(&app.client, &app.tables.markers)
        .await
        .unwrap();
    let _process = start(&app, &api);
    let batch = [change(1, "o-1", None, Some(image("o-1", ("alice", 1250))))];
    assert_eq!(invoke(&api, &batch).await, reports(&[1]));

    create_int64_table(&app.client, &app.tables.counts)
        .await
        .unwrap();
    assert_eq!(invoke(&api, &batch).await, reports(&[]));
    assert_eq!(app.state("alice").await, (Some(1250), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_missing_is_named_at_the_start() {
    let (app, api) = (App::without_tables().await, RuntimeApi::start().await);
    for variable in ["TOTALS_TABLE", "COUNTS_TABLE", "MARKER_TABLE"] {
        let mut process = app.command(LAMBDA);
        let output = process.envs(api.env()).env(variable, "").output().await;
        let output = output.unwrap();
        assert!(!output.status.success());
        assert!(stderr(&output).contains(variable), "{}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_of_lambda_it_says_so() {
    let app = App::without_tables().await;
    let output = app.command(LAMBDA).output().await.unwrap();
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("no Lambda environment"),
        "{}",
        stderr(&output)
    );
}
