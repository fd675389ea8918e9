//! Events as AWS sends them, end to end.

use std::sync::{Arc, Mutex};

use murmur_core::{Decoded, Decoder, Pipeline, Processor, Record, RecordError, Sum, Window};
use murmur_lambda_ddbstreams::{Event, Handler, InvocationError};
use murmur_state::{Deadline, MemoryStore};

use crate::support::{Order, Scripted, Seen, Step, event, insert, number, reported, total, totals};

const INSERT: &str = include_str!("../events/insert.json");
const MODIFY: &str = include_str!("../events/modify.json");
const REMOVE: &str = include_str!("../events/remove.json");
const REMOVE_BY_TTL: &str = include_str!("../events/remove_by_ttl.json");
const WITHOUT_NEW_IMAGE: &str = include_str!("../events/insert_without_new_image.json");
const WITHOUT_NUMBER: &str = include_str!("../events/insert_without_sequence_number.json");
const UNKNOWN_NAME: &str = include_str!("../events/unknown_name.json");
const SUB_SECOND: &str = include_str!("../events/sub_second.json");
const KEYS_ONLY: &str = include_str!("../events/keys_only.json");

const FIRST_NUMBER: &str = "4421584500000000017450439091";
const FIRST_ID: &str = "c4ca4238a0b923820dcc509a6f75849b";

fn parse(json: &str) -> Event {
    serde_json::from_str(json).unwrap()
}

#[tokio::test]
async fn insert_modify_and_remove_leave_what_the_table_holds() {
    for removal in [REMOVE, REMOVE_BY_TTL] {
        let store = Scripted::new(Sum::new());
        let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
        let expected = [
            (INSERT, Some(1250), None),
            (MODIFY, Some(0), Some(1000)),
            (removal, Some(0), Some(0)),
        ];
        for (json, alice, bob) in expected {
            let answer = handler.call(parse(json)).await.unwrap();
            assert_eq!(reported(&answer), [""; 0]);
            assert_eq!((store.total("alice"), store.total("bob")), (alice, bob));
        }
    }
}

