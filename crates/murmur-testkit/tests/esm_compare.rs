//! The trigger beside the simulator of Lambda's event source mapping, which knows nothing of it:
//! a function that answers both alike gets the same batches from both.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use fastrand::Rng;
use murmur_state::Timestamp;
use murmur_streams::source::{Cursor, ReadBatch, StreamDescription};
use murmur_streams::{
    StoreSource, StreamError, StreamInfo, StreamRecord, StreamSource, StreamStore, StreamViewType,
    Trigger, report_failures,
};
use murmur_testkit::esm::{Incoming, Mapping, Simulation, Trouble};
use murmur_testkit::time::Time;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/label";
const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// Answers by what is in the batch and how often just that came, whoever brings it.
#[derive(Clone)]
struct Function {
    seed: u64,
    /// Whether it ever says which records failed; else a batch fails as a whole.
    partial: bool,
    /// Whether some records fail however often they come.
    poison: bool,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    batches: Vec<Vec<String>>,
    times: HashMap<Vec<String>, u64>,
}

impl Function {
    fn answer(&self, event: &Event) -> Result<DynamoDbEventResponse, String> {
        let number = |record: &EventRecord| record.change.sequence_number.clone().unwrap();
        let batch: Vec<String> = event.records.iter().map(number).collect();
        let mut seen = self.seen.lock().unwrap();
        seen.batches.push(batch.clone());
        let times = seen.times.entry(batch.clone()).or_default();
        *times += 1;
        let chance = |of: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            self.seed.hash(&mut hasher);
            of(&mut hasher);
            Rng::with_seed(hasher.finish())
        };
        let is_poison = |number: &&String| chance(&|hasher| number.hash(hasher)).u8(..12) == 0;
        if self.poison && batch.iter().any(|number| is_poison(&number)) {
            return Err("poison".into());
        }
        let mut rng = chance(&|hasher| (&batch, *times).hash(hasher));
        // Whatever it is, it passes.
        if *times > 3 || rng.bool() {
            return Ok(report_failures::<[&str; 0]>([]));
        }
        if !self.partial || rng.u8(..3) == 0 {
            return Err("down".into());
        }
        Ok(match rng.u8(..4) {
            0 => report_failures([""]),
            1 => report_failures(["nobody"]),
            _ => {
                let many = 1 + rng.usize(..3);
                let failed: Vec<&String> = (0..many)
                    .map(|_| &batch[rng.usize(..batch.len())])
                    .collect();
                report_failures(failed)
            }
        })
    }
}

/// The batches, and what was given up.
type Run = (Vec<Vec<String>>, Vec<String>);

/// Gives as many records with each read as the simulator took for a new batch: how many that are
/// is up to whoever polls.
struct Cut {
    inner: StoreSource,
    sizes: Vec<usize>,
    reads: AtomicUsize,
}

impl Cut {
    fn as_in((batches, _): &Run, inner: StoreSource) -> Self {
        let mut seen = HashSet::new();
        let is_new = |batch: &&Vec<String>| {
            let first = seen.insert(batch[0].clone());
            seen.extend(batch.iter().cloned());
            first
        };
        Self {
            inner,
            sizes: batches.iter().filter(is_new).map(Vec::len).collect(),
            reads: AtomicUsize::new(0),
        }
    }
}

impl StreamSource for Cut {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.inner.describe().await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        let nth = self.reads.fetch_add(1, Ordering::Relaxed);
        let size = self.sizes.get(nth).copied().unwrap_or(limit);
        self.inner.read(shard, from, size).await
    }
}

