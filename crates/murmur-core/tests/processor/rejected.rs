//! Records that can never count.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{
    AttributeValue, Change, Decoded, Decoder, EventName, Item, Pipeline, Processor, Record,
    RecordError, RecordOutcome, Rejected, Side, Sum,
};
use murmur_state::{
    Deadline, Fault, MemoryDeduper, MemoryStore, RetryPolicy, SequenceNumber, StoreError,
};

use crate::support::{
    Answer, Order, change, clock, insert, item, missing_table, order, place, scripted, value,
};
use crate::{builder, error, following, outcomes, processor, totals, undecodable};

#[tokio::test]
async fn an_undecodable_record_without_a_callback_is_reported_and_harms_nobody() {
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order("a", 1)),
        undecodable("2"),
        insert("3", order("a", 2)),
    ];
    let outcomes = outcomes(&processor, &batch).await;
    assert_outcomes!(
        &outcomes,
        RecordOutcome::Applied,
        RecordOutcome::Failed(_),
        RecordOutcome::Applied
    );
    assert!(matches!(
        error(&outcomes[1]),
        RecordError::Undecodable {
            side: Side::New,
            ..
        }
    ));
    assert_eq!(value(&store, "a").await, Some(3));
    assert_eq!(
        (counts.of("totals:failed"), counts.of("totals:dead_letter")),
        (1, 0)
    );
}

#[tokio::test]
async fn in_a_ledger_a_change_that_can_never_count_leaves_nothing_of_its_item() {
    for take in [true, false] {
        let store = MemoryStore::new(Sum::new());
        let pipeline = following(store.clone()).ledger();
        let (builder, _) = builder(pipeline.unwrap());
        let refuse = move |_: Rejected| async move {
            match take {
                true => Ok(()),
                false => Err("queue is full".into()),
            }
        };
        let processor = builder.on_rejected(refuse).build().unwrap();
        let at = |n: u32, id: &str, item| {
            Record::Changed(Change {
                sequence_number: SequenceNumber::new(n.to_string()).ok(),
                ..change(&n.to_string(), id, None, Some(item))
            })
        };
        let first = [at(1, "1", order("a", 5)), at(2, "2", order("b", i64::MAX))];
        outcomes(&processor, &first).await;
        // No row can have such a key; no sum holds that.
        let bad = [at(3, "1", order("", 7)), at(4, "1", order("b", 7))];
        for record in bad {
            let outcome = outcomes(&processor, &[record]).await.remove(0);
            assert_eq!(outcome.is_done(), take);
            assert_eq!(value(&store, "a").await, Some(if take { 0 } else { 5 }));
        }
        outcomes(&processor, &[at(5, "1", order("a", 3))]).await;
        assert_eq!(value(&store, "a").await, Some(3));
        assert_eq!(value(&store, "b").await, Some(i64::MAX));
    }
}

#[tokio::test]
async fn a_record_that_could_not_be_read_or_names_no_item_is_rejected() {
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let unreadable = Change {
        event: EventName::Unreadable("no date".into()),
        ..change("1", "1", None, Some(order("a", 1)))
    };
    let keyless = Change {
        keys: Default::default(),
        ..change("2", "2", None, Some(order("a", 1)))
    };
    // The same event, now correct: its earlier rejection does not block it.
    let readable = insert("1", order("a", 7));
    let batch = [
        Record::Changed(unreadable),
        Record::Changed(keyless),
        readable,
    ];
    let outcomes = outcomes(&processor, &batch).await;
    let RecordError::Unreadable { reason } = error(&outcomes[0]) else {
        panic!("{outcomes:?}")
    };
    assert_eq!(reason, "no date");
    assert!(matches!(error(&outcomes[1]), RecordError::NoKeys));
    for outcome in &outcomes[..2] {
        assert_eq!(error(outcome).fault(), Fault::Record);
    }
    assert_eq!(value(&store, "a").await, Some(7));
    assert_eq!(counts.of("totals:failed"), 2);
}