#[tokio::test]
async fn an_event_without_records_is_done() {
    let handler = Handler::new(Processor::new([totals(&Scripted::new(Sum::new()))]).unwrap());
    let answer = handler.call(event([])).await.unwrap();
    let json = serde_json::to_string(&answer).unwrap();
    assert_eq!(json, r#"{"batchItemFailures":[]}"#);
}

#[tokio::test]
async fn a_missing_image_is_reported_and_says_how_to_set_the_stream() {
    for json in [WITHOUT_NEW_IMAGE, KEYS_ONLY] {
        let seen = Seen::default();
        let handler = Handler::new(
            Processor::builder([totals(&Scripted::new(Sum::new()))])
                .recorder(seen.clone())
                .on_rejected(|_| async { panic!("the record is fine, the stream is not") })
                .build()
                .unwrap(),
        );
        let answer = handler.call(parse(json)).await.unwrap();
        assert_eq!(reported(&answer), [FIRST_NUMBER]);
        let advice = seen.errors().join("\n");
        assert!(
            advice.contains("no new image") && advice.contains("NEW_AND_OLD_IMAGES"),
            "{advice}"
        );
    }
}

#[tokio::test]
async fn a_stream_of_old_images_lacking_is_named_where_retraction_needs_them() {
    let seen = Seen::default();
    let processor = Processor::builder([totals(&Scripted::new(Sum::new()))]).recorder(seen.clone());
    let handler = Handler::new(processor.build().unwrap());
    let mut event = parse(MODIFY);
    event.records[0].change.old_image = Default::default();
    let answer = handler.call(event).await.unwrap();
    assert_eq!(reported(&answer).len(), 1);
    assert!(
        seen.errors()[0].contains("retraction needs"),
        "{:?}",
        seen.errors()
    );
}

#[tokio::test]
async fn keys_are_enough_for_a_decoder_that_sees_the_whole_record() {
    let rows = MemoryStore::new(Sum::new());
    let counts = Pipeline::builder("inserts")
        .key(|id: &String| id.clone())
        .value(|_| 1)
        .aggregate(Sum::new())
        .every_change()
        .store(rows.clone())
        .at_least_once()
        .unwrap();
    let decoder = Decoder::record(|view| {
        let Record::Changed(change) = view.record else {
            return Ok(Decoded::Skip);
        };
        let id = change.keys.get("id").ok_or("no id")?;
        Ok(Decoded::Record(serde_json::to_string(id)?))
    });
    let handler = Handler::new(Processor::with_decoder([counts], decoder).build().unwrap());
    let answer = handler.call(parse(KEYS_ONLY)).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(total(&rows, r#"{"S":"o-1"}"#), Some(1));
}

#[tokio::test]
async fn a_failed_record_without_a_sequence_number_fails_the_invocation_by_its_event_id() {
    let empty = INSERT.replace(FIRST_NUMBER, "");
    for json in [WITHOUT_NUMBER, &empty] {
        let store = Scripted::new(Sum::new()).script("alice", [Step::Refuse]);
        let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
        let error = handler.call(parse(json)).await.unwrap_err();
        assert!(error.to_string().contains(FIRST_ID), "{error}");
        let InvocationError::NoSequenceNumber { source, .. } = error else {
            panic!("{error}");
        };
        assert!(matches!(source.as_deref(), Some(RecordError::Store { .. })));

        // Nothing is lost: the batch is delivered again.
        handler.call(parse(json)).await.unwrap();
        assert_eq!(store.total("alice"), Some(1250));
    }
}

#[tokio::test]
async fn a_sequence_number_is_reported_letter_for_letter() {
    for odd in ["0004421", "not a number", " 1"] {
        let store = Scripted::new(Sum::new()).script("alice", [Step::Refuse]);
        let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
        let json = INSERT.replace(FIRST_NUMBER, odd);
        let answer = handler.call(parse(&json)).await.unwrap();
        assert_eq!(reported(&answer), [odd]);
    }
}

#[tokio::test]
async fn an_event_name_nobody_knows_goes_to_the_callback_and_is_never_guessed_at() {
    let store = Scripted::new(Sum::new());
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let answer = handler.call(parse(UNKNOWN_NAME)).await.unwrap();
    assert_eq!(reported(&answer), [FIRST_NUMBER], "no callback: reported");

    let taken = Arc::new(Mutex::new(Vec::new()));
    let (kept, seen) = (Arc::clone(&taken), Seen::default());
    let handler = Handler::new(
        Processor::builder([totals(&store)])
            .recorder(seen.clone())
            .on_rejected(move |rejected| {
                kept.lock().unwrap().push(rejected.error.to_string());
                async { Ok(()) }
            })
            .build()
            .unwrap(),
    );
    let mut batch = parse(UNKNOWN_NAME);
    batch.records.extend(event([insert(2, "bob", 300)]).records);
    let answer = handler.call(batch).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert!(taken.lock().unwrap()[0].contains("ARCHIVE"));
    assert_eq!(seen.count("order_totals:dead_letter"), 1);
    assert_eq!(
        (store.total("alice"), store.total("bob")),
        (None, Some(300))
    );
}

#[tokio::test]
async fn a_fraction_of_a_second_does_not_move_a_record_to_another_window() {
    let rows = MemoryStore::new(Sum::new());
    let per_second = Pipeline::builder("per_second")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .window_by_arrival(Window::of(std::time::Duration::from_secs(1)))
        .every_change()
        .store(rows.clone())
        .at_least_once()
        .unwrap();
    let handler = Handler::new(Processor::new([per_second]).unwrap());
    for json in [INSERT, SUB_SECOND] {
        handler.call(parse(json)).await.unwrap();
    }
    let rows = rows.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].key.bucket(), rows[0].value), (1_767_225_600, 2500));
}

#[tokio::test]
async fn a_record_without_an_event_id_is_reported_and_its_neighbours_count() {
    let store = Scripted::new(Sum::new());
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let mut batch = [
        insert(1, "alice", 5),
        insert(2, "bob", 7),
        insert(3, "alice", 1),
    ];
    batch[1]["eventID"] = "".into();
    let answer = handler.handle(event(batch), Deadline::NONE).await.unwrap();
    assert_eq!(reported(&answer), [number(2)]);
    assert_eq!((store.total("alice"), store.total("bob")), (Some(6), None));
}
