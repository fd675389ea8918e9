//! What the processor promises of a batch: one outcome per record, each in the right place.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use murmur_core::{
    AttributeValue, Change, Count, Decoded, Decoder, EventName, Item, Max, Pipeline, Processor,
    ProcessorBuilder, Record, RecordError, RecordOutcome, Rejected, Set, Side, Sum, Window,
};
use murmur_state::{
    Deadline, Fault, Key, MemoryDeduper, MemoryStore, Random, Read, ReadExt, RetryPolicy, Store,
    StoreError, Timestamp,
};
use support::*;

fn totals<S: Store<Sum>>(store: S) -> murmur_core::Stored<Order, Sum, S> {
    Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .store(store)
}

fn builder(pipeline: Pipeline<Order>) -> (ProcessorBuilder<Order>, Counts) {
    let counts = Counts::default();
    let builder = ProcessorBuilder::new([pipeline])
        .recorder(counts.clone())
        .clock(Arc::new(clock()))
        .random(Random::seeded(3));
    (builder, counts)
}

fn processor(pipeline: Pipeline<Order>) -> (Processor<Order>, Counts) {
    let (builder, counts) = builder(pipeline);
    (builder.build().unwrap(), counts)
}

fn undecodable(event: &str) -> Record {
    insert(event, item(&[("customer", AttributeValue::Bool(true))]))
}

async fn outcomes(processor: &Processor<Order>, records: &[Record]) -> Vec<RecordOutcome> {
    let outcomes = processor.process(records, Deadline::NONE).await;
    assert_eq!(outcomes.len(), records.len(), "one outcome per record");
    outcomes
}

macro_rules! assert_outcomes {
    ($outcomes:expr, $($pattern:pat),+ $(,)?) => {
        let outcomes = $outcomes;
        assert!(matches!(&outcomes[..], [$($pattern),+]), "{outcomes:#?}");
    };
}

#[tokio::test]
async fn one_write_per_key_and_batch() {
    let store = Scripted::new(|_| Answer::Apply);
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch: Vec<_> = (0..100)
        .map(|n| insert(&format!("e{n}"), order(["a", "b"][n % 2], 1)))
        .collect();
    assert!(
        outcomes(&processor, &batch)
            .await
            .iter()
            .all(RecordOutcome::is_done)
    );
    assert_eq!(store.writes(), 2);
    assert_eq!(value(&store, "a").await, Some(50));
    assert_eq!(counts.of("totals"), 100);
}

#[tokio::test]
async fn several_keys_per_record_and_a_key_put_out_twice_counts_once() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = Pipeline::builder("rollup")
        .keys(|o: &Order, out| {
            out(&o.customer);
            out("all");
        })
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .store(store.clone())
        .exactly_once(MemoryDeduper::new())
        .unwrap();
    let (processor, _) = processor(pipeline);
    let batch = [insert("1", order("ann", 5)), insert("2", order("all", 7))];
    outcomes(&processor, &batch).await;
    outcomes(&processor, &batch).await;
    assert_eq!(value(&store, "ann").await, Some(5));
    assert_eq!(value(&store, "all").await, Some(12));
}

#[tokio::test]
async fn a_record_that_names_no_key_is_skipped_and_counted() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = Pipeline::builder("totals")
        .keys(|o: &Order, out| {
            if o.cents > 0 {
                out(&o.customer);
            }
        })
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let (processor, counts) = processor(pipeline);
    let batch = [insert("1", order("a", 0)), insert("2", order("a", 4))];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Skipped,
        RecordOutcome::Applied
    );
    assert_eq!((counts.of("totals:skip"), counts.of("totals")), (1, 1));
}

#[tokio::test]
async fn the_same_record_twice_in_a_batch_counts_once_in_every_mode() {
    let record = insert("twice", order("a", 5));
    let batch = [record.clone(), insert("other", order("a", 1)), record];
    let modes: [fn(MemoryStore<Sum>) -> Pipeline<Order>; 4] = [
        |store| totals(store).at_least_once().unwrap(),
        |store| totals(store).claim_first(MemoryDeduper::new()).unwrap(),
        |store| totals(store).exactly_once(MemoryDeduper::new()).unwrap(),
        |store| totals(store).ledger(MemoryDeduper::new()).unwrap(),
    ];
    for mode in modes {
        let store = MemoryStore::new(Sum::new());
        let (processor, counts) = processor(mode(store.clone()));
        assert!(
            outcomes(&processor, &batch)
                .await
                .iter()
                .all(RecordOutcome::is_done)
        );
        assert_eq!(value(&store, "a").await, Some(6));
        assert_eq!(counts.of("totals:dedup_skip"), 1);
    }
}

