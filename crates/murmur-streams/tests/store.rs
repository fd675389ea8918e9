//! The in-process store: what it keeps, assigns, refuses, and how its records look to Lambda.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use murmur_state::{ManualClock, SequenceNumber, Timestamp};
use murmur_streams::{
    AttributeValue, Cursor, EventRecord, Item, KeySchemaElement, KeyType, OperationType, Start,
    StreamError, StreamInfo, StreamRecord, StreamSource, StreamStatus, StreamStore, StreamViewType,
    time_to_live,
};
use serde_json::json;

const ARN: &str =
    "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000";

fn store() -> StreamStore {
    let store = StreamStore::with_clock(Arc::new(ManualClock::new(Timestamp::from_millis(1_999))));
    store.register_stream(StreamInfo::new(ARN, StreamViewType::NewAndOldImages));
    store
}

fn item(name: &str, value: &str) -> Item {
    HashMap::from([(name.to_owned(), AttributeValue::S(value.to_owned()))]).into()
}

fn record(id: &str) -> StreamRecord {
    StreamRecord {
        stream_arn: ARN.into(),
        keys: item("id", id),
        ..StreamRecord::default()
    }
}

fn number(digits: &str) -> SequenceNumber {
    SequenceNumber::new(digits).unwrap()
}

fn shard_ids(store: &StreamStore) -> Vec<String> {
    store
        .describe_stream(ARN)
        .unwrap()
        .shards
        .into_iter()
        .map(|shard| shard.id)
        .collect()
}

/// The keys of a shard's records from `start` on, and whether the shard goes on.
async fn read(store: &StreamStore, shard: &str, start: Start) -> (Vec<String>, bool) {
    let batch = store
        .source(ARN)
        .read(shard, &start.into(), 1000)
        .await
        .unwrap();
    let id = |record: &EventRecord| match &record.change.keys["id"] {
        AttributeValue::S(id) => id.clone(),
        other => panic!("{other:?}"),
    };
    (batch.records.iter().map(id).collect(), batch.next.is_some())
}

#[test]
fn attribute_values_have_ten_forms_with_their_json_names() {
    let s = |text: &str| text.to_owned();
    let forms = [
        (AttributeValue::S(s("a")), json!({"S": "a"})),
        (AttributeValue::N(s("-1.50")), json!({"N": "-1.50"})),
        (AttributeValue::B(vec![0, 255, 1]), json!({"B": "AP8B"})),
        (
            AttributeValue::Ss(vec![s("a"), s("b")]),
            json!({"SS": ["a", "b"]}),
        ),
        (
            AttributeValue::Ns(vec![s("1"), s("2")]),
            json!({"NS": ["1", "2"]}),
        ),
        (
            AttributeValue::Bs(vec![vec![255], vec![]]),
            json!({"BS": ["/w==", ""]}),
        ),
        (
            AttributeValue::M(HashMap::from([(s("k"), AttributeValue::Null(true))])),
            json!({"M": {"k": {"NULL": true}}}),
        ),
        (
            AttributeValue::L(vec![AttributeValue::Bool(false)]),
            json!({"L": [{"BOOL": false}]}),
        ),
        (AttributeValue::Null(true), json!({"NULL": true})),
        (AttributeValue::Bool(true), json!({"BOOL": true})),
    ];
    for (value, json) in forms {
        assert_eq!(serde_json::to_value(&value).unwrap(), json);
        assert_eq!(
            serde_json::from_value::<AttributeValue>(json).unwrap(),
            value
        );
    }
    assert!(serde_json::from_value::<AttributeValue>(json!({"X": 1})).is_err());
}