#[tokio::test]
async fn the_callback_passes_over_or_reports() {
    for take in [true, false] {
        let store = MemoryStore::new(Sum::new());
        let seen = Arc::new(Mutex::new(Vec::<Rejected>::new()));
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
    let outcomes = outcomes(&processor, &batch).await;
    for key in &outcomes[..2] {
        assert!(matches!(
            error(key),
            RecordError::Store {
                source: StoreError::InvalidId(_),
                ..
            }
        ));
    }
    for id in &outcomes[2..4] {
        assert!(matches!(error(id), RecordError::InvalidId(_)));
    }
    assert!(matches!(outcomes[4], RecordOutcome::Applied));
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
    let outcomes = outcomes(&processor, &[Record::Changed(strange)]).await;
    assert!(matches!(
        error(&outcomes[0]),
        RecordError::UnknownEvent { .. }
    ));
    assert_eq!(
        (value(&store, "a").await, counts.of("totals:failed")),
        (None, 1)
    );
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
    let outcomes = outcomes(&processor, &batch).await;
    assert_outcomes!(
        &outcomes,
        RecordOutcome::Applied,
        RecordOutcome::Failed(_),
        RecordOutcome::Applied
    );
    assert!(matches!(
        error(&outcomes[1]),
        RecordError::Store {
            source: StoreError::Overflow { .. },
            ..
        }
    ));
    assert_eq!(value(&store, "a").await, Some(i64::MAX - 1));
}

#[tokio::test]
async fn an_overflow_goes_to_the_callback_by_its_pipelines_name() {
    let store = MemoryStore::new(Sum::new());
    let names = Arc::new(Mutex::new(Vec::new()));
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

#[test]
fn processors_that_cannot_work_are_refused_by_option() {
    let pipeline = || {
        totals(MemoryStore::new(Sum::new()))
            .at_least_once()
            .unwrap()
    };
    let none: [Pipeline<Order>; 0] = [];
    assert_eq!(Processor::new(none).unwrap_err().option, "pipelines");
    let twins = Processor::builder([pipeline(), pipeline()]);
    assert_eq!(twins.build().unwrap_err().option, "pipelines");
    let idle = Processor::builder([pipeline()]).retry(RetryPolicy::default().max_attempts(0));
    assert_eq!(idle.build().unwrap_err().option, "max_attempts");
}

#[tokio::test]
async fn a_record_whose_other_key_cannot_be_written_now_is_reported_not_passed_over() {
    // The keys in both orders: the worse failure counts, no matter which comes first.
    for keys in [["full", "broken"], ["broken", "full"]] {
        let store = scripted(|add| match add.key.entity() {
            "full" => Answer::Refuse(StoreError::Overflow { place: place() }),
            _ => Answer::Refuse(missing_table()),
        });
        let pipeline = Pipeline::builder("totals")
            .keys(move |_: &Order, out| keys.iter().for_each(|key| out(key)))
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(store)
            .at_least_once()
            .unwrap();
        let (builder, counts) = builder(pipeline);
        let processor = builder.on_rejected(|_| async { Ok(()) }).build().unwrap();
        let outcome = outcomes(&processor, &[insert("1", order("a", 1))])
            .await
            .remove(0);
        let RecordOutcome::Failed(error) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(error.fault(), Fault::Setup);
        assert!(!error.is_retryable());
        assert_eq!(counts.of("totals:dead_letter"), 0);
    }
}

#[tokio::test]
async fn what_a_source_rejects_goes_the_same_way() {
    let pipeline = || {
        totals(MemoryStore::new(Sum::new()))
            .at_least_once()
            .unwrap()
    };
    let error = || RecordError::UnknownEvent {
        name: "half a line".into(),
    };
    let record = insert("line 7", order("a", 1));
    let (strict, counts) = processor(pipeline());
    let reported = strict.reject(&record, error()).await.unwrap_err();
    assert!(matches!(reported, RecordError::UnknownEvent { .. }));
    assert_eq!(
        (counts.of("totals:failed"), counts.of("totals:dead_letter")),
        (1, 0)
    );

    let (builder, counts) = builder(pipeline());
    let lenient = builder.on_rejected(|_| async { Ok(()) }).build().unwrap();
    lenient.reject(&record, error()).await.unwrap();
    assert_eq!(
        (counts.of("totals:failed"), counts.of("totals:dead_letter")),
        (1, 1)
    );
    assert_eq!(lenient.pipelines().len(), 1);
}

/// The content of one side of a change.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Image {
    Good,
    Undecodable,
    Unreadable,
}

/// A MODIFY of 5 for `a` to 7 for `b`, with these images.
fn modified(old: Image, new: Image) -> Record {
    let mut change = change("2", "1", Some(order("a", 5)), Some(order("b", 7)));
    change.sequence_number = SequenceNumber::new("2").ok();
    let sides = [
        (Side::Old, old, &mut change.old_image),
        (Side::New, new, &mut change.new_image),
    ];
    for (side, is, image) in sides {
        match is {
            Image::Good => {}
            Image::Undecodable => *image = Some(order_of_nothing()),
            Image::Unreadable => {
                *image = None;
                change.unreadable_images.push((side, "`n`: no text".into()));
            }
        }
    }
    Record::Changed(change)
}

fn order_of_nothing() -> Item {
    item(&[("customer", AttributeValue::Bool(true))])
}

/// The outcome of `modified`, whose item was inserted before, in a pipeline of each mode; the
/// values of the keys after it; and the rejected sides.
async fn after(
    mode: usize,
    record: Record,
    takes: bool,
) -> (bool, [Option<i64>; 2], Vec<Option<Side>>) {
    let store = MemoryStore::new(Sum::new());
    let plain = || totals(store.clone());
    let retracting = || {
        Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .retract()
            .store(store.clone())
    };
    let pipeline = match mode {
        0 => plain().at_least_once(),
        1 => retracting().at_least_once(),
        2 => retracting().claim_first(MemoryDeduper::new()),
        3 => retracting().exactly_once(),
        _ => following(store.clone()).ledger(),
    };
    let (builder, _) = builder(pipeline.unwrap());
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&rejected);
    let callback = move |rejected: Rejected| {
        log.lock().unwrap().push(match rejected.error {
            RecordError::Undecodable { side, .. } => Some(side),
            RecordError::UnreadableImage { side, reason } => {
                assert_eq!(reason, "`n`: no text");
                Some(side)
            }
            _ => None,
        });
        async move {
            match takes {
                true => Ok(()),
                false => Err("queue is full".into()),
            }
        }
    };
    let processor = builder.on_rejected(callback).build().unwrap();
    let first = Record::Changed(Change {
        sequence_number: SequenceNumber::new("1").ok(),
        ..change("1", "1", None, Some(order("a", 5)))
    });
    outcomes(&processor, &[first]).await;
    // It is delivered twice: its good side counts once, if the mode recognises the event.
    let outcome = outcomes(&processor, std::slice::from_ref(&record)).await;
    outcomes(&processor, &[record]).await;
    let values = [value(&store, "a").await, value(&store, "b").await];
    let rejected = rejected.lock().unwrap().clone();
    (outcome[0].is_done(), values, rejected)
}

