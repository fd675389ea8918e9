//! Runs on a DynamoDB inside this process in virtual time, and the requests and units that they
//! use.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use murmur_lambda_ddbstreams::Handler;
use murmur_state::time::Random;
use murmur_testkit::cloud::{Cloud, START, Usage, Weather};
use murmur_testkit::time::Time;
use serde::Serialize;

use super::pipeline::{self, Means, Mode, Order, Tables};

/// The latency of one direction.
const ONE_WAY: Duration = Duration::from_millis(1);

/// The latency of a request and its answer.
const ROUND_TRIP: Duration = Duration::from_millis(2);

/// Runs `work` on tokio's paused clock, on a thread of its own.
pub(super) async fn in_virtual_time<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let result = runtime
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(work()));
        // The caller has stopped waiting if the task was interrupted.
        let _ = done.send(result);
    });
    result.await.context("the simulation panicked")?
}

/// A separate DynamoDB with the two tables of a pipeline.
pub(super) struct Simulation {
    pub(super) time: Time,
    pub(super) cloud: Cloud,
    pub(super) tables: Tables,
    /// Requests by operation. Those for the marker table are counted separately.
    requests: Arc<Mutex<BTreeMap<(String, bool), u64>>>,
}

impl Simulation {
    pub(super) async fn new(seed: u64) -> Result<Self> {
        // Seeds this thread's generator: for the names of tables and the SDK's own jitter.
        fastrand::seed(seed);
        let time = Time::paused(START);
        let cloud = Cloud::in_process_at(&time, seed, Weather::calm());
        let tables = Tables::create(&cloud.admin()).await?;
        let requests: Arc<Mutex<BTreeMap<_, u64>>> = Arc::default();
        let (counted, markers) = (Arc::clone(&requests), tables.markers.clone());
        cloud.rewrite(move |request| {
            let body = &request.body;
            let of_markers =
                body["TableName"] == *markers || body["RequestItems"].get(&markers).is_some();
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            *counted
                .entry((request.operation.clone(), of_markers))
                .or_default() += 1;
        });
        Ok(Self {
            time,
            cloud,
            tables,
            requests,
        })
    }

    /// From now on requests take time, and an item has a limit of write units per second.
    pub(super) fn be_far_away(&self, limit: Option<f64>) {
        self.cloud.set_weather(Weather {
            latency: ONE_WAY..=ONE_WAY,
            partition_limit: limit,
            ..Weather::calm()
        });
    }

    /// Creates a process of the function with exactly-once delivery. No write waits for another, so
    /// the time of a batch shows how many requests run one after another.
    pub(super) fn process(&self, number: u64) -> Result<Handler<Order>> {
        let means = Means {
            clock: self.time.clock(0),
            random: Random::seeded(number),
            concurrency: 10_000,
        };
        let client = self.cloud.process().client();
        pipeline::handler(Mode::ExactlyOnce, &client, &self.tables, means)
    }

    pub(super) fn books(&self) -> Books {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        Books {
            usage: self.cloud.usage(),
            requests: requests.clone(),
        }
    }
}

/// The requests and units used so far.
pub(super) struct Books {
    usage: Usage,
    requests: BTreeMap<(String, bool), u64>,
}

/// The average use per event.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spent {
    pub(super) write_units: f64,
    /// The part that refused writes used.
    pub(super) refused_units: f64,
    pub(super) read_units: f64,
    pub(super) requests: f64,
    /// Writes of rows and of pages, and reads of the two.
    pub(super) row_writes: f64,
    pub(super) page_writes: f64,
    pub(super) row_reads: f64,
    pub(super) page_reads: f64,
}

impl Spent {
    pub(super) fn between(before: &Books, after: &Books, events: usize) -> Self {
        let each = |used: f64| used / events as f64;
        let requests = |operations: &[&str], of_markers| {
            let sent = |books: &Books, operation: &&str| {
                let of = ((*operation).to_owned(), of_markers);
                books.requests.get(&of).copied().unwrap_or(0) as f64
            };
            let sent = operations
                .iter()
                .map(|operation| sent(after, operation) - sent(before, operation));
            each(sent.sum())
        };
        let reads = ["GetItem", "BatchGetItem"];
        let (old, new) = (&before.usage, &after.usage);
        Self {
            write_units: each(new.write_units() - old.write_units()),
            refused_units: each(new.refused - old.refused),
            read_units: each(new.read - old.read),
            requests: each((new.total_requests() - old.total_requests()) as f64),
            row_writes: requests(&["UpdateItem"], false),
            page_writes: requests(&["UpdateItem"], true),
            row_reads: requests(&reads, false),
            page_reads: requests(&reads, true),
        }
    }

    /// Write units plus read units at a fifth of their price.
    pub(super) fn units(&self) -> f64 {
        self.write_units + self.read_units / 5.0
    }
}

/// How many requests of a batch ran one after another, derived from its time.
pub(super) fn round_trips(took: Duration) -> f64 {
    took.as_secs_f64() / ROUND_TRIP.as_secs_f64()
}