#[test]
fn every_field_of_a_record_reaches_the_lambda_event() {
    let record = StreamRecord {
        event_id: "e-1".into(),
        event_name: OperationType::Modify,
        event_version: "1.2".into(),
        event_source: "aws:test".into(),
        aws_region: "mars-1".into(),
        stream_view_type: Some(StreamViewType::NewImage),
        table_name: "other".into(),
        stream_arn: ARN.into(),
        keys: item("id", "k"),
        new_image: item("v", "new"),
        old_image: item("v", "old"),
        sequence_number: Some(number("42")),
        created_at: Some(Timestamp::from_millis(1_700_000_000_999)),
        size_bytes: 77,
        user_identity: Some(time_to_live()),
    };
    let event = EventRecord::from(&record);
    assert_eq!(event.event_id, "e-1");
    assert_eq!(event.event_name, "MODIFY");
    assert_eq!(event.event_version.as_deref(), Some("1.2"));
    assert_eq!(event.event_source.as_deref(), Some("aws:test"));
    assert_eq!(event.aws_region, "mars-1");
    assert_eq!(event.table_name.as_deref(), Some("other"));
    assert_eq!(event.event_source_arn.as_deref(), Some(ARN));
    assert_eq!(
        event.change.stream_view_type,
        Some(StreamViewType::NewImage)
    );
    assert_eq!(event.change.keys, item("id", "k"));
    assert_eq!(event.change.new_image, item("v", "new"));
    assert_eq!(event.change.old_image, item("v", "old"));
    assert_eq!(event.change.sequence_number.as_deref(), Some("42"));
    assert_eq!(
        event
            .change
            .approximate_creation_date_time
            .timestamp_millis(),
        1_700_000_000_000
    );
    assert_eq!(event.change.size_bytes, 77);
    let identity = event.user_identity.unwrap();
    assert_eq!(identity.type_, "Service");
    assert_eq!(identity.principal_id, "dynamodb.amazonaws.com");
    assert_eq!(event.record_format, None);

    for (operation, name) in [
        (OperationType::Insert, "INSERT"),
        (OperationType::Remove, "REMOVE"),
    ] {
        let record = StreamRecord {
            event_name: operation,
            ..StreamRecord::default()
        };
        assert_eq!(EventRecord::from(&record).event_name, name);
    }
    let bare = EventRecord::from(&StreamRecord::default());
    assert_eq!(bare.change.approximate_creation_date_time.timestamp(), 0);
    assert!(bare.change.new_image.is_empty() && bare.change.old_image.is_empty());
    assert_eq!(bare.change.sequence_number, None);
    let early = StreamRecord {
        created_at: Some(Timestamp::from_millis(-1)),
        ..bare_record()
    };
    assert_eq!(
        EventRecord::from(&early)
            .change
            .approximate_creation_date_time
            .timestamp(),
        -1
    );
    let never = Some(Timestamp::from_millis(i64::MAX));
    let never = StreamRecord {
        created_at: never,
        ..bare_record()
    };
    assert_eq!(
        EventRecord::from(&never)
            .change
            .approximate_creation_date_time
            .timestamp(),
        0
    );
}

fn bare_record() -> StreamRecord {
    StreamRecord::default()
}

