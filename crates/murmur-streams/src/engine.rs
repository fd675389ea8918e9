//! The work on the shards between two listings of them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use futures::FutureExt;
use futures::future::{self, BoxFuture, Either, Shared};
use murmur_state::{Cause, Causes, Deadline, Fault, Retry};

use crate::description::StreamDescription;
use crate::error::StreamError;
use crate::handler::{EventHandler, HandlerError, done_records};
use crate::lineage::Shard;
use crate::options::Options;
use crate::source::{MAX_READ, StreamSource};
use crate::trigger::{Summary, TriggerError};

/// How often new shards are looked for while none is read to its end.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Drained,
    ShutDown,
}

/// In what state a round leaves a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing more for now.
    Empty,
    /// Read to its end: its children may begin.
    Ended,
    /// The round was over; there may be more.
    Interrupted,
}

/// What lasts for one run.
pub(crate) struct Watch<'a> {
    pub(crate) shutdown: Shared<BoxFuture<'a, ()>>,
    pub(crate) summary: Mutex<Summary>,
    pub(crate) until: Until,
}

impl Watch<'_> {
    pub(crate) fn shut_down(&self) -> bool {
        self.shutdown.clone().now_or_never().is_some()
    }

    fn count(&self, change: impl FnOnce(&mut Summary)) {
        change(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn summary(&self) -> Summary {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lasts from one listing of the shards to the next.
pub(crate) struct Round<'a, 'w> {
    pub(crate) watch: &'a Watch<'w>,
    /// Set by a shard that ended or failed: the others finish what they are at.
    pub(crate) over: AtomicBool,
    pub(crate) until: Deadline,
}

pub(crate) struct Engine<S, H> {
    pub(crate) source: S,
    pub(crate) handler: H,
    pub(crate) options: Options,
}

impl<S: StreamSource, H: EventHandler> Engine<S, H> {
    pub(crate) fn round(&self) -> Deadline {
        Deadline::within(&*self.options.clock, DISCOVERY_INTERVAL)
    }

    fn is_over(&self, round: &Round<'_, '_>) -> bool {
        round.over.load(Ordering::Relaxed)
            || round.until.passed(&*self.options.clock)
            || round.watch.shut_down()
    }

    pub(crate) async fn describe(
        &self,
        round: &Round<'_, '_>,
    ) -> Result<Option<StreamDescription>, StreamError> {
        self.patiently(round, || self.source.describe()).await
    }

    /// Works on one shard until it is empty or ended, or the round is over.
    pub(crate) async fn work(
        &self,
        shard: &mut Shard,
        round: &Round<'_, '_>,
    ) -> Result<Left, TriggerError> {
        let left = self.batches(shard, round).await;
        if !matches!(left, Ok(Left::Empty)) {
            round.over.store(true, Ordering::Relaxed);
        }
        left
    }

    async fn batches(
        &self,
        shard: &mut Shard,
        round: &Round<'_, '_>,
    ) -> Result<Left, TriggerError> {
        let mut empty_reads = 0;
        while !self.is_over(round) {
            if shard.pending.is_empty() {
                if shard.cursor.is_none() {
                    return Ok(Left::Ended);
                }
                if !self.fill(shard, round).await? {
                    break;
                }
                if shard.pending.is_empty() {
                    empty_reads += 1;
                    // One with a child will end, and its child waits for that.
                    let drained = empty_reads >= self.options.drain_empty_reads
                        && round.watch.until == Until::Drained
                        && !shard.has_child;
                    match &shard.cursor {
                        None => {}
                        Some(_) if drained => return Ok(Left::Empty),
                        Some(_) => self.pause(self.options.poll_interval, round.watch).await,
                    }
                    continue;
                }
                round.watch.count(|summary| summary.batches += 1);
            }
            empty_reads = 0;
            self.deliver(shard, round).await?;
            yield_now().await;
        }
        Ok(Left::Interrupted)
    }

    /// Reads the next batch; `false` if the run was shut down first.
    async fn fill(&self, shard: &mut Shard, round: &Round<'_, '_>) -> Result<bool, StreamError> {
        let batch_size = self.options.batch_size;
        while let Some(cursor) = &shard.cursor {
            let limit = (batch_size - shard.pending.len()).min(MAX_READ);
            let read = self.patiently(round, || self.source.read(&shard.id, cursor, limit));
            let Some(batch) = read.await? else {
                return Ok(false);
            };
            let full = batch.records.len() >= limit;
            shard.cursor = batch.next;
            shard.pending.extend(batch.records);
            if !full || shard.pending.len() >= batch_size {
                break;
            }
        }
        Ok(true)
    }

    /// Hands what is pending to the handler, once, and acts on the answer.
    async fn deliver(&self, shard: &mut Shard, round: &Round<'_, '_>) -> Result<(), TriggerError> {
        if shard.failures > 0 {
            round.watch.count(|summary| summary.retries += 1);
        }
        let mut event = Event::default();
        event.records = shard.pending.clone();
        let answer = self.handler.handle(event).await;
        let (done, reported) = match &answer {
            Ok(response) => (
                done_records(&shard.pending, response),
                response.batch_item_failures.len() as u64,
            ),
            Err(_) => (0, 0),
        };
        shard.pending.drain(..done);
        round.watch.count(|summary| {
            summary.records += done as u64;
            summary.failures += reported;
            summary.errors += u64::from(answer.is_err());
        });
        if shard.pending.is_empty() {
            shard.failures = 0;
            return Ok(());
        }
        shard.failures = if done > 0 {
            1
        } else {
            shard.failures.saturating_add(1)
        };
        self.after_failure(shard, answer.err(), round).await
    }

    async fn after_failure(
        &self,
        shard: &Shard,
        error: Option<HandlerError>,
        round: &Round<'_, '_>,
    ) -> Result<(), TriggerError> {
        let number = shard
            .pending
            .first()
            .and_then(|r| r.change.sequence_number.clone());
        let sequence_number = number.unwrap_or_default();
        let source: Option<Cause> = error.map(Into::into);
        tracing::warn!(
            shard = shard.id,
            sequence_number,
            failures = shard.failures,
            error = source.as_deref().map(|cause| Causes(cause).to_string()),
            "the handler did not finish a batch; from this record on it comes again"
        );
        let retries = shard.failures - 1;
        if self
            .options
            .maximum_retry_attempts
            .is_some_and(|limit| retries >= limit)
        {
            let shard = shard.id.clone();
            return Err(TriggerError::RetriesExhausted {
                shard,
                sequence_number,
                retries,
                source,
            });
        }
        self.pause(self.backoff(retries), round.watch).await;
        Ok(())
    }

    /// Makes a read, again and again while that can help and the budget lasts; `None` if the run
    /// was shut down meanwhile.
    async fn patiently<T, Fut>(
        &self,
        round: &Round<'_, '_>,
        read: impl Fn() -> Fut,
    ) -> Result<Option<T>, StreamError>
    where
        Fut: Future<Output = Result<T, StreamError>>,
    {
        // A stream that cannot be read for a while is no reason to stop: only time is limited.
        let patient = self.options.retry.max_attempts(u32::MAX);
        let (clock, random) = (Arc::clone(&self.options.clock), self.options.random.clone());
        let retry = Retry::new(patient, clock, random);
        let on_retry = |error: &StreamError| {
            tracing::warn!(error = %Causes(error), "a read of the stream failed; it is made again");
        };
        let read = pin!(retry.run(Deadline::NONE, on_retry, read));
        // A read that is dropped has changed nothing.
        match future::select(read, round.watch.shutdown.clone()).await {
            Either::Left((answer, _)) => answer.map(Some),
            Either::Right(_) => Ok(None),
        }
    }

    fn backoff(&self, failures: u32) -> Duration {
        self.options
            .retry
            .wait(failures, Fault::Transient, &self.options.random)
    }

    pub(crate) async fn pause(&self, duration: Duration, watch: &Watch<'_>) {
        future::select(self.options.clock.sleep(duration), watch.shutdown.clone()).await;
    }
}

/// Lets other tasks have a turn: neither source nor handler need ever wait.
async fn yield_now() {
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
