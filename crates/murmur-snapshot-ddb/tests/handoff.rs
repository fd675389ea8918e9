//! Where live begins.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::sync::Arc;

use murmur_snapshot::Source;
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::Timestamp;
use murmur_state::time::ManualClock;
use murmur_testkit::Dynamo;
use support::*;

async fn orders(stream_on: bool) -> (Dynamo, String) {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("orders");
    create(&dynamo.client(), &table, stream_on).await;
    fill(&dynamo.client(), &table, 0..3).await;
    (dynamo, table)
}

async fn latest_stream(dynamo: &Dynamo, table: &str) -> Option<String> {
    let answer = dynamo
        .client()
        .describe_table()
        .table_name(table)
        .send()
        .await
        .unwrap();
    answer.table.unwrap().latest_stream_arn
}

#[tokio::test]
async fn the_token_has_the_latest_stream_and_its_shards() {
    let (dynamo, table) = orders(true).await;
    let now = Timestamp::from_secs(1_700_000_000);
    let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
    let scan = scan.clock(Arc::new(ManualClock::new(now))).build().unwrap();
    let token = scan.capture_handoff().await.unwrap().unwrap();
    assert_eq!(
        Some(&token.stream_arn),
        latest_stream(&dynamo, &table).await.as_ref()
    );
    assert_eq!(token.captured_at, now);
    // The embedded server shows an ending on its open shard; without a child it is open.
    assert!(token.closed.is_empty());
}

#[tokio::test]
async fn without_a_streams_client_there_is_no_token() {
    let (dynamo, table) = orders(true).await;
    let scan = ParallelScan::builder(dynamo.client(), &table)
        .build()
        .unwrap();
    assert_eq!(scan.capture_handoff().await.unwrap(), None);
}

#[tokio::test]
async fn a_table_without_a_stream_is_an_error_until_it_has_one() {
    let (dynamo, table) = orders(false).await;
    let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
    let scan = scan.build().unwrap();
    scan.page(0, None, None).await.unwrap();
    let error = scan.capture_handoff().await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains(&table) && said.contains("NEW_AND_OLD_IMAGES"),
        "{said}"
    );
    assert!(!error.is_retryable());

    let update = dynamo.client().update_table().table_name(&table);
    update
        .stream_specification(stream(true))
        .send()
        .await
        .unwrap();
    assert!(
        scan.capture_handoff().await.unwrap().is_some(),
        "switched on meanwhile"
    );
}

#[tokio::test]
async fn a_stream_can_be_named_if_it_is_the_tables_own() {
    let (dynamo, table) = orders(true).await;
    let other = dynamo.table("other");
    create(&dynamo.client(), &other, true).await;
    let scan = |arn: String| {
        let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
        scan.stream_arn(arn).build().unwrap()
    };
    let own = latest_stream(&dynamo, &table).await.unwrap();
    let token = scan(own.clone()).capture_handoff().await.unwrap().unwrap();
    assert_eq!(token.stream_arn, own);

    let others = latest_stream(&dynamo, &other).await.unwrap();
    for arn in [others, "nonsense".to_owned()] {
        let error = scan(arn.clone()).capture_handoff().await.unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("`stream_arn`") && said.contains(&arn) && said.contains(&table),
            "{said}"
        );
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_stream_that_is_off_or_gone_is_an_error() {
    let (dynamo, table) = orders(true).await;
    let arn = latest_stream(&dynamo, &table).await.unwrap();
    let update = dynamo.client().update_table().table_name(&table);
    update
        .stream_specification(stream(false))
        .send()
        .await
        .unwrap();
    let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
    let error = scan
        .stream_arn(arn)
        .build()
        .unwrap()
        .capture_handoff()
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&table), "{error}");
    assert!(!error.is_retryable());
}
