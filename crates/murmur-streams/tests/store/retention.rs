//! What becomes of records, shards and readers once a day has passed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use murmur_state::{ManualClock, SequenceNumber, Timestamp};
use murmur_streams::source::{Cursor, Start};
use murmur_streams::{
    DynamoDbEventResponse, Event, StreamError, StreamRecord, StreamStatus, StreamStore, Trigger,
};

use crate::{ARN, all, batch, info, number, put, read, record, shard_ids, sharded};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A store with one shard, the shard, and the clock.
fn single() -> (StreamStore, String, ManualClock) {
    let (store, clock) = sharded(1);
    let shard = shard_ids(&store).remove(0);
    (store, shard, clock)
}

fn is_trimmed<T>(result: Result<T, StreamError>) -> bool {
    let error = result.err();
    if let Some(StreamError::Trimmed { arn, shard, .. }) = &error {
        let text = error.as_ref().unwrap().to_string();
        assert!(arn == ARN && text.contains(ARN) && text.contains(shard));
    }
    matches!(error, Some(StreamError::Trimmed { .. }))
}

fn is_unknown<T>(result: Result<T, StreamError>) -> bool {
    matches!(result, Err(StreamError::UnknownShard { .. }))
}

#[test]
fn records_are_kept_for_exactly_a_day() {
    let (store, shard, clock) = single();
    put(&store, &["a"]);
    clock.advance(HOUR);
    put(&store, &["b"]);
    clock.advance(DAY - HOUR - MILLI);
    assert_eq!(all(&store, &shard), ["a", "b"]);
    clock.advance(MILLI);
    assert_eq!(all(&store, &shard), ["b"]);
    clock.advance(HOUR - MILLI);
    assert_eq!(all(&store, &shard), ["b"]);
    clock.advance(MILLI);
    assert_eq!(all(&store, &shard), [""; 0]);
    put(&store, &["c"]);
    assert_eq!(all(&store, &shard), ["c"]);
}

#[test]
fn another_retention_holds_for_every_clone_and_for_what_is_there() {
    let (store, shard, clock) = single();
    let other = store.clone();
    put(&store, &["a"]);
    let store = store.retention(2 * HOUR);
    clock.advance(HOUR);
    assert_eq!(all(&other, &shard), ["a"]);
    clock.advance(HOUR);
    assert_eq!(all(&other, &shard), [""; 0]);

    let store = store.retention(Duration::MAX);
    put(&store, &["b"]);
    clock.advance(1_000 * DAY);
    assert_eq!(all(&other, &shard), ["b"]);

    let store = store.retention(Duration::ZERO);
    put(&store, &["c"]);
    assert_eq!(all(&store, &shard), [""; 0]);
}

#[test]
fn a_record_goes_by_its_own_time_and_never_before_those_in_front_of_it() {
    let (store, shard, clock) = single();
    clock.advance(10 * DAY);
    put(&store, &["now"]);
    let old = StreamRecord {
        created_at: Some(Timestamp::from_secs(1)),
        ..record("old")
    };
    store.put_record(old.clone()).unwrap();
    assert_eq!(all(&store, &shard), ["now", "old"]);
    clock.advance(DAY);
    assert_eq!(all(&store, &shard), [""; 0]);
    store.put_record(old).unwrap();
    assert_eq!(all(&store, &shard), [""; 0], "nothing is in front of it");
    assert_eq!(store.shard_record_count(ARN, &shard).unwrap(), 3);
}

#[test]
fn what_was_dropped_stays_so_when_the_clock_is_set_back() {
    let (store, shard, clock) = single();
    put(&store, &["a"]);
    clock.advance(DAY);
    assert_eq!(all(&store, &shard), [""; 0]);
    clock.step(Timestamp::from_secs(0));
    assert_eq!(all(&store, &shard), [""; 0]);
    assert!(is_trimmed(store.get_records(ARN, &shard, 0, 1)));
    put(&store, &["b"]);
    assert_eq!(all(&store, &shard), ["b"]);
}

