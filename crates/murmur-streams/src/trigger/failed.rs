//! Records that are given up, and where they go.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use futures::FutureExt;
use futures::future::BoxFuture;
use murmur_state::HandlerError;
use murmur_state::error::Cause;

/// Records that the trigger gives up, with their place in the stream: what Lambda sends to an
/// on-failure destination, and the records themselves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedBatch {
    /// The stream.
    pub stream_arn: String,
    /// The shard.
    pub shard: String,
    /// The first record's sequence number; empty if it has none.
    pub start_sequence_number: String,
    /// The last record's sequence number; empty if it has none.
    pub end_sequence_number: String,
    /// The records, in order.
    pub records: Vec<EventRecord>,
    /// Why they are given up.
    pub condition: FailureCondition,
}

/// Why records are given up. The names are those of Lambda's invocation records.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FailureCondition {
    /// `maximum_retry_attempts` was reached.
    RetryAttemptsExhausted {
        /// How often the batch was delivered again.
        retries: u32,
        /// The handler's last error, if it failed as a whole.
        error: Option<Cause>,
    },
    /// The records are older than `maximum_record_age`.
    RecordAgeExceeded {
        /// The age of the first record.
        age: Duration,
        /// The greatest age allowed.
        limit: Duration,
    },
}

type Callback =
    dyn Fn(FailedBatch) -> BoxFuture<'static, Result<(), HandlerError>> + Send + Sync + 'static;

/// The callback for records that are given up.
#[derive(Clone)]
pub(crate) struct OnFailure(Arc<Callback>);

impl OnFailure {
    pub(crate) fn new<F, Fut>(callback: F) -> Self
    where
        F: Fn(FailedBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Self(Arc::new(move |batch| callback(batch).boxed()))
    }

    pub(crate) async fn take(&self, batch: FailedBatch) -> Result<(), HandlerError> {
        (self.0)(batch).await
    }
}

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure")
    }
}