#[tokio::test]
async fn redelivery_counts_once_where_the_mode_says_so() {
    type Mode = fn(MemoryStore<Sum>) -> Pipeline<Order>;
    let modes: [(Mode, i64); 5] = [
        (|store| totals(store).at_least_once().unwrap(), 12),
        (
            |store| totals(store).claim_first(MemoryDeduper::new()).unwrap(),
            6,
        ),
        (
            |store| {
                totals(store)
                    .claim_first_by_bare_event_id(MemoryDeduper::new())
                    .unwrap()
            },
            6,
        ),
        (
            |store| totals(store).exactly_once(MemoryDeduper::new()).unwrap(),
            6,
        ),
        (
            |store| totals(store).ledger(MemoryDeduper::new()).unwrap(),
            6,
        ),
    ];
    for (mode, expected) in modes {
        let store = MemoryStore::new(Sum::new());
        let (processor, _) = processor(mode(store.clone()));
        let batch = [insert("1", order("a", 5)), insert("2", order("a", 1))];
        outcomes(&processor, &batch).await;
        outcomes(&processor, &batch).await;
        assert_eq!(value(&store, "a").await, Some(expected));
    }
}

#[tokio::test]
async fn claims_are_named_by_pipeline_and_event_or_by_the_bare_event() {
    use murmur_state::{Claim, Deduper, Owner};
    let markers = MemoryDeduper::new();
    let (named, bare) = (MemoryStore::new(Sum::new()), MemoryStore::new(Sum::new()));
    let batch = [insert("event-1", order("a", 5))];
    let (first, _) = processor(totals(named).claim_first(markers.clone()).unwrap());
    outcomes(&first, &batch).await;
    let (second, _) = processor(
        totals(bare.clone())
            .claim_first_by_bare_event_id(markers.clone())
            .unwrap(),
    );
    outcomes(&second, &batch).await;
    assert_eq!(
        value(&bare, "a").await,
        Some(5),
        "another name, so another claim"
    );
    let owner = Owner::new(&Random::seeded(9));
    for name in ["totals/claim/7:event-1", "event-1"] {
        let claim = markers.claim(name, &owner, Deadline::NONE).await.unwrap();
        assert_eq!(claim, Claim::Duplicate, "{name}");
    }
}

#[tokio::test]
async fn pipelines_that_share_a_marker_table_do_not_see_each_others_claims() {
    let markers = MemoryDeduper::new();
    let (a, b) = (MemoryStore::new(Sum::new()), MemoryStore::new(Sum::new()));
    let counting = Pipeline::builder("counts")
        .key(|o: &Order| o.customer.clone())
        .value(|_| 1)
        .aggregate(Sum::new())
        .store(b.clone())
        .claim_first(markers.clone())
        .unwrap();
    let both = [totals(a.clone()).claim_first(markers).unwrap(), counting];
    let processor = ProcessorBuilder::new(both).build().unwrap();
    outcomes(&processor, &[insert("1", order("a", 5))]).await;
    assert_eq!(
        (value(&a, "a").await, value(&b, "a").await),
        (Some(5), Some(1))
    );
}

#[tokio::test]
async fn old_images_are_taken_back() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .exactly_once(MemoryDeduper::new())
        .unwrap();
    let (processor, _) = processor(pipeline);
    let record = |event: &str, old: Option<(&str, i64)>, new: Option<(&str, i64)>| {
        let image = |(customer, cents): (&str, i64)| order(customer, cents);
        Record::Changed(change(event, "1", old.map(image), new.map(image)))
    };
    outcomes(&processor, &[record("1", None, Some(("a", 5)))]).await;
    // Both images on one key become one addition; the other key is untouched.
    outcomes(&processor, &[record("2", Some(("a", 5)), Some(("a", 8)))]).await;
    assert_eq!(value(&store, "a").await, Some(8));
    outcomes(&processor, &[record("3", Some(("a", 8)), Some(("b", 8)))]).await;
    assert_eq!(
        (value(&store, "a").await, value(&store, "b").await),
        (Some(0), Some(8))
    );
    outcomes(&processor, &[record("4", Some(("b", 8)), None)]).await;
    assert_eq!(value(&store, "b").await, Some(0));
}