#[test]
fn positions_stay_when_records_go() {
    let (store, shard, clock) = single();
    put(&store, &["a", "b"]);
    clock.advance(HOUR);
    put(&store, &["c", "d"]);
    clock.advance(DAY - HOUR);
    for position in [0, 1] {
        assert!(is_trimmed(store.get_records(ARN, &shard, position, 10)));
    }
    let ids = |position| {
        let (records, next) = store.get_records(ARN, &shard, position, 1).unwrap();
        let ids: Vec<_> = records
            .iter()
            .map(|record| crate::id_of(&record.keys))
            .collect();
        (ids, next)
    };
    assert_eq!(ids(2), (vec!["c".to_owned()], 3));
    assert_eq!(ids(3), (vec!["d".to_owned()], 4));
    assert_eq!(ids(4), (vec![], 4));
    assert_eq!(store.shard_record_count(ARN, &shard).unwrap(), 4);
    clock.advance(HOUR);
    assert!(is_trimmed(store.get_records(ARN, &shard, 3, 1)));
    assert_eq!(ids(4), (vec![], 4));
    assert_eq!(store.shard_record_count(ARN, &shard).unwrap(), 4);
    put(&store, &["e"]);
    assert_eq!(ids(4), (vec!["e".to_owned()], 5));
}

#[test]
fn a_start_fails_if_a_record_from_there_on_is_gone() {
    let (store, shard, clock) = single();
    let given = |digits: &str| {
        let number = number(digits);
        store
            .put_record(StreamRecord {
                sequence_number: Some(number.clone()),
                ..record(digits)
            })
            .unwrap()
    };
    let gone: [SequenceNumber; 2] = ["10", "20"].map(given);
    clock.advance(HOUR);
    let left: [SequenceNumber; 2] = ["30", "40"].map(given);
    clock.advance(DAY - HOUR);

    let from = |start: Start| batch(&store, &shard, start, 10);
    let ids = |start| read(&store, &shard, start).0;
    assert_eq!(ids(Start::TrimHorizon), ["30", "40"]);
    assert_eq!(ids(Start::Latest), [""; 0]);
    for number in [number("5"), gone[0].clone(), number("15"), gone[1].clone()] {
        assert!(is_trimmed(from(Start::At(number))));
    }
    // The last one although nothing after it is gone, because a number before the oldest record
    // kept is not valid.
    for number in [number("5"), gone[0].clone(), number("15"), gone[1].clone()] {
        assert!(is_trimmed(from(Start::After(number))));
    }
    assert_eq!(ids(Start::At(number("25"))), ["30", "40"]);
    assert_eq!(ids(Start::After(number("25"))), ["30", "40"]);
    assert_eq!(ids(Start::At(left[0].clone())), ["30", "40"]);
    assert_eq!(ids(Start::After(left[0].clone())), ["40"]);
    assert_eq!(ids(Start::After(left[1].clone())), [""; 0]);

    clock.advance(HOUR);
    for start in [Start::At, Start::After] {
        assert!(is_trimmed(from(start(left[1].clone()))));
    }
    assert_eq!(ids(Start::TrimHorizon), [""; 0]);
}

#[test]
fn a_reader_that_was_overtaken_is_told() {
    let (store, shard, clock) = single();
    put(&store, &["a", "b", "c"]);
    let next = |from: Cursor, limit| batch(&store, &shard, from, limit).unwrap().next.unwrap();
    clock.advance(DAY - MINUTE);
    let slow = next(Start::TrimHorizon.into(), 1);
    let fast = next(Start::TrimHorizon.into(), 3);
    clock.advance(MINUTE);
    put(&store, &["d"]);
    assert!(is_trimmed(batch(&store, &shard, slow.clone(), 10)));
    let Cursor::Iterator { renew, .. } = slow else {
        panic!()
    };
    assert!(is_trimmed(batch(&store, &shard, renew, 10)));
    assert_eq!(batch(&store, &shard, fast, 10).unwrap().records.len(), 1);
    // A reader that started at an empty shard and also missed the first record.
    let idle = next(Start::Latest.into(), 1);
    put(&store, &["e"]);
    let store = store.retention(MINUTE);
    clock.advance(MINUTE);
    assert!(is_trimmed(batch(&store, &shard, idle, 10)));
}

