//! A simulator of Lambda's event source mapping for DynamoDB Streams, and of the faults around it.
//!
//! The facts are from the AWS Lambda Developer Guide: "Process DynamoDB records with Lambda",
//! "Lambda parameters for Amazon DynamoDB event source mappings" and "Configuring partial batch
//! response with DynamoDB and Lambda".

mod poller;

use std::future::{Future, pending};
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::future::LocalBoxFuture;
use murmur_state::Timestamp;

use crate::time::Time;

/// How long a stream keeps its records.
pub const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// How long after it was read from the stream a record can still reach the function: the longest
/// timeout of a function.
pub const STALL: Duration = Duration::from_secs(15 * 60);

/// An event source mapping, with the names of Lambda's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// `BatchSize`: the most records in one event. Lambda's default: 100.
    pub batch_size: usize,
    /// `ParallelizationFactor`: how many batches of a shard run at once. The changes of one item
    /// are in one of them. Lambda's default: 1.
    pub parallelization_factor: usize,
    /// `ReportBatchItemFailures` in `FunctionResponseTypes`: the answer names the records that
    /// failed. On here, off in Lambda.
    pub report_batch_item_failures: bool,
    /// `BisectBatchOnFunctionError`: a batch that failed as a whole is split into two halves, which
    /// does not count as a retry. Lambda's default: off.
    pub bisect_batch_on_function_error: bool,
    /// `MaximumRetryAttempts`: after that many retries the records go to the on-failure
    /// destination. `None`, the default: they are retried until they expire.
    pub maximum_retry_attempts: Option<u32>,
    /// `MaximumRecordAgeInSeconds`: older records go to the on-failure destination. `None`, the
    /// default: no limit.
    pub maximum_record_age: Option<Duration>,
    /// The function's timeout.
    pub timeout: Duration,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            batch_size: 100,
            parallelization_factor: 1,
            report_batch_item_failures: true,
            bisect_batch_on_function_error: false,
            maximum_retry_attempts: None,
            maximum_record_age: None,
            timeout: Duration::from_secs(60),
        }
    }
}

/// The faults around the function, each with a probability per invocation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trouble {
    /// A batch that succeeded is delivered again: at once, up to [`STALL`] later, or as long as the
    /// stream keeps it, as when a mapping is created again at `TRIM_HORIZON`.
    pub again: f64,
    /// The checkpoint moves back, and the records after it are delivered again in new batches.
    pub regroup: f64,
    /// A second poller invokes the function with the same or overlapping records while the first
    /// invocation runs. Its answer is ignored.
    pub race: f64,
    /// The process dies at one of its next requests.
    pub kill: f64,
    /// The invocation is stopped at some moment, as if the process had missed its timeout.
    pub cut: f64,
    /// The function returns and its answer is lost.
    pub lost_answer: f64,
    /// A new process is started although another one is idle.
    pub fresh: f64,
}

impl Trouble {
    /// Every fault with this probability.
    pub fn all(probability: f64) -> Self {
        Self {
            again: probability,
            regroup: probability,
            race: probability,
            kill: probability,
            cut: probability,
            lost_answer: probability,
            fresh: probability,
        }
    }
}

/// A record on its way to the function.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// When the record was created, in true time. The stream drops it [`RETENTION`] later.
    pub created: Timestamp,
    /// The earliest time at which the mapping sees the record.
    pub seen: Timestamp,
    /// The record.
    pub record: EventRecord,
}

/// The error of a function that does not report single records.
pub type BoxError = Box<dyn std::error::Error>;

/// An execution environment: one process of the function, which handles one event at a time.
pub trait Environment: 'static {
    /// Handles `event`. The function believes that it has `timeout`. Dropping the future is the
    /// death of the process.
    fn invoke(
        &self,
        event: Event,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>>;

    /// Kills the process at its `requests`-th request from now on, counted from 1. A process that
    /// makes no request is not killed; that is the default.
    fn kill_after(&self, requests: usize) {
        let _ = requests;
    }

    /// Completes when the process was killed by [`kill_after`](Self::kill_after).
    fn killed(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(pending())
    }
}

/// Any function that handles an event is an environment that makes no requests.
impl<F, Handled, E> Environment for F
where
    F: Fn(Event) -> Handled + 'static,
    Handled: Future<Output = Result<DynamoDbEventResponse, E>> + 'static,
    E: Into<BoxError>,
{
    fn invoke(
        &self,
        event: Event,
        _timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>> {
        let handled = self(event);
        Box::pin(async move { handled.await.map_err(Into::into) })
    }
}

/// The result of a delivery.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delivery {
    /// Counts of the situations that occurred.
    pub met: Met,
    /// The records sent to the on-failure destination because of the mapping's own limits.
    pub on_failure: Vec<EventRecord>,
    /// Records that the stream dropped before they were acknowledged. They are lost because of the
    /// outage alone.
    pub trimmed: Vec<EventRecord>,
    /// The last error of a function that failed as a whole.
    pub last_error: Option<String>,
}

/// The situations that occurred in a delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Met {
    /// The number of invocations of the function.
    pub invocations: u64,
    /// The number of processes started.
    pub processes: u64,
    /// Records that had been in an earlier event.
    pub redelivered: u64,
    /// Batches that succeeded and were delivered again.
    pub again: u64,
    /// How often the checkpoint moved back.
    pub regrouped: u64,
    /// Second invocations that ran beside a first one.
    pub raced: u64,
    /// Processes killed at a request.
    pub killed: u64,
    /// Invocations that reached their timeout.
    pub timed_out: u64,
    /// Answers that were lost.
    pub lost_answers: u64,
    /// Invocations that failed as a whole with an error of the function.
    pub errors: u64,
    /// Answers that reported some records as failed, but not the first one.
    pub partial: u64,
    /// Batches split in two.
    pub bisected: u64,
}

/// A running event source mapping.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The mapping.
    pub mapping: Mapping,
    /// The faults around it.
    pub trouble: Trouble,
    /// The seed of all random choices.
    pub seed: u64,
    /// The time it runs in.
    pub time: Time,
}

impl Simulation {
    /// Delivers the records of `shards` to processes that `start` starts. Returns when no
    /// invocation runs and each record is acknowledged, given up by the mapping, or dropped by the
    /// stream.
    ///
    /// # Panics
    ///
    /// If the batch size or the parallelization factor is 0, or a record has no sequence number.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: every running invocation stops where it is.
    pub async fn deliver<E: Environment>(
        &self,
        shards: Vec<Vec<Incoming>>,
        start: impl FnMut() -> E,
    ) -> Delivery {
        poller::Poller::new(self, shards, start).run().await
    }
}