#[tokio::test]
async fn a_change_that_alters_nothing_writes_nothing() {
    let store = Scripted::new(|_| Answer::Apply);
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let (processor, _) = processor(pipeline);
    let same = change("1", "1", Some(order("a", 5)), Some(order("a", 5)));
    assert_outcomes!(
        outcomes(&processor, &[Record::Changed(same)]).await,
        RecordOutcome::Applied
    );
    assert_eq!(store.writes(), 0);
    // An insert that adds zero still makes the row.
    outcomes(&processor, &[insert("2", order("a", 0))]).await;
    assert_eq!(value(&store, "a").await, Some(0));
}

#[tokio::test]
async fn each_image_counts_by_itself() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let (builder, counts) = builder(pipeline);
    let processor = builder.on_rejected(|_| async { Ok(()) }).build().unwrap();
    let broken = item(&[("customer", AttributeValue::Bool(true))]);
    let batch = [
        Record::Changed(change("1", "1", Some(broken.clone()), Some(order("a", 5)))),
        Record::Changed(change("2", "2", Some(order("a", 2)), Some(broken))),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::PassedOver,
        RecordOutcome::PassedOver
    );
    assert_eq!(value(&store, "a").await, Some(3));
    assert_eq!(counts.of("totals:dead_letter"), 2);
}

#[tokio::test]
async fn without_retraction_removals_count_for_nothing_and_need_no_image() {
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let removal = change("1", "1", Some(order("a", 5)), None);
    assert_outcomes!(
        outcomes(&processor, &[Record::Changed(removal)]).await,
        RecordOutcome::Skipped
    );
    assert_eq!(value(&store, "a").await, None);
    assert_eq!(counts.of("totals:skip"), 1);
}

#[tokio::test]
async fn a_ledger_follows_items_through_scan_and_stream() {
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(totals(store.clone()).ledger(MemoryDeduper::new()).unwrap());
    let at = |event: &str, sequence: &str, new: Option<Item>| {
        let mut change = change(event, "1", Some(order("?", 999)), new);
        change.sequence_number = Some(murmur_state::SequenceNumber::new(sequence).unwrap());
        Record::Changed(change)
    };
    outcomes(&processor, &[scanned("1", order("a", 5))]).await;
    outcomes(&processor, &[at("e1", "7", Some(order("b", 6)))]).await;
    // The scan comes late with an old version of the row.
    assert_outcomes!(
        outcomes(&processor, &[scanned("1", order("a", 5))]).await,
        RecordOutcome::Superseded
    );
    assert_eq!(
        (value(&store, "a").await, value(&store, "b").await),
        (Some(0), Some(6))
    );
    outcomes(&processor, &[at("e2", "8", None)]).await;
    assert_eq!(value(&store, "b").await, Some(0));
}

#[tokio::test]
async fn an_undecodable_record_without_a_callback_is_reported_and_harms_nobody() {
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order("a", 1)),
        undecodable("2"),
        insert("3", order("a", 2)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Applied,
        RecordOutcome::Failed(RecordError::Undecodable {
            side: Side::New,
            ..
        }),
        RecordOutcome::Applied
    );
    assert_eq!(value(&store, "a").await, Some(3));
    assert_eq!(
        (counts.of("totals:failed"), counts.of("totals:dead_letter")),
        (1, 0)
    );
}

#[tokio::test]
async fn the_callback_passes_over_or_reports() {
    for take in [true, false] {
        let store = MemoryStore::new(Sum::new());
        let seen = Arc::new(std::sync::Mutex::new(Vec::<Rejected>::new()));
        let (builder, counts) = builder(totals(store).at_least_once().unwrap());
        let log = Arc::clone(&seen);
        let processor = builder
            .on_rejected(move |rejected| {
                log.lock().unwrap().push(rejected);
                async move {
                    if take {
                        Ok(())
                    } else {
                        Err("queue is full".into())
                    }
                }
            })
            .build()
            .unwrap();
        let outcome = outcomes(&processor, &[undecodable("bad")]).await.remove(0);
        assert_eq!(outcome.is_done(), take);
        assert_eq!(counts.of("totals:dead_letter"), u64::from(take));
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].record.event_id(), "bad");
        assert!(seen[0].pipeline.is_none());
        if let RecordOutcome::Failed(error) = outcome {
            assert!(error.is_retryable(), "the callback may succeed next time");
        }
    }
}

