//! A simulator of Lambda's event source mapping for DynamoDB Streams, and of what goes wrong
//! around one.
//!
//! Facts from the AWS Lambda Developer Guide, "Process DynamoDB records with Lambda", "Lambda
//! parameters for Amazon DynamoDB event source mappings" and "Configuring partial batch response
//! with DynamoDB and Lambda".

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

/// An event source mapping, by the names of Lambda's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// `BatchSize`: the most records in one event. Lambda's default: 100.
    pub batch_size: usize,
    /// `ParallelizationFactor`: how many batches of a shard are under way at once, each item's
    /// changes in one of them. Lambda's default: 1.
    pub parallelization_factor: usize,
    /// `ReportBatchItemFailures` among the `FunctionResponseTypes`: the answer says what failed.
    /// On here, off in Lambda.
    pub report_batch_item_failures: bool,
    /// `BisectBatchOnFunctionError`: a batch that failed as a whole comes again in two halves,
    /// which is no retry. Lambda's default: off.
    pub bisect_batch_on_function_error: bool,
    /// `MaximumRetryAttempts`, then the records go to the on-failure destination. `None`, the
    /// default: until they expire.
    pub maximum_retry_attempts: Option<u32>,
    /// `MaximumRecordAgeInSeconds`, then they go there, too. `None`, the default: never.
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

/// What goes wrong around the function, each with a probability per invocation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trouble {
    /// A batch that succeeded comes once more: at once, up to [`STALL`] later, or as long as the
    /// stream keeps it, as when a mapping is made anew at `TRIM_HORIZON`.
    pub again: f64,
    /// The checkpoint falls back, and the records behind it come again in batches cut anew.
    pub regroup: f64,
    /// A second poller invokes the function with the same or overlapping records while the first
    /// invocation runs; nobody reads its answer.
    pub race: f64,
    /// The process dies at one of its next requests.
    pub kill: f64,
    /// The process is cut off at some moment, as one that did not notice its timeout.
    pub cut: f64,
    /// The function ends and its answer does not arrive.
    pub lost_answer: f64,
    /// A new process is started although one is idle.
    pub fresh: f64,
}

impl Trouble {
    /// Everything at `probability`.
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

/// A record on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// When it was created, in true time: the stream forgets it [`RETENTION`] later.
    pub created: Timestamp,
    /// When the mapping sees it at the earliest.
    pub seen: Timestamp,
    /// The record.
    pub record: EventRecord,
}

/// What a function says that has nothing to say about single records.
pub type BoxError = Box<dyn std::error::Error>;

/// An execution environment: one process of the function, which handles one event at a time.
pub trait Environment: 'static {
    /// Handles `event`; the function believes to have `timeout`. Dropping the future is the death
    /// of the process.
    fn invoke(
        &self,
        event: Event,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>>;

    /// Makes the process die at its `requests`-th request from now on, counted from 1. A process
    /// that makes none goes on living; that is the default.
    fn kill_after(&self, requests: usize) {
        let _ = requests;
    }

    /// Completes when the process has died by [`kill_after`](Self::kill_after).
    fn killed(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(pending())
    }
}

/// Anything that handles an event is an environment, one that makes no requests.
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

/// How a delivery went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delivery {
    /// Counts of what happened.
    pub met: Met,
    /// The records of the on-failure destination: given up by the mapping's own limits.
    pub on_failure: Vec<EventRecord>,
    /// Records the stream forgot before they were acknowledged: lost, through nobody's fault but
    /// the outage's.
    pub trimmed: Vec<EventRecord>,
    /// What the function said when it last failed as a whole.
    pub last_error: Option<String>,
}

/// What a delivery has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Met {
    /// Invocations of the function.
    pub invocations: u64,
    /// Processes started.
    pub processes: u64,
    /// Records that were in an event before.
    pub redelivered: u64,
    /// Batches that succeeded and came again.
    pub again: u64,
    /// Times the checkpoint fell back.
    pub regrouped: u64,
    /// Second invocations that ran beside a first one.
    pub raced: u64,
    /// Processes that died at a request.
    pub killed: u64,
    /// Invocations cut off by time.
    pub timed_out: u64,
    /// Answers that did not arrive.
    pub lost_answers: u64,
    /// Invocations that failed as a whole by what the function said.
    pub errors: u64,
    /// Answers that reported some records and not the first.
    pub partial: u64,
    /// Batches cut in two.
    pub bisected: u64,
}

/// An event source mapping at work.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The mapping.
    pub mapping: Mapping,
    /// What goes wrong around it.
    pub trouble: Trouble,
    /// The seed of all that is random.
    pub seed: u64,
    /// The time it runs in.
    pub time: Time,
}

impl Simulation {
    /// Delivers the records of `shards` to processes that `start` starts, until each record is
    /// acknowledged, given up by the mapping, or forgotten by the stream, and no invocation runs.
    ///
    /// # Panics
    ///
    /// For a batch size or a parallelization factor of 0, and records without sequence numbers.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: every invocation ends where it is.
    pub async fn deliver<E: Environment>(
        &self,
        shards: Vec<Vec<Incoming>>,
        start: impl FnMut() -> E,
    ) -> Delivery {
        poller::Poller::new(self, shards, start).run().await
    }
}
