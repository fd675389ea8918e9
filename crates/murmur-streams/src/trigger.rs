use std::fmt;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use futures::FutureExt;
use futures::future;
use murmur_state::{Cause, Causes};

use crate::engine::{Engine, Left, Round, Until, Watch};
use crate::error::StreamError;
use crate::handler::EventHandler;
use crate::lineage::Lineage;
use crate::options::{Options, TriggerBuilder};
use crate::source::StreamSource;

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