#[tokio::test]
async fn unusable_keys_and_ids_fail_alone() {
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(totals(store.clone()).at_least_once().unwrap());
    let long = "x".repeat(2049);
    let batch = [
        insert("1", order("", 1)),
        insert("2", order(&long, 1)),
        insert("", order("a", 1)),
        insert("", order("a", 1)),
        insert("4", order("a", 2)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Failed(RecordError::Store {
            source: StoreError::InvalidId(_),
            ..
        }),
        RecordOutcome::Failed(RecordError::Store {
            source: StoreError::InvalidId(_),
            ..
        }),
        RecordOutcome::Failed(RecordError::InvalidId(_)),
        RecordOutcome::Failed(RecordError::InvalidId(_)),
        RecordOutcome::Applied
    );
    assert_eq!(value(&store, "a").await, Some(2));
}

#[tokio::test]
async fn an_event_name_nobody_knows_is_rejected_not_guessed_at() {
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let strange = Change {
        event: EventName::Other("UPSERT".into()),
        ..change("1", "1", None, Some(order("a", 5)))
    };
    assert_outcomes!(
        outcomes(&processor, &[Record::Changed(strange)]).await,
        RecordOutcome::Failed(RecordError::UnknownEvent { .. })
    );
    assert_eq!(
        (value(&store, "a").await, counts.of("totals:failed")),
        (None, 1)
    );
}

#[tokio::test]
async fn a_stream_without_the_needed_images_is_reported_whatever_the_callback_says() {
    let pipeline = |retract: bool| {
        let definition = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new());
        let definition = if retract {
            definition.retract()
        } else {
            definition
        };
        definition
            .store(MemoryStore::new(Sum::new()))
            .at_least_once()
            .unwrap()
    };
    for (retract, without_new, side) in [(false, true, Side::New), (true, false, Side::Old)] {
        let (builder, _) = builder(pipeline(retract));
        let processor = builder.on_rejected(|_| async { Ok(()) }).build().unwrap();
        let mut change = change("1", "1", Some(order("a", 1)), Some(order("a", 2)));
        if without_new {
            change.new_image = None;
        } else {
            change.old_image = None;
        }
        let outcome = outcomes(&processor, &[Record::Changed(change)])
            .await
            .remove(0);
        let RecordOutcome::Failed(error @ RecordError::MissingImage { side: missing }) = outcome
        else {
            panic!("{outcome:?}")
        };
        assert_eq!((missing, error.fault()), (side, Fault::Setup));
        assert!(error.to_string().contains("NEW_AND_OLD_IMAGES"));
    }
}

#[tokio::test]
async fn a_whole_record_decoder_sees_removals_keys_and_both_images() {
    let store = MemoryStore::new(Count::new());
    let removals = Pipeline::builder("removals")
        .key(|id: &String| id.clone())
        .count()
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let decoder = Decoder::record(|view| {
        let Record::Changed(change) = view.record else {
            return Ok(Decoded::Skip);
        };
        Ok(match (&change.event, change.keys.get("order_id")) {
            (EventName::Remove, Some(AttributeValue::S(id))) => Decoded::Record(id.clone()),
            _ => Decoded::Skip,
        })
    });
    let processor = ProcessorBuilder::with_decoder([removals], decoder)
        .build()
        .unwrap();
    // A stream of keys only: no images at all.
    let removal = Change {
        old_image: None,
        ..change("1", "order-7", Some(order("a", 1)), None)
    };
    let batch = [Record::Changed(removal), insert("2", order("a", 1))];
    let outcomes = processor.process(&batch, Deadline::NONE).await;
    assert_outcomes!(outcomes, RecordOutcome::Applied, RecordOutcome::Skipped);
    assert_eq!(value(&store, "order-7").await, Some(1));
}

