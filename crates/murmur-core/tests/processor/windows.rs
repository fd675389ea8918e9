//! Windows of time, and definitions that cannot be built.

use std::sync::Arc;
use std::time::Duration;

use murmur_core::{
    BuildError, Change, Count, Definition, Pipeline, Record, RecordOutcome, Stored, Sum, Window,
};
use murmur_state::{Causes, Fault, Key, MemoryStore, StateRow, Timestamp};

use crate::support::{NOW, Order, change, clock, insert, order, order_at, scanned};
use crate::{builder, error, outcomes, processor};

fn daily(store: MemoryStore<Sum>) -> Stored<Order, Sum, MemoryStore<Sum>> {
    Pipeline::builder("daily")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .window(Window::daily().retention_days(2), |o| {
            Timestamp::from_secs(o.placed_at)
        })
        .every_change()
        .store(store)
}

#[tokio::test]
async fn the_items_time_chooses_bucket_and_ttl() {
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(daily(store.clone()).at_least_once().unwrap());
    outcomes(&processor, &[insert("1", order_at("a", 5, NOW - 86_400))]).await;
    let window = Window::daily().retention_days(2);
    let bucket = window.bucket(Timestamp::from_secs(NOW)) - 1;
    assert_eq!(
        store.rows(),
        [StateRow {
            key: Key::new("a", bucket).unwrap(),
            value: 5,
            ttl: window.ttl(bucket),
        }]
    );
}

#[tokio::test]
async fn contributions_to_windows_that_are_over_are_dropped_and_counted() {
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(daily(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order_at("a", 5, NOW - 4 * 86_400)),
        insert("2", order("a", 1)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Expired,
        RecordOutcome::Applied
    );
    assert_eq!(store.rows().len(), 1);
    assert_eq!((counts.of("daily:expired"), counts.of("daily")), (1, 1));
}

#[tokio::test]
async fn an_arrival_that_cannot_be_is_rejected_and_one_ahead_of_the_clock_waits_for_it() {
    let store = MemoryStore::new(Count::new());
    let clock = clock();
    let arrivals = Pipeline::builder("arrivals")
        .key(|o: &Order| o.customer.clone())
        .count()
        .window_by_arrival(Window::hourly())
        .every_change()
        .store(store.clone())
        .at_least_once();
    let (builder, counts) = builder(arrivals.unwrap());
    let processor = builder.clock(Arc::new(clock.clone())).build().unwrap();
    let at = |created| {
        Record::Changed(Change {
            created: Some(Timestamp::from_secs(created)),
            ..change("1", "1", None, Some(order("a", 1)))
        })
    };
    let millis = outcomes(&processor, &[at(NOW * 1000)]).await.remove(0);
    assert_eq!(error(&millis).fault(), Fault::Record);
    // Either clock may be wrong, so it is not the record's fault.
    let ahead = at(NOW + 3600);
    let early = outcomes(&processor, std::slice::from_ref(&ahead)).await;
    assert_eq!(error(&early[0]).fault(), Fault::Setup);
    let advice = Causes(error(&early[0])).to_string();
    assert!(advice.contains("correct the clock"), "{advice}");
    assert_eq!(counts.of("arrivals:impossible_time"), 2);
    clock.advance(Duration::from_secs(900));
    assert_outcomes!(outcomes(&processor, &[ahead]).await, RecordOutcome::Applied);
    let hour = Window::hourly().bucket(Timestamp::from_secs(NOW + 3600));
    assert_eq!(store.rows()[0].key.bucket(), hour);
}

#[tokio::test]
async fn arrival_windows_go_by_the_changes_own_time_on_every_delivery() {
    let store = MemoryStore::new(Count::new());
    let clock = clock();
    let pipeline = Pipeline::builder("arrivals")
        .key(|o: &Order| o.customer.clone())
        .count()
        .window_by_arrival(Window::hourly())
        .every_change()
        .store(store.clone())
        .exactly_once()
        .unwrap();
    assert!(pipeline.windows_by_arrival());
    let (builder, _) = builder(pipeline);
    let processor = builder.clock(Arc::new(clock.clone())).build().unwrap();
    let batch = [insert("1", order("a", 5))];
    outcomes(&processor, &batch).await;
    clock.advance(Duration::from_secs(7200));
    outcomes(&processor, &batch).await;
    assert_eq!(
        store.rows(),
        [StateRow {
            key: Key::new("a", NOW / 3600).unwrap(),
            value: 1,
            ttl: None,
        }]
    );
    // A scanned row has no time of arrival.
    let scanned = outcomes(&processor, &[scanned("1", order("a", 5))])
        .await
        .remove(0);
    assert!(matches!(scanned, RecordOutcome::Failed(_)), "{scanned:?}");
}

#[test]
fn what_cannot_be_built_is_named() {
    let store = || MemoryStore::new(Sum::new());
    let bad_name = Pipeline::builder("a/b")
        .key(|o: &Order| o.customer.clone())
        .count()
        .every_change()
        .store(MemoryStore::new(Count::new()))
        .at_least_once();
    assert!(matches!(bad_name, Err(BuildError::Name(_))));
    let build = |retract: bool, window: fn(Definition<Order, Sum>) -> Definition<Order, Sum>| {
        let definition = Pipeline::builder("p")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new());
        let definition = window(if retract {
            definition.retract()
        } else {
            definition.every_change()
        });
        definition.store(store()).at_least_once()
    };
    let option = |result: Result<Pipeline<Order>, BuildError>| match result {
        Err(BuildError::Option { source, .. }) => source.option,
        other => panic!("{other:?}"),
    };
    let arrival = build(true, |definition| {
        definition.window_by_arrival(Window::hourly())
    });
    assert_eq!(option(arrival), "window_by_arrival");
    let zero = build(false, |definition| {
        definition.window(Window::of(Duration::ZERO), |o| {
            Timestamp::from_secs(o.placed_at)
        })
    });
    assert_eq!(option(zero), "window");
    let ledger = Pipeline::builder("p")
        .key(|o: &Order| o.customer.clone())
        .count()
        .window_by_arrival(Window::hourly())
        .store(MemoryStore::new(Count::new()))
        .ledger();
    assert_eq!(option(ledger), "window_by_arrival");
}
