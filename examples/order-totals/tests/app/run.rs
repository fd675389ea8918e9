//! What `run` says when it cannot begin, cannot go on, or is stopped early.
#![cfg(unix)]

use aws_sdk_dynamodb::types::StreamViewType;

use crate::live::{Running, run};
use crate::support::App;

const IMAGES: StreamViewType = StreamViewType::NewAndOldImages;

/// Some orders, of one customer, at rest.
async fn app() -> App {
    let app = App::without_stream().await;
    for n in 1..=20 {
        app.put_order(&format!("o-{n}"), ("alice", n)).await;
    }
    app
}

const COUNTED: (Option<i64>, Option<i64>) = (Some(210), Some(20));

/// Runs it to its end: its exit status, and all it said.
async fn ended(app: &App, arguments: &[&str]) -> (Option<i32>, String) {
    Running::start(run(app).args(arguments)).ended().await
}

async fn live_and_stopped(app: &App) -> String {
    let mut running = Running::start(&mut run(app));
    running.says("live: reading ").await;
    let (status, text) = running.end("INT").await;
    assert_eq!(status, Some(0), "{text}");
    text
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}`: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named_before_anything_is_counted() {
    let app = app().await;
    for size in ["0", "10001"] {
        let (status, text) = ended(&app, &["--batch-size", size]).await;
        assert_eq!(status, Some(2), "{text}");
        contains(&text, &["--batch-size", "10000"]);
    }
    for option in ["--parallelization-factor", "--lease-seconds"] {
        let (status, text) = ended(&app, &[option, "0"]).await;
        assert_eq!(status, Some(2), "{text}");
        contains(&text, &[option]);
    }
    let mut unset = run(&app);
    let (status, text) = Running::start(unset.env_remove("MARKER_TABLE"))
        .ended()
        .await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &["MARKER_TABLE", "set it"]);

    let (status, text) = ended(&app, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &[&app.orders, "no stream", "NEW_AND_OLD_IMAGES"]);

    app.switch_stream(Some(StreamViewType::KeysOnly)).await;
    let (status, text) = ended(&app, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &[&app.orders, "KEYS_ONLY", "NEW_AND_OLD_IMAGES"]);
    assert_eq!(app.state("alice").await, (None, None));

    let gone = App::without_tables().await;
    let (status, text) = ended(&gone, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &[&gone.orders, "no such table"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_switched_off_and_on_again_is_refused_by_both_names() {
    let app = app().await;
    let first = app.switch_stream(Some(IMAGES)).await.unwrap();
    let text = live_and_stopped(&app).await;
    contains(&text, &[&first, "20 rows scanned: 20 counted"]);

    app.switch_stream(None).await;
    let (status, text) = ended(&app, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &["switch one on", "new state and marker tables"]);

    let second = app.switch_stream(Some(IMAGES)).await.unwrap();
    assert_ne!(first, second);
    let (status, text) = ended(&app, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &[&first, &second, "state and marker tables again"]);
    assert!(!text.contains("live: reading"), "{text}");
    assert_eq!(app.state("alice").await, COUNTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_anew_under_its_name_is_refused_by_both_streams() {
    let app = app().await;
    let first = app.switch_stream(Some(IMAGES)).await.unwrap();
    live_and_stopped(&app).await;

    let delete = app.client.delete_table().table_name(&app.orders);
    delete.send().await.unwrap();
    app.create(&app.orders).await;
    let second = app.switch_stream(Some(IMAGES)).await.unwrap();
    let (status, text) = ended(&app, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &[&first, &second, "state and marker tables again"]);
    assert_eq!(app.state("alice").await, COUNTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_switched_off_while_it_is_read_ends_live_with_its_name() {
    let app = app().await;
    let arn = app.switch_stream(Some(IMAGES)).await.unwrap();
    let mut running = Running::start(&mut run(&app));
    running.says("live: reading ").await;
    app.put_order("o-live", ("alice", 5)).await;
    app.catches_up(&running).await;
    app.switch_stream(None).await;
    let (status, text) = running.ended().await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &["error: ", &arn, "new state and marker tables"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tables_stream_is_refused_by_both_names_before_anything_is_read() {
    let mut app = app().await;
    let first = app.switch_stream(Some(IMAGES)).await.unwrap();
    let mut running = Running::start(&mut run(&app));
    running.says("live: reading ").await;
    app.put_order("o-live", ("alice", 5)).await;
    app.catches_up(&running).await;
    assert_eq!(running.end("INT").await.0, Some(0));

    app.orders = app.dynamo.table("others");
    app.create(&app.orders).await;
    let second = app.switch_stream(Some(IMAGES)).await.unwrap();
    let (status, text) = ended(&app, &[]).await;
    assert_eq!(status, Some(1), "{text}");
    contains(&text, &[&first, &second, "nothing was read", "state table"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_during_the_bootstrap_it_says_so_and_goes_on_when_run_again() {
    let app = app().await;
    for n in 21..=300 {
        app.put_order(&format!("o-{n}"), ("bob", 1)).await;
    }
    app.switch_stream(Some(IMAGES)).await;
    let mut slow = run(&app);
    slow.args(["--page-size", "1"]);
    let mut running = Running::start(&mut slow);
    running.says("\"event\":\"started\"").await;
    let (status, text) = running.end("INT").await;
    assert_eq!(status, Some(3), "{text}");
    contains(&text, &["run it again"]);

    let text = live_and_stopped(&app).await;
    contains(&text, &["\"goes_on\":true"]);
    assert_eq!(app.state("alice").await, COUNTED);
    assert_eq!(app.state("bob").await, (Some(280), Some(280)));
    let text = live_and_stopped(&app).await;
    contains(&text, &["the bootstrap was finished before"]);
}