#[tokio::test]
async fn several_pipelines_share_one_decode_and_the_worst_outcome_counts() {
    let decodes = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&decodes);
    let decoder = Decoder::item(move |item| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Decoded::Record(serde_dynamo::from_item(item.clone())?))
    });
    let good = MemoryStore::new(Sum::new());
    let bad = Scripted::new(|_| Answer::Refuse(missing_table()));
    let failing = Pipeline::builder("failing")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .store(bad)
        .at_least_once()
        .unwrap();
    let both = [totals(good.clone()).at_least_once().unwrap(), failing];
    let processor = ProcessorBuilder::with_decoder(both, decoder)
        .build()
        .unwrap();
    let outcome = outcomes(&processor, &[insert("1", order("a", 5))])
        .await
        .remove(0);
    let RecordOutcome::Failed(error @ RecordError::Store { .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.fault(), Fault::Setup);
    assert!(error.to_string().contains("failing"));
    assert_eq!(value(&good, "a").await, Some(5));
    assert_eq!(decodes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn throttles_spend_time_and_transient_failures_spend_attempts() {
    let mut left = 40;
    let store = Scripted::new(move |_| {
        left -= 1;
        if left > 0 {
            Answer::Refuse(throttled())
        } else {
            Answer::Apply
        }
    });
    let (busy, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&busy, &batch).await, RecordOutcome::Failed(_));
    let patient = RetryPolicy::default().budget(Duration::from_secs(600));
    let (builder, _) = builder(totals(store.clone()).at_least_once().unwrap());
    let patient = builder.retry(patient).build().unwrap();
    assert_outcomes!(outcomes(&patient, &batch).await, RecordOutcome::Applied);
    assert_eq!(store.writes(), 40);
    assert!(counts.of("totals:retry") > 3);

    for (attempts, expected) in [(None, 3), (Some(1), 1), (Some(5), 5)] {
        let store = Scripted::new(|_| Answer::Refuse(unavailable(false)));
        let (mut builder, _) = self::builder(totals(store.clone()).at_least_once().unwrap());
        if let Some(attempts) = attempts {
            builder = builder.retry_with(|policy| policy.max_attempts(attempts));
        }
        let processor = builder.build().unwrap();
        let outcome = outcomes(&processor, &batch).await.remove(0);
        let RecordOutcome::Failed(error) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(error.is_retryable());
        assert_eq!(store.writes(), expected);
    }
}

#[tokio::test]
async fn a_failing_lane_does_not_stop_its_neighbours() {
    let store = Scripted::new(|add| match add.key.entity() {
        "bad" => Answer::Refuse(missing_table()),
        _ => Answer::Apply,
    });
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order("good", 1)),
        insert("2", order("bad", 1)),
        insert("3", order("bad", 1)),
        insert("4", order("good", 1)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Applied,
        RecordOutcome::Failed(_),
        RecordOutcome::Failed(_),
        RecordOutcome::Applied
    );
    assert_eq!(value(&store, "good").await, Some(2));
    assert_eq!(counts.of("totals:failed"), 2);
}

#[tokio::test]
async fn after_a_failure_later_writes_of_the_lane_are_blocked() {
    // Two writes on one key, because together they would overflow.
    let store = Scripted::new(|_| Answer::Refuse(missing_table()));
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order("a", i64::MAX)),
        insert("2", order("a", 1)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Failed(_),
        RecordOutcome::Blocked
    );
    assert_eq!((store.writes(), counts.of("totals:blocked")), (1, 1));
}

#[tokio::test]
async fn a_refused_sum_is_sent_again_record_by_record_and_blames_one() {
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(totals(store.clone()).at_least_once().unwrap());
    outcomes(&processor, &[insert("0", order("a", i64::MAX - 10))]).await;
    let batch = [
        insert("1", order("a", 4)),
        insert("2", order("a", 100)),
        insert("3", order("a", 5)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Applied,
        RecordOutcome::Failed(RecordError::Store {
            source: StoreError::Overflow { .. },
            ..
        }),
        RecordOutcome::Applied
    );
    assert_eq!(value(&store, "a").await, Some(i64::MAX - 1));
}

#[tokio::test]
async fn an_overflow_goes_to_the_callback_by_its_pipelines_name() {
    let store = MemoryStore::new(Sum::new());
    let names = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&names);
    let (builder, counts) = builder(totals(store).at_least_once().unwrap());
    let processor = builder
        .on_rejected(move |rejected| {
            log.lock()
                .unwrap()
                .push(rejected.pipeline.map(|name| name.to_string()));
            async { Ok(()) }
        })
        .build()
        .unwrap();
    outcomes(&processor, &[insert("0", order("a", i64::MAX))]).await;
    assert_outcomes!(
        outcomes(&processor, &[insert("1", order("a", 1))]).await,
        RecordOutcome::PassedOver
    );
    assert_eq!(*names.lock().unwrap(), [Some("totals".to_owned())]);
    assert_eq!(counts.of("totals:dead_letter"), 1);
}

