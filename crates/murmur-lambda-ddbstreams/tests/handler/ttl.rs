//! Removals by Time to Live, as AWS sends them and from the stream store of this process.

use std::sync::Arc;

use murmur_core::{BuildError, Definition, Pipeline, Processor, Sum, Window};
use murmur_lambda_ddbstreams::{Event, Handler};
use murmur_state::{MemoryDeduper, MemoryStore, Timestamp};
use murmur_streams::{
    OperationType, StreamInfo, StreamRecord, StreamStore, StreamViewType, Trigger, time_to_live,
};

use crate::support::{Order, Seen, change, clock, event, insert, reported, total};

type Mode = fn(Definition<Order, Sum>, MemoryStore<Sum>) -> Result<Pipeline<Order>, BuildError>;

/// Retraction in every mode.
const MODES: [Mode; 4] = [
    |definition, rows| definition.retract().store(rows).at_least_once(),
    |definition, rows| {
        let markers = MemoryDeduper::new();
        definition.retract().store(rows).claim_first(markers)
    },
    |definition, rows| {
        let markers = MemoryDeduper::new();
        definition
            .retract()
            .store(rows.markers(markers))
            .exactly_once()
    },
    |definition, rows| definition.store(rows).ledger(),
];

fn handler(mode: Mode, keeps: bool) -> (Handler<Order>, MemoryStore<Sum>, Seen) {
    let (rows, seen) = (MemoryStore::new(Sum::new()), Seen::default());
    let definition = Pipeline::builder("order_totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new());
    let definition = match keeps {
        true => definition.keep_expired_items(),
        false => definition,
    };
    let handler = Handler::new(
        Processor::builder([mode(definition, rows.clone()).unwrap()])
            .recorder(seen.clone())
            .build()
            .unwrap(),
    );
    (handler, rows, seen)
}

/// Bob's order is removed. The definition decides what remains.
fn expected(keeps: bool, by_ttl: bool) -> (Option<i64>, u64) {
    match keeps && by_ttl {
        true => (Some(1000), 1),
        false => (Some(0), 0),
    }
}

const USER: &str = include_str!("../events/remove.json");
const TTL: &str = include_str!("../events/remove_by_ttl.json");

#[tokio::test]
async fn aws_events_are_taken_back_or_kept_as_the_definition_says() {
    for mode in MODES {
        for keeps in [false, true] {
            for (removal, by_ttl) in [(USER, false), (TTL, true)] {
                let (handler, rows, seen) = handler(mode, keeps);
                let events = [
                    include_str!("../events/insert.json"),
                    include_str!("../events/modify.json"),
                    removal,
                ];
                for json in events {
                    let event: Event = serde_json::from_str(json).unwrap();
                    let answer = handler.call(event).await.unwrap();
                    assert_eq!(reported(&answer), [""; 0]);
                }
                let (bob, kept) = expected(keeps, by_ttl);
                assert_eq!(total(&rows, "bob"), bob);
                assert_eq!(seen.count("order_totals:ttl_kept"), kept);
            }
        }
    }
}

#[tokio::test]
async fn a_removal_that_was_replicated_is_known_by_the_items_own_time() {
    #[derive(serde::Deserialize)]
    struct Expiring {
        customer: String,
        amount_cents: i64,
        ttl: Option<i64>,
    }

    let (rows, seen) = (MemoryStore::new(Sum::new()), Seen::default());
    let totals = Pipeline::builder("order_totals")
        .key(|order: &Expiring| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .retract()
        .keep_expired_items()
        .expires_at(|order| order.ttl.map(Timestamp::from_secs))
        .store(rows.clone())
        .exactly_once();
    let processor = Processor::builder([totals.unwrap()]).recorder(seen.clone());
    let handler = Handler::new(processor.build().unwrap());
    let removal = |n: u32, ttl: Option<i64>| {
        let mut gone = change(n, n, Some(("bob", 1000)), None);
        gone["dynamodb"]["ApproximateCreationDateTime"] = 1_767_225_600.into();
        if let Some(ttl) = ttl {
            let ttl = serde_json::json!({ "N": ttl.to_string() });
            gone["dynamodb"]["OldImage"]["ttl"] = ttl;
        }
        gone
    };
    let batch = [
        insert(1, "bob", 5000),
        removal(2, Some(1_767_225_000)),
        removal(3, Some(1_767_225_601)),
        removal(4, None),
    ];
    let answer = handler.call(event(batch)).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(total(&rows, "bob"), Some(3000));
    assert_eq!(seen.count("order_totals:ttl_kept"), 1);
}

#[tokio::test]
async fn the_stream_store_of_this_process_tells_them_apart_too() {
    const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026";
    for mode in MODES {
        for keeps in [false, true] {
            for by_ttl in [false, true] {
                let time = Arc::new(clock());
                let stream = StreamStore::with_clock(time.clone());
                stream.register_stream(StreamInfo::new(ARN, StreamViewType::NewAndOldImages));
                let order = insert(1, "bob", 1000);
                let change = event([order]).records.remove(0).change;
                let inserted = StreamRecord {
                    stream_arn: ARN.to_owned(),
                    keys: change.keys.clone(),
                    new_image: change.new_image.clone(),
                    ..StreamRecord::default()
                };
                let removed = StreamRecord {
                    stream_arn: ARN.to_owned(),
                    event_name: OperationType::Remove,
                    keys: change.keys,
                    old_image: change.new_image,
                    user_identity: by_ttl.then(time_to_live),
                    ..StreamRecord::default()
                };
                stream.put_record(inserted).unwrap();
                stream.put_record(removed).unwrap();

                let (handler, rows, seen) = handler(mode, keeps);
                let trigger = Trigger::builder(stream.source(ARN), handler).clock(time);
                let summary = trigger.build().unwrap().drain().await.unwrap();
                assert_eq!((summary.records, summary.failures), (2, 0));
                let (bob, kept) = expected(keeps, by_ttl);
                assert_eq!(total(&rows, "bob"), bob);
                assert_eq!(seen.count("order_totals:ttl_kept"), kept);
            }
        }
    }
}

#[tokio::test]
async fn what_expired_with_its_window_is_dropped_and_its_row_left_as_it_is() {
    let (rows, seen) = (MemoryStore::new(Sum::new()), Seen::default());
    let time = clock();
    let daily = Pipeline::builder("daily")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        // All orders of these tests are of one day.
        .window(Window::daily().retention_days(7), |_| {
            Timestamp::from_secs(1_767_225_600)
        })
        .retract()
        .store(rows.clone())
        .exactly_once()
        .unwrap();
    let handler = Handler::new(
        Processor::builder([daily])
            .recorder(seen.clone())
            .clock(Arc::new(time.clone()))
            .build()
            .unwrap(),
    );
    handler.call(event([insert(1, "bob", 1000)])).await.unwrap();
    let days_later = |days: u64| {
        let mut gone = change(2, 1, Some(("bob", 1000)), None);
        gone["dynamodb"]["ApproximateCreationDateTime"] = (1_767_225_600 + days * 86_400).into();
        gone["userIdentity"] =
            serde_json::json!({ "type": "Service", "principalId": "dynamodb.amazonaws.com" });
        event([gone])
    };
    time.advance(std::time::Duration::from_secs(9 * 86_400));
    let answer = handler.call(days_later(9)).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(seen.count("daily:expired"), 1);
    let values: Vec<i64> = rows.rows().into_iter().map(|row| row.value).collect();
    assert_eq!(values, [1000], "never below nothing");
}
