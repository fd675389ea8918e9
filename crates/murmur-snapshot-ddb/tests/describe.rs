//! What a scan says of its table before it reads it, and what it finds out by that.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_sdk_dynamodb::types::{StreamSpecification, StreamViewType};
use murmur_core::{Pipeline, Processor, Sum};
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::source::{Description, StreamView};
use murmur_snapshot::{Bootstrap, BootstrapError, ReadBudget, Source};
use murmur_snapshot_ddb::{ParallelScan, ParallelScanBuilder};
use murmur_state::time::ManualClock;
use murmur_state::{Causes, Clock, MemoryDeduper, MemoryStore, Timestamp};
use murmur_testkit::wire::{Action, Request, Wire};
use murmur_testkit::{Dynamo, Embedded};
use serde_json::{Value, json};
use support::*;

async fn orders(view: Option<StreamViewType>) -> (Dynamo, String) {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("orders");
    create(&dynamo.client(), &table, false).await;
    fill(&dynamo.client(), &table, 0..12).await;
    if let Some(view) = view {
        let stream = StreamSpecification::builder().stream_enabled(true);
        let update = dynamo.client().update_table().table_name(&table);
        let update = update.stream_specification(stream.stream_view_type(view).build().unwrap());
        update.send().await.unwrap();
    }
    (dynamo, table)
}

async fn described(scan: ParallelScanBuilder) -> Description {
    scan.build().unwrap().describe().await.unwrap()
}

/// What is said of a table whose DescribeTable answers with `more`.
async fn answered(more: Value) -> Description {
    let dynamo = Dynamo::embedded(Embedded::start().unwrap());
    let mut table = json!({
        "TableName": "orders", "TableStatus": "ACTIVE", "TableArn": "arn:of:orders",
        "KeySchema": [{ "AttributeName": "order", "KeyType": "HASH" }],
    });
    let fields = table.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let body = json!({ "Table": table }).to_string();
    let wire = Wire::new(move |request: &Request| match request.operation.as_str() {
        "DescribeTable" => Action::Answer {
            status: 200,
            body: body.clone(),
        },
        other => panic!("{other} was asked for"),
    });
    described(ParallelScan::builder(wire.client(&dynamo), "orders")).await
}

#[tokio::test]
async fn rows_and_provisioned_units_are_those_of_the_table() {
    let provisioned = answered(json!({
        "ItemCount": 1234,
        "ProvisionedThroughput": { "ReadCapacityUnits": 400, "WriteCapacityUnits": 100 },
    }));
    let provisioned = provisioned.await;
    assert_eq!(provisioned.rows, Some(1234));
    assert_eq!(provisioned.provisioned_read_units, Some(400.0));
    let on_demand = answered(json!({
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "ProvisionedThroughput": { "ReadCapacityUnits": 0, "WriteCapacityUnits": 0 },
    }));
    let on_demand = on_demand.await;
    assert_eq!(
        (on_demand.rows, on_demand.provisioned_read_units),
        (None, None)
    );
    assert!(
        on_demand.settings.contains("arn:of:orders"),
        "{}",
        on_demand.settings
    );
}

#[tokio::test]
async fn reading_is_consistent_unless_told_otherwise() {
    let (dynamo, table) = orders(None).await;
    let scan = || ParallelScan::builder(dynamo.client(), &table);
    assert!(described(scan()).await.consistent);
    assert!(!described(scan().eventually_consistent()).await.consistent);
}

#[tokio::test]
async fn the_settings_are_those_of_the_rows_and_the_cursors() {
    let (dynamo, table) = orders(None).await;
    let scan = || ParallelScan::builder(dynamo.client(), &table).segments(4);
    let who = |scan: ParallelScanBuilder, who: &str| {
        let scan = scan.filter("#who = :who").filter_name("#who", "customer");
        scan.filter_value(":who", text(who))
    };
    let plain = described(scan()).await.settings;
    assert!(
        plain.contains(&table) && plain.contains("4 segments"),
        "{plain}"
    );
    assert_eq!(described(scan().page_size(3)).await.settings, plain);
    let filtered = described(who(scan(), "c1")).await.settings;
    for word in ["#who = :who", "customer", "c1"] {
        assert!(filtered.contains(word), "{filtered}");
    }
    let mut all = vec![plain, filtered];
    all.push(described(who(scan(), "c2")).await.settings);
    all.push(described(scan().segments(5)).await.settings);
    for (n, one) in all.iter().enumerate() {
        assert!(all[n + 1..].iter().all(|other| other != one), "{one}");
    }
}

