//! A stream as it is registered, described and read.

use std::thread;

use murmur_state::Timestamp;
use murmur_streams::source::{Cursor, KeySchemaElement, Start};
use murmur_streams::{
    AttributeValue, KeyType, StreamError, StreamInfo, StreamRecord, StreamStatus, StreamStore,
    StreamViewType,
};

use crate::{ARN, batch, info, put, read, record, shard_ids, sharded, store};

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
        store.describe_stream_page(other, None, 1).unwrap_err(),
        store.get_records(other, "s", 0, 1).unwrap_err(),
        store.shard_record_count(other, "s").unwrap_err(),
        store.roll_over(other).unwrap_err(),
        store.roll_over_shard(other, "s").unwrap_err(),
        store.split(other, "s").unwrap_err(),
    ];
    for error in stream_errors {
        assert!(matches!(&error, StreamError::UnknownStream { arn, .. } if arn == other));
        assert!(error.to_string().contains(other) && !error.is_retryable());
    }
    for error in [
        store.get_records(ARN, "shardId-9", 0, 1).unwrap_err(),
        store.shard_record_count(ARN, "shardId-9").unwrap_err(),
        batch(&store, "shardId-9", Start::Latest, 1).unwrap_err(),
        store
            .describe_stream_page(ARN, Some("shardId-9"), 1)
            .unwrap_err(),
        store.roll_over_shard(ARN, "shardId-9").unwrap_err(),
        store.split(ARN, "shardId-9").unwrap_err(),
    ] {
        assert!(matches!(&error, StreamError::UnknownShard { shard, .. } if shard == "shardId-9"));
        assert!(error.to_string().contains(ARN) && error.to_string().contains("shardId-9"));
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
fn the_description_gives_all_seven_fields_and_the_shard() {
    let store = StreamStore::new();
    let mut info =
        StreamInfo::new("any", StreamViewType::OldImage).with_status(StreamStatus::Enabling);
    info.table_name = "orders".into();
    info.stream_label = "label".into();
    info.key_schema = vec![
        KeySchemaElement {
            attribute_name: "id".into(),
            key_type: KeyType::Hash,
        },
        KeySchemaElement {
            attribute_name: "at".into(),
            key_type: KeyType::Range,
        },
    ];
    info.creation_time = Some(Timestamp::from_secs(3));
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

#[test]
fn a_shard_is_read_from_where_it_is_asked_for() {
    let store = store();
    let shard = shard_ids(&store).remove(0);
    let numbers = put(&store, &["a", "b", "c"]);
    let from = |start| read(&store, &shard, start).0;
    assert_eq!(from(Start::TrimHorizon), ["a", "b", "c"]);
    assert_eq!(from(Start::At(numbers[1].clone())), ["b", "c"]);
    assert_eq!(from(Start::After(numbers[1].clone())), ["c"]);
    assert!(from(Start::Latest).is_empty());

    let latest = batch(&store, &shard, Start::Latest, 10).unwrap();
    let latest = latest.next.unwrap();
    let renew = |cursor: &Cursor| match cursor {
        Cursor::Iterator { renew, .. } => renew.clone(),
        Cursor::Start(start) => panic!("{start:?}"),
    };
    assert_eq!(renew(&latest), Start::Latest);
    let fourth = put(&store, &["d"]).remove(0);
    let read = batch(&store, &shard, latest.clone(), 10).unwrap();
    assert_eq!(read.records.len(), 1);
    let again = batch(&store, &shard, read.next.unwrap(), 10).unwrap();
    assert!(again.records.is_empty());
    assert_eq!(renew(&again.next.unwrap()), Start::After(fourth));
    for limit in [0, 1001] {
        let refused = batch(&store, &shard, latest.clone(), limit).unwrap_err();
        assert!(matches!(&refused, StreamError::Option(option) if option.option == "limit"));
    }
    let foreign = Cursor::Iterator {
        token: "AAAA".into(),
        renew: Start::TrimHorizon,
    };
    let error = batch(&store, &shard, foreign, 1).unwrap_err();
    assert!(matches!(error, StreamError::Unexpected { .. }));
}

#[test]
fn a_disabled_stream_takes_no_records_and_can_be_read_to_its_end() {
    let store = store();
    store.put_record(record("a")).unwrap();
    let disabled =
        StreamInfo::new(ARN, StreamViewType::NewAndOldImages).with_status(StreamStatus::Disabled);
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
        read(&store, &shard, Start::TrimHorizon),
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
fn the_global_store_is_one_for_the_process() {
    let arn = "arn:aws:dynamodb:eu-west-1:1:table/global/stream/x";
    StreamStore::global().register_stream(StreamInfo::new(arn, StreamViewType::KeysOnly));
    let seen = thread::spawn(move || StreamStore::global().describe_stream(arn).is_ok());
    assert!(seen.join().unwrap());
    assert!(StreamStore::new().describe_stream(arn).is_err());
}

#[test]
fn registering_again_keeps_the_shards() {
    let (store, _) = sharded(4);
    let shards = shard_ids(&store);
    store.register_stream(info());
    store.register_stream_with_shards(info(), 9).unwrap();
    assert_eq!(shard_ids(&store), shards);
}

#[test]
fn a_stream_that_was_never_enabled_gets_its_shards_once_it_is() {
    let store = StreamStore::new();
    let disabled = info().with_status(StreamStatus::Disabled);
    store.register_stream_with_shards(disabled, 5).unwrap();
    assert!(shard_ids(&store).is_empty());
    assert!(matches!(
        store.put_record(record("a")),
        Err(StreamError::Disabled { .. })
    ));
    store.register_stream_with_shards(info(), 3).unwrap();
    assert_eq!(shard_ids(&store).len(), 3);
}

/// The shards' ids, page by page.
fn pages(store: &StreamStore, limit: usize) -> Vec<Vec<String>> {
    let (mut pages, mut after) = (vec![], None);
    loop {
        let page = store
            .describe_stream_page(ARN, after.as_deref(), limit)
            .unwrap();
        assert_eq!(
            page.description.info,
            store.describe_stream(ARN).unwrap().info
        );
        let ids = page.description.shards.into_iter().map(|shard| shard.id);
        pages.push(ids.collect::<Vec<_>>());
        assert!(pages.len() <= 100, "it never ends");
        after = page.last_evaluated_shard_id;
        if after.is_none() {
            return pages;
        }
        assert_eq!(pages.last().unwrap().last(), after.as_ref());
    }
}

#[test]
fn pages_of_every_size_make_up_the_whole_list() {
    let (store, _) = sharded(12);
    store.split(ARN, &shard_ids(&store)[3]).unwrap();
    store.roll_over(ARN).unwrap();
    let whole = shard_ids(&store);
    assert_eq!(whole.len(), 12 + 2 + 13);
    for limit in 1..=100 {
        let pages = pages(&store, limit);
        assert_eq!(pages.len(), whole.len().div_ceil(limit));
        let (last, full) = pages.split_last().unwrap();
        assert!(full.iter().all(|page| page.len() == limit) && last.len() <= limit);
        assert_eq!(pages.concat(), whole, "{limit}");
    }
    // An empty page says that there is nothing more.
    let end = store.describe_stream_page(ARN, whole.last().map(String::as_str), 1);
    let end = end.unwrap();
    assert!(end.description.shards.is_empty() && end.last_evaluated_shard_id.is_none());
}

#[test]
fn a_page_has_one_to_a_hundred_shards() {
    let store = store();
    for limit in [0, 101, usize::MAX] {
        let error = store.describe_stream_page(ARN, None, limit).unwrap_err();
        assert!(matches!(&error, StreamError::Option(option) if option.option == "limit"));
        assert!(error.to_string().contains("1..=100"), "{error}");
    }
    // Ids of the right form that were never given.
    let ahead = shard_ids(&store)[0].replace('1', "2");
    let zero = shard_ids(&store)[0].replace('1', "0");
    for never in [ahead, zero, String::new(), "shardId-1".into()] {
        let error = store
            .describe_stream_page(ARN, Some(&never), 1)
            .unwrap_err();
        assert!(matches!(&error, StreamError::UnknownShard { shard, .. } if *shard == never));
    }
}

#[test]
fn shards_that_come_between_pages_are_on_later_ones() {
    let (store, _) = sharded(3);
    let first = store.describe_stream_page(ARN, None, 2).unwrap();
    let children = store.roll_over(ARN).unwrap();
    let after = first.last_evaluated_shard_id.unwrap();
    let second = store.describe_stream_page(ARN, Some(&after), 100).unwrap();
    let ids: Vec<_> = second
        .description
        .shards
        .into_iter()
        .map(|s| s.id)
        .collect();
    assert_eq!(ids[1..], children);
    assert_eq!(second.last_evaluated_shard_id, None);
}
