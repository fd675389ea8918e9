//! Many shards: how much of them is held in memory, and how readers share them.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use murmur_state::{
    Checkpoints, EventHandler, HandlerError, HandoffToken, MemoryDeduper, Timestamp,
};
use murmur_streams::source::{Cursor, ReadBatch, ShardInfo, StreamDescription};
use murmur_streams::{
    DynamoDbEventResponse, Event, EventRecord, Monitor, StreamError, StreamInfo, StreamSource,
    StreamStore, StreamViewType, Trigger,
};
use murmur_testkit::time::Time;
use tokio::task::JoinHandle;

use crate::support::{ARN, Scripted, on};

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1024 * 1024;

fn lasts(shard: usize, record: usize) -> EventRecord {
    let mut made = EventRecord::default();
    made.event_id = format!("{shard}-{record}");
    let number = format!("{}", 100_000_000_000_000_000_000u128 + record as u128);
    made.change.sequence_number = Some(number);
    made
}

/// Shards of this many records each, in ten reads, that never end.
#[derive(Clone, Default)]
struct Wide {
    shards: usize,
    records: usize,
    reading: Arc<AtomicUsize>,
    most_reading: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    most_held: Arc<AtomicUsize>,
}

impl StreamSource for Wide {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        let shard = |at| ShardInfo::new(format!("{at:06}"), None);
        let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
        let shards = (0..self.shards).map(shard).collect();
        Ok(StreamDescription::new(info, shards))
    }

    async fn read(&self, shard: &str, from: &Cursor, _: usize) -> Result<ReadBatch, StreamError> {
        let reading = self.reading.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_reading.fetch_max(reading, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.reading.fetch_sub(1, Ordering::Relaxed);
        let begin: usize = match from {
            Cursor::Iterator { token, .. } => token.parse().unwrap(),
            Cursor::Start(_) => 0,
        };
        let end = self.records.min(begin + self.records.div_ceil(10));
        let at = shard.parse().unwrap();
        let records: Vec<EventRecord> = (begin..end).map(|record| lasts(at, record)).collect();
        let held = self.held.fetch_add(records.len(), Ordering::Relaxed) + records.len();
        self.most_held.fetch_max(held, Ordering::Relaxed);
        let next = Some(Cursor::Iterator {
            token: end.to_string(),
            renew: murmur_streams::source::Start::TrimHorizon,
        });
        Ok(ReadBatch::new(records, next))
    }
}

/// Takes a while for each batch, and stores what it received.
#[derive(Clone, Default)]
struct Slow {
    had: Arc<Mutex<BTreeSet<String>>>,
    held: Arc<AtomicUsize>,
}

