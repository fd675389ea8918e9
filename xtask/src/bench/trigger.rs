//! The trigger on a stream, compared with a loop that passes the same records to the same handler.

mod source;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use aws_sdk_dynamodb::Client;
use futures::future::BoxFuture;
use murmur_core::Sum;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::{
    Checkpoints, EventHandler, HandlerError, MemoryDeduper, MemoryStore, Repeats, StoreError,
};
use murmur_state_ddb::Deduper;
use murmur_streams::source::{Cursor, ReadBatch, Start, StreamDescription};
use murmur_streams::{StreamError, StreamSource, StreamsApi, Trigger};
use murmur_testkit::Dynamo;
use serde::Serialize;

use super::Effort;
use super::machine::Stopwatch;
use super::pipeline::{self, Means, Mode, Order, Tables};
use super::server::{self, Requests, Speed, median};
use source::Filled;

/// The number of records in the stream in this process, and in the stream on the server.
const IN_PROCESS: usize = 50_000;
const ON_SERVER: usize = 5_000;

/// Batch sizes and parallelization factors.
const BATCHES: [(usize, usize); 3] = [(100, 1), (1_000, 1), (100, 10)];

/// The most records in one read.
const READ: usize = 1_000;

/// How often Murmur and the bare loop run, alternating. The medians are reported.
const ROUNDS: usize = 5;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// GetRecords of the bare SDK. Its records are counted but not converted.
    pub(super) sdk: Speed,
    pub(super) runs: Vec<Run>,
}

/// The measured case.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Kind {
    pub(super) source: Source,
    pub(super) work: Work,
    pub(super) positions: Place,
    pub(super) batch: usize,
    pub(super) factor: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Run {
    #[serde(flatten)]
    pub(super) kind: Kind,
    pub(super) records: usize,
    pub(super) ours: Speed,
    pub(super) bare: Speed,
    /// Murmur divided by the bare loop, the median of the rounds: records per second, and CPU time
    /// per record.
    pub(super) ratio: f64,
    pub(super) cpu_ratio: f64,
    pub(super) reads_per_record: f64,
    pub(super) saves_per_record: f64,
    /// The requests of the handler and of the positions.
    pub(super) requests_per_record: f64,
    pub(super) bare_requests_per_record: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// The stream event store in this process.
    Store,
    /// DynamoDB Local through the Streams API.
    Api,
}

/// The work of the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    Nothing,
    /// Counts exactly once, on the DynamoDB of the stream.
    ExactlyOnce,
}

/// Where positions are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    Memory,
    MarkerTable,
}

pub(super) async fn measure(endpoint: &str, effort: Effort) -> Result<Figures> {
    let mut runs = Vec::new();
    let filled = source::store(effort.of(IN_PROCESS))?;
    for work in [Work::Nothing, Work::ExactlyOnce] {
        for (batch, factor) in BATCHES {
            let kind = Kind {
                source: Source::Store,
                work,
                positions: Place::Memory,
                batch,
                factor,
            };
            runs.push(run(kind, &filled, None, effort).await?);
        }
    }

    let dynamo = Dynamo::at(endpoint);
    let (requests, streams) = (Requests::default(), dynamo.streams());
    let config = dynamo.client_config().interceptor(requests.clone());
    let client = Client::from_conf(config.build());
    server::warm_up(&client, effort).await?;
    let (table, filled) = source::table(&client, effort.of(ON_SERVER)).await?;
    let filled = filled.map(|arn| StreamsApi::new(streams.clone(), arn));
    eprintln!("bench: trigger, the SDK alone");
    let mut sdk = Vec::new();
    // One extra round before the measurement, so that the server has compiled its code.
    for round in 0..=rounds(effort) {
        let watch = Stopwatch::start();
        let read = source::count(&streams, table.stream_arn()?).await?;
        ensure!(read == filled.records, "the SDK read {read} records");
        if round > 0 {
            sdk.push(Speed::of(read, &watch));
        }
    }
    let server = Some((&client, &requests));
    for (work, positions) in [
        (Work::Nothing, Place::Memory),
        (Work::Nothing, Place::MarkerTable),
        (Work::ExactlyOnce, Place::MarkerTable),
    ] {
        for (batch, factor) in BATCHES {
            let kind = Kind {
                source: Source::Api,
                work,
                positions,
                batch,
                factor,
            };
            runs.push(run(kind, &filled, server, effort).await?);
        }
    }
    table.remove(&client).await?;
    Ok(Figures {
        sdk: Speed::median(&sdk),
        runs,
    })
}

