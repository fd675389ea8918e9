//! A record that fails in parts: the failed part is delivered again, and then counts once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use murmur_core::{
    BuildError, Change, Definition, Pipeline, Processor, Record, RecordOutcome, Sum,
};
use murmur_state::{MemoryDeduper, Random, SequenceNumber, StoreError};

use crate::outcomes;
use crate::support::{
    Answer, Counts, Order, Scripted, change, clock, insert, missing_table, order, place, scripted,
    throttled, unavailable, value,
};

type Mode = fn(Definition<Order, Sum>, Scripted) -> Result<Pipeline<Order>, BuildError>;

/// Each mode, and whether it counts a record on all of its keys or on none.
const MODES: [(Mode, bool); 4] = [
    (
        |definition, store| definition.every_change().store(store).at_least_once(),
        false,
    ),
    (
        |definition, store| {
            let definition = definition.every_change().store(store);
            definition.claim_first(MemoryDeduper::new())
        },
        false,
    ),
    (
        |definition, store| definition.every_change().store(store).exactly_once(),
        false,
    ),
    (|definition, store| definition.store(store).ledger(), true),
];

/// A record counts for each of the customers it names, separated by commas.
fn definition(name: &str) -> Definition<Order, Sum> {
    Pipeline::builder(name)
        .keys(|o: &Order, out| o.customer.split(',').for_each(out))
        .value(|o| o.cents)
        .aggregate(Sum::new())
}

/// Passes over records that can never count.
fn lenient(
    pipelines: impl IntoIterator<Item = Pipeline<Order>>,
) -> (murmur_core::Processor<Order>, Counts) {
    let counts = Counts::default();
    let processor = Processor::builder(pipelines)
        .recorder(counts.clone())
        .clock(Arc::new(clock()))
        .random(Random::seeded(3))
        .on_rejected(|_| async { Ok(()) })
        .build()
        .unwrap();
    (processor, counts)
}

/// A store whose row `full` never takes anything, and whose row `busy` takes nothing until told to.
fn full_and_busy(fails: fn() -> StoreError) -> (Scripted, Arc<AtomicBool>) {
    let free = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&free);
    let store = scripted(move |add| match add.key.entity() {
        "full" => Answer::Refuse(StoreError::Overflow { place: place() }),
        "busy" if !now.load(Ordering::Relaxed) => Answer::Refuse(fails()),
        _ => Answer::Apply,
    });
    (store, free)
}

const FAILURES: [fn() -> StoreError; 3] = [missing_table, throttled, || unavailable(false)];