async fn by_trigger(
    function: &Function,
    mapping: &Mapping,
    records: u64,
    lambdas: &Run,
) -> (Run, u64, u64) {
    let time = Time::paused(START);
    let store = StreamStore::with_clock(time.clock(0));
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    for _ in 0..records {
        let record = StreamRecord {
            stream_arn: ARN.to_owned(),
            ..StreamRecord::default()
        };
        store.put_record(record).unwrap();
    }
    let (called, given_up) = (function.clone(), Arc::new(Mutex::new(Vec::new())));
    let taker = Arc::clone(&given_up);
    let source = Cut::as_in(lambdas, store.source(ARN));
    let mut trigger = Trigger::builder(source, move |event: Event| {
        let answer = called.answer(&event);
        async move { answer }
    })
    .clock(time.clock(0))
    .batch_size(mapping.batch_size)
    .bisect_batch_on_error(mapping.bisect_batch_on_function_error)
    .on_failure(move |batch| {
        let numbers = batch.records.into_iter();
        let numbers = numbers.map(|record| record.change.sequence_number.unwrap());
        taker.lock().unwrap().extend(numbers);
        async { Ok(()) }
    });
    if let Some(attempts) = mapping.maximum_retry_attempts {
        trigger = trigger.maximum_retry_attempts(attempts);
    }
    let summary = trigger.build().unwrap().drain().await.unwrap();
    let batches = std::mem::take(&mut function.seen.lock().unwrap().batches);
    let given_up = given_up.lock().unwrap().clone();
    ((batches, given_up), summary.bisections, summary.retries)
}

async fn by_simulator(function: &Function, mapping: &Mapping, records: u64) -> (Run, u64) {
    let incoming = |n: u64| {
        let mut record = EventRecord::default();
        let number = 100_000_000_000_000_000_001u128 + u128::from(n);
        record.change.sequence_number = Some(number.to_string());
        Incoming {
            created: START,
            seen: START,
            record,
        }
    };
    let simulation = Simulation {
        mapping: mapping.clone(),
        trouble: Trouble::default(),
        seed: 7,
        time: Time::paused(START),
    };
    let called = Rc::new(function.clone());
    let delivery = simulation
        .deliver(vec![(0..records).map(incoming).collect()], || {
            let called = Rc::clone(&called);
            move |event: Event| {
                let answer = called.answer(&event);
                async move { answer }
            }
        })
        .await;
    let given_up = delivery.on_failure.into_iter();
    let given_up = given_up.map(|record| record.change.sequence_number.unwrap());
    let batches = std::mem::take(&mut function.seen.lock().unwrap().batches);
    ((batches, given_up.collect()), delivery.met.bisected)
}

#[tokio::test(start_paused = true)]
async fn a_function_gets_the_same_batches_from_the_trigger_as_from_the_simulator() {
    let (mut batches, mut given_up, mut bisections, mut retries) = (0, 0, 0, 0);
    for seed in 0..1000 {
        let mut rng = Rng::with_seed(seed);
        let limited = rng.bool();
        let mapping = Mapping {
            batch_size: 1 + rng.usize(..12),
            bisect_batch_on_function_error: rng.bool(),
            maximum_retry_attempts: limited.then(|| rng.u32(..4)),
            ..Mapping::default()
        };
        let function = || Function {
            seed,
            // What comes of partial answers is told apart by what the two document: whether
            // they are cut in two, and whether they use an attempt up.
            partial: !limited && !mapping.bisect_batch_on_function_error,
            poison: limited,
            seen: Arc::default(),
        };
        let records = rng.u64(..60);
        let (lambdas, cut_there) = by_simulator(&function(), &mapping, records).await;
        let (ours, cut, again) = by_trigger(&function(), &mapping, records, &lambdas).await;
        assert_eq!(ours, lambdas, "seed {seed}: {mapping:?}");
        assert_eq!(cut, cut_there, "seed {seed}");
        batches += ours.0.len();
        given_up += ours.1.len();
        bisections += cut;
        retries += again;
    }
    println!("{batches} batches, {retries} retries, {bisections} bisections, {given_up} given up");
    assert!(batches > 0 && given_up > 0 && bisections > 0 && retries > 0);
}