fn rounds(effort: Effort) -> usize {
    if effort.quick { 1 } else { ROUNDS }
}

async fn run<S: StreamSource>(
    kind: Kind,
    filled: &Filled<S>,
    server: Option<(&Client, &Requests)>,
    effort: Effort,
) -> Result<Run> {
    eprintln!("bench: trigger, {kind}");
    let client = server.map(|(client, _)| client);
    let sent = || server.map_or(0, |(_, requests)| requests.count());
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let (mut reads, mut saves, mut requests, mut bare_requests) = (0, 0, 0, 0);
    for _ in 0..rounds(effort) {
        let home = Home::new(client).await?;
        let source = Counted::new(&filled.source);
        let positions = Counted::new(home.positions(kind.positions));
        let (read, saved) = (Arc::clone(&source.calls), Arc::clone(&positions.calls));
        let mut trigger = Trigger::builder(source, home.handling(kind.work)?)
            .batch_size(kind.batch)
            .parallelization_factor(kind.factor)
            .maximum_retry_attempts(10)
            .positions(positions, "bench")
            .build()?;
        let before = sent();
        let watch = Stopwatch::start();
        let summary = trigger.drain().await?;
        ours.push(Speed::of(filled.records, &watch));
        requests = sent() - before;
        (reads, saves) = (read.load(Ordering::Relaxed), saved.load(Ordering::Relaxed));
        let done = usize::try_from(summary.records)?;
        ensure!(done == filled.records, "the trigger did {done} records");
        home.close(kind.work, filled.total).await?;

        let home = Home::new(client).await?;
        let handler = home.handling(kind.work)?;
        let before = sent();
        let watch = Stopwatch::start();
        let done = hand_over(&filled.source, &handler, kind.batch).await?;
        bare.push(Speed::of(filled.records, &watch));
        bare_requests = sent() - before;
        ensure!(done == filled.records, "the bare loop did {done} records");
        home.close(kind.work, filled.total).await?;
    }
    let each = |ratio: fn(&Speed, &Speed) -> f64| {
        let pairs = ours.iter().zip(&bare);
        median(pairs.map(|(ours, bare)| ratio(ours, bare)).collect())
    };
    let per_record = |count: u64| count as f64 / filled.records as f64;
    Ok(Run {
        kind,
        records: filled.records,
        ratio: each(|ours, bare| ours.events_per_second / bare.events_per_second),
        cpu_ratio: each(|ours, bare| ours.cpu_per_event / bare.cpu_per_event),
        ours: Speed::median(&ours),
        bare: Speed::median(&bare),
        reads_per_record: per_record(reads),
        saves_per_record: per_record(saves),
        requests_per_record: per_record(requests),
        bare_requests_per_record: per_record(bare_requests),
    })
}

/// Passes on all records, one batch after another. Returns their number.
async fn hand_over<S: StreamSource>(source: &S, handler: &Handling, batch: usize) -> Result<usize> {
    let mut done = 0;
    for shard in source.describe().await?.shards {
        let mut cursor = Some(Cursor::from(Start::TrimHorizon));
        while let Some(from) = cursor {
            let ReadBatch { records, next, .. } = source.read(&shard.id, &from, READ).await?;
            cursor = next.filter(|_| !records.is_empty());
            done += records.len();
            let mut records = records.into_iter();
            while records.len() > 0 {
                let mut event = Event::default();
                event.records = records.by_ref().take(batch).collect();
                let answer = handler.handle(&mut event, &shard.id).await;
                let answer = answer.map_err(anyhow::Error::from_boxed)?;
                let failed = answer.batch_item_failures.len();
                ensure!(failed == 0, "{failed} records were not counted");
            }
        }
    }
    Ok(done)
}

/// The handler of a run.
enum Handling {
    Nothing,
    Counting(Handler<Order>),
}

impl EventHandler<Event> for Handling {
    type Answer = DynamoDbEventResponse;

    async fn handle(&self, event: &mut Event, shard: &str) -> Result<Self::Answer, HandlerError> {
        match self {
            Self::Nothing => Ok(DynamoDbEventResponse::default()),
            Self::Counting(handler) => EventHandler::handle(handler, event, shard).await,
        }
    }

