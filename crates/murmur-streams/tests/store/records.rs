//! The content of a record, and how the store completes it.

use std::collections::HashMap;

use murmur_state::Timestamp;
use murmur_streams::{
    AttributeValue, EventRecord, Item, OperationType, StreamError, StreamInfo, StreamRecord,
    StreamViewType, time_to_live,
};
use serde_json::json;

use crate::{ARN, item, number, record, shard_ids, store};

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
fn a_record_carries_the_images_its_stream_has_and_no_other() {
    let old_and_new = [
        (StreamViewType::KeysOnly, false, false),
        (StreamViewType::NewImage, false, true),
        (StreamViewType::OldImage, true, false),
        (StreamViewType::NewAndOldImages, true, true),
    ];
    for (view, old, new) in old_and_new.clone() {
        let store = store();
        store.register_stream(StreamInfo::new(ARN, view.clone()));
        // The record's own value has no effect.
        for (said, _, _) in old_and_new.clone() {
            let full = StreamRecord {
                stream_view_type: Some(said),
                new_image: item("v", "new"),
                old_image: item("v", "old"),
                ..record("a")
            };
            store.put_record(full).unwrap();
        }
        let (records, _) = store
            .get_records(ARN, &shard_ids(&store)[0], 0, 10)
            .unwrap();
        assert_eq!(records.len(), 4);
        let image = |is_there: bool, value: &str| match is_there {
            true => item("v", value),
            false => Item::default(),
        };
        for record in records {
            assert_eq!(record.stream_view_type, Some(view.clone()));
            assert_eq!(record.keys, item("id", "a"));
            assert_eq!(record.old_image, image(old, "old"), "{view:?}");
            assert_eq!(record.new_image, image(new, "new"), "{view:?}");
        }
    }
}

#[test]
fn a_number_of_its_own_may_be_below_the_stores_first() {
    let store = store();
    let given = |digits| StreamRecord {
        sequence_number: Some(number(digits)),
        ..record("a")
    };
    store.put_record(given("7")).unwrap();
    store.put_record(given("9")).unwrap();
    assert_eq!(
        store.put_record(record("a")).unwrap(),
        number("100000000000000000001")
    );
    let shard = store.describe_stream(ARN).unwrap().shards.remove(0);
    assert_eq!(shard.first, Some(number("7")));
}
