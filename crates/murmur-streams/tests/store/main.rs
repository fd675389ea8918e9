//! The in-process store: what it keeps, assigns, refuses, and how its records look to Lambda.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is the failure message"
)]

mod model;
mod records;
mod retention;
mod shards;
mod streams;
mod threads;

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use murmur_state::{ManualClock, SequenceNumber, Timestamp};
use murmur_streams::source::{Cursor, ReadBatch, Start};
use murmur_streams::{
    AttributeValue, EventRecord, Item, StreamError, StreamInfo, StreamRecord, StreamSource,
    StreamStore, StreamViewType,
};

const ARN: &str =
    "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000";

fn info() -> StreamInfo {
    StreamInfo::new(ARN, StreamViewType::NewAndOldImages)
}

/// A store with a stream of so many shards, and its clock.
fn sharded(shards: usize) -> (StreamStore, ManualClock) {
    let clock = ManualClock::new(Timestamp::from_millis(1_999));
    let store = StreamStore::with_clock(Arc::new(clock.clone()));
    store.register_stream_with_shards(info(), shards).unwrap();
    (store, clock)
}

fn store() -> StreamStore {
    sharded(1).0
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

fn put(store: &StreamStore, ids: &[&str]) -> Vec<SequenceNumber> {
    let put = |id: &&str| store.put_record(record(id)).unwrap();
    ids.iter().map(put).collect()
}

fn number(digits: &str) -> SequenceNumber {
    SequenceNumber::new(digits).unwrap()
}

fn shard_ids(store: &StreamStore) -> Vec<String> {
    let shards = store.describe_stream(ARN).unwrap().shards;
    shards.into_iter().map(|shard| shard.id).collect()
}

fn id_of(keys: &Item) -> String {
    match &keys["id"] {
        AttributeValue::S(id) => id.clone(),
        other => panic!("{other:?}"),
    }
}

fn batch(
    store: &StreamStore,
    shard: &str,
    from: impl Into<Cursor>,
    limit: usize,
) -> Result<ReadBatch, StreamError> {
    let (source, from) = (store.source(ARN), from.into());
    let read = source.read(shard, &from, limit).now_or_never();
    read.expect("the store never waits")
}

/// The keys of a shard's records from `start` on, and whether the shard continues.
fn read(store: &StreamStore, shard: &str, start: Start) -> (Vec<String>, bool) {
    let batch = batch(store, shard, start, 1000).unwrap();
    let id = |record: &EventRecord| id_of(&record.change.keys);
    (batch.records.iter().map(id).collect(), batch.next.is_some())
}

/// The keys of all records a shard has.
fn all(store: &StreamStore, shard: &str) -> Vec<String> {
    read(store, shard, Start::TrimHorizon).0
}
