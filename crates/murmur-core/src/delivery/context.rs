use std::future::Future;

use futures::future::BoxFuture;
use murmur_state::retry::Retry;
use murmur_state::store::Listed;
use murmur_state::tokens::Tokens;
use murmur_state::{Deadline, PipelineName, Recorder, StoreError};

/// What the delivery of a batch needs besides the batch.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) retry: &'a Retry,
    pub(crate) tokens: &'a Tokens,
    pub(crate) recorder: &'a dyn Recorder,
    pub(crate) deadline: Deadline,
    /// Limits the rate of listings.
    pub(crate) pacing: Option<&'a dyn Pacing>,
}

impl Context<'_> {
    pub(crate) fn count(&self, pipeline: &PipelineName, suffix: &str, by: u64) {
        if by > 0 {
            self.recorder.count(&format!("{pipeline}{suffix}"), by);
        }
    }

    /// Calls `read` until it succeeds, fails permanently, or the retries' time is used up.
    pub(crate) async fn read<A, Read, Reading>(
        &self,
        pipeline: &PipelineName,
        read: Read,
    ) -> Result<A, StoreError>
    where
        Read: FnMut() -> Reading,
        Reading: Future<Output = Result<A, StoreError>>,
    {
        let again = |error: &StoreError| self.retried(pipeline, error);
        self.retry.run(self.deadline, again, read).await
    }

    /// The deadline of an operation that begins now, including its retries.
    pub(crate) fn operation_deadline(&self) -> Deadline {
        self.retry.batch_deadline(self.deadline)
    }

    /// Reads a part of a listing when the pacing permits it.
    pub(crate) async fn list<A, Read, Reading>(
        &self,
        pipeline: &PipelineName,
        read: Read,
    ) -> Result<Listed<A>, StoreError>
    where
        Read: FnMut() -> Reading,
        Reading: Future<Output = Result<Listed<A>, StoreError>>,
    {
        if let Some(pacing) = self.pacing {
            pacing.before().await;
        }
        let listed = self.read(pipeline, read).await?;
        if let Some(pacing) = self.pacing {
            pacing.after(listed.read_units);
        }
        Ok(listed)
    }

    pub(super) fn retried(&self, pipeline: &PipelineName, error: &StoreError) {
        let name = format!("{pipeline}:retry");
        self.recorder.count(&name, 1);
        self.recorder.error(&name, error);
    }
}

/// Limits the rate of the listings of an audit or an inspection.
///
/// # Contract
///
/// [`before`](Pacing::before) is awaited before each part is read. [`after`](Pacing::after) is
/// called with the cost of the part. Several parts may be in flight at once.
pub trait Pacing: Send + Sync {
    /// Completes when a part may be read. Cancel safe.
    fn before(&self) -> BoxFuture<'_, ()>;

    /// Reports that a part was read at this cost; `None` if the store does not know it.
    fn after(&self, read_units: Option<f64>);
}