impl EventHandler<Event> for Slow {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        _: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.held.fetch_sub(event.records.len(), Ordering::Relaxed);
        let ids = event.records.drain(..).map(|record| record.event_id);
        self.had.lock().unwrap().extend(ids);
        Ok(DynamoDbEventResponse::default())
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_shards_no_more_is_held_than_was_allowed() {
    let source = Wide {
        shards: 1_000,
        records: 200,
        ..Wide::default()
    };
    let handler = Slow {
        held: Arc::clone(&source.held),
        ..Slow::default()
    };
    // A record without attributes takes a unit of 1 KiB here.
    let room = 16 * MIB;
    let mut trigger = Trigger::builder(source.clone(), handler.clone())
        .read_ahead(room)
        .poll_interval(SECOND)
        .build()
        .unwrap();
    let began = Instant::now();
    trigger.drain().await.unwrap();
    assert_eq!(handler.had.lock().unwrap().len(), 200_000);
    let reads = source.most_reading.load(Ordering::Relaxed);
    let held = source.most_held.load(Ordering::Relaxed);
    println!(
        "1,000 shards: {reads} reads at a time, {held} records held, {:?}",
        began.elapsed()
    );
    assert!((2..=4).contains(&reads), "{reads}");
    assert!(held <= room / 1024, "{held}");
}

#[tokio::test(start_paused = true)]
async fn shards_that_keep_failing_leave_room_for_the_others() {
    let store = StreamStore::new();
    let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
    store.register_stream_with_shards(info, 8).unwrap();
    let mut wanted = BTreeSet::new();
    for item in 0..80 {
        let id = format!("event-{item}");
        crate::support::put_item(&store, &item.to_string(), &id);
        wanted.insert(id);
    }
    let shards = store.describe_stream(ARN).unwrap().shards;
    let failing: BTreeSet<String> = shards
        .iter()
        .take(3)
        .map(|shard| shard.id.clone())
        .collect();
    let had: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let handler = Fails {
        failing,
        had: Arc::clone(&had),
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .read_ahead(4 * MIB)
        .poll_interval(SECOND)
        .build()
        .unwrap();
    trigger.run(tokio::time::sleep(600 * SECOND)).await.unwrap();
    let count = |shard: &ShardInfo| store.shard_record_count(ARN, &shard.id).unwrap();
    let healthy: usize = shards.iter().skip(3).map(count).sum();
    assert!(healthy > 0 && shards.iter().take(3).all(|shard| count(shard) > 0));
    assert_eq!(had.lock().unwrap().len(), healthy);
}

struct Fails {
    failing: BTreeSet<String>,
    had: Arc<Mutex<BTreeSet<String>>>,
}

impl EventHandler<Event> for Fails {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        if self.failing.contains(shard) {
            return Err("it never works".into());
        }
        let ids = event.records.drain(..).map(|record| record.event_id);
        self.had.lock().unwrap().extend(ids);
        Ok(DynamoDbEventResponse::default())
    }
}

struct Worker {
    monitor: Monitor,
    task: JoinHandle<()>,
}

impl Worker {
    fn start(
        time: &Time,
        store: &StreamStore,
        place: &Arc<MemoryDeduper>,
        name: &str,
        skew: i64,
    ) -> Self {
        let mut trigger = on(store.source(ARN), Scripted::default())
            .positions(Arc::clone(place), "live")
            .owner(name)
            .poll_interval(10 * SECOND)
            .clock(time.clock(skew))
            .build()
            .unwrap();
        let monitor = trigger.monitor();
        let task = tokio::spawn(async move {
            trigger.run(pending()).await.unwrap();
        });
        Self { monitor, task }
    }

    fn shards(&self) -> usize {
        self.monitor.status().shards.len()
    }

