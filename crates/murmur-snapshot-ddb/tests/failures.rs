//! What goes wrong says what to do, and names table or option.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::time::Duration;

use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::{Client, Config};
use murmur_snapshot::{Source, SourceError};
use murmur_snapshot_ddb::{ParallelScan, ParallelScanBuilder};
use murmur_state::Causes;
use murmur_testkit::wire::{Action, Request, Wire};
use murmur_testkit::{Dynamo, Embedded};
use serde_json::json;
use support::*;

const TABLE: &str = "orders-of-tests";

/// A DescribeTable answer of a table in `status`.
fn described(status: &str) -> Action {
    let body = json!({ "Table": {
        "TableName": TABLE, "TableStatus": status,
        "TableArn": format!("arn:aws:dynamodb:us-east-1:1:table/{TABLE}"),
        "KeySchema": [{ "AttributeName": "order", "KeyType": "HASH" }],
    }});
    Action::Answer {
        status: 200,
        body: body.to_string(),
    }
}

/// The error of the first page if `operation` is answered by `action`.
async fn first_page(operation: &'static str, action: Action) -> SourceError {
    page_of(operation, action, |scan| scan).await
}

async fn page_of(
    operation: &'static str,
    action: Action,
    change: impl FnOnce(ParallelScanBuilder) -> ParallelScanBuilder,
) -> SourceError {
    // Nothing reaches the server, and under paused time no other would be waited for.
    let dynamo = Dynamo::embedded(Embedded::start().unwrap());
    let wire = Wire::new(move |request: &Request| match request.operation.as_str() {
        asked if asked == operation => action.clone(),
        "DescribeTable" => described("ACTIVE"),
        other => panic!("{other} was asked for"),
    });
    let scan = ParallelScan::builder(wire.client(&dynamo), TABLE);
    let error = change(scan)
        .build()
        .unwrap()
        .page(0, None, None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&format!("table `{TABLE}`")),
        "{error}"
    );
    error
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let dynamo = Dynamo::connect().await;
    let scan = ParallelScan::builder(dynamo.client(), "no-such-table")
        .build()
        .unwrap();
    let error = scan.page(0, None, None).await.unwrap_err();
    assert!(error.to_string().contains("`no-such-table`"), "{error}");
    assert!(error.to_string().contains("region"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_table_that_is_coming_or_going_is_said_to_be() {
    for (status, wanted) in [
        ("CREATING", "being created"),
        ("DELETING", "being deleted"),
        ("INACCESSIBLE_ENCRYPTION_CREDENTIALS", "KMS key"),
        ("ARCHIVED", "ARCHIVED"),
    ] {
        let error = first_page("DescribeTable", described(status)).await;
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn denied_access_names_the_action_to_allow() {
    let denied = || Action::error(400, "AccessDeniedException", "not authorized");
    let error = first_page("Scan", denied()).await;
    assert!(error.to_string().contains("dynamodb:Scan"), "{error}");
    let error = first_page("DescribeTable", denied()).await;
    assert!(
        error.to_string().contains("dynamodb:DescribeTable"),
        "{error}"
    );
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn refused_credentials_say_what_to_renew() {
    let unknown = Action::error(400, "UnrecognizedClientException", "who is that");
    let error = first_page("Scan", unknown).await;
    assert!(error.to_string().contains("credentials"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_client_without_credentials_or_region_says_so() {
    let config = || {
        Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(Wire::calm())
    };
    let none = config().region(Region::from_static("eu-west-1")).build();
    for config in [none, config().build()] {
        let scan = ParallelScan::builder(Client::from_conf(config), TABLE)
            .build()
            .unwrap();
        let error = scan.page(0, None, None).await.unwrap_err();
        assert!(
            error.to_string().contains("region, credentials"),
            "{}",
            Causes(&error)
        );
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_filter_that_the_server_refuses_is_named() {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("orders");
    create(&dynamo.client(), &table, false).await;
    let scan = ParallelScan::builder(dynamo.client(), &table).filter("customer =");
    let error = scan.build().unwrap().page(0, None, None).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("`filter`") && said.contains(&table) && said.contains("FilterExpression"),
        "{said}"
    );
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn throttling_and_failures_of_the_service_can_be_tried_again() {
    for (status, code, throttled) in [
        (400, "ProvisionedThroughputExceededException", true),
        (400, "ThrottlingException", true),
        (500, "InternalServerError", false),
        (503, "ServiceUnavailable", false),
        (400, "ExpiredTokenException", false),
    ] {
        let error = first_page("Scan", Action::error(status, code, "later")).await;
        assert!(error.is_retryable(), "{error}");
        assert_eq!(
            matches!(error, SourceError::Throttled { .. }),
            throttled,
            "{error}"
        );
    }
    assert!(first_page("Scan", Action::DropBefore).await.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_given_up_after_the_attempt_timeout() {
    for (timeout, within) in [(None, 10), (Some(2), 2)] {
        let begun = tokio::time::Instant::now();
        let error = page_of("Scan", Action::Hang, |scan| match timeout {
            Some(secs) => scan.attempt_timeout(Duration::from_secs(secs)),
            None => scan,
        })
        .await;
        assert!(error.is_retryable(), "{error}");
        // The SDK's own retries are on: three attempts, and pauses between them.
        let (least, most) = (3 * within, 3 * within + 5);
        let took = begun.elapsed().as_secs();
        assert!((least..=most).contains(&took), "{took} s");
    }
}

#[tokio::test]
async fn options_are_checked_and_named() {
    let dynamo = Dynamo::connect().await;
    let scan = || ParallelScan::builder(dynamo.client(), TABLE);
    let refused = [
        ("table", ParallelScan::builder(dynamo.client(), "")),
        ("segments", scan().segments(0)),
        ("segments", scan().segments(1_000_001)),
        ("page_size", scan().page_size(0)),
        ("page_size", scan().page_size(u32::MAX)),
        ("attempt_timeout", scan().attempt_timeout(Duration::ZERO)),
        ("stream_arn", scan().stream_arn("arn")),
        ("filter_name", scan().filter_name("#a", "a")),
        ("filter_value", scan().filter_value(":a", text("a"))),
    ];
    for (option, scan) in refused {
        assert_eq!(scan.build().unwrap_err().option, option);
    }
    assert_eq!(
        scan().segments(1_000_000).build().unwrap().segments(),
        1_000_000
    );
    assert_eq!(scan().build().unwrap().name(), TABLE);
}