#[test]
fn what_a_record_leaves_empty_is_filled_in() {
    let store = store();
    let assigned = store.put_record(record("a")).unwrap();
    let (records, _) = store.get_records(ARN, &shard_ids(&store)[0], 0, 1).unwrap();
    let StreamRecord {
        event_id,
        event_version,
        event_source,
        aws_region,
        stream_view_type,
        table_name,
        sequence_number,
        created_at,
        ..
    } = &*records[0];
    assert!(event_id.len() == 32 && event_id.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(
        (event_version.as_str(), event_source.as_str()),
        ("1.1", "aws:dynamodb")
    );
    assert_eq!(
        (aws_region.as_str(), table_name.as_str()),
        ("eu-west-1", "orders")
    );
    assert_eq!(stream_view_type, &Some(StreamViewType::NewAndOldImages));
    assert_eq!(sequence_number.as_ref(), Some(&assigned));
    assert_eq!(created_at, &Some(Timestamp::from_millis(1_999)));
    let event = EventRecord::from(&*records[0]);
    assert_eq!(event.change.approximate_creation_date_time.timestamp(), 1);
}

#[test]
fn what_a_record_says_is_kept() {
    let store = store();
    let given = StreamRecord {
        event_id: "mine".into(),
        event_version: "9".into(),
        event_source: "me".into(),
        aws_region: "r".into(),
        stream_view_type: Some(StreamViewType::NewAndOldImages),
        table_name: "t".into(),
        sequence_number: Some(number("500000000000000000000")),
        created_at: Some(Timestamp::from_secs(5)),
        size_bytes: 3,
        ..record("a")
    };
    store.put_record(given.clone()).unwrap();
    let (records, _) = store.get_records(ARN, &shard_ids(&store)[0], 0, 1).unwrap();
    assert_eq!(*records[0], given);
}

#[test]
fn an_unknown_stream_or_shard_is_an_error_everywhere() {
    let store = store();
    let other = "arn:aws:dynamodb:eu-west-1:1:table/other/stream/x";
    let unknown = StreamRecord {
        stream_arn: other.into(),
        ..record("a")
    };
    let stream_errors = [
        store.put_record(unknown).unwrap_err(),
        store.describe_stream(other).unwrap_err(),
        store.get_records(other, "s", 0, 1).unwrap_err(),
        store.shard_record_count(other, "s").unwrap_err(),
        store.roll_over(other).unwrap_err(),
    ];
    for error in stream_errors {
        assert!(matches!(&error, StreamError::UnknownStream { arn, .. } if arn == other));
        assert!(error.to_string().contains(other) && !error.is_retryable());
    }
    for error in [
        store.get_records(ARN, "shardId-9", 0, 1).unwrap_err(),
        store.shard_record_count(ARN, "shardId-9").unwrap_err(),
    ] {
        assert!(matches!(&error, StreamError::UnknownShard { shard, .. } if shard == "shardId-9"));
    }
}

#[test]
fn get_records_answers_the_next_position() {
    let store = store();
    for id in ["a", "b", "c"] {
        store.put_record(record(id)).unwrap();
    }
    let shard = &shard_ids(&store)[0];
    let read = |position, limit| {
        let (records, next) = store.get_records(ARN, shard, position, limit).unwrap();
        let ids: Vec<_> = records
            .iter()
            .map(|record| record.keys["id"].clone())
            .collect();
        (ids, next)
    };
    let s = |id: &str| AttributeValue::S(id.into());
    assert_eq!(read(0, 2), (vec![s("a"), s("b")], 2));
    assert_eq!(read(2, 1000), (vec![s("c")], 3));
    assert_eq!(read(3, 1), (vec![], 3));
    assert_eq!(read(99, 1), (vec![], 99));
    assert_eq!(store.shard_record_count(ARN, shard).unwrap(), 3);
    for limit in [0, 1001] {
        let error = store.get_records(ARN, shard, 0, limit).unwrap_err();
        assert!(matches!(&error, StreamError::Option(option) if option.option == "limit"));
    }
}

#[test]
fn sequence_numbers_have_21_digits_and_rise() {
    let store = store();
    let numbers: Vec<_> = (0..20)
        .map(|_| store.put_record(record("a")).unwrap())
        .collect();
    assert!(numbers.iter().all(|number| number.as_str().len() == 21));
    assert!(numbers.is_sorted_by(|a, b| a < b));
    for (given, next) in [
        ("399999999999999999999", "400000000000000000000"),
        (
            "9999999999999999999999999999999999999999",
            "10000000000000000000000000000000000000000",
        ),
    ] {
        let given = StreamRecord {
            sequence_number: Some(number(given)),
            ..record("a")
        };
        store.put_record(given).unwrap();
        assert_eq!(store.put_record(record("a")).unwrap().as_str(), next);
    }
}

#[test]
fn a_sequence_number_that_does_not_rise_is_refused_and_nothing_is_stored() {
    let store = store();
    let first = store.put_record(record("a")).unwrap();
    for given in [first.clone(), number("7")] {
        let again = StreamRecord {
            sequence_number: Some(given),
            ..record("b")
        };
        let error = store.put_record(again).unwrap_err();
        assert!(matches!(&error, StreamError::NotRising { last, .. } if *last == first));
    }
    assert_eq!(
        store
            .shard_record_count(ARN, &shard_ids(&store)[0])
            .unwrap(),
        1
    );
}

#[test]
fn the_description_gives_all_seven_fields_and_the_shard() {
    let store = StreamStore::new();
    let info = StreamInfo {
        stream_arn: "any".into(),
        table_name: "orders".into(),
        stream_view_type: StreamViewType::OldImage,
        stream_label: "label".into(),
        stream_status: StreamStatus::Enabling,
        key_schema: vec![
            KeySchemaElement {
                attribute_name: "id".into(),
                key_type: KeyType::Hash,
            },
            KeySchemaElement {
                attribute_name: "at".into(),
                key_type: KeyType::Range,
            },
        ],
        creation_time: Some(Timestamp::from_secs(3)),
    };
    store.register_stream(info.clone());
    let described = store.describe_stream("any").unwrap();
    assert_eq!(described.info, info);
    let [shard] = &described.shards[..] else {
        panic!("{described:?}")
    };
    assert_eq!((&shard.parent, &shard.ending), (&None, &None));
    assert!(shard.first.is_some() && !shard.id.is_empty());

    let named = StreamInfo::new(ARN, StreamViewType::KeysOnly);
    assert_eq!(named.table_name, "orders");
    assert_eq!(named.stream_label, "2026-01-01T00:00:00.000");
    assert!(named.is_enabled());
}

#[tokio::test]
async fn a_rolled_over_shard_is_closed_and_its_child_goes_on() {
    let store = store();
    let first = store.put_record(record("a")).unwrap();
    let last = store.put_record(record("b")).unwrap();
    let child = store.roll_over(ARN).unwrap().remove(0);
    let next = store.put_record(record("c")).unwrap();
    assert!(next > last);

    let described = store.describe_stream(ARN).unwrap();
    let [old, new] = &described.shards[..] else {
        panic!("{described:?}")
    };
    assert_eq!((&old.first, &old.ending), (&Some(first), &Some(last)));
    assert_eq!((&new.id, new.parent.as_ref()), (&child, Some(&old.id)));
    assert_eq!((&new.first, &new.ending), (&Some(next), &None));
    assert!(described.is_closed(old) && !described.is_closed(new));

    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        read(&store, &old.id, Start::TrimHorizon).await,
        (ids(&["a", "b"]), false)
    );
    assert_eq!(
        read(&store, &new.id, Start::TrimHorizon).await,
        (ids(&["c"]), true)
    );
}

