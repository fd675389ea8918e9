//! Several pipelines, several keys, the same record more than once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use murmur_core::{Count, Pipeline, Processor, Sum};
use murmur_lambda_ddbstreams::{Event, Handler};
use murmur_state::{EventHandler, Repeats};
use murmur_streams::{
    OperationType, StreamInfo, StreamRecord, StreamStore, StreamViewType, Trigger,
};

use crate::support::{
    Claims, Order, Scripted, Seen, Step, change, claimed_counts, claimed_totals, clock,
    counting_decoder, event, insert, number, reported, total, totals,
};

#[tokio::test]
async fn each_image_is_decoded_once_for_all_pipelines() {
    let (sums, counts) = (Scripted::new(Sum::new()), Scripted::new(Count::new()));
    let claims = Claims::default();
    let (decoder, decoded) = counting_decoder();
    let pipelines = [
        claimed_totals(&sums, &claims),
        claimed_counts(&counts, &claims),
    ];
    let handler = Handler::new(Processor::with_decoder(pipelines, decoder).build().unwrap());
    assert_eq!(handler.pipelines().len(), 2);
    let batch = [
        insert(1, "alice", 10),
        change(2, 1, Some(("alice", 10)), Some(("alice", 15))),
    ];
    handler.call(event(batch)).await.unwrap();
    assert_eq!(
        decoded.load(Ordering::Relaxed),
        3,
        "two images are new, one is old"
    );
    assert_eq!(sums.total("alice"), Some(15));
    assert_eq!(total(&counts.rows, "alice"), Some(2), "it does not retract");
}

#[tokio::test]
async fn a_record_that_one_pipeline_cannot_count_is_reported_and_counts_once_in_the_other() {
    let sums = Scripted::new(Sum::new()).script("bob", [Step::Refuse]);
    let counts = Scripted::new(Count::new());
    let (claims, seen) = (Claims::default(), Seen::default());
    let handler = Handler::new(
        Processor::builder([
            claimed_totals(&sums, &claims),
            claimed_counts(&counts, &claims),
        ])
        .recorder(seen.clone())
        .build()
        .unwrap(),
    );
    let batch = || event([insert(1, "alice", 10), insert(2, "bob", 20)]);
    let answer = handler.call(batch()).await.unwrap();
    assert_eq!(reported(&answer), [number(2)]);
    assert_eq!(
        (sums.total("bob"), total(&counts.rows, "bob")),
        (None, Some(1))
    );

    let answer = handler.call(batch()).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(
        (sums.total("bob"), total(&counts.rows, "bob")),
        (Some(20), Some(1))
    );
    assert_eq!(sums.total("alice"), Some(10));
    assert_eq!(seen.count("order_totals:dedup_skip"), 1);
    assert_eq!(seen.count("order_counts:dedup_skip"), 2);
}

#[tokio::test]
async fn a_key_put_out_twice_by_one_record_counts_once() {
    let store = Scripted::new(Sum::new());
    let pipeline = Pipeline::builder("order_totals")
        .keys(|order: &Order, out| {
            out(&order.customer);
            out("all");
            out(&order.customer);
        })
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .every_change()
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let handler = Handler::new(Processor::new([pipeline]).unwrap());
    let batch = [insert(1, "alice", 10), insert(2, "all", 5)];
    handler.call(event(batch)).await.unwrap();
    assert_eq!(
        (store.total("alice"), store.total("all")),
        (Some(10), Some(15))
    );
}

#[tokio::test]
async fn a_record_twice_in_a_batch_counts_once_and_both_are_answered() {
    let store = Scripted::new(Sum::new()).script("bob", [Step::Refuse]);
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let batch = [1, 2, 1, 2].map(|n| insert(n, if n == 1 { "alice" } else { "bob" }, 10));
    let answer = handler.call(event(batch)).await.unwrap();
    assert_eq!(reported(&answer), [number(2), number(2)]);
    assert_eq!(store.total("alice"), Some(10));
}

#[tokio::test]
async fn moving_an_order_between_customers_within_one_batch_leaves_each_its_own() {
    let store = Scripted::new(Sum::new());
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let batch = [
        insert(1, "alice", 10),
        change(2, 1, Some(("alice", 10)), Some(("bob", 12))),
        insert(3, "bob", 5),
        change(4, 1, Some(("bob", 12)), None),
    ];
    let answer = handler.call(event(batch)).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(
        (store.total("alice"), store.total("bob")),
        (Some(0), Some(5))
    );
}

#[tokio::test]
async fn a_stream_reader_of_this_process_calls_it_as_lambda_would() {
    const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026";
    let stream = StreamStore::new();
    stream.register_stream(StreamInfo::new(ARN, StreamViewType::NewAndOldImages));
    let put = |event: Event| {
        for record in event.records {
            let put = stream.put_record(StreamRecord {
                stream_arn: ARN.to_owned(),
                event_name: OperationType::Insert,
                keys: record.change.keys,
                new_image: record.change.new_image,
                ..StreamRecord::default()
            });
            put.unwrap();
        }
    };
    put(event([
        insert(1, "alice", 10),
        insert(2, "bob", 20),
        insert(3, "alice", 30),
    ]));

    let time = clock();
    let store = Scripted::new(Sum::new()).script("bob", [Step::Refuse]);
    let handler = Handler::new(
        Processor::builder([claimed_totals(&store, &Claims::default())])
            .clock(Arc::new(time.clone()))
            .build()
            .unwrap(),
    );
    assert_eq!(handler.repeats(), Repeats::EventOnce);
    let mut trigger = Trigger::builder(stream.source(ARN), handler)
        .clock(Arc::new(time))
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!((summary.records, summary.failures), (3, 1));
    assert_eq!(
        (store.total("alice"), store.total("bob")),
        (Some(40), Some(20))
    );
}
