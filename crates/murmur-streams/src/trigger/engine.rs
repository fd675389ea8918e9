//! What every part of a run needs: the source, the handler, time, and when to stop.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Either, Shared};
use murmur_state::{Causes, Deadline, Failure, Fault, Retry};

use tokio::sync::Semaphore;

use crate::options::Options;
use crate::source::Cursor;
use crate::trigger::monitor::Monitor;
use crate::trigger::positions::Positions;
use crate::trigger::room::Room;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Drained,
    ShutDown,
}

/// What lasts for one run.
pub(crate) struct Watch<'a> {
    pub(crate) until: Until,
    stop: Shared<BoxFuture<'a, ()>>,
    halt: Mutex<Option<oneshot::Sender<()>>>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(until: Until, shutdown: impl Future<Output = ()> + Send + 'a) -> Self {
        let (halt, halted) = oneshot::channel();
        let stop = async move {
            future::select(shutdown.boxed(), halted).await;
        };
        Self {
            until,
            stop: stop.boxed().shared(),
            halt: Mutex::new(Some(halt)),
        }
    }

    /// Stops the run from within: as a shutdown, what is under way is finished.
    pub(crate) fn halt(&self) {
        *self.halt.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Completes when nothing more is to be begun.
    pub(crate) fn stop(&self) -> Shared<BoxFuture<'a, ()>> {
        self.stop.clone()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop().now_or_never().is_some()
    }
}

/// Where the shards were left, with all that was read done, for later runs of the same trigger.
///
/// Only this has the place of a shard that was begun at LATEST and had no record since.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<HashMap<Arc<str>, (u64, Cursor)>>);

impl Kept {
    /// Notes a shard's place, and the version of the row that goes with it.
    pub(crate) fn note(&self, shard: &Arc<str>, place: Option<(u64, Cursor)>) {
        let mut places = self.places();
        match place {
            Some(place) => places.insert(Arc::clone(shard), place),
            None => places.remove(shard),
        };
    }

    /// The place of a shard, if nobody has saved its row since.
    pub(crate) fn at(&self, shard: &str, version: u64) -> Option<Cursor> {
        let places = self.places();
        let (known, cursor) = places.get(shard)?;
        (*known == version).then(|| cursor.clone())
    }

    /// Forgets the places of shards that are gone.
    pub(crate) fn retain(&self, is_listed: impl Fn(&str) -> bool) {
        self.places().retain(|id, _| is_listed(id));
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Arc<str>, (u64, Cursor)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Engine<S, H> {
    pub(crate) source: S,
    pub(crate) handler: H,
    pub(crate) options: Options,
    pub(crate) positions: Positions,
    pub(crate) monitor: Monitor,
    pub(crate) kept: Kept,
    /// Of the run under way.
    pub(crate) retry: Retry,
    pub(crate) room: Room,
    /// Of those who begin a shard.
    pub(crate) begins: Semaphore,
}

impl<S, H> Engine<S, H> {
    /// `None` if the run was stopped before `work` was done; what is dropped then must be safe to
    /// do again.
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

    /// Does what may fail in passing, again and again while that can help and the budget lasts.
    pub(crate) async fn persistently<T, E, Fut>(&self, work: impl Fn() -> Fut) -> Result<T, E>
    where
        E: Failure + std::error::Error + 'static,
        Fut: Future<Output = Result<T, E>>,
    {
        let on_retry = |error: &E| {
            tracing::debug!(error = %Causes(error), "it failed in passing and is tried again");
        };
        self.retry.run(Deadline::NONE, on_retry, work).await
    }

    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        self.options
            .retry
            .wait(failures, Fault::Transient, &self.options.random)
    }
}

/// Lets other tasks have a turn: neither source nor handler need ever wait.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