#[tokio::test]
async fn attributes_that_a_filter_leaves_rows_out_by_are_those_outside_the_key() {
    let (dynamo, table) = orders(None).await;
    let scan = || ParallelScan::builder(dynamo.client(), &table);
    let by_key = scan().filter("line > :n AND begins_with(#o, :o)");
    let by_key = by_key
        .filter_name("#o", "order")
        .filter_value(":n", number(0));
    let by_key = described(by_key.filter_value(":o", text("o"))).await;
    assert_eq!(by_key.leaves_out_by, [""; 0]);
    let by_more = scan().filter("line > :n AND (attribute_exists(customer) OR #c.cheap = :n)");
    let by_more = by_more
        .filter_name("#c", "cents")
        .filter_value(":n", number(0));
    assert_eq!(
        described(by_more).await.leaves_out_by,
        ["cents", "customer"]
    );
}

#[tokio::test]
async fn the_streams_view_tells_which_images_there_are() {
    for (view, new_images, old_images) in [
        (StreamViewType::NewAndOldImages, true, true),
        (StreamViewType::NewImage, true, false),
        (StreamViewType::OldImage, false, true),
        (StreamViewType::KeysOnly, false, false),
    ] {
        let (dynamo, table) = orders(Some(view)).await;
        let scan = ParallelScan::builder(dynamo.client(), &table);
        assert_eq!(described(scan).await.stream, None, "nobody to ask");
        let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
        let scan = scan.build().unwrap();
        let token = scan.capture_handoff().await.unwrap().unwrap();
        let view = StreamView::new(token.stream_arn, new_images, old_images);
        assert_eq!(scan.describe().await.unwrap().stream, Some(view));
    }
}

#[derive(serde::Deserialize)]
struct Line {
    customer: String,
    cents: i64,
}

fn totals(store: &MemoryStore<Sum>, markers: &MemoryDeduper) -> Pipeline<Line> {
    Pipeline::builder("totals")
        .key(|line: &Line| line.customer.clone())
        .value(|line| line.cents)
        .aggregate(Sum::new())
        .store(store.clone().markers(markers.clone()))
        .ledger()
        .unwrap()
}

/// The error of a bootstrap that must not have written anything, and what it asked the table for.
async fn refused(
    dynamo: &Dynamo,
    table: &str,
    change: impl FnOnce(ParallelScanBuilder) -> ParallelScanBuilder,
    budget: ReadBudget,
) -> (BootstrapError, Wire) {
    let (wire, store) = (Wire::calm(), MemoryStore::new(Sum::new()));
    let pipeline = totals(&store, &MemoryDeduper::new());
    let scan = ParallelScan::builder(wire.client(dynamo), table).streams(dynamo.streams());
    let run = Bootstrap::builder(
        Processor::new([pipeline.clone()]).unwrap(),
        change(scan).build().unwrap(),
    );
    let error = run
        .read_budget(budget)
        .build()
        .unwrap()
        .run()
        .await
        .unwrap_err();
    assert!(store.rows().is_empty());
    let place = pipeline.checkpoints().unwrap();
    let record = RunRecord::load(place, pipeline.name(), table).await;
    assert_eq!(record.unwrap(), None, "no run was begun");
    (error, wire)
}

