use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use futures::FutureExt;
use futures::future::{self, BoxFuture, Shared};
use murmur_state::{Cause, Causes, Deadline};

use crate::description::StreamDescription;
use crate::error::StreamError;
use crate::handler::{EventHandler, HandlerError, done_records};
use crate::lineage::{Lineage, Shard};
use crate::options::{Options, TriggerBuilder};
use crate::source::{MAX_READ, StreamSource};

/// How often new shards are looked for while none is read to its end.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);

/// Reads a stream and calls a handler with its records, as Lambda's event source mapping does.
///
/// # Delivery
///
/// Every record is delivered at least once, and in order within its shard; a shard waits until
/// its parent is done. A batch holds records of one shard. What the handler reports as failed
/// comes again, with everything after it in the batch, after a pause; nothing after it is taken
/// for done. The shards are worked on at once, in the task that runs the trigger: one that keeps
/// failing does not hold up the others.
///
/// Positions are kept in this value: a run that ended, whether well, with an error or dropped,
/// is continued by the next one. They do not outlive it; a new trigger begins at its
/// `starting_position`, so its handler must bear repetitions.
///
/// # Differences to Lambda
///
/// A batch is limited by its number of records only (Lambda: also 6 MB). No batching window,
/// parallelization factor, bisecting, record age, filter or on-failure destination.
pub struct Trigger<S, H> {
    engine: Engine<S, H>,
    lineage: Lineage,
}

/// What one run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Batches begun; one that comes again is not counted anew.
    pub batches: u64,
    /// Records that got done.
    pub records: u64,
    /// Deliveries of what had been delivered before.
    pub retries: u64,
    /// Records the handler reported as failed, each time it did.
    pub failures: u64,
    /// Times the handler answered with an error.
    pub errors: u64,
}

/// Why a trigger stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TriggerError {
    /// The stream could not be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A record failed as often as it may; it and what follows it in its shard are not done.
    #[error(
        "shard `{shard}`: the record with sequence number {sequence_number} still fails after {retries} retries; it was not passed over: mend the cause and run the trigger again, or raise `maximum_retry_attempts`"
    )]
    RetriesExhausted {
        /// The shard.
        shard: String,
        /// The first record that is not done; empty if it has no number.
        sequence_number: String,
        /// How often the batch came again.
        retries: u32,
        /// The handler's last error, if it failed as a whole.
        #[source]
        source: Option<Cause>,
    },
}

impl<S: StreamSource, H: EventHandler> Trigger<S, H> {
    /// A trigger that hands what `source` has to `handler`.
    pub fn builder(source: S, handler: H) -> TriggerBuilder<S, H> {
        TriggerBuilder::new(source, handler)
    }

    pub(crate) fn new(source: S, handler: H, options: Options) -> Self {
        Self {
            engine: Engine {
                source,
                handler,
                options,
            },
            lineage: Lineage::default(),
        }
    }

    /// Runs until every shard listed is read to its end, or has answered empty
    /// ([`drain_empty_reads`](TriggerBuilder::drain_empty_reads)) if it is still open.
    ///
    /// # Errors
    ///
    /// As [`run`](Trigger::run); a disabled stream is none, since all it has was read.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Trigger::run).
    pub async fn drain(&mut self) -> Result<Summary, TriggerError> {
        self.go(Until::Drained, future::pending()).await
    }

