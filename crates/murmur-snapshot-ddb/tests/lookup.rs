//! Looking items up, and reconciling with a table.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::time::Duration;

use murmur_core::{Pipeline, Processor, Sum, item_id};
use murmur_snapshot::lookup::LookedUp;
use murmur_snapshot::{Bootstrap, Lookup, Reconcile, SourceError, conformance};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::{ItemId, MemoryDeduper, MemoryStore};
use murmur_testkit::wire::{Action, Request, Wire};
use murmur_testkit::{Dynamo, Embedded};
use serde_json::json;
use support::*;

async fn orders(lines: u64) -> (Dynamo, String) {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("orders");
    create(&dynamo.client(), &table, false).await;
    fill(&dynamo.client(), &table, 0..lines).await;
    (dynamo, table)
}

fn scan(dynamo: &Dynamo, table: &str) -> ParallelScan {
    let scan = ParallelScan::builder(dynamo.client(), table);
    scan.segments(2).page_size(3).build().unwrap()
}

async fn remove(dynamo: &Dynamo, table: &str, order: &str, n: u64) {
    let client = dynamo.client();
    let remove = client.delete_item().table_name(table);
    let remove = remove.key("order", text(order)).key("line", number(n));
    remove.send().await.unwrap();
}

#[tokio::test]
async fn what_a_page_has_is_looked_up_as_it_is_there() {
    let (dynamo, table) = orders(7).await;
    conformance::lookup(&scan(&dynamo, &table), &key("o9", 0)).await;
}

fn key(order: &str, n: u64) -> ItemId {
    let pairs = [
        ("order".to_owned(), text(order)),
        ("line".to_owned(), number(n)),
    ];
    let attributes: std::collections::HashMap<_, _> = pairs.into();
    item_id(&attributes.into())
}

#[tokio::test]
async fn what_is_gone_is_gone_at_once() {
    let (dynamo, table) = orders(3).await;
    let scan = scan(&dynamo, &table);
    let item = key("o0", 1);
    assert!(matches!(
        scan.look_up(&item).await.unwrap().found,
        LookedUp::Row(_)
    ));
    remove(&dynamo, &table, "o0", 1).await;
    assert_eq!(scan.look_up(&item).await.unwrap().found, LookedUp::Gone);
}

#[tokio::test]
async fn it_reads_consistently_whatever_the_scan_does() {
    let (dynamo, table) = orders(1).await;
    let wire = Wire::calm();
    let scan = ParallelScan::builder(wire.client(&dynamo), &table).eventually_consistent();
    let scan = scan.build().unwrap();
    scan.look_up(&key("o0", 0)).await.unwrap();
    let requests = wire.requests();
    let get = requests
        .iter()
        .find(|request| request.operation == "GetItem")
        .unwrap();
    assert_eq!(get.body["ConsistentRead"], json!(true));
}