#[tokio::test]
async fn a_claim_is_released_when_its_merge_fails() {
    let mut broken = true;
    let store = Scripted::new(move |_| {
        if std::mem::take(&mut broken) {
            Answer::Refuse(missing_table())
        } else {
            Answer::Apply
        }
    });
    let (processor, _) = processor(
        totals(store.clone())
            .claim_first(MemoryDeduper::new())
            .unwrap(),
    );
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Failed(_));
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Applied);
    assert_eq!(value(&store, "a").await, Some(5));
}

#[tokio::test]
async fn a_lost_answer_to_ones_own_claim_is_no_duplicate() {
    let deduper = FlakyDeduper::default();
    deduper.lose_claims.store(2, Ordering::Relaxed);
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).claim_first(deduper).unwrap());
    let batch = [insert("1", order("a", 5)), insert("2", order("a", 1))];
    assert!(
        outcomes(&processor, &batch)
            .await
            .iter()
            .all(RecordOutcome::is_done)
    );
    assert_eq!(value(&store, "a").await, Some(6));
    assert_eq!(counts.of("totals:retry"), 2);
}

#[tokio::test]
async fn a_claim_that_fails_for_good_is_given_back_too() {
    let deduper = FlakyDeduper::default();
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(totals(store.clone()).claim_first(deduper.clone()).unwrap());
    deduper.lose_claims.store(3, Ordering::Relaxed);
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Failed(_));
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Applied);
    assert_eq!(value(&store, "a").await, Some(5));
}

#[tokio::test]
async fn claim_first_counts_a_write_twice_whose_answer_was_lost() {
    // The risk its documentation names: shown here, not hidden.
    let mut losses = 3;
    let store = Scripted::new(move |_| {
        losses -= 1;
        if losses >= 0 {
            Answer::Lose
        } else {
            Answer::Apply
        }
    });
    let (processor, _) = processor(
        totals(store.clone())
            .claim_first(MemoryDeduper::new())
            .unwrap(),
    );
    outcomes(&processor, &[insert("1", order("a", 5))]).await;
    assert_eq!(value(&store, "a").await, Some(15));
}

#[tokio::test]
async fn what_the_deadline_leaves_no_time_for_is_reported_and_its_claim_given_back() {
    let clock = clock();
    let ticking = clock.clone();
    let store = Scripted::new(move |_| {
        ticking.advance(Duration::from_secs(3));
        Answer::Refuse(throttled())
    });
    let pipeline = totals(store.clone())
        .claim_first(MemoryDeduper::new())
        .unwrap();
    let (builder, _) = builder(pipeline);
    let processor = builder.clock(Arc::new(clock.clone())).build().unwrap();
    let deadline = Deadline::within(&clock, Duration::from_secs(10));
    let batch = [insert("1", order("a", 5))];
    let outcome = processor.process(&batch, deadline).await.remove(0);
    assert!(!outcome.is_done());
    assert!(!deadline.passed(&clock), "it answers before the deadline");
    let again = processor.process(&batch, Deadline::NONE).await.remove(0);
    assert!(
        !matches!(again, RecordOutcome::Duplicate),
        "the claim was given back"
    );
}

#[tokio::test]
async fn no_callback_is_begun_after_the_deadline() {
    let clock = clock();
    let (calls, slow) = (Arc::new(AtomicUsize::new(0)), clock.clone());
    let counter = Arc::clone(&calls);
    let store = MemoryStore::new(Sum::new());
    let (builder, _) = builder(totals(store).at_least_once().unwrap());
    let processor = builder
        .clock(Arc::new(clock.clone()))
        .on_rejected(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            slow.advance(Duration::from_secs(3));
            async { Ok(()) }
        })
        .build()
        .unwrap();
    let batch: Vec<_> = (0..4).map(|n| undecodable(&format!("e{n}"))).collect();
    let deadline = Deadline::within(&clock, Duration::from_secs(5));
    assert_outcomes!(
        processor.process(&batch, deadline).await,
        RecordOutcome::PassedOver,
        RecordOutcome::PassedOver,
        RecordOutcome::Failed(_),
        RecordOutcome::Failed(_)
    );
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_claim_that_was_never_made_is_not_given_back() {
    let deduper = FlakyDeduper::default();
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store).claim_first(deduper.clone()).unwrap());
    deduper.refuse_claims.store(3, Ordering::Relaxed);
    assert_outcomes!(
        outcomes(&processor, &[insert("1", order("a", 5))]).await,
        RecordOutcome::Failed(_)
    );
    assert_eq!(deduper.releases.load(Ordering::Relaxed), 0);
    assert_eq!(counts.of("totals:claim_left"), 0);
}

