//! A trigger, in one direction: what is set (`gap`, `error`, `failed`, `options`) → what is kept
//! (`form` → `beginning`, `row`, `workers` → `sightings` → `positions`) → what one run holds
//! (`watch`, `room` → `lane`, `tracker`, `lineage`, `monitor`, `cursors`) → `engine` → `begin`,
//! `deliver`, `reader`, `progress_log` → `shard` → `run` → [`Trigger`].

mod error;
mod failed;
mod gap;
mod options;

mod beginning;
mod form;
mod positions;
mod row;
mod sightings;
mod workers;

mod cursors;
mod lane;
mod lineage;
mod monitor;
mod room;
mod tracker;
mod watch;

mod begin;
mod deliver;
mod engine;
mod progress_log;
mod reader;
mod run;
mod shard;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::future::{self, Either};
use murmur_state::EventHandler;
use tokio::sync::Semaphore;

use crate::source::StreamSource;
use beginning::Beginning;
use cursors::Cursors;
use engine::{BEGINS, Engine};
use room::Room;
use run::TriggerRun;
use watch::{Until, Watch};

pub use error::TriggerError;
pub(crate) use failed::OnFailure;
pub use failed::{FailedBatch, FailureCondition};
pub use gap::{Gap, OnGap};
pub use monitor::{Monitor, ShardStatus, Status, Summary};
pub(crate) use options::Options;
pub use options::StartingPosition;
pub(crate) use positions::Positions;
pub(crate) use room::READ_BYTES;
pub(crate) use sightings::Sightings;

/// Reads a stream and calls a handler with its records, as Lambda's event source mapping does.
///
/// # Delivery
///
/// Every record is delivered at least once, and each item's records in order: within a shard
/// and from a shard to its children, which wait until it is done. A batch holds records of one
/// shard. What the handler reports as failed comes again, with everything after it in the batch,
/// after a pause; nothing after it is taken for done. The shards are worked on at once, in the
/// task that runs the trigger: one that keeps failing does not hold up the others.
///
/// # Positions
///
/// How far each shard is outlives the trigger where
/// [`positions`](crate::TriggerBuilder::positions) says; by default it lives in this value: a run that
/// ended, whether well, with an error or dropped, is continued by the next one. A position is
/// saved only after the records before it are done, so what was done since comes again after a
/// crash, and the handler must bear that.
///
/// # Several readers
///
/// A shard's position is also a lease: one reader at a time holds it, renews it while it runs,
/// and gives it up when it stops; another takes it over once it has expired. A reader that
/// was held up for longer finds out with its next save and leaves the shard. Until then both
/// deliver the same records. Correctness must not depend on leases, and with a handler that
/// [recognises repeated events](murmur_state::Repeats) it does not.
///
/// Readers that [`run`](Trigger::run) share the shards evenly, or as
/// [`maximum_shards`](crate::TriggerBuilder::maximum_shards) lets them: one alone has all, and gives shards
/// up, each at a saved position, when others come. It takes some rounds of a third of a lease (at most
/// 10 s each) until the shares are even, and a shard is not read for up to two of them while it changes
/// hands. When a reader dies, the others take over its shards. In every round each reader
/// writes one row that names all readers, and reads a row for each shard that it does not read
/// itself. [`drain`](Trigger::drain) takes no part in that: it takes what is free.
///
/// That is for a handful of readers: for more use Lambda, or the Kinesis Client Library with its
/// DynamoDB Streams adapter.
///
/// # Memory
///
/// What is read ahead of the handler is bounded over all shards, by
/// [`read_ahead`](crate::TriggerBuilder::read_ahead). Every shard has its turn all the same.
///
/// # Log
///
/// At level INFO a run traces what it reads and from where when it begins, how far behind it is
/// once a minute while it is, and when it has caught up. [`monitor`](Trigger::monitor) shows the
/// same at any time.
///
/// # Differences to Lambda
///
/// - A batch is limited by its number of records only (Lambda: also 6 MB).
/// - Calls have no timeout.
/// - With `bisect_batch_on_error` a batch of which nothing got done is cut in two also when the
///   handler answered, not only when it failed as a whole.
/// - Records that are too old are taken out of their batch; they are looked at before every
///   delivery.
/// - Records nobody takes ([`on_failure`](crate::TriggerBuilder::on_failure)) stop the trigger;
///   Lambda drops them.
/// - Filters know event names only. No tumbling windows.
/// - One that begins at LATEST and ends before it had a record begins at LATEST again, with a
///   warning; it is counted as a gap.
pub struct Trigger<S, H> {
    engine: Engine<S, H>,
    beginning: Option<Arc<Beginning>>,
}

