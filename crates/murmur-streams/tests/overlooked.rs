//! Faults found by random runs of the trigger, each in its simplest form: gaps, a lag, a repeated
//! save.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{
    Checkpoint, Checkpoints, HandlerError, MemoryDeduper, Place, Removed, Saved, StoreError,
    Timestamp,
};
use murmur_streams::source::{Cursor, ReadBatch, StreamDescription};
use murmur_streams::{
    AttributeValue, DynamoDbEventResponse, Event, Gap, Item, OnGap, StoreSource, StreamError,
    StreamInfo, StreamRecord, StreamSource, StreamStore, StreamViewType, Trigger, TriggerError,
};
use murmur_testkit::time::Time;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/label";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// 45 minutes, the most by which a clock may be wrong.
const SKEW: i64 = 45 * 60;

fn world() -> (Time, StreamStore, MemoryDeduper) {
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let store = StreamStore::with_clock(time.clock(0));
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    (time, store, MemoryDeduper::new())
}

fn put(store: &StreamStore, id: &str) {
    put_at(store, id, None);
}

fn put_at(store: &StreamStore, id: &str, created_at: Option<Timestamp>) {
    let key = ("id".to_owned(), AttributeValue::S(id.to_owned()));
    let record = StreamRecord {
        stream_arn: ARN.to_owned(),
        keys: Item::from(std::collections::HashMap::from([key])),
        created_at,
        ..StreamRecord::default()
    };
    store.put_record(record).unwrap();
}

async fn well(_: Event) -> Result<DynamoDbEventResponse, HandlerError> {
    Ok(DynamoDbEventResponse::default())
}

async fn badly(_: Event) -> Result<DynamoDbEventResponse, HandlerError> {
    Err("the database is on fire".into())
}

/// Gives one record at a time. The second read takes a while, or never ends.
struct OneByOne {
    inner: StoreSource,
    time: Time,
    reads: AtomicUsize,
    wait: Option<Duration>,
}

impl StreamSource for OneByOne {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.inner.describe().await
    }

    async fn read(&self, shard: &str, from: &Cursor, _: usize) -> Result<ReadBatch, StreamError> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == 1 {
            match self.wait {
                Some(wait) => self.time.sleep(wait).await,
                None => pending().await,
            }
        }
        self.inner.read(shard, from, 1).await
    }
}

/// Every save is made, and every other answer is lost.
struct Deaf {
    inner: MemoryDeduper,
    lost: AtomicBool,
}