#[tokio::test]
async fn a_record_rejected_at_one_key_and_blocked_at_another_comes_again() {
    for keys in ["full,busy", "busy,full"] {
        for (mode, whole) in MODES {
            for fails in FAILURES {
                let (store, free) = full_and_busy(fails);
                let (processor, counts) =
                    lenient([mode(definition("totals"), store.clone()).unwrap()]);
                // Too much for one write, so the second waits for the first; it fits only because
                // of the row's value.
                let before = insert("0", order("busy", -10));
                outcomes(&processor, &[before]).await;
                let batch = [
                    insert("1", order("busy", i64::MAX)),
                    insert("2", order(keys, 1)),
                ];
                free.store(false, Ordering::Relaxed);
                assert_outcomes!(
                    outcomes(&processor, &batch).await,
                    RecordOutcome::Failed(_),
                    RecordOutcome::Blocked | RecordOutcome::Failed(_)
                );
                assert_eq!(counts.of("totals:dead_letter"), 0, "it must come again");

                free.store(true, Ordering::Relaxed);
                assert_outcomes!(
                    outcomes(&processor, &batch).await,
                    RecordOutcome::Applied,
                    RecordOutcome::PassedOver
                );
                let second = if whole { 0 } else { 1 };
                let total = Some(i64::MAX - 10 + second);
                assert_eq!(value(&store, "busy").await, total, "complete when done");
                assert_eq!(counts.of("totals:dead_letter"), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_record_rejected_at_one_key_that_fails_for_now_at_another_comes_again() {
    for keys in ["full,busy", "busy,full"] {
        for (mode, whole) in MODES {
            for fails in FAILURES {
                let (store, free) = full_and_busy(fails);
                let (processor, counts) =
                    lenient([mode(definition("totals"), store.clone()).unwrap()]);
                let batch = [insert("1", order(keys, 5))];
                free.store(false, Ordering::Relaxed);
                assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Failed(_));
                assert_eq!(counts.of("totals:dead_letter"), 0);

                free.store(true, Ordering::Relaxed);
                let again = outcomes(&processor, &batch).await;
                assert_outcomes!(again, RecordOutcome::PassedOver);
                let expected = (!whole).then_some(5);
                assert_eq!(value(&store, "busy").await, expected);
            }
        }
    }
}

#[tokio::test]
async fn a_record_one_pipeline_passes_over_and_another_cannot_take_now_comes_again() {
    for (mode, _) in MODES {
        for fails in FAILURES {
            for rejected_first in [true, false] {
                let (store, free) = full_and_busy(fails);
                let (other, _) = full_and_busy(fails);
                free.store(false, Ordering::Relaxed);
                let rejecting = Pipeline::builder("rejecting")
                    .key(|_: &Order| "full")
                    .value(|o| o.cents)
                    .aggregate(Sum::new());
                let waiting = definition("waiting");
                let mut both = [
                    mode(rejecting, other).unwrap(),
                    mode(waiting, store.clone()).unwrap(),
                ];
                if !rejected_first {
                    both.reverse();
                }
                let (processor, counts) = lenient(both);
                let batch = [insert("1", order("busy", 5))];
                assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Failed(_));
                free.store(true, Ordering::Relaxed);
                assert_outcomes!(
                    outcomes(&processor, &batch).await,
                    RecordOutcome::PassedOver
                );
                assert_eq!(value(&store, "busy").await, Some(5));
                assert_eq!(counts.of("rejecting:dead_letter"), 2, "each time it came");
            }
        }
    }
}

#[tokio::test]
async fn what_counted_already_is_recognised_when_the_failed_come_again() {
    for (mode, _) in &MODES[2..] {
        let (store, free) = full_and_busy(missing_table);
        let (processor, _) = lenient([mode(definition("totals"), store.clone()).unwrap()]);
        free.store(false, Ordering::Relaxed);
        let batch: [Record; 4] = [
            insert("1", order("a", 1)),
            insert("2", order("busy", 2)),
            insert("3", order("a,busy", 4)),
            insert("4", order("a", 8)),
        ];
        let first = outcomes(&processor, &batch).await;
        let done: Vec<bool> = first.iter().map(RecordOutcome::is_done).collect();
        assert_eq!(done, [true, false, false, true]);
        free.store(true, Ordering::Relaxed);
        // Lambda continues from the lowest sequence number that failed.
        assert_outcomes!(
            outcomes(&processor, &batch[1..]).await,
            RecordOutcome::Applied,
            RecordOutcome::Applied,
            RecordOutcome::Duplicate
        );
        let totals = (value(&store, "a").await, value(&store, "busy").await);
        assert_eq!(totals, (Some(13), Some(6)));
    }
}

#[tokio::test]
async fn a_lost_answer_counts_once_where_the_mode_is_exact() {
    for (mode, _) in &MODES[2..] {
        let mut losses = 5;
        let store = scripted(move |_| {
            losses -= 1;
            match losses {
                0.. => Answer::Lose,
                _ => Answer::Apply,
            }
        });
        let (processor, _) = lenient([mode(definition("totals"), store.clone()).unwrap()]);
        let batch = [insert("1", order("a", 5)), insert("2", order("a,b", 7))];
        loop {
            let outcomes = outcomes(&processor, &batch).await;
            if outcomes.iter().all(RecordOutcome::is_done) {
                break;
            }
        }
        let totals = (value(&store, "a").await, value(&store, "b").await);
        assert_eq!(totals, (Some(12), Some(7)));
    }
}

#[tokio::test]
async fn what_waited_for_a_failure_that_passed_is_done_in_the_same_batch() {
    for (mode, _) in MODES {
        for fails in FAILURES {
            let mut calls = 0;
            let store = scripted(move |_| {
                calls += 1;
                // The first fills the row, the second fails once.
                if calls == 2 {
                    Answer::Refuse(fails())
                } else {
                    Answer::Apply
                }
            });
            let (processor, _) = lenient([mode(definition("totals"), store.clone()).unwrap()]);
            outcomes(&processor, &[insert("0", order("a", -10))]).await;
            let batch = [
                insert("1", order("a", i64::MAX)),
                insert("2", order("a", 1)),
            ];
            let outcomes = outcomes(&processor, &batch).await;
            if fails().is_retryable() {
                assert_outcomes!(outcomes, RecordOutcome::Applied, RecordOutcome::Applied);
                assert_eq!(value(&store, "a").await, Some(i64::MAX - 9));
            } else {
                assert_outcomes!(outcomes, RecordOutcome::Failed(_), RecordOutcome::Blocked);
            }
        }
    }
}

#[tokio::test]
async fn a_removal_waits_for_the_change_of_its_item_that_failed() {
    let well = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&well);
    let store = scripted(move |_| match told.load(Ordering::Relaxed) {
        true => Answer::Apply,
        false => Answer::Refuse(missing_table()),
    });
    let definition = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .keep_expired_items()
        .store(store.clone());
    let (processor, _) = lenient([definition.ledger().unwrap()]);
    let later = SequenceNumber::new("100000000000000000002").unwrap();
    let batch = [
        insert("1", order("a", 5)),
        Record::Changed(Change {
            expired: true,
            sequence_number: Some(later),
            ..change("2", "1", Some(order("a", 5)), None)
        }),
    ];
    let first = outcomes(&processor, &batch).await;
    assert_outcomes!(first, RecordOutcome::Failed(_), RecordOutcome::Blocked);
    well.store(true, Ordering::Relaxed);
    assert!(
        outcomes(&processor, &batch)
            .await
            .iter()
            .all(RecordOutcome::is_done)
    );
    // The kept value is the one that the change made.
    assert_eq!(value(&store, "a").await, Some(5));
}
