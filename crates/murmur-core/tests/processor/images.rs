//! Which images count, and how.

use std::sync::{Arc, Mutex};

use murmur_core::{
    AttributeValue, Change, Count, Decoded, Decoder, EventName, Item, Pipeline, Processor, Record,
    RecordError, RecordOutcome, Side, Sum,
};
use murmur_state::{Deadline, Fault, MemoryStore, SequenceNumber};

use crate::support::{Answer, Order, change, insert, item, order, scanned, scripted, value};
use crate::{builder, error, following, outcomes, processor, totals};

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
        .every_change()
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
async fn old_images_are_taken_back() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .exactly_once()
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
    let store = scripted(|_| Answer::Apply);
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
    let (processor, _) = processor(following(store.clone()).ledger().unwrap());
    let at = |event: &str, sequence: &str, new: Option<Item>| {
        let mut change = change(event, "1", Some(order("?", 999)), new);
        change.sequence_number = Some(SequenceNumber::new(sequence).unwrap());
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
async fn a_stream_without_the_needed_images_is_reported_whatever_the_callback_says() {
    let pipeline = |retract: bool| {
        let definition = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new());
        let definition = if retract {
            definition.retract()
        } else {
            definition.every_change()
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
        let error = error(&outcome);
        assert!(matches!(error, RecordError::MissingImage { side: missing } if *missing == side));
        assert_eq!(error.fault(), Fault::Setup);
        assert!(error.to_string().contains("NEW_AND_OLD_IMAGES"));
    }
}

#[tokio::test]
async fn a_whole_record_decoder_sees_removals_keys_and_both_images() {
    let store = MemoryStore::new(Count::new());
    let removals = Pipeline::builder("removals")
        .key(|id: &String| id.clone())
        .count()
        .every_change()
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
    let processor = Processor::with_decoder([removals], decoder)
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
async fn a_whole_record_decoder_is_asked_for_the_sides_a_change_has() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let decoder = Decoder::record(move |view| {
        let side = (view.record.event_id().to_owned(), view.side);
        log.lock().unwrap().push(side);
        assert!(view.item().is_some() || view.side == Side::New);
        Ok(Decoded::<Order>::Skip)
    });
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .retract()
        .store(MemoryStore::new(Sum::new()))
        .at_least_once()
        .unwrap();
    assert!(pipeline.retracts());
    let processor = Processor::with_decoder([pipeline], decoder)
        .build()
        .unwrap();
    let image = || Some(order("a", 1));
    let batch = [
        Record::Changed(change("insert", "1", None, image())),
        Record::Changed(change("modify", "1", image(), image())),
        Record::Changed(change("remove", "1", image(), None)),
        scanned("2", order("a", 1)),
    ];
    processor.process(&batch, Deadline::NONE).await;
    let asked = asked.lock().unwrap();
    let sides = |event: &str| -> Vec<Side> {
        let asked = asked.iter().filter(|(id, _)| id == event);
        asked.map(|(_, side)| *side).collect()
    };
    assert_eq!(sides("insert"), [Side::New]);
    assert_eq!(sides("modify"), [Side::New, Side::Old]);
    assert_eq!(sides("remove"), [Side::New, Side::Old]);
    assert_eq!(sides(batch[3].event_id()), [Side::New]);
}

#[tokio::test]
async fn the_new_side_of_a_removal_counts_for_nothing_where_old_images_are_taken_back() {
    // A decoder that answers for every side, as one that reads only keys would.
    let decoder = || Decoder::record(|_| Ok(Decoded::Record("all".to_owned())));
    let definition = || {
        Pipeline::builder("items")
            .key(|key: &String| key.clone())
            .count()
    };
    let image = || Some(order("a", 1));
    let batch = [
        Record::Changed(change("1", "1", None, image())),
        Record::Changed(change("2", "1", image(), None)),
    ];
    let store = || MemoryStore::new(Count::new());
    let (taken_back, remembered, added) = (store(), store(), store());
    let pipelines = [
        definition()
            .retract()
            .store(taken_back.clone())
            .at_least_once(),
        definition().store(remembered.clone()).ledger(),
        definition()
            .every_change()
            .store(added.clone())
            .at_least_once(),
    ];
    for pipeline in pipelines {
        let processor = Processor::with_decoder([pipeline.unwrap()], decoder())
            .build()
            .unwrap();
        for record in &batch {
            let mut record = record.clone();
            if let Record::Changed(change) = &mut record {
                let number = change.event_id.as_str();
                change.sequence_number = Some(SequenceNumber::new(number).unwrap());
            }
            processor.process(&[record], Deadline::NONE).await;
        }
    }
    assert_eq!(value(&taken_back, "all").await, Some(0));
    assert_eq!(value(&remembered, "all").await, Some(0));
    assert_eq!(
        value(&added, "all").await,
        Some(2),
        "what changes count for"
    );
}