impl<S, H> Trigger<S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    pub(crate) fn new(source: S, handler: H, options: Options, positions: Positions) -> Self {
        let (clock, recorder) = (Arc::clone(&options.clock), Arc::clone(&options.recorder));
        let monitor = Monitor::new(positions.name.to_string(), clock, recorder);
        Self {
            engine: Engine {
                source,
                handler,
                retry: options.retry(),
                room: Room::of(options.read_ahead),
                begins: Semaphore::new(BEGINS),
                options,
                positions,
                monitor,
                cursors: Cursors::default(),
            },
            beginning: None,
        }
    }

    /// Looks at the trigger while it runs.
    pub fn monitor(&self) -> Monitor {
        self.engine.monitor.clone()
    }

    /// Runs until every shard listed is read to its end, or has answered empty
    /// ([`drain_empty_reads`](crate::TriggerBuilder::drain_empty_reads)) if it is still open; those
    /// another reader holds are left to it, but one whose child is listed is waited for, so that the
    /// child is read in its turn. A shard of an enabled stream that has ended has a child:
    /// where none is listed yet it lists up to ten times more, a
    /// [`poll_interval`](crate::TriggerBuilder::poll_interval) apart, before it takes that for the end.
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
    /// finished, pauses are cut short, no further call is made, positions are saved and leases
    /// given up.
    ///
    /// # Errors
    ///
    /// [`TriggerError::RetriesExhausted`] and [`TriggerError::RecordTooOld`] where nobody takes
    /// such records; [`TriggerError::RecordsKept`] for a handler that does not leave the records that
    /// are not done; [`TriggerError::Gap`]; [`TriggerError::OtherStream`] and
    /// [`TriggerError::OtherHandoff`] before anything is read; [`TriggerError::Stream`] for a
    /// stream that is missing, may not be read, or is disabled and read to its end;
    /// [`TriggerError::GaveUp`] for what failed for longer than
    /// [`retry_budget`](crate::TriggerBuilder::retry_budget); and
    /// what says that a position could not be loaded, saved or understood. The other shards'
    /// calls under way are finished first; the trigger can be run again and goes on where it
    /// was.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost. What was under way comes again with the next run; leases
    /// are not given up and expire.
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
        let Self { engine, beginning } = self;
        engine.retry = engine.options.retry();
        let engine = &*engine;
        engine.monitor.reset();
        engine.options.warn();
        let watch = Watch::new(until, shutdown);
        let run = pin!(TriggerRun::new(engine, &watch).finish(beginning));
        let finished = match future::select(run, watch.stop()).await {
            Either::Left((finished, _)) => finished,
            Either::Right(((), run)) => {
                engine.retry.stop();
                run.await
            }
        };
        finished.map_err(|error| match engine.retry.gave_up_after() {
            Some(tried) if error.is_retryable() => TriggerError::GaveUp {
                tried,
                source: Box::new(error),
            },
            _ => error,
        })?;
        Ok(engine.monitor.summary())
    }
}

impl<S, H> fmt::Debug for Trigger<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger")
            .field("options", &self.engine.options)
            .field("positions", &self.engine.positions)
            .field("monitor", &self.engine.monitor)
            .finish_non_exhaustive()
    }
}
