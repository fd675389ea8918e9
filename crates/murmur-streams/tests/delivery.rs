//! The trigger's promise: every record is delivered at least once, in order per shard, parents
//! first, and no record after the lowest failure counts as done. Tested with random lineages,
//! sources that fail, handlers that fail at random, and runs that are dropped halfway.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use murmur_state::{EventHandler, HandlerError, ManualClock, Random, Timestamp};
use murmur_streams::source::{Cursor, ReadBatch, ShardInfo, Start, StreamDescription};
use murmur_streams::{
    DynamoDbBatchItemFailure, DynamoDbEventResponse, Event, EventRecord, StreamError, StreamInfo,
    StreamSource, StreamViewType, Trigger, report_failures,
};
use proptest::prelude::*;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/label";

/// What the test knows about one shard.
struct Shard {
    parent: Option<usize>,
    records: usize,
    /// How many records the handler has reported as done.
    done: usize,
    /// Whether the source has said that it ends.
    ended: bool,
    /// A run was dropped since the last delivery: its position may not have been saved.
    dropped: bool,
}

/// Stream and handler in one, so that each delivery is judged by the earlier answers.
struct World {
    shards: Mutex<Vec<Shard>>,
    random: Random,
    batch_size: usize,
    /// Children are listed from the start, or once their parent is read to its end.
    children_from_start: bool,
}

impl World {
    fn new(case: &Case) -> Arc<Self> {
        let shard = |(at, &(parent, records)): (usize, &(u8, usize))| Shard {
            // Every third shard or so is a root; the others continue an earlier one.
            parent: (at > 0 && parent % 3 > 0).then(|| parent as usize % at),
            records,
            done: 0,
            ended: false,
            dropped: false,
        };
        Arc::new(Self {
            shards: Mutex::new(case.shards.iter().enumerate().map(shard).collect()),
            random: Random::seeded(case.seed),
            batch_size: case.batch_size,
            children_from_start: case.children_from_start,
        })
    }

    fn below(&self, bound: usize) -> usize {
        (self.random.bits() % bound as u128) as usize
    }
}

fn number(shard: usize, at: usize) -> String {
    (10u128.pow(20) * (shard as u128 + 1) + at as u128).to_string()
}

struct Source(Arc<World>);

impl StreamSource for Source {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        let shards = self.0.shards.lock().unwrap();
        let listed = |shard: &Shard| {
            self.0.children_from_start || shard.parent.is_none_or(|parent| shards[parent].ended)
        };
        let info = |(at, shard): (usize, &Shard)| {
            let parent = shard.parent.map(|parent| format!("s{parent}"));
            ShardInfo::new(format!("s{at}"), parent)
        };
        let listed = shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| listed(shard))
            .map(info);
        let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
        Ok(StreamDescription::new(info, listed.collect()))
    }

    async fn read(&self, id: &str, from: &Cursor, limit: usize) -> Result<ReadBatch, StreamError> {
        let world = &self.0;
        assert!((1..=1000).contains(&limit));
        if world.below(6) == 0 {
            return Err(StreamError::Throttled {
                arn: ARN.into(),
                source: None,
            });
        }
        let at: usize = id.trim_start_matches('s').parse().unwrap();
        let position: usize = match from {
            Cursor::Iterator { token, .. } => token.parse().unwrap(),
            Cursor::Start(Start::At(first)) => {
                // Reading continues only from the first record that was read.
                assert_eq!(first.as_str(), number(at, 0));
                0
            }
            Cursor::Start(Start::After(after)) => {
                let at = (0..25).find(|place| number(at, *place) == after.as_str());
                at.unwrap() + 1
            }
            Cursor::Start(start) => {
                assert_eq!(*start, Start::TrimHorizon);
                0
            }
        };
        let mut shards = world.shards.lock().unwrap();
        let left = shards[at].records - position;
        let given = left.min(limit).min(world.below(limit + 1).max(1));
        let record = |place: usize| {
            let mut record = EventRecord::default();
            record.event_id = format!("{at}/{place}");
            record.change.sequence_number = Some(number(at, place));
            record
        };
        let next = position + given;
        let ends = next == shards[at].records && world.below(2) == 0;
        // An open end gives one more, empty answer, which `drain_empty_reads` allows for.
        shards[at].ended |= ends;
        let after = (!ends).then(|| Cursor::Iterator {
            token: next.to_string(),
            renew: Start::TrimHorizon,
        });
        let records = (position..next).map(record).collect();
        Ok(ReadBatch::new(records, after))
    }
}

struct Handler(Arc<World>);