    fn repeats(&self) -> Repeats {
        match self {
            Self::Nothing => Repeats::Counted,
            Self::Counting(handler) => handler.repeats(),
        }
    }
}

/// Where a run stores its totals and positions. None is used twice.
enum Home {
    Process(MemoryStore<Sum>),
    Server(Client, Tables),
}

impl Home {
    async fn new(client: Option<&Client>) -> Result<Self> {
        Ok(match client {
            None => Self::Process(MemoryStore::new(Sum::new())),
            Some(client) => Self::Server(client.clone(), Tables::create(client).await?),
        })
    }

    fn handling(&self, work: Work) -> Result<Handling> {
        Ok(match (work, self) {
            (Work::Nothing, _) => Handling::Nothing,
            (Work::ExactlyOnce, Self::Process(store)) => {
                Handling::Counting(pipeline::in_memory(store)?)
            }
            (Work::ExactlyOnce, Self::Server(client, tables)) => {
                let mode = Mode::ExactlyOnce;
                let handler = pipeline::handler(mode, client, tables, Means::default())?;
                Handling::Counting(handler)
            }
        })
    }

    fn positions(&self, place: Place) -> Arc<dyn Checkpoints> {
        match (place, self) {
            (Place::MarkerTable, Self::Server(client, tables)) => {
                Arc::new(Deduper::new(client.clone(), tables.markers.as_str()))
            }
            _ => Arc::new(MemoryDeduper::new()),
        }
    }

    /// Checks the contents, then removes the tables.
    async fn close(self, work: Work, total: i64) -> Result<()> {
        let expected = if work == Work::Nothing { 0 } else { total };
        match self {
            Self::Process(store) => {
                let total: i64 = store.rows().into_iter().map(|row| row.value).sum();
                ensure!(total == expected, "counted {total} instead of {expected}");
            }
            Self::Server(client, tables) => {
                server::recount(&client, &tables, expected).await?;
                tables.remove(&client).await?;
            }
        }
        Ok(())
    }
}

/// Counts reads or saves.
struct Counted<T> {
    inner: T,
    calls: Arc<AtomicU64>,
}

impl<T> Counted<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            calls: Arc::default(),
        }
    }

    fn note(&self) -> &T {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.inner
    }
}

impl<S: StreamSource> StreamSource for Counted<S> {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.inner.describe().await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        self.note().read(shard, from, limit).await
    }
}

impl<C: Checkpoints> Checkpoints for Counted<C> {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.inner.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        self.note().save(name, data, over)
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.inner.remove(name, over)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            work,
            positions,
            batch,
            factor,
        } = self;
        write!(
            f,
            "{source}, {work}, positions in {positions}, {factor} × batches of {batch}"
        )
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Store => "in-process",
            Self::Api => "Streams API",
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::ExactlyOnce => "exactly-once",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Memory => "memory",
            Self::MarkerTable => "marker table",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn in_process(batch: usize, filled: &Filled<impl StreamSource>) -> Result<Run> {
        let kind = Kind {
            source: Source::Store,
            work: Work::ExactlyOnce,
            positions: Place::Memory,
            batch,
            factor: 1,
        };
        run(kind, filled, None, Effort { quick: true }).await
    }

    #[tokio::test]
    async fn reads_and_saves_of_a_run_are_counted() {
        let filled = source::store(250).unwrap();
        let calls = |per_record: f64| (per_record * 250.0).round();
        let whole = in_process(1_000, &filled).await.unwrap();
        // One read returns all records; another one finds no more.
        assert_eq!(calls(whole.reads_per_record), 2.0);
        let parts = in_process(100, &filled).await.unwrap();
        assert_eq!(calls(parts.reads_per_record), 2.0);
        // Three batches instead of one.
        let more = calls(parts.saves_per_record) - calls(whole.saves_per_record);
        assert_eq!(more, 2.0);
    }

    #[tokio::test]
    async fn a_run_that_counts_wrong_has_no_figures() {
        let mut filled = source::store(10).unwrap();
        filled.total += 1;
        let error = in_process(100, &filled).await.unwrap_err().to_string();
        assert!(error.contains("instead of"), "{error}");
    }
}