#[tokio::test]
async fn what_a_ledger_cannot_be_filled_from_is_refused_before_the_first_page() {
    let (dynamo, table) = orders(Some(StreamViewType::NewAndOldImages)).await;
    let all = ReadBudget::Unlimited;
    let broken = refused(&dynamo, &table, |scan| scan.filter("line ="), all).await;
    assert!(
        matches!(broken.0, BootstrapError::Source { .. }),
        "{}",
        broken.0
    );
    let said = Causes(&broken.0).to_string();
    assert!(
        said.contains("`filter`") && said.contains("FilterExpression"),
        "{said}"
    );
    assert_eq!(broken.1.count("Scan"), 1, "the probe");

    let some = |scan: ParallelScanBuilder| scan.filter("attribute_exists(customer)");
    let some = refused(&dynamo, &table, some, all).await.0;
    assert!(
        matches!(some, BootstrapError::LedgerOfSome { .. }),
        "{some}"
    );
    let past = refused(
        &dynamo,
        &table,
        ParallelScanBuilder::eventually_consistent,
        all,
    )
    .await;
    assert!(
        matches!(past.0, BootstrapError::LedgerOfThePast { .. }),
        "{}",
        past.0
    );
    assert_eq!(past.1.count("Scan"), 0);

    let percent = ReadBudget::PercentOfProvisioned(50.0);
    let (on_demand, wire) = refused(&dynamo, &table, |scan| scan, percent).await;
    let said = Causes(&on_demand).to_string();
    assert!(
        said.contains("read_budget") && said.contains(&table),
        "{said}"
    );
    assert_eq!(wire.count("Scan"), 0);

    let (dynamo, table) = orders(Some(StreamViewType::KeysOnly)).await;
    let blind = refused(&dynamo, &table, |scan| scan, all).await.0;
    assert!(
        matches!(blind, BootstrapError::MissingImages { .. }),
        "{blind}"
    );
}

#[tokio::test]
async fn a_table_that_is_coming_or_going_is_not_described() {
    for status in ["CREATING", "DELETING"] {
        let dynamo = Dynamo::embedded(Embedded::start().unwrap());
        let body = json!({ "Table": { "TableName": "orders", "TableStatus": status } });
        let wire = Wire::new(move |_: &Request| Action::Answer {
            status: 200,
            body: body.to_string(),
        });
        let scan = ParallelScan::builder(wire.client(&dynamo), "orders").build();
        let error = scan.unwrap().describe().await.unwrap_err();
        assert!(
            error.to_string().contains("table `orders`: it is being"),
            "{error}"
        );
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_page_looks_at_no_more_than_the_lesser_of_page_size_and_limit() {
    let (dynamo, table) = orders(None).await;
    let wire = Wire::calm();
    let scan = ParallelScan::builder(wire.client(&dynamo), &table).page_size(5);
    let scan = scan.build().unwrap();
    for (limit, wanted) in [
        (None, 5),
        (NonZeroU32::new(3), 3),
        (NonZeroU32::new(7), 5),
        (Some(NonZeroU32::MAX), 5),
    ] {
        let page = scan.page(0, None, limit).await.unwrap();
        assert_eq!(page.examined, wanted);
    }
    let limits = wire
        .requests()
        .into_iter()
        .filter(|request| request.operation == "Scan");
    let limits: Vec<_> = limits
        .map(|request| request.body["Limit"].clone())
        .collect();
    assert_eq!(limits, [5, 3, 5, 5]);
}

#[tokio::test]
async fn a_budget_is_kept_to_by_a_real_scan() {
    let (dynamo, table) = orders(None).await;
    let store = MemoryStore::new(Sum::new());
    let scan = ParallelScan::builder(dynamo.client(), &table)
        .segments(3)
        .build()
        .unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
    let processor = Processor::builder([totals(&store, &MemoryDeduper::new())])
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    let run = Bootstrap::builder(processor, scan)
        .read_budget(ReadBudget::UnitsPerSecond(0.5))
        .build()
        .unwrap();
    let report = run.run().await.unwrap();
    let spent = report.counts.read_units;
    assert!(spent >= 1.5, "{spent}");
    // All but the last page is paid for.
    let waited = clock.monotonic().as_secs_f64();
    assert!(
        waited >= (spent - 1.0) / 0.5 - 0.2,
        "{waited} s for {spent} units"
    );
}