impl EventHandler<Event> for Handler {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        _shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        // A run may be dropped here, before it has an answer.
        tokio::task::yield_now().await;
        let world = &self.0;
        let mut shards = world.shards.lock().unwrap();
        let place = |record: &EventRecord| -> (usize, usize) {
            let (shard, at) = record.event_id.split_once('/').unwrap();
            (shard.parse().unwrap(), at.parse().unwrap())
        };
        let places: Vec<_> = event.records.iter().map(place).collect();
        let (shard, from) = places[0];
        assert!(places.len() <= world.batch_size);
        let follows = match std::mem::take(&mut shards[shard].dropped) {
            true => from <= shards[shard].done,
            false => from == shards[shard].done,
        };
        assert!(follows, "not what follows the last record done");
        let expected: Vec<_> = (from..from + places.len()).map(|at| (shard, at)).collect();
        assert_eq!(places, expected, "not in order, or of another shard");
        if let Some(parent) = shards[shard].parent {
            assert_eq!(
                shards[parent].done, shards[parent].records,
                "before its parent was done"
            );
        }
        let random_number = || number(shard, from + world.below(places.len()));
        let (answer, done) = match world.below(8) {
            0 => (Err("failed".into()), 0),
            1 => (Ok(report_failures([random_number(), "nobody".into()])), 0),
            2 => (Ok(report_failures([""])), 0),
            3 => {
                let mut response = report_failures([random_number()]);
                response
                    .batch_item_failures
                    .push(DynamoDbBatchItemFailure::default());
                (Ok(response), 0)
            }
            4 | 5 => {
                let failed: Vec<usize> = (0..=world.below(3))
                    .map(|_| world.below(places.len()))
                    .collect();
                let reported = failed.iter().map(|at| number(shard, from + at));
                let done = *failed.iter().min().unwrap();
                (Ok(report_failures(reported)), done)
            }
            _ => (Ok(DynamoDbEventResponse::default()), places.len()),
        };
        shards[shard].done = shards[shard].done.max(from + done);
        answer
    }
}

#[derive(Debug, Clone)]
struct Case {
    shards: Vec<(u8, usize)>,
    batch_size: usize,
    children_from_start: bool,
    seed: u64,
    /// The number of polls after which each run is dropped, until one may finish.
    drops: Vec<usize>,
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec((any::<u8>(), 0usize..25), 1..7),
        1usize..12,
        any::<bool>(),
        any::<u64>(),
        prop::collection::vec(1usize..40, 0..4),
    )
        .prop_map(
            |(shards, batch_size, children_from_start, seed, drops)| Case {
                shards,
                batch_size,
                children_from_start,
                seed,
                drops,
            },
        )
}

fn run(case: &Case) {
    let world = World::new(case);
    let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
    let mut trigger = Trigger::builder(Source(Arc::clone(&world)), Handler(Arc::clone(&world)))
        .batch_size(case.batch_size)
        .clock(Arc::new(clock))
        .random(Random::seeded(case.seed))
        .poll_interval(Duration::from_millis(1))
        .drain_empty_reads(200)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for polls in &case.drops {
            let mut drain = pin!(trigger.drain());
            let mut context = Context::from_waker(futures::task::noop_waker_ref());
            for _ in 0..*polls {
                if drain.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
            for shard in world.shards.lock().unwrap().iter_mut() {
                shard.dropped = true;
            }
        }
        trigger.drain().await.unwrap();
    });
    for (at, shard) in world.shards.lock().unwrap().iter().enumerate() {
        assert_eq!(shard.done, shard.records, "shard {at}: not all delivered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_every_record_is_delivered_in_order_and_none_passed_over(case in case()) {
        run(&case);
    }
}

#[test]
fn the_world_is_hard_enough_to_notice_a_handler_that_lies() {
    // The same test with a handler that reports one record too many as done.
    struct Liar(Handler, AtomicBool);
    impl EventHandler<Event> for Liar {
        type Answer = DynamoDbEventResponse;

        async fn handle(
            &self,
            event: &mut Event,
            shard: &str,
        ) -> Result<DynamoDbEventResponse, HandlerError> {
            let answer = self.0.handle(event, shard).await;
            if answer
                .as_ref()
                .is_ok_and(|answer| !answer.batch_item_failures.is_empty())
            {
                self.1.store(true, Ordering::Relaxed);
                return Ok(DynamoDbEventResponse::default());
            }
            answer
        }
    }
    let case = Case {
        shards: vec![(0, 20)],
        batch_size: 3,
        children_from_start: true,
        seed: 3,
        drops: vec![],
    };
    let world = World::new(&case);
    let liar = Liar(Handler(Arc::clone(&world)), AtomicBool::new(false));
    let drained = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let clock = ManualClock::new(Timestamp::from_secs(1));
        let mut trigger = Trigger::builder(Source(Arc::clone(&world)), liar)
            .batch_size(case.batch_size)
            .clock(Arc::new(clock))
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(trigger.drain()).unwrap();
    }));
    assert!(drained.is_err());
}