impl Checkpoints for Deaf {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.inner.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let saved = self.inner.save(name, data, over).await;
            match self.lost.fetch_xor(true, Ordering::SeqCst) {
                true => saved,
                false => Err(StoreError::Unavailable {
                    place: Place::table("Deaf", "positions"),
                    may_have_applied: true,
                    source: None,
                }),
            }
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.inner.remove(name, over)
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_answer_is_lost_is_known_for_ones_own() {
    let (time, store, places) = world();
    put(&store, "a");
    let deaf = Deaf {
        inner: places,
        lost: AtomicBool::new(false),
    };
    let mut trigger = Trigger::builder(store.source(ARN), well)
        .positions(deaf, "live")
        .lease(3 * SECOND)
        .clock(time.clock(0))
        .build()
        .unwrap();
    let summary = trigger.run(time.sleep(60 * SECOND)).await.unwrap();
    assert_eq!((summary.leases_lost, summary.batches), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_may_have_left_records_behind_shows_a_lag() {
    let (time, store, _) = world();
    for id in ["a", "b"] {
        put(&store, id);
    }
    time.sleep(60 * SECOND).await;
    let source = OneByOne {
        inner: store.source(ARN),
        time: time.clone(),
        reads: AtomicUsize::new(0),
        wait: None,
    };
    let mut trigger = Trigger::builder(source, well)
        .clock(time.clock(0))
        .build()
        .unwrap();
    let monitor = trigger.monitor();
    let look = async {
        time.sleep(SECOND).await;
        monitor.status()
    };
    let status = tokio::select! {
        _ = trigger.run(pending()) => panic!("it has ended"),
        status = look => status,
    };
    assert_eq!(status.summary.records, 1);
    assert_eq!(status.shards[0].lag, Some(61 * SECOND));
}

/// The gap found by a reader whose clock is `skew` seconds ahead.
async fn gap(time: &Time, store: &StreamStore, places: &MemoryDeduper, skew: i64) -> Option<Gap> {
    let trigger = Trigger::builder(store.source(ARN), well)
        .positions(places.clone(), "live")
        .clock(time.clock(skew))
        .build();
    match trigger.unwrap().drain().await {
        Ok(_) => None,
        Err(TriggerError::Gap { gap, .. }) => Some(gap),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_found_though_clocks_differ() {
    let (time, store, places) = world();
    assert_eq!(gap(&time, &store, &places, SKEW).await, None);
    time.sleep(HOUR / 2).await;
    put(&store, "a");
    time.sleep(24 * HOUR).await;
    let found = gap(&time, &store, &places, -SKEW).await;
    assert!(matches!(found, Some(Gap::Away { .. })), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shard_listed_at_first_and_not_begun_for_a_day_is_a_gap() {
    let (time, _, places) = world();
    let store = StreamStore::with_clock(time.clock(0));
    let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
    store.register_stream_with_shards(info, 2).unwrap();
    let mut trigger = Trigger::builder(store.source(ARN), well)
        .positions(places.clone(), "live")
        .maximum_shards(1)
        .clock(time.clock(0))
        .build()
        .unwrap();
    trigger.run(time.sleep(SECOND)).await.unwrap();
    let listed = store.describe_stream(ARN).unwrap().shards;
    (0..20).for_each(|n| put(&store, &n.to_string()));
    time.sleep(25 * HOUR).await;
    let mut trigger = Trigger::builder(store.source(ARN), well)
        .positions(places, "live")
        .on_gap(OnGap::Continue)
        .clock(time.clock(0))
        .build()
        .unwrap();
    // One shard was begun and had no record yet; the other was not begun.
    assert_eq!((listed.len(), trigger.drain().await.unwrap().gaps), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_child_listed_at_first_whose_parent_is_gone_unread_is_a_gap() {
    let (time, store, places) = world();
    put(&store, "a");
    let parent = store.describe_stream(ARN).unwrap().shards.remove(0).id;
    store.roll_over(ARN).unwrap();
    let mut trigger = Trigger::builder(store.source(ARN), badly)
        .positions(places.clone(), "live")
        .clock(time.clock(0))
        .build()
        .unwrap();
    trigger.run(time.sleep(SECOND)).await.unwrap();
    time.sleep(25 * HOUR).await;
    let found = gap(&time, &store, &places, 0).await;
    assert_eq!(found, Some(Gap::ParentGone { parent }));
}

#[tokio::test(start_paused = true)]
async fn records_trimmed_behind_one_that_is_under_way_are_a_gap() {
    let (time, store, places) = world();
    let old = time.now().minus(23 * HOUR);
    for id in ["a", "b", "c", "d"] {
        put_at(&store, id, Some(old));
    }
    let source = OneByOne {
        inner: store.source(ARN),
        time: time.clone(),
        reads: AtomicUsize::new(0),
        wait: Some(2 * HOUR),
    };
    let slow_time = Arc::new(time.clone());
    let slowly = move |event| {
        let time = Arc::clone(&slow_time);
        async move {
            time.sleep(3 * HOUR).await;
            well(event).await
        }
    };
    let mut trigger = Trigger::builder(source, slowly)
        .positions(places, "live")
        .parallelization_factor(10)
        .on_gap(OnGap::Continue)
        .clock(time.clock(0))
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn records_trimmed_before_one_ever_got_done_are_a_gap() {
    let (time, store, places) = world();
    let old = time.now().minus(23 * HOUR);
    put_at(&store, "a", Some(old));
    put(&store, "b");
    let mut trigger = Trigger::builder(store.source(ARN), badly)
        .positions(places.clone(), "live")
        .clock(time.clock(0))
        .build()
        .unwrap();
    trigger.run(time.sleep(SECOND)).await.unwrap();
    time.sleep(2 * HOUR).await;
    assert_eq!(gap(&time, &store, &places, 0).await, Some(Gap::Trimmed));
}