#[tokio::test]
async fn items_of_another_table_are_refused_before_anything_is_sent() {
    let (dynamo, table) = orders(1).await;
    let wire = Wire::calm();
    let scan = ParallelScan::builder(wire.client(&dynamo), &table)
        .build()
        .unwrap();
    let half: std::collections::HashMap<_, _> = [("order".to_owned(), text("o0"))].into();
    let more = [
        ("line", number(0)),
        ("more", number(0)),
        ("order", text("o0")),
    ];
    let more: std::collections::HashMap<_, _> =
        more.map(|(name, value)| (name.to_owned(), value)).into();
    for item in [
        item_id(&half.into()),
        item_id(&more.into()),
        ItemId::from_parts(["line 4"]),
    ] {
        let error = scan.look_up(&item).await.unwrap_err();
        assert!(matches!(&error, SourceError::Setup { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(&table) && said.contains(&item.to_string()),
            "{said}"
        );
    }
    assert_eq!(wire.count("GetItem"), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_say_what_to_do() {
    let dynamo = Dynamo::embedded(Embedded::start().unwrap());
    let failing = |action: Action| {
        let wire = Wire::new(move |request: &Request| match request.operation.as_str() {
            "DescribeTable" => Action::Answer {
                status: 200,
                body: json!({ "Table": {
                    "TableName": "orders", "TableStatus": "ACTIVE", "TableArn": "arn",
                    "KeySchema": [
                        { "AttributeName": "order", "KeyType": "HASH" },
                        { "AttributeName": "line", "KeyType": "RANGE" },
                    ],
                }})
                .to_string(),
            },
            _ => action.clone(),
        });
        ParallelScan::builder(wire.client(&dynamo), "orders")
            .build()
            .unwrap()
    };
    let error = async |action: Action| failing(action).look_up(&key("o0", 0)).await.unwrap_err();

    let denied = error(Action::error(
        400,
        "AccessDeniedException",
        "not authorized",
    ))
    .await;
    assert!(denied.to_string().contains("dynamodb:GetItem"), "{denied}");
    assert!(!denied.is_retryable());
    let throttled = error(Action::error(400, "ThrottlingException", "later")).await;
    assert!(
        matches!(throttled, SourceError::Throttled { .. }),
        "{throttled}"
    );
    for action in [
        Action::error(500, "InternalServerError", "later"),
        Action::DropBefore,
        Action::Hang,
    ] {
        let unavailable = error(action).await;
        assert!(
            matches!(unavailable, SourceError::Unavailable { .. }),
            "{unavailable}"
        );
    }
    let missing = error(Action::error(400, "ResourceNotFoundException", "no")).await;
    assert!(missing.to_string().contains("no such table"), "{missing}");
}

#[derive(serde::Deserialize)]
struct Line {
    customer: String,
    cents: i64,
}

#[tokio::test]
async fn what_was_missed_is_mended_by_the_table() {
    let (dynamo, table) = orders(20).await;
    let (store, markers) = (MemoryStore::new(Sum::new()), MemoryDeduper::new());
    let pipeline = || {
        Pipeline::builder("totals")
            .key(|line: &Line| line.customer.clone())
            .value(|line| line.cents)
            .aggregate(Sum::new())
            .store(store.clone().markers(markers.clone()))
            .ledger()
            .unwrap()
    };
    Bootstrap::builder(Processor::new([pipeline()]).unwrap(), scan(&dynamo, &table))
        .build()
        .unwrap()
        .run()
        .await
        .unwrap();
    // Nobody is live: inserted and gone unseen.
    fill(&dynamo.client(), &table, 20..25).await;
    remove(&dynamo, &table, "o0", 1).await;
    let reconcile = || {
        Reconcile::builder(Processor::new([pipeline()]).unwrap(), scan(&dynamo, &table))
            .lag(Duration::ZERO)
    };
    let told = reconcile().build().unwrap().run().await.unwrap();
    assert_eq!((told.rows, told.pipelines[0].left()), (24, 6));
    let mended = reconcile().repair().build().unwrap().run().await.unwrap();
    assert!(mended.is_clean(), "{mended:?}");
    let mut totals = std::collections::BTreeMap::new();
    for (n, (customer, cents)) in (0..25).map(line).enumerate() {
        *totals.entry(customer).or_default() += if n == 1 { 0 } else { cents };
    }
    let rows = store.rows().into_iter();
    let counted = rows.map(|row| (row.key.entity().to_owned(), row.value));
    assert_eq!(
        counted.collect::<std::collections::BTreeMap<_, _>>(),
        totals
    );
    assert_eq!(
        reconcile().build().unwrap().run().await.unwrap().pipelines[0].left(),
        0
    );
}

#[tokio::test]
async fn a_filtered_scan_is_refused() {
    let (dynamo, table) = orders(1).await;
    let wire = Wire::calm();
    let filtered = ParallelScan::builder(wire.client(&dynamo), &table)
        .filter("cents > :least")
        .filter_value(":least", number(5))
        .build()
        .unwrap();
    let error = filtered.holds_every_item().unwrap_err();
    assert!(error.to_string().contains("`filter`"), "{error}");
    let pipeline = Pipeline::builder("totals")
        .key(|line: &Line| line.customer.clone())
        .count()
        .every_change()
        .store(MemoryStore::new(murmur_core::Count::new()))
        .at_least_once();
    let refused = Reconcile::builder(Processor::new([pipeline.unwrap()]).unwrap(), filtered)
        .build()
        .unwrap()
        .run()
        .await;
    assert!(refused.is_err());
    assert!(wire.requests().is_empty());
}
