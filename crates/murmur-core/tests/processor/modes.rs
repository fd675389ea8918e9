//! How each delivery mode processes a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use murmur_core::{
    BuildError, Decoded, Decoder, Last, Max, Pipeline, Processor, Record, RecordError,
    RecordOutcome, Set, Sum, Window,
};
use murmur_state::{
    Claim, Deadline, Deduper, Fault, MemoryDeduper, MemoryStore, Owner, Read, ReadExt, Repeats,
    SequenceNumber, Timestamp, Tokens,
};

use crate::support::{Answer, Order, change, insert, key, missing_table, order, scripted, value};
use crate::{error, following, outcomes, processor, totals};

#[tokio::test]
async fn one_write_per_key_and_batch() {
    let store = scripted(|_| Answer::Apply);
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
        .every_change()
        .store(store.clone())
        .exactly_once()
        .unwrap();
    let (processor, _) = processor(pipeline);
    let batch = [insert("1", order("ann", 5)), insert("2", order("all", 7))];
    outcomes(&processor, &batch).await;
    outcomes(&processor, &batch).await;
    assert_eq!(value(&store, "ann").await, Some(5));
    assert_eq!(value(&store, "all").await, Some(12));
}

#[tokio::test]
async fn the_same_record_twice_in_a_batch_counts_once_in_every_mode() {
    let record = insert("twice", order("a", 5));
    let batch = [record.clone(), insert("other", order("a", 1)), record];
    let modes: [fn(MemoryStore<Sum>) -> Pipeline<Order>; 4] = [
        |store| totals(store).at_least_once().unwrap(),
        |store| totals(store).claim_first(MemoryDeduper::new()).unwrap(),
        |store| totals(store).exactly_once().unwrap(),
        |store| following(store).ledger().unwrap(),
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
        (|store| totals(store).exactly_once().unwrap(), 6),
        (|store| following(store).ledger().unwrap(), 6),
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
    let owner = Owner::new(&Tokens::new()).unwrap();
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
        .every_change()
        .store(b.clone())
        .claim_first(markers.clone())
        .unwrap();
    let both = [totals(a.clone()).claim_first(markers).unwrap(), counting];
    let processor = Processor::new(both).unwrap();
    outcomes(&processor, &[insert("1", order("a", 5))]).await;
    assert_eq!(
        (value(&a, "a").await, value(&b, "a").await),
        (Some(5), Some(1))
    );
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
    let bad = scripted(|_| Answer::Refuse(missing_table()));
    let failing = Pipeline::builder("failing")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(bad)
        .at_least_once()
        .unwrap();
    let both = [totals(good.clone()).at_least_once().unwrap(), failing];
    let processor = Processor::with_decoder(both, decoder).build().unwrap();
    let outcome = outcomes(&processor, &[insert("1", order("a", 5))])
        .await
        .remove(0);
    let error = error(&outcome);
    assert!(matches!(error, RecordError::Store { .. }));
    assert_eq!(error.fault(), Fault::Setup);
    assert!(error.to_string().contains("failing"));
    assert_eq!(value(&good, "a").await, Some(5));
    assert_eq!(decodes.load(Ordering::Relaxed), 1);
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
    assert_eq!(pipeline.repeats(), Repeats::ItemOnce);
    let customers = MemoryStore::new(Set::<String>::new());
    let uniques = Pipeline::builder("uniques")
        .key(|_: &Order| "all")
        .value(|o| o.customer.clone())
        .aggregate(Set::new())
        .store(customers.clone())
        .at_least_once()
        .unwrap();
    let processor = Processor::new([pipeline, uniques]).unwrap();
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

#[test]
fn a_pipeline_says_what_it_needs_and_what_it_makes_of_repeats() {
    let store = || MemoryStore::new(Sum::new());
    let plain = totals(store()).at_least_once().unwrap();
    assert!(!plain.retracts() && !plain.windows_by_arrival() && plain.checkpoints().is_none());
    assert_eq!(plain.repeats(), Repeats::Counted);
    assert!(format!("{plain:?}").contains("totals"));
    let claims = totals(store()).claim_first(MemoryDeduper::new()).unwrap();
    let once = totals(store()).exactly_once().unwrap();
    let ledger = following(store()).ledger().unwrap();
    let modes = [claims, once, ledger];
    assert!(
        modes
            .iter()
            .all(|pipeline| pipeline.checkpoints().is_some())
    );
    let repeats = modes.map(|pipeline| pipeline.repeats());
    assert_eq!(
        repeats,
        [Repeats::EventOnce, Repeats::EventOnce, Repeats::ItemOnce]
    );
    let processor = Processor::builder([
        following(store()).ledger().unwrap(),
        Pipeline::builder("other")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(store())
            .exactly_once()
            .unwrap(),
    ]);
    assert_eq!(processor.build().unwrap().repeats(), Repeats::EventOnce);
}

#[tokio::test]
async fn of_equal_times_the_greater_sequence_number_is_the_last() {
    let store = MemoryStore::new(Last::<i64>::new());
    let latest = Pipeline::builder("latest")
        .key(|o: &Order| o.customer.clone())
        .value(|o| (Timestamp::from_secs(o.placed_at), o.cents))
        .aggregate(Last::new())
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let (processor, _) = processor(latest);
    let at = |event: &str, sequence: &str, cents: i64| {
        let mut change = change(event, "1", None, Some(order("a", cents)));
        change.sequence_number = Some(SequenceNumber::new(sequence).unwrap());
        Record::Changed(change)
    };
    let batch = [at("z", "9", 1), at("a", "10", 2), at("y", "8", 3)];
    outcomes(&processor, &batch).await;
    let last = store.get(&key("a")).await.unwrap().flatten().unwrap();
    assert_eq!((last.value, last.id.as_str()), (2, "a"));
    assert_eq!(last.sequence, SequenceNumber::new("10").ok());
}

#[tokio::test]
async fn two_claim_first_processes_restored_from_one_snapshot_count_an_event_once() {
    let (store, markers) = (MemoryStore::new(Sum::new()), MemoryDeduper::new());
    let batch = [insert("event", order("a", 5))];
    for expected in [RecordOutcome::Applied, RecordOutcome::Duplicate] {
        // Each has the generator state that was in the snapshot.
        let pipeline = totals(store.clone()).claim_first(markers.clone()).unwrap();
        let (processor, _) = processor(pipeline);
        let outcome = outcomes(&processor, &batch).await.remove(0);
        assert_eq!(format!("{outcome:?}"), format!("{expected:?}"));
    }
    assert_eq!(value(&store, "a").await, Some(5));
}

#[tokio::test]
async fn a_window_or_monoid_that_changes_without_a_version_is_refused() {
    let store = MemoryStore::new(Sum::new());
    let at = |_: &Order| Timestamp::from_secs(1_700_000_000);
    let definition = |window: Window| {
        Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .window(window, at)
    };
    let exact = |window| {
        definition(window)
            .every_change()
            .store(store.clone())
            .exactly_once()
    };
    let batch = [insert("event", order("a", 5))];
    let (daily, _) = processor(exact(Window::daily()).unwrap());
    assert!(outcomes(&daily, &batch).await[0].is_done());
    let (hourly, _) = processor(exact(Window::hourly()).unwrap());
    let outcome = outcomes(&hourly, &batch).await.remove(0);
    assert_eq!(error(&outcome).fault(), Fault::Setup);
    let (retracting, _) = processor(
        definition(Window::daily())
            .retract()
            .store(store.clone())
            .exactly_once()
            .unwrap(),
    );
    let outcome = outcomes(&retracting, &batch).await.remove(0);
    assert_eq!(error(&outcome).fault(), Fault::Setup);
    // The definition that it was bound by is still accepted.
    let (again, _) = processor(exact(Window::daily()).unwrap());
    assert!(outcomes(&again, &batch).await[0].is_done());
}

#[test]
fn what_a_change_means_is_said_and_said_once() {
    let store = || MemoryStore::new(Sum::new());
    let definition = || {
        Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
    };
    let refused = |built: Result<Pipeline<Order>, BuildError>| match built {
        Err(BuildError::Option { pipeline, source }) => {
            assert_eq!(pipeline, "totals");
            source
        }
        built => panic!("{built:?}"),
    };
    for unsaid in [
        definition().store(store()).at_least_once(),
        definition()
            .store(store())
            .claim_first(MemoryDeduper::new()),
        definition().store(store()).exactly_once(),
    ] {
        let source = refused(unsaid);
        assert_eq!(source.option, "retract");
        let text = source.to_string();
        assert!(
            text.contains("`.retract()`") && text.contains("`.every_change()`"),
            "{text}"
        );
    }
    // In a ledger totals follow the table, with or without the option.
    assert!(definition().store(store()).ledger().is_ok());
    assert!(definition().retract().store(store()).ledger().is_ok());
    let both = || definition().retract().every_change().store(store());
    for contradicted in [
        definition().every_change().store(store()).ledger(),
        both().ledger(),
        both().exactly_once(),
    ] {
        assert_eq!(refused(contradicted).option, "every_change");
    }
    // An idempotent monoid takes nothing back, so neither option is needed.
    let largest = || {
        Pipeline::builder("largest")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Max::new())
    };
    let store = || MemoryStore::new(Max::new());
    assert!(largest().store(store()).exactly_once().is_ok());
    assert!(
        largest()
            .every_change()
            .store(store())
            .at_least_once()
            .is_ok()
    );
}