#[tokio::test]
async fn a_shard_is_read_from_where_it_is_asked_for() {
    let store = store();
    let shard = shard_ids(&store).remove(0);
    let numbers: Vec<_> = ["a", "b", "c"]
        .map(|id| store.put_record(record(id)).unwrap())
        .into();
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let from = async |start| read(&store, &shard, start).await.0;
    assert_eq!(from(Start::TrimHorizon).await, ids(&["a", "b", "c"]));
    assert_eq!(from(Start::At(numbers[1].clone())).await, ids(&["b", "c"]));
    assert_eq!(from(Start::After(numbers[1].clone())).await, ids(&["c"]));
    assert_eq!(from(Start::Latest).await, ids(&[]));

    let source = store.source(ARN);
    let latest = source
        .read(&shard, &Start::Latest.into(), 10)
        .await
        .unwrap()
        .next
        .unwrap();
    store.put_record(record("d")).unwrap();
    let batch = source.read(&shard, &latest, 10).await.unwrap();
    assert_eq!(batch.records.len(), 1);
    let again = source.read(&shard, &batch.next.unwrap(), 10).await.unwrap();
    assert!(again.records.is_empty() && again.next.is_some());
    for limit in [0, 1001] {
        assert!(
            source.read(&shard, &latest, limit).await.is_err(),
            "{limit}"
        );
    }
    let foreign = Cursor::Iterator {
        token: "AAAA".into(),
        renew: Start::TrimHorizon,
    };
    let error = source.read(&shard, &foreign, 1).await.unwrap_err();
    assert!(matches!(error, StreamError::Unexpected { .. }));
}

#[tokio::test]
async fn a_disabled_stream_takes_no_records_and_can_be_read_to_its_end() {
    let store = store();
    store.put_record(record("a")).unwrap();
    let disabled = StreamInfo {
        stream_status: StreamStatus::Disabled,
        ..StreamInfo::new(ARN, StreamViewType::NewAndOldImages)
    };
    store.register_stream(disabled);
    let refused = store.put_record(record("b")).unwrap_err();
    assert!(matches!(refused, StreamError::Disabled { .. }));
    assert!(matches!(
        store.roll_over(ARN),
        Err(StreamError::Disabled { .. })
    ));
    assert!(
        store
            .describe_stream(ARN)
            .unwrap()
            .ensure_enabled()
            .is_err()
    );
    let shard = shard_ids(&store).remove(0);
    assert_eq!(
        read(&store, &shard, Start::TrimHorizon).await,
        (vec!["a".to_owned()], false)
    );
}

#[test]
fn registering_again_keeps_the_records() {
    let store = store();
    store.put_record(record("a")).unwrap();
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    let described = store.describe_stream(ARN).unwrap();
    assert_eq!(described.info.stream_view_type, StreamViewType::KeysOnly);
    assert_eq!(
        described.info.creation_time,
        Some(Timestamp::from_millis(1_999))
    );
    assert_eq!(described.shards.len(), 1);
    assert_eq!(
        store
            .shard_record_count(ARN, &described.shards[0].id)
            .unwrap(),
        1
    );
}

#[test]
fn concurrent_producers_lose_nothing_and_share_no_number() {
    let store = store();
    let readers_shard = shard_ids(&store).remove(0);
    thread::scope(|scope| {
        for producer in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..250 {
                    store.put_record(record(&producer.to_string())).unwrap();
                }
            });
        }
        let (mut position, mut last) = (0, None);
        while position < 2_000 {
            let (records, next) = store
                .get_records(ARN, &readers_shard, position, 100)
                .unwrap();
            position = next;
            for record in records {
                assert!(record.sequence_number > last);
                last.clone_from(&record.sequence_number);
            }
            thread::yield_now();
        }
    });
    assert_eq!(
        store.shard_record_count(ARN, &readers_shard).unwrap(),
        2_000
    );
}

#[test]
fn the_global_store_is_one_for_the_process() {
    let arn = "arn:aws:dynamodb:eu-west-1:1:table/global/stream/x";
    StreamStore::global().register_stream(StreamInfo::new(arn, StreamViewType::KeysOnly));
    let seen = thread::spawn(move || StreamStore::global().describe_stream(arn).is_ok());
    assert!(seen.join().unwrap());
    assert!(StreamStore::new().describe_stream(arn).is_err());
}
