//! The parts of a trigger, each using only those before it: the settings (`gap`, `error`, `failed`,
//! `options`) → what is stored (`form` → `beginning`, `row`, `workers` → `sightings` → `positions`)
//! → the state of one run (`ending`, `room` → `lane`, `tracker`, `lineage`, `monitor`, `cursors`) →
//! `engine` → `first_read`, `deliver`, `reader`, `progress_log` → `shard` → `run` → [`Trigger`].

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
mod ending;
mod lane;
mod lineage;
mod monitor;
mod room;
mod tracker;

mod deliver;
mod engine;
mod first_read;
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
use ending::{Until, Watch};
use engine::{BEGINS, Engine};
use room::Room;
use run::TriggerRun;

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

/// Reads a stream and calls a handler with its records, like Lambda's event source mapping.
///
/// # Delivery
///
/// Every record is delivered at least once. The records of each item are delivered in order, both
/// within a shard and from a shard to its children, which wait until the shard is done. A batch
/// holds records of one shard.
///
/// A record that the handler reports as failed is delivered again after a pause, with everything
/// after it in the batch; none of those records counts as done before. All shards are processed
/// concurrently, in the task that runs the trigger. A shard that keeps failing does not hold up the
/// others.
///
/// # Positions
///
/// The position of each shard is stored where [`positions`](crate::TriggerBuilder::positions) says.
/// By default it is kept in this value only. After a run ends, by itself, with an error or by being
/// dropped, the next run continues from the stored positions. A position is saved only after the
/// records before it are done. Records done since the last save are delivered again after a crash,
/// and the handler must tolerate that.
///
/// # Several readers
///
/// A shard's position is also a lease. One reader at a time holds it, renews it while it runs, and
/// gives it up when it stops. Another reader takes it over once it has expired. A reader that was
/// held up for longer finds out with its next save and leaves the shard; until then both deliver
/// the same records. Correctness must not depend on leases. With a handler that [recognises
/// repeated events](murmur_state::Repeats) it does not.
///
/// Readers that [`run`](Trigger::run) share the shards evenly, or as
/// [`maximum_shards`](crate::TriggerBuilder::maximum_shards) allows. A single reader has all
/// shards, and gives some up, each at a saved position, when other readers start. A round takes a
/// third of a lease, at most 10 s. It takes some rounds until the shares are even, and a shard that
/// changes hands is not read for up to two rounds. When a reader dies, the others take over its
/// shards. In every round each reader writes one row that names all readers, and reads a row for
/// each shard that it does not read itself. [`drain`](Trigger::drain) does not take part in
/// sharing; it reads any free shard.
///
/// This is meant for a handful of readers. For more, use Lambda, or the Kinesis Client Library with
/// its DynamoDB Streams adapter.
///
/// # Memory
///
/// [`read_ahead`](crate::TriggerBuilder::read_ahead) limits how much is read ahead of the handler,
/// over all shards. Every shard still gets its turn.
///
/// # Log
///
/// At level INFO a run logs:
///
/// - what it reads and from where, when it starts;
/// - how far behind it is, once a minute while it is behind;
/// - when it has caught up.
///
/// [`monitor`](Trigger::monitor) shows the same at any time.
///
/// # Differences to Lambda
///
/// - A batch is limited by its number of records only (Lambda: also 6 MB).
/// - Calls have no timeout.
/// - With `bisect_batch_on_error`, a batch with no record done is cut in two even if the handler
///   answered, not only if it failed as a whole.
/// - Records that are too old are taken out of their batch. Their age is checked before every
///   delivery.
/// - Records that no [`on_failure`](crate::TriggerBuilder::on_failure) takes stop the trigger;
///   Lambda drops them.
/// - Filters match event names only. There are no tumbling windows.
/// - A trigger that starts at LATEST and ends before its first record starts at LATEST again, with
///   a warning, and counts a gap.
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

    /// Observes the trigger while it runs.
    pub fn monitor(&self) -> Monitor {
        self.engine.monitor.clone()
    }

    /// Runs until every listed shard is read to its end, or, if it is still open, has answered
    /// empty ([`drain_empty_reads`](crate::TriggerBuilder::drain_empty_reads)).
    ///
    /// A shard that another reader holds is left to that reader. If a child of it is listed, the
    /// run waits for the shard, so that the child is read in its turn. In an enabled stream a shard
    /// that has ended has a child. If none is listed yet, the run lists up to ten more times, a
    /// [`poll_interval`](crate::TriggerBuilder::poll_interval) apart, before it takes that for the
    /// end.
    ///
    /// # Errors
    ///
    /// As [`run`](Trigger::run). A disabled stream is not an error, because everything in it was
    /// read.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Trigger::run).
    pub async fn drain(&mut self) -> Result<Summary, TriggerError> {
        self.go(Until::Drained, future::pending()).await
    }

    /// Runs until `shutdown` completes. Then it finishes the calls to the handler that are in
    /// progress, cuts pauses short, makes no further call, saves the positions and gives up the
    /// leases.
    ///
    /// # Errors
    ///
    /// - [`TriggerError::RetriesExhausted`] and [`TriggerError::RecordTooOld`] if no callback takes
    ///   such records.
    /// - [`TriggerError::RecordsKept`] for a handler that takes records which are not done out of
    ///   the event.
    /// - [`TriggerError::Gap`].
    /// - [`TriggerError::OtherStream`] and [`TriggerError::OtherHandoff`], before anything is read.
    /// - [`TriggerError::Stream`] for a stream that is missing, may not be read, or is disabled and
    ///   read to its end.
    /// - [`TriggerError::GaveUp`] for a transient error that lasted longer than
    ///   [`retry_budget`](crate::TriggerBuilder::retry_budget).
    /// - The errors for a position that could not be loaded, saved or understood.
    ///
    /// The calls of other shards that are in progress are finished first. The trigger can be run
    /// again and continues where it was.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost. Records in progress are delivered again by the next run.
    /// Leases are not given up, and expire.
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