#[test]
fn an_iterator_expires_after_a_quarter_of_an_hour() {
    let (store, shard, clock) = single();
    let next = |from: Start| batch(&store, &shard, from, 1).unwrap().next.unwrap();
    let read = |from: &Cursor| batch(&store, &shard, from.clone(), 10);
    let empty = [next(Start::TrimHorizon), next(Start::Latest)];
    put(&store, &["a", "b"]);
    let begun = next(Start::TrimHorizon);
    clock.advance(15 * MINUTE - MILLI);
    for from in &empty {
        assert_eq!(read(from).unwrap().records.len(), 2);
    }
    let renewed = read(&begun).unwrap().next.unwrap();
    clock.advance(MILLI);
    for from in &empty {
        let error = read(from).unwrap_err();
        assert!(
            matches!(error, StreamError::IteratorExpired { .. }),
            "{error}"
        );
    }
    // After a record the place is known without the iterator.
    assert_eq!(read(&begun).unwrap().records.len(), 1);
    assert_eq!(read(&renewed).unwrap().records.len(), 0);
    clock.advance(DAY);
    assert!(is_trimmed(read(&begun)));
}

#[test]
fn a_closed_shard_leaves_once_it_is_empty_and_closed_for_a_day() {
    let (store, parent, clock) = single();
    put(&store, &["a"]);
    clock.advance(HOUR);
    let children = store.split(ARN, &parent).unwrap();
    put(&store, &["b"]);

    clock.advance(DAY - HOUR);
    assert_eq!(shard_ids(&store).len(), 3, "empty, and closed for less");
    assert_eq!(read(&store, &parent, Start::TrimHorizon), (vec![], false));
    assert_eq!(read(&store, &parent, Start::Latest), (vec![], false));
    assert!(is_trimmed(store.get_records(ARN, &parent, 0, 1)));
    clock.advance(HOUR - MILLI);
    assert_eq!(shard_ids(&store).len(), 3);

    clock.advance(MILLI);
    assert_eq!(shard_ids(&store), children);
    for shard in store.describe_stream(ARN).unwrap().shards {
        assert_eq!(shard.parent.as_ref(), Some(&parent));
    }
    assert!(is_unknown(batch(&store, &parent, Start::TrimHorizon, 1)));
    assert!(is_unknown(store.get_records(ARN, &parent, 0, 1)));
    assert!(is_unknown(store.shard_record_count(ARN, &parent)));
    assert!(is_unknown(store.split(ARN, &parent)));
    assert!(is_unknown(store.roll_over_shard(ARN, &parent)));
}

#[test]
fn a_closed_shard_stays_as_long_as_it_has_records() {
    let (store, parent, clock) = single();
    let late = StreamRecord {
        created_at: Some(Timestamp::from_millis(1_999).plus(2 * DAY)),
        ..record("late")
    };
    store.put_record(late).unwrap();
    store.roll_over(ARN).unwrap();
    clock.advance(2 * DAY);
    assert_eq!(all(&store, &parent), ["late"]);
    clock.advance(DAY);
    assert_eq!(shard_ids(&store).len(), 1);
}

#[test]
fn an_open_shard_never_leaves() {
    let (store, clock) = sharded(3);
    clock.advance(100 * DAY);
    assert_eq!(shard_ids(&store).len(), 3);
    put(&store, &["a"]);
}

