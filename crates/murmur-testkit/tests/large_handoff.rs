//! A bootstrap of a table whose stream lists 100,000 shards: its record is larger than an item.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Instant;

use murmur_core::{AttributeValue, Item, Pipeline, Processor, Row, Sum, item_id};
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{Bootstrap, Source, SourceError};
use murmur_state::{HandoffToken, Timestamp};
use murmur_state_ddb::{Deduper, Int64SumStore, create_dedup_table, create_int64_table};
use murmur_testkit::Dynamo;

#[derive(serde::Deserialize)]
struct Order {
    customer: String,
    cents: i64,
}

/// One order, and a stream of many closed shards.
struct Orders(HandoffToken);

impl Source for Orders {
    fn name(&self) -> &str {
        "orders"
    }

    fn segments(&self) -> u32 {
        1
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        Ok(Description::new("a table"))
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        Ok(Some(self.0.clone()))
    }

    async fn page(
        &self,
        _segment: u32,
        _after: Option<&Cursor>,
        _limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let keys: Item = HashMap::from([("id".to_owned(), text("o1"))]).into();
        let mut item = keys.clone();
        item.insert("customer".into(), text("alice"));
        item.insert("cents".into(), AttributeValue::N("5".into()));
        let item_id = item_id(&keys);
        let row = Row {
            event_id: item_id.scan_event().as_str().to_owned(),
            item_id,
            item,
        };
        Ok(Page::new(vec![row], None))
    }

    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_hundred_thousand_listed_shards_are_handed_over() {
    let dynamo = Dynamo::connect().await;
    let (state, markers) = (dynamo.table("state"), dynamo.table("markers"));
    let client = dynamo.client();
    create_int64_table(&client, &state).await.unwrap();
    create_dedup_table(&client, &markers).await.unwrap();

    let id = |at: u64| {
        let random = at.wrapping_mul(2_654_435_761) % 4_294_967_296;
        format!("shardId-{:020}-{random:08x}", 1_414_562_045_508 + at * 864)
    };
    let now = Timestamp::from(std::time::SystemTime::now());
    let token = HandoffToken::new(
        "arn/table/orders/stream/1",
        now,
        (0..100_000).map(id).collect(),
    );

    let pipeline = Pipeline::builder("totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(Int64SumStore::new(client, &*state).markers(&*markers))
        .exactly_once()
        .unwrap();
    let name = pipeline.name().clone();
    let begun = Instant::now();
    let report = Bootstrap::builder(Processor::new([pipeline]).unwrap(), Orders(token.clone()))
        .build()
        .unwrap()
        .run()
        .await;
    let took = begun.elapsed();
    assert_eq!(report.unwrap().token, Some(token.clone()));

    // Another process finds all of it.
    let other = Deduper::new(dynamo.client(), &*markers);
    let begun = Instant::now();
    let record = RunRecord::load(&other, &name, "orders")
        .await
        .unwrap()
        .unwrap();
    println!(
        "100,000 closed shards: a record of {} bytes, bootstrap {took:?}, loaded in {:?}",
        token.encode().len(),
        begun.elapsed()
    );
    assert!(record.finished_at.is_some());
    assert_eq!(record.token, Some(token));

    // The parts of what was saved before the end are gone.
    let rows = dynamo.client().scan().table_name(&markers);
    let rows = rows.into_paginator().items().send();
    let rows: Vec<HashMap<_, _>> = rows.collect::<Result<_, _>>().await.unwrap();
    let large = |row: &&HashMap<_, _>| format!("{row:?}").len() > 100_000;
    assert_eq!(rows.iter().filter(large).count(), 5);
}
