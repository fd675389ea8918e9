//! The scan itself: complete, disjoint, resumable, and every option of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's failure message"
)]

mod support;

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use murmur_core::{Pipeline, Processor, Sum, item_id};
use murmur_snapshot::source::{Cursor, Page};
use murmur_snapshot::{Bootstrap, Ended, Progress, Source, SourceError, conformance};
use murmur_snapshot_ddb::{ParallelScan, ParallelScanBuilder};
use murmur_state::{MemoryDeduper, MemoryStore};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Request, Wire};
use serde_json::{Value, json};
use support::*;
use tokio::sync::Notify;

const LINES: u64 = 41;

async fn orders() -> (Dynamo, String) {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("orders");
    create(&dynamo.client(), &table, true).await;
    fill(&dynamo.client(), &table, 0..LINES).await;
    (dynamo, table)
}

#[tokio::test]
async fn it_keeps_the_contract_of_a_source_in_any_number_of_segments() {
    let (dynamo, table) = orders().await;
    for segments in [1, 4, 7] {
        let make = || {
            let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
            ready(scan.segments(segments).page_size(3).build().unwrap())
        };
        assert_eq!(make().await.segments(), segments);
        conformance::source(make, LINES as usize).await;
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
        .every_change()
        .store(store.clone())
        .claim_first(markers.clone())
        .unwrap()
}

fn recount(lines: std::ops::Range<u64>) -> BTreeMap<String, i64> {
    let mut totals = BTreeMap::new();
    for (customer, cents) in lines.map(line) {
        *totals.entry(customer).or_default() += cents;
    }
    totals
}

fn counted(store: &MemoryStore<Sum>) -> BTreeMap<String, i64> {
    let rows = store.rows().into_iter();
    rows.map(|row| (row.key.entity().to_owned(), row.value))
        .collect()
}

#[tokio::test]
async fn a_bootstrap_that_was_stopped_and_run_again_counts_every_row_once() {
    let (dynamo, table) = orders().await;
    for segments in [1, 4, 7] {
        let (store, markers) = (MemoryStore::new(Sum::new()), MemoryDeduper::new());
        let scan = || {
            let scan = ParallelScan::builder(dynamo.client(), &table).streams(dynamo.streams());
            scan.segments(segments).page_size(2).build().unwrap()
        };
        let stop = Arc::new(Notify::new());
        let reached = Arc::clone(&stop);
        let first = Bootstrap::builder(Processor::new([totals(&store, &markers)]).unwrap(), scan())
            .concurrency(2);
        let first = first.on_progress(move |progress| match progress {
            Progress::Page { total, .. } if total.rows >= 10 => reached.notify_one(),
            _ => {}
        });
        let first = first
            .build()
            .unwrap()
            .run_until(async move { stop.notified().await })
            .await
            .unwrap();
        assert!(first.ended == Ended::Stopped && first.token.is_some());
        assert!(
            (10..LINES).contains(&first.counts.rows),
            "{:?}",
            first.counts
        );

        let second =
            Bootstrap::builder(Processor::new([totals(&store, &markers)]).unwrap(), scan())
                .build()
                .unwrap()
                .run()
                .await
                .unwrap();
        assert!(second.rerun && second.ended == Ended::Finished);
        assert_eq!(second.token, first.token);
        assert_eq!(second.earlier.counts.applied, first.counts.applied);
        assert_eq!(second.earlier.counts.rows + second.counts.rows, LINES);
        assert!(second.counts.read_units > 0.0);
        assert_eq!(counted(&store), recount(0..LINES));
    }
}

/// The answers of all pages, and the bodies of all Scan requests.
async fn scanned(
    change: impl FnOnce(ParallelScanBuilder) -> ParallelScanBuilder,
) -> (Vec<Page>, Vec<Value>) {
    let (dynamo, table) = orders().await;
    let wire = Wire::calm();
    let scan = ParallelScan::builder(wire.client(&dynamo), &table);
    let scan = change(scan).build().unwrap();
    let mut pages: Vec<Page> = Vec::new();
    for segment in 0..scan.segments() {
        let mut after: Option<Cursor> = None;
        loop {
            let page = scan.page(segment, after.as_ref(), None).await.unwrap();
            after = page.next.clone();
            pages.push(page);
            if after.is_none() {
                break;
            }
        }
    }
    let scans = wire
        .requests()
        .into_iter()
        .filter(|request| request.operation == "Scan");
    (pages, scans.map(|request| request.body).collect())
}

fn rows(pages: &[Page]) -> usize {
    pages.iter().map(|page| page.rows.len()).sum()
}

#[tokio::test]
async fn the_defaults_are_one_segment_a_thousand_items_and_consistent_reads() {
    let (pages, requests) = scanned(|scan| scan).await;
    assert_eq!(rows(&pages), LINES as usize);
    let first = &requests[0];
    assert_eq!(first["Limit"], 1000);
    assert_eq!(first["ConsistentRead"], true);
    assert_eq!(
        (&first["Segment"], &first["TotalSegments"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(first["ReturnConsumedCapacity"], "TOTAL");
    assert_eq!(first.get("FilterExpression"), None);
}

#[tokio::test]
async fn eventual_reads_are_asked_for_by_name_and_cost_half() {
    let units = |pages: &[Page]| pages.iter().filter_map(|page| page.read_units).sum::<f64>();
    let (consistent, _) = scanned(|scan| scan).await;
    let (eventual, requests) = scanned(ParallelScanBuilder::eventually_consistent).await;
    assert_eq!(requests[0]["ConsistentRead"], false);
    assert!(units(&consistent) > 0.0);
    assert_eq!(units(&eventual), units(&consistent) / 2.0);
}

#[tokio::test]
async fn a_page_has_no_more_items_than_asked_for() {
    let (pages, requests) = scanned(|scan| scan.page_size(10)).await;
    assert!(requests.iter().all(|request| request["Limit"] == 10));
    assert_eq!(pages[0].rows.len(), 10);
    assert_eq!(rows(&pages), LINES as usize);
}

#[tokio::test]
async fn a_filter_is_applied_by_the_server() {
    let (pages, requests) = scanned(|scan| {
        let scan = scan.page_size(4).filter("#who = :who");
        scan.filter_name("#who", "customer")
            .filter_value(":who", text("c1"))
    })
    .await;
    assert_eq!(requests[0]["FilterExpression"], "#who = :who");
    assert_eq!(
        rows(&pages) as u64,
        (0..LINES).filter(|n| n % 5 == 1).count() as u64
    );
    assert_eq!(pages.iter().map(|page| page.examined).sum::<u64>(), LINES);
    let empty = |page: &&Page| page.rows.is_empty() && page.next.is_some();
    assert!(pages.iter().find(empty).is_some(), "an empty page goes on");
}

#[tokio::test]
async fn a_filter_needs_neither_names_nor_values() {
    let (pages, _) = scanned(|scan| scan.filter("attribute_exists(customer)")).await;
    assert_eq!(rows(&pages), LINES as usize);
}

#[tokio::test]
async fn event_ids_are_made_of_the_primary_key_or_by_ones_own_function() {
    let (pages, _) = scanned(|scan| scan).await;
    let row = &pages[0].rows[0];
    let keys = |name: &str| (name.to_owned(), row.item[name].clone());
    let keys = std::collections::HashMap::from([keys("order"), keys("line")]).into();
    assert_eq!(row.item_id, item_id(&keys));
    assert_eq!(row.event_id, row.item_id.scan_event().as_str());

    let (pages, _) = scanned(|scan| scan.event_id(|item| format!("{:?}", item["order"]))).await;
    let row = &pages[0].rows[0];
    assert_eq!(row.event_id, format!("{:?}", row.item["order"]));
    assert!(row.item_id.as_str().contains("line"));
}

#[tokio::test]
async fn a_cursor_of_other_settings_is_refused_with_both_named() {
    let (dynamo, table) = orders().await;
    let other = dynamo.table("other");
    create(&dynamo.client(), &other, false).await;
    let scan = |table: &str, segments| {
        let scan = ParallelScan::builder(dynamo.client(), table).segments(segments);
        scan.page_size(1).build().unwrap()
    };
    let cursor = scan(&table, 4)
        .page(1, None, None)
        .await
        .unwrap()
        .next
        .unwrap();
    assert!(scan(&table, 4).page(1, Some(&cursor), None).await.is_ok());
    for (table, segments, segment) in [(&table, 4, 2), (&table, 5, 1), (&other, 4, 1)] {
        let error = scan(table, segments)
            .page(segment, Some(&cursor), None)
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, SourceError::Cursor { .. }), "{said}");
        assert!(said.contains("segment 1 of 4"), "{said}");
        assert!(
            said.contains(&format!(
                "segment {segment} of {segments} of table `{table}`"
            )),
            "{said}"
        );
    }
    let error = scan(&table, 4)
        .page(1, Some(&Cursor::new("17")), None)
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::Cursor { .. }), "{error}");
}

