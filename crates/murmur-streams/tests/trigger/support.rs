//! A stream of the in-process store, a source that misbehaves, a handler that answers from a script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_state::{EventHandler, HandlerError, MemoryDeduper, Random, SequenceNumber, Timestamp};
use murmur_streams::source::{Cursor, ReadBatch, ShardInfo, StreamDescription};
use murmur_streams::{
    AttributeValue, DynamoDbEventResponse, Event, EventRecord, Item, StoreSource, StreamError,
    StreamInfo, StreamRecord, StreamSource, StreamStore, StreamViewType, Trigger, TriggerBuilder,
    report_failures,
};
use murmur_testkit::time::Time;
use tokio::time::Instant;

pub(crate) const ARN: &str =
    "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000";

pub(crate) fn store() -> StreamStore {
    let store = StreamStore::new();
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    store
}

pub(crate) fn put(store: &StreamStore, ids: &[&str]) -> Vec<SequenceNumber> {
    let record = |id: &&str| StreamRecord {
        stream_arn: ARN.into(),
        event_id: (*id).into(),
        ..StreamRecord::default()
    };
    ids.iter()
        .map(|id| store.put_record(record(id)).unwrap())
        .collect()
}

/// The sequence numbers a handler reports, or its error.
pub(crate) type Reported = Result<Vec<String>, &'static str>;

/// Records the ids of every batch. Answers from a script, and then that everything is done.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    batches: Arc<Mutex<Vec<Vec<String>>>>,
    pub(crate) answers: Arc<Mutex<VecDeque<Reported>>>,
}

impl Scripted {
    pub(crate) fn answer(&self, reported: &[&SequenceNumber]) {
        let reported = reported.iter().map(ToString::to_string).collect();
        self.answers.lock().unwrap().push_back(Ok(reported));
    }

    pub(crate) fn fail(&self) {
        self.answers
            .lock()
            .unwrap()
            .push_back(Err("the database is on fire"));
    }

    pub(crate) fn batches(&self) -> Vec<Vec<String>> {
        self.batches.lock().unwrap().clone()
    }
}

impl EventHandler<Event> for Scripted {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        _shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        let ids = event
            .records
            .iter()
            .map(|record| record.event_id.clone())
            .collect();
        self.batches.lock().unwrap().push(ids);
        let answer = self
            .answers
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Ok(vec![]));
        Ok(report_failures(answer?))
    }
}

pub(crate) fn on<S: StreamSource>(source: S, handler: Scripted) -> TriggerBuilder<S, Scripted> {
    Trigger::builder(source, handler)
        .random(Random::seeded(1))
        .poll_interval(Duration::from_millis(1))
}

/// A record of item `item`, created now by the store's clock.
pub(crate) fn put_item(store: &StreamStore, item: &str, id: &str) -> SequenceNumber {
    let mut keys = Item::default();
    keys.insert("id".to_owned(), AttributeValue::S(item.to_owned()));
    let record = StreamRecord {
        stream_arn: ARN.into(),
        event_id: id.into(),
        keys,
        ..StreamRecord::default()
    };
    store.put_record(record).unwrap()
}

pub(crate) fn drained(store: &StreamStore, handler: &Scripted) -> Trigger<StoreSource, Scripted> {
    on(store.source(ARN), handler.clone()).build().unwrap()
}

/// A stream, its readers and where they keep their positions, on one virtual time.
pub(crate) struct World {
    pub(crate) time: Time,
    pub(crate) store: StreamStore,
    pub(crate) place: Arc<MemoryDeduper>,
    pub(crate) handler: Scripted,
}

impl World {
    pub(crate) fn new() -> Self {
        let time = Time::paused(Timestamp::from_secs(1_800_000_000));
        let store = StreamStore::with_clock(time.clock(0));
        store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
        Self {
            time,
            store,
            place: Arc::default(),
            handler: Scripted::default(),
        }
    }
}

/// Shards that answer from a script, then empty.
pub(crate) struct Fake {
    pub(crate) shards: Vec<ShardInfo>,
    pub(crate) answers: Mutex<Vec<VecDeque<Answer>>>,
    /// Shards that end with their script.
    pub(crate) ends: Vec<usize>,
    /// How many shards the first description lists.
    pub(crate) at_first: usize,
    pub(crate) described: AtomicBool,
    pub(crate) reads: Arc<Mutex<Vec<Instant>>>,
}

pub(crate) type Answer = Result<&'static [&'static str], StreamError>;

impl Fake {
    pub(crate) fn new(scripts: Vec<Vec<Answer>>) -> Self {
        let shard = |at| ShardInfo::new(format!("s{at}"), None);
        Self {
            shards: (0..scripts.len()).map(shard).collect(),
            at_first: scripts.len(),
            answers: Mutex::new(scripts.into_iter().map(VecDeque::from).collect()),
            ends: Vec::new(),
            described: AtomicBool::new(false),
            reads: Arc::default(),
        }
    }

    pub(crate) fn open(script: Vec<Answer>) -> Self {
        Self::new(vec![script])
    }

    /// One record per answer, so that batches of one need no leftovers.
    pub(crate) fn two_shards(a: &'static [&'static str], b: &'static [&'static str]) -> Self {
        Self::new([a, b].map(|ids| ids.chunks(1).map(Ok).collect()).into())
    }

    pub(crate) fn parent(mut self, child: usize, parent: usize) -> Self {
        self.shards[child].parent = Some(self.shards[parent].id.clone());
        self.ends.push(parent);
        self
    }

    pub(crate) fn noting(mut self, reads: Arc<Mutex<Vec<Instant>>>) -> Self {
        self.reads = reads;
        self
    }
}

impl StreamSource for Fake {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
        let known = match self.described.swap(true, Ordering::Relaxed) {
            false => self.at_first,
            true => self.shards.len(),
        };
        let shards = self.shards[..known].to_vec();
        Ok(StreamDescription::new(info, shards))
    }

    async fn read(&self, shard: &str, from: &Cursor, _: usize) -> Result<ReadBatch, StreamError> {
        self.reads.lock().unwrap().push(Instant::now());
        let at = self
            .shards
            .iter()
            .position(|info| info.id == shard)
            .unwrap();
        let script = &mut self.answers.lock().unwrap()[at];
        let answer = script.pop_front().unwrap_or(Ok(&[]));
        let ended = script.is_empty() && self.ends.contains(&at);
        let record = |id: &&str| {
            let mut record = EventRecord::default();
            record.event_id = (*id).to_owned();
            record
        };
        let records = answer?.iter().map(record).collect();
        Ok(ReadBatch::new(records, (!ended).then(|| from.clone())))
    }
}
