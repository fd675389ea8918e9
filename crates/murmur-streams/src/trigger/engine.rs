//! What every part of a run needs: the source, the handler, and shared state.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{self, Either};
use murmur_state::error::Failure;
use murmur_state::retry::Retry;
use murmur_state::{Causes, Deadline, Fault};
use tokio::sync::Semaphore;

use crate::trigger::cursors::Cursors;
use crate::trigger::ending::Watch;
use crate::trigger::monitor::Monitor;
use crate::trigger::options::Options;
use crate::trigger::positions::Positions;
use crate::trigger::room::Room;

/// How many shards are begun concurrently, and how many rows are read concurrently.
pub(crate) const BEGINS: usize = 16;

pub(crate) struct Engine<S, H> {
    pub(crate) source: S,
    pub(crate) handler: H,
    pub(crate) options: Options,
    pub(crate) positions: Positions,
    pub(crate) monitor: Monitor,
    pub(crate) cursors: Cursors,
    /// Of the current run.
    pub(crate) retry: Retry,
    pub(crate) room: Room,
    /// Limits how many shards are begun concurrently.
    pub(crate) begins: Semaphore,
}

impl<S, H> Engine<S, H> {
    /// `None` if the run was stopped before `work` was done. `work` is dropped then, so it must be
    /// safe to repeat.
    pub(crate) async fn unless_stopped<T, E>(
        &self,
        watch: &Watch<'_>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        match future::select(pin!(work), watch.stop()).await {
            Either::Left((answer, _)) => answer.map(Some),
            Either::Right(_) => Ok(None),
        }
    }

    /// Repeats work after transient errors, while that can help and the budget lasts.
    pub(crate) async fn persistently<T, E, Fut>(&self, work: impl Fn() -> Fut) -> Result<T, E>
    where
        E: Failure + std::error::Error + 'static,
        Fut: Future<Output = Result<T, E>>,
    {
        let on_retry = |error: &E| {
            tracing::debug!(error = %Causes(error), "a transient error is retried");
        };
        self.retry.run(Deadline::NONE, on_retry, work).await
    }

    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        self.options
            .retry
            .wait(failures, Fault::Transient, &self.options.random)
    }
}