#[tokio::test]
async fn an_attribute_of_an_unknown_kind_is_a_bad_row_and_no_panic() {
    let (dynamo, table) = orders().await;
    let body = json!({
        "Count": 2, "ScannedCount": 2,
        "Items": [
            { "order": { "S": "o1" }, "line": { "N": "1" }, "x": { "L": [{ "NOVEL": "?" }] } },
            { "order": { "S": "o2" }, "line": { "N": "1" } },
        ],
    });
    let wire = Wire::new(move |request: &Request| match request.operation.as_str() {
        "Scan" => Action::Answer {
            status: 200,
            body: body.to_string(),
        },
        _ => Action::Pass,
    });
    let scan = ParallelScan::builder(wire.client(&dynamo), &table)
        .build()
        .unwrap();
    let page = scan.page(0, None, None).await.unwrap();
    assert_eq!((page.rows.len(), page.bad.len()), (1, 1));
    assert!(page.bad[0].id.contains("o1"), "{:?}", page.bad);
    assert!(
        page.bad[0].error.to_string().contains("`x`"),
        "{:?}",
        page.bad
    );
}

#[tokio::test]
async fn the_table_is_described_once() {
    let (dynamo, table) = orders().await;
    let wire = Wire::calm();
    let scan = ParallelScan::builder(wire.client(&dynamo), &table)
        .segments(5)
        .build()
        .unwrap();
    for segment in 0..5 {
        scan.page(segment, None, None).await.unwrap();
    }
    assert_eq!((wire.count("DescribeTable"), wire.count("Scan")), (1, 5));
}