#[test]
fn a_page_may_go_on_from_a_shard_that_has_left() {
    let (store, clock) = sharded(3);
    let roots = shard_ids(&store);
    store.roll_over(ARN).unwrap();
    let page = |after: &str, limit| {
        let page = store.describe_stream_page(ARN, Some(after), limit).unwrap();
        let ids = page.description.shards.into_iter().map(|shard| shard.id);
        ids.collect::<Vec<_>>()
    };
    assert_eq!(page(&roots[1], 1), [roots[2].clone()]);
    clock.advance(DAY);
    let left = shard_ids(&store);
    assert_eq!(left.len(), 3);
    for gone in &roots {
        assert_eq!(page(gone, 1), left[..1]);
        assert_eq!(page(gone, 100), left);
    }
    assert_eq!(page(&left[0], 100), left[1..]);
}

#[test]
fn a_stream_whose_shards_have_all_left_goes_on_where_they_ended() {
    let (store, clock) = sharded(2);
    let roots = shard_ids(&store);
    let last = put(&store, &["a", "b", "c", "d"]).pop().unwrap();
    let owner = roots
        .iter()
        .find(|shard| all(&store, shard).contains(&"a".to_owned()));
    let disabled = info().with_status(StreamStatus::Disabled);
    store.register_stream(disabled.clone());
    clock.advance(DAY);
    store.register_stream(disabled);
    assert!(shard_ids(&store).is_empty());

    store.register_stream(info());
    assert!(put(&store, &["a"])[0] > last);
    let shards = store.describe_stream(ARN).unwrap().shards;
    let parents: Vec<_> = shards.iter().map(|s| s.parent.clone().unwrap()).collect();
    assert_eq!(parents, roots);
    let child = shards.iter().find(|shard| shard.parent.as_ref() == owner);
    assert_eq!(all(&store, &child.unwrap().id), ["a"]);
}

#[test]
fn putting_reading_and_describing_all_free_what_is_past_retention() {
    type Call = fn(&StreamStore, &str);
    let calls: [Call; 6] = [
        |store, _| drop(put(store, &["b"])),
        |store, shard| drop(store.get_records(ARN, shard, 1, 1).unwrap()),
        |store, shard| drop(batch(store, shard, Start::Latest, 1).unwrap()),
        |store, _| drop(store.describe_stream(ARN).unwrap()),
        |store, _| drop(store.describe_stream_page(ARN, None, 1).unwrap()),
        |store, _| drop(store.roll_over(ARN).unwrap()),
    ];
    for call in calls {
        let (store, shard, clock) = single();
        put(&store, &["a"]);
        let (mut records, _) = store.get_records(ARN, &shard, 0, 1).unwrap();
        let kept: Weak<StreamRecord> = Arc::downgrade(&records.remove(0));
        call(&store, &shard);
        assert!(kept.upgrade().is_some());
        clock.advance(DAY);
        assert!(kept.upgrade().is_some());
        call(&store, &shard);
        assert!(kept.upgrade().is_none());
    }
}

#[tokio::test]
async fn a_trigger_that_keeps_up_misses_nothing_while_shards_leave() {
    let (store, clock) = sharded(2);
    let handler =
        |_: Event| async { Ok::<_, murmur_state::HandlerError>(DynamoDbEventResponse::default()) };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    let mut records = 0;
    for round in 0..40 {
        put(&store, &["a", "b", "c", "d", "e"]);
        if round % 4 == 0 {
            store.split(ARN, shard_ids(&store).last().unwrap()).unwrap();
        }
        store.roll_over(ARN).unwrap();
        put(&store, &["a", "b", "c", "d", "e"]);
        let summary = trigger.drain().await.unwrap();
        records += summary.records;
        assert_eq!(records, (round + 1) * 10);
        clock.advance(7 * HOUR);
    }
    assert!(shard_ids(&store).len() < 70, "those of a day");
}