    /// Runs until `shutdown` completes: then calls to the handler that are under way are
    /// finished, pauses are cut short, and no further call is made.
    ///
    /// # Errors
    ///
    /// [`TriggerError::RetriesExhausted`]; [`TriggerError::Stream`] for a stream that is
    /// missing, may not be read, has been trimmed, failed for longer than
    /// [`read_retry_budget`](TriggerBuilder::read_retry_budget), or is disabled and read to its
    /// end. The other shards' calls under way are finished first; the trigger can be run again
    /// and goes on where it was.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost. A call to the handler that was dropped halfway is made
    /// again by the next run.
    pub async fn run(
        &mut self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Summary, TriggerError> {
        self.go(Until::ShutDown, shutdown).await
    }

    async fn go(
        &mut self,
        until: Until,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Summary, TriggerError> {
        let Self { engine, lineage } = self;
        let watch = Watch {
            shutdown: shutdown.boxed().shared(),
            summary: Mutex::default(),
            until,
        };
        while !watch.shut_down() {
            let round = Round {
                watch: &watch,
                over: AtomicBool::new(false),
                until: engine.round(),
            };
            let Some(listed) = engine.describe(&round).await? else {
                break;
            };
            lineage.update(&listed, engine.options.starting_position);
            let ready = lineage.ready();
            if ready.is_empty() {
                if !lineage.is_done() {
                    let arn = &listed.info.stream_arn;
                    return Err(
                        StreamError::unexpected(arn, "its shards wait for each other").into(),
                    );
                }
                if until == Until::Drained {
                    break;
                }
                listed.ensure_enabled()?;
                engine.pause(engine.options.poll_interval, &watch).await;
                continue;
            }
            let work: Vec<_> = ready
                .into_iter()
                .map(|shard| engine.work(shard, &round))
                .collect();
            let left = settle(future::join_all(work).await)?;
            if until == Until::Drained && left.iter().all(|left| *left == Left::Empty) {
                break;
            }
        }
        Ok(watch.summary())
    }
}

impl<S, H> fmt::Debug for Trigger<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger")
            .field("options", &self.engine.options)
            .field("lineage", &self.lineage)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Drained,
    ShutDown,
}

/// In what state a round leaves a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing more for now.
    Empty,
    /// Read to its end: its children may begin.
    Ended,
    /// The round was over; there may be more.
    Interrupted,
}

/// What lasts for one run.
struct Watch<'a> {
    shutdown: Shared<BoxFuture<'a, ()>>,
    summary: Mutex<Summary>,
    until: Until,
}

impl Watch<'_> {
    fn shut_down(&self) -> bool {
        self.shutdown.clone().now_or_never().is_some()
    }

    fn count(&self, change: impl FnOnce(&mut Summary)) {
        change(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn summary(&self) -> Summary {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lasts from one listing of the shards to the next.
struct Round<'a, 'w> {
    watch: &'a Watch<'w>,
    /// Set by a shard that ended or failed: the others finish what they are at.
    over: AtomicBool,
    until: Deadline,
}

struct Engine<S, H> {
    source: S,
    handler: H,
    options: Options,
}

impl<S: StreamSource, H: EventHandler> Engine<S, H> {
    fn round(&self) -> Deadline {
        Deadline::within(&*self.options.clock, DISCOVERY_INTERVAL)
    }

    fn is_over(&self, round: &Round<'_, '_>) -> bool {
        round.over.load(Ordering::Relaxed)
            || round.until.passed(&*self.options.clock)
            || round.watch.shut_down()
    }

    async fn describe(
        &self,
        round: &Round<'_, '_>,
    ) -> Result<Option<StreamDescription>, StreamError> {
        self.patiently(round, || self.source.describe()).await
    }

    /// Works on one shard until it is empty or ended, or the round is over.
    async fn work(&self, shard: &mut Shard, round: &Round<'_, '_>) -> Result<Left, TriggerError> {
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
        let clock = &*self.options.clock;
        let deadline = Deadline::within(clock, self.options.retry.budget);
        for failures in 0.. {
            match read().await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if !error.is_retryable() || deadline.passed(clock) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), "a read of the stream failed; it is made again");
                    self.pause(self.backoff(failures), round.watch).await;
                }
            }
            if round.watch.shut_down() {
                break;
            }
        }
        Ok(None)
    }

    fn backoff(&self, failures: u32) -> Duration {
        let bound = self
            .options
            .retry
            .base
            .saturating_mul(2u32.saturating_pow(failures));
        self.options.random.up_to(bound.min(self.options.retry.cap))
    }

    async fn pause(&self, duration: Duration, watch: &Watch<'_>) {
        future::select(self.options.clock.sleep(duration), watch.shutdown.clone()).await;
    }
}

/// The first error, the others traced; else how each shard was left.
fn settle(results: Vec<Result<Left, TriggerError>>) -> Result<Vec<Left>, TriggerError> {
    let (mut left, mut first) = (Vec::with_capacity(results.len()), None);
    for result in results {
        match result {
            Ok(how) => left.push(how),
            Err(error) if first.is_none() => first = Some(error),
            Err(error) => tracing::error!(error = %Causes(&error), "another shard failed too"),
        }
    }
    first.map_or(Ok(left), Err)
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