    fn given(&self) -> u64 {
        self.monitor.status().summary.leases_given
    }
}

#[tokio::test(start_paused = true)]
async fn workers_that_come_and_go_have_even_shares_and_keep_them() {
    for (shards, skews) in [(30, [0, 0, 0]), (4, [0, 0, 0]), (20, [0, -2_700, 2_700])] {
        let time = Time::paused(Timestamp::from_secs(1_800_000_000));
        let store = StreamStore::with_clock(time.clock(0));
        let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
        store.register_stream_with_shards(info, shards).unwrap();
        let place = Arc::new(MemoryDeduper::new());
        let start = |name: &str, skew| Worker::start(&time, &store, &place, name, skew);
        let first = start("a", skews[0]);
        time.sleep(60 * SECOND).await;
        assert_eq!(first.shards(), shards, "one alone has all");
        let second = start("b", skews[1]);
        time.sleep(300 * SECOND).await;
        assert_eq!((first.shards(), second.shards()), (shards / 2, shards / 2));
        let third = start("c", skews[2]);
        time.sleep(300 * SECOND).await;
        let all = [&first, &second, &third];
        let have = all.map(Worker::shards);
        assert_eq!(have.iter().sum::<usize>(), shards, "{have:?}");
        assert!(
            have.iter().all(|have| have.abs_diff(shards / 3) <= 1),
            "{have:?}"
        );
        // The readers keep their shards.
        let given = all.map(Worker::given);
        time.sleep(900 * SECOND).await;
        assert_eq!(all.map(Worker::given), given);
        assert_eq!(all.map(Worker::shards), have);
        let lost = all.map(|worker| worker.monitor.status().summary.leases_lost);
        assert_eq!(lost, [0; 3]);
        // One reader dies without releasing its leases.
        second.task.abort();
        // A lease by a clock that is ahead ends later by that much.
        time.sleep(90 * SECOND).await;
        let have = [&first, &third].map(Worker::shards);
        if skews[1] <= 0 {
            assert_eq!(have.iter().sum::<usize>(), shards, "{have:?}");
            assert!(have[0].abs_diff(have[1]) <= 1, "{have:?}");
        }
        first.task.abort();
        third.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn workers_that_begin_at_once_come_to_even_shares_as_far_as_they_have_room() {
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let store = StreamStore::with_clock(time.clock(0));
    let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
    store.register_stream_with_shards(info, 25).unwrap();
    let place = Arc::new(MemoryDeduper::new());
    let workers: Vec<Worker> = (0..5)
        .map(|name| Worker::start(&time, &store, &place, &name.to_string(), 0))
        .collect();
    time.sleep(300 * SECOND).await;
    let have: Vec<usize> = workers.iter().map(Worker::shards).collect();
    assert_eq!(have, [5; 5]);
    workers.iter().for_each(|worker| worker.task.abort());
}

/// 100,000 listed shards, of which nearly all are closed.
struct Listed(Vec<ShardInfo>);

impl StreamSource for Listed {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
        Ok(StreamDescription::new(info, self.0.clone()))
    }

    async fn read(&self, _: &str, from: &Cursor, _: usize) -> Result<ReadBatch, StreamError> {
        Ok(ReadBatch::new(Vec::new(), Some(from.clone())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_listed_shards_are_begun_from_a_token() {
    let (generations, lines) = (100, 1_000);
    let id = |at: u64| {
        let random = at.wrapping_mul(2_654_435_761) % 4_294_967_296;
        format!("shardId-{:020}-{random:08x}", 1_414_562_045_508 + at * 864)
    };
    let shard = |at: u64| {
        let mut shard = ShardInfo::new(id(at), at.checked_sub(lines).map(id));
        shard.ending = (at < (generations - 1) * lines)
            .then(|| murmur_state::SequenceNumber::new("7").unwrap());
        shard
    };
    let shards: Vec<ShardInfo> = (0..generations * lines).map(shard).collect();
    let closed = shards.iter().filter(|shard| shard.ending.is_some());
    let closed: Vec<String> = closed.map(|shard| shard.id.clone()).collect();
    let began = Instant::now();
    let token = HandoffToken::new(ARN, Timestamp::from_secs(1_800_000_000), closed);
    let text = token.encode();
    let token = HandoffToken::decode(&text).unwrap();
    println!(
        "a token of {} shards: {} bytes, {:?}",
        token.closed.len(),
        text.len(),
        began.elapsed()
    );
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let place = Arc::new(MemoryDeduper::new());
    let began = Instant::now();
    let mut trigger = on(Listed(shards), Scripted::default())
        .positions(Arc::clone(&place), "live")
        .poll_interval(SECOND)
        .clock(time.clock(0))
        .handoff(token)
        .table_at_rest()
        .build()
        .unwrap();
    let monitor = trigger.monitor();
    let look = async {
        time.sleep(30 * SECOND).await;
        assert_eq!(monitor.status().shards.len(), 1_000);
    };
    trigger.run(look).await.unwrap();
    let saved = place.load("live/stream/").await.unwrap().unwrap();
    println!(
        "begun in {:?}; the beginning has {} bytes",
        began.elapsed(),
        saved.data.len()
    );
    assert!(saved.data.len() < 2_500_000);
}