#[tokio::test]
async fn an_unreadable_image_is_rejected_like_an_undecodable_one_and_the_other_counts() {
    use Image::{Good, Undecodable, Unreadable};
    for mode in 0..5 {
        for takes in [true, false] {
            for (unreadable, undecodable) in [
                ((Good, Unreadable), (Good, Undecodable)),
                ((Unreadable, Good), (Undecodable, Good)),
                ((Unreadable, Unreadable), (Undecodable, Undecodable)),
                ((Unreadable, Undecodable), (Undecodable, Undecodable)),
            ] {
                let [one, other] = [unreadable, undecodable].map(|(old, new)| modified(old, new));
                let one = after(mode, one, takes).await;
                let other = after(mode, other, takes).await;
                assert_eq!(one, other, "mode {mode}, {takes}, {unreadable:?}");
            }
        }
    }
    // And that is, exactly once:
    let (done, values, rejected) = after(3, modified(Good, Unreadable), true).await;
    assert_eq!((done, values), (true, [Some(0), None]));
    assert_eq!(rejected, [Some(Side::New); 2]);
    let (done, values, rejected) = after(3, modified(Unreadable, Good), true).await;
    assert_eq!((done, values), (true, [Some(5), Some(7)]));
    assert_eq!(rejected, [Some(Side::Old); 2]);
    // A missing side that no pipeline needs is no error.
    for mode in [0, 4] {
        let (done, values, rejected) = after(mode, modified(Unreadable, Good), false).await;
        assert!(done && rejected.is_empty());
        assert_eq!(values[1], Some(if mode == 0 { 14 } else { 7 }));
    }
}

#[tokio::test]
async fn a_decoder_of_whole_records_is_not_asked_about_one_with_an_unreadable_image() {
    use Image::{Good, Unreadable};
    let store = MemoryStore::new(Sum::new());
    let counted = Pipeline::builder("changed")
        .key(|(): &()| "all".to_owned())
        .value(|()| 1)
        .aggregate(Sum::new())
        .every_change()
        .store(store.clone())
        .at_least_once()
        .unwrap();
    // Decodes every change without an old image to a value.
    let decoder = Decoder::record(|view| match view.record {
        Record::Changed(change) if change.old_image.is_none() => Ok(Decoded::Record(())),
        _ => Ok(Decoded::Skip),
    });
    let processor = Processor::with_decoder([counted], decoder)
        .on_rejected(|_| async { Ok(()) })
        .build()
        .unwrap();
    let batch = [modified(Unreadable, Good), insert("3", order("a", 1))];
    let outcomes = processor.process(&batch, Deadline::NONE).await;
    assert_outcomes!(&outcomes, RecordOutcome::PassedOver, RecordOutcome::Applied);
    assert_eq!(value(&store, "all").await, Some(1));
}