fn daily(store: MemoryStore<Sum>) -> murmur_core::Stored<Order, Sum, MemoryStore<Sum>> {
    Pipeline::builder("daily")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .window(Window::daily().retention_days(2), |o| {
            Timestamp::from_secs(o.placed_at)
        })
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
        [(Key::new("a", bucket).unwrap(), 5, window.ttl(bucket))]
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
async fn arrival_windows_go_by_the_changes_own_time_on_every_delivery() {
    let store = MemoryStore::new(Count::new());
    let clock = clock();
    let pipeline = Pipeline::builder("arrivals")
        .key(|o: &Order| o.customer.clone())
        .count()
        .window_by_arrival(Window::hourly())
        .store(store.clone())
        .exactly_once(MemoryDeduper::new())
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
        [(Key::new("a", NOW / 3600).unwrap(), 1, None)]
    );
    // A row that was scanned did not arrive.
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
        .store(MemoryStore::new(Count::new()))
        .at_least_once();
    assert!(matches!(bad_name, Err(murmur_core::BuildError::Name(_))));
    let build = |retract: bool,
                 window: fn(
        murmur_core::Definition<Order, Sum>,
    ) -> murmur_core::Definition<Order, Sum>| {
        let definition = Pipeline::builder("p")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new());
        let definition = window(if retract {
            definition.retract()
        } else {
            definition
        });
        definition.store(store()).at_least_once()
    };
    let option = |result: Result<Pipeline<Order>, murmur_core::BuildError>| match result {
        Err(murmur_core::BuildError::Option { source, .. }) => source.option,
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
        .ledger(MemoryDeduper::new());
    assert_eq!(option(ledger), "window_by_arrival");
}

#[test]
fn processors_that_cannot_work_are_refused_by_option() {
    let pipeline = || {
        totals(MemoryStore::new(Sum::new()))
            .at_least_once()
            .unwrap()
    };
    let none: [Pipeline<Order>; 0] = [];
    assert_eq!(
        ProcessorBuilder::new(none).build().unwrap_err().option,
        "pipelines"
    );
    let twins = ProcessorBuilder::new([pipeline(), pipeline()]);
    assert_eq!(twins.build().unwrap_err().option, "pipelines");
    let idle = ProcessorBuilder::new([pipeline()]).retry_with(|policy| policy.max_attempts(0));
    assert_eq!(idle.build().unwrap_err().option, "max_attempts");
}

#[tokio::test]
async fn max_and_set_run_in_every_mode_they_allow() {
    let largest = MemoryStore::new(Max::new());
    let pipeline = Pipeline::builder("largest")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Max::new())
        .store(largest.clone())
        .at_least_once()
        .unwrap();
    assert_eq!(pipeline.repeats(), murmur_core::Repeats::ItemOnce);
    let customers = MemoryStore::new(Set::<String>::new());
    let uniques = Pipeline::builder("uniques")
        .key(|_: &Order| "all")
        .value(|o| o.customer.clone())
        .aggregate(Set::new())
        .store(customers.clone())
        .at_least_once()
        .unwrap();
    let processor = ProcessorBuilder::new([pipeline, uniques]).build().unwrap();
    let batch = [
        insert("1", order("a", 5)),
        insert("2", order("b", 9)),
        insert("3", order("a", 3)),
    ];
    outcomes(&processor, &batch).await;
    outcomes(&processor, &batch).await;
    assert_eq!(largest.get(&key("a")).await.unwrap(), Some(5));
    assert_eq!(
        customers.get_many(&[key("all")]).await.unwrap()[0]
            .as_ref()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_processors_future_can_move_between_threads() {
    fn assert_send<T: Send>(_: T) {}
    let (processor, _) = processor(
        totals(MemoryStore::new(Sum::new()))
            .at_least_once()
            .unwrap(),
    );
    assert_send(processor.process(&[], Deadline::NONE));
}
