//! The builder of a trigger.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, OperationType};
use aws_lambda_events::streams::DynamoDbEventResponse;
use murmur_state::{
    Checkpoints, Clock, EVENT_LIFE, EventHandler, HandlerError, HandoffToken, IdError,
    MemoryDeduper, OptionError, PipelineName, Random, Recorder, Repeats, Tokens,
};
#[cfg(doc)]
use murmur_state::{ImageNotes, UNREADABLE};

use crate::source::{ITERATOR_LIFE, StreamSource};
use crate::trigger::{
    FailedBatch, OnFailure, OnGap, Options, Positions, READ_BYTES, Sightings, StartingPosition,
    Trigger,
};

/// The default lease, if other readers can see it.
const LEASE: Duration = Duration::from_secs(30);

impl<S, H> Trigger<S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    /// Starts to build a trigger that passes the records of `source` to `handler`.
    pub fn builder(source: S, handler: H) -> TriggerBuilder<S, H> {
        TriggerBuilder::new(source, handler)
    }
}

/// Settings of a [`Trigger`], with the names of Lambda's event source mapping.
pub struct TriggerBuilder<S, H> {
    source: S,
    handler: H,
    options: Options,
    place: Option<Arc<dyn Checkpoints>>,
    name: String,
    owner: Option<String>,
    lease: Duration,
}

impl<S, H> TriggerBuilder<S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    fn new(source: S, handler: H) -> Self {
        Self {
            source,
            handler,
            options: Options::default(),
            place: None,
            name: "trigger".to_owned(),
            owner: None,
            lease: LEASE,
        }
    }

    /// The most records in one batch, 1 to 10,000.
    ///
    /// Default 100. Larger batches mean fewer calls, more memory, and more records delivered again
    /// when one fails.
    #[must_use]
    pub fn batch_size(mut self, records: usize) -> Self {
        self.options.batch_size = records;
        self
    }

    /// How long to wait for a batch to fill, counted from the read of its first record. At most
    /// 300 s.
    ///
    /// Default zero: the records of a read are delivered at once. A longer window gives fuller
    /// batches and so fewer writes, and totals that are later by that time.
    #[must_use]
    pub fn maximum_batching_window(mut self, window: Duration) -> Self {
        self.options.batching_window = window;
        self
    }

    /// How many batches of a shard are processed concurrently, 1 to 10. The changes of one item are
    /// in only one of them at a time, so that their order is kept. Behind records that fail,
    /// reading continues up to twice what all batches of the shard take; then the shard waits.
    ///
    /// Default 1.
    #[must_use]
    pub fn parallelization_factor(mut self, batches: usize) -> Self {
        self.options.parallelization_factor = batches;
        self
    }

    /// Whether a batch with no record done is delivered again in two halves, to isolate the record
    /// that fails. Cutting does not count as a retry.
    ///
    /// Default no.
    #[must_use]
    pub fn bisect_batch_on_error(mut self, bisect: bool) -> Self {
        self.options.bisect_batch_on_error = bisect;
        self
    }

    /// How often a batch may be delivered again, at most 10,000. After that it goes to
    /// [`on_failure`](Self::on_failure), or the trigger stops with
    /// [`TriggerError::RetriesExhausted`](crate::TriggerError::RetriesExhausted). 0 allows one
    /// delivery only. The count starts again when a record of the batch is done.
    ///
    /// Default: unlimited, as in Lambda. A record that always fails then holds up its shard until
    /// it is trimmed.
    #[must_use]
    pub fn maximum_retry_attempts(mut self, attempts: u32) -> Self {
        self.options.maximum_retry_attempts = Some(attempts);
        self
    }

    /// How old a record may be when it is delivered, 60 s to 7 days. Older records go to
    /// [`on_failure`](Self::on_failure), or the trigger stops with
    /// [`TriggerError::RecordTooOld`](crate::TriggerError::RecordTooOld). A record without a
    /// creation time is never too old.
    ///
    /// Default: [`EVENT_LIFE`] for a handler that [recognises events](Repeats::EventOnce), for
    /// which it is also the maximum; no limit for other handlers.
    #[must_use]
    pub fn maximum_record_age(mut self, age: Duration) -> Self {
        self.options.maximum_record_age = Some(age);
        self
    }

    /// Takes the records that are given up, with their positions. On `Ok` the records are passed
    /// over and counted. On `Err` they are delivered again after a pause.
    ///
    /// Default: no callback, and the trigger stops instead of losing records.
    #[must_use]
    pub fn on_failure<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(FailedBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.options.on_failure = Some(OnFailure::new(callback));
        self
    }

    /// Delivers only changes with one of these event names; other changes are passed over and
    /// counted. At least one name is needed.
    ///
    /// Records that could not be read ([`UNREADABLE`]) are delivered all the same. If only an image
    /// could not be read ([`ImageNotes`]), the filter goes by the event name.
    ///
    /// Default: all names. Totals that take old images back need all of them.
    #[must_use]
    pub fn filter_event_names(mut self, names: impl IntoIterator<Item = OperationType>) -> Self {
        self.options.event_names = Some(names.into_iter().collect());
        self
    }

    /// Where to start if the stream was not read before under this name.
    ///
    /// Default [`StartingPosition::TrimHorizon`], which first reads up to 24 hours of old records.
    #[must_use]
    pub fn starting_position(mut self, position: StartingPosition) -> Self {
        self.options.starting_position = position;
        self
    }

    /// Starts where a bootstrap's token says, if the stream was not read before under this name:
    /// shards that the token lists as closed are left out, and every other shard is read from its
    /// oldest record, parents first.
    ///
    /// Records put before the capture are then delivered although their items were scanned. So the
    /// handler must count an item [once in either way](Repeats::ItemOnce), or the table must have
    /// been [at rest](Self::table_at_rest).
    ///
    /// A token is void, which is a [gap](Self::on_gap), if a shard that it lists as open is not
    /// begun within a day of the capture. The limit is 22 h 30 min, because clocks may be wrong.
    ///
    /// Default: no token.
    #[must_use]
    pub fn handoff(mut self, token: HandoffToken) -> Self {
        self.options.handoff = Some(token);
        self
    }

    /// Promises that nothing was written to the table from the beginning of its stream, or for 24
    /// hours, until the bootstrap's scan had ended. Then a [`handoff`](Self::handoff) is exact with
    /// any handler. If the promise does not hold, changes of that time count twice.
    #[must_use]
    pub fn table_at_rest(mut self) -> Self {
        self.options.table_at_rest = true;
        self
    }

    /// What to do when records are gone that were not read. Default [`OnGap::Fail`].
    #[must_use]
    pub fn on_gap(mut self, policy: OnGap) -> Self {
        self.options.on_gap = policy;
        self
    }

    /// Stores the position of each shard at `place`, for instance in a marker table, under `name`:
    /// 1 to 128 of the characters `A-Z a-z 0-9 _ - .`. Triggers with the same name share the shards
    /// and continue where another stopped. The name also begins the names of the trigger's metrics,
    /// so it should not be a pipeline's.
    ///
    /// Costs one write per batch, and one per shard every third of a [lease](Self::lease).
    ///
    /// Default: kept in this value only, under the name `trigger`.
    #[must_use]
    pub fn positions(mut self, place: impl Checkpoints, name: impl Into<String>) -> Self {
        self.place = Some(Arc::new(place));
        self.name = name.into();
        self
    }

    /// The owner of this reader's leases. It must differ from that of every other reader that runs
    /// at the same time. A process that restarts under its old name need not wait for its own
    /// leases to expire.
    ///
    /// Default: random.
    #[must_use]
    pub fn owner(mut self, name: impl Into<String>) -> Self {
        self.owner = Some(name.into());
        self
    }

    /// How long a lease lasts if it is not renewed, 3 s to 1 hour. After that time another reader
    /// takes the shards of one that died. Leases are compared by wall clocks. If the clocks differ,
    /// leases are taken over early or late, which only costs repeated deliveries. A third of the
    /// lease, but at most 10 s, is also how often readers check each other's shards.
    ///
    /// Default 30 s.
    #[must_use]
    pub fn lease(mut self, duration: Duration) -> Self {
        self.lease = duration;
        self
    }

    /// The most shards that this reader holds, even if its share is larger. Must be at least 1. A
    /// shard that no reader has room for is not read. Together the readers need room for all shards
    /// that are open at the same time, also when one of them has died.
    ///
    /// Default: its share.
    #[must_use]
    pub fn maximum_shards(mut self, shards: usize) -> Self {
        self.options.maximum_shards = shards;
        self
    }

    /// How many bytes of records may be read and not done, over all shards, as an estimate of the
    /// memory they take; at least 4 MiB.
    ///
    /// A read in progress counts as 4 MiB, so this also limits the number of concurrent reads. Only
    /// a read that returns more exceeds the limit. Records that the handler is processing count
    /// too. The copies that the handler receives do not count, and take up to as much again.
    ///
    /// When memory is short, the trigger does not wait for [batches](Self::maximum_batching_window)
    /// to fill. A shard whose batches keep failing without a [limit](Self::maximum_retry_attempts)
    /// then drops what it has read, and reads it again later.
    ///
    /// Default 256 MiB, which is 64 reads at the same time. A lower limit slows down a stream of
    /// many shards.
    #[must_use]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.options.read_ahead = bytes;
        self
    }

    /// The pauses before a batch is delivered again and before a failed read is repeated: random
    /// from zero to `min(cap, base · 2ⁿ)`.
    ///
    /// Default 50 ms and 5 s. A shorter cap recovers faster, and makes more useless calls while the
    /// fault lasts.
    #[must_use]
    pub fn retry_backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.options.retry = self.options.retry.waits(base, cap);
        self
    }

    /// How long transient errors (throttling, server errors) of reads of the stream, and of loads
    /// and saves of positions, are retried before the trigger stops with
    /// [`TriggerError::GaveUp`](crate::TriggerError::GaveUp). The time counts for each operation,
    /// without a success. An outage is logged after 30 s and then once a minute.
    ///
    /// Default 30 min. Zero tries once.
    #[must_use]
    pub fn retry_budget(mut self, budget: Duration) -> Self {
        self.options.retry = self.options.retry.budget(budget);
        self
    }

    /// The longest pause between reads, at least 1 ms. After a read that left nothing behind, the
    /// pause is a fifth of it, and doubles while reads return nothing.
    ///
    /// Default 1 s. A shorter interval means less delay, smaller batches and more calls (a shard
    /// takes 5 reads a second). Iterators expire after 15 minutes, so with
    /// [`StartingPosition::Latest`] it must be shorter than that.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval;
        self
    }

    /// How many consecutive empty answers count as the end of a shard that is still open, 1 to
    /// 1000. After them [`Trigger::drain`] leaves the shard, and a [`Monitor`](crate::Monitor)
    /// shows no lag.
    ///
    /// Default 1, which is exact for the in-process store, DynamoDB Local and the embedded one. AWS
    /// may answer empty though records follow. Use 10 or more there; each costs a `poll_interval`.
    #[must_use]
    pub fn drain_empty_reads(mut self, reads: u32) -> Self {
        self.options.drain_empty_reads = reads;
        self
    }

    /// The source of time. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.options.clock = clock;
        self
    }

    /// The source of random jitter. Default: seeded by the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.options.random = random;
        self
    }

    /// Where counts go, under the trigger's name: `<name>:records`, `:batches`, `:retry`,
    /// `:failed`, `:errors`, `:bisected`, `:filtered`, `:given_up`, `:gap`, `:lease_lost`,
    /// `:lease_given`, and the gauge `:lag_ms`, which is how far the slowest shard is behind.
    ///
    /// Default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.options.recorder = Arc::new(recorder);
        self
    }

    /// Builds the trigger. Nothing is read before it runs.
    ///
    /// # Errors
    ///
    /// [`OptionError`] names an option that is not valid.
    pub fn build(mut self) -> Result<Trigger<S, H>, OptionError> {
        let refuse = |option, reason: String| Err(OptionError::new(option, reason));
        let name = PipelineName::new(self.name.as_str());
        let name =
            name.map_err(|error: IdError| OptionError::new("positions", error.to_string()))?;
        let repeats = self.handler.repeats();
        let options = &mut self.options;
        options.record_age_limit = match repeats {
            Repeats::EventOnce => Some(options.maximum_record_age.unwrap_or(EVENT_LIFE)),
            _ => options.maximum_record_age,
        };
        let Options {
            batch_size,
            batching_window,
            parallelization_factor,
            maximum_retry_attempts,
            maximum_record_age,
            maximum_shards,
            read_ahead,
            drain_empty_reads,
            poll_interval,
            starting_position,
            event_names,
            ..
        } = options;
        if !(1..=10_000).contains(batch_size) {
            return refuse("batch_size", format!("{batch_size} is outside 1..=10,000"));
        }
        if *batching_window > Duration::from_secs(300) {
            let reason = format!("{batching_window:?} is above 300 s");
            return refuse("maximum_batching_window", reason);
        }
        if !(1..=10).contains(parallelization_factor) {
            let reason = format!("{parallelization_factor} is outside 1..=10");
            return refuse("parallelization_factor", reason);
        }
        if let Some(attempts) = maximum_retry_attempts.filter(|attempts| *attempts > 10_000) {
            let reason = format!("{attempts} is above 10,000; leave it out for no limit");
            return refuse("maximum_retry_attempts", reason);
        }
        if let Some(age) = *maximum_record_age {
            let week = Duration::from_secs(7 * 24 * 3600);
            if !(Duration::from_secs(60)..=week).contains(&age) {
                let reason = format!("{age:?} is outside 60 s..=7 days; leave it out for no limit");
                return refuse("maximum_record_age", reason);
            }
            if repeats == Repeats::EventOnce && age > EVENT_LIFE {
                let reason = format!(
                    "{age:?} is above {EVENT_LIFE:?}, after which the handler no longer recognises a repeated event; set that or less"
                );
                return refuse("maximum_record_age", reason);
            }
        }
        if *maximum_shards == 0 {
            return refuse("maximum_shards", "must be at least 1".to_owned());
        }
        if *read_ahead < READ_BYTES {
            let reason = format!("{read_ahead} is below {READ_BYTES}, which is one read");
            return refuse("read_ahead", reason);
        }
        if !(1..=1_000).contains(drain_empty_reads) {
            let reason = format!("{drain_empty_reads} is outside 1..=1,000");
            return refuse("drain_empty_reads", reason);
        }
        if *poll_interval < Duration::from_millis(1) {
            let reason = format!("{poll_interval:?} is below 1 ms; a shard takes 5 reads a second");
            return refuse("poll_interval", reason);
        }
        if *starting_position == StartingPosition::Latest && *poll_interval >= ITERATOR_LIFE {
            let reason = format!(
                "{poll_interval:?} is too long with LATEST: an iterator that gave no record yet expires after {ITERATOR_LIFE:?}, and its place is lost; set a shorter one"
            );
            return refuse("poll_interval", reason);
        }
        if event_names.as_ref().is_some_and(Vec::is_empty) {
            let reason =
                "there is no event name, so nothing would be delivered; leave it out for all names";
            return refuse("filter_event_names", reason.to_owned());
        }
        let lease = Duration::from_secs(3)..=Duration::from_secs(3600);
        if !lease.contains(&self.lease) {
            let reason = format!("{:?} is outside 3 s..=1 hour", self.lease);
            return refuse("lease", reason);
        }
        if options.handoff.is_some() && repeats != Repeats::ItemOnce && !options.table_at_rest {
            return refuse(
                "handoff",
                "changes from before its capture are both scanned and streamed, and this handler counts them twice; use pipelines with a ledger, or, if nothing was written from the stream's beginning to the scan's end, set `table_at_rest`".to_owned(),
            );
        }
        options.retry.validate()?;
        let clock = Arc::clone(&options.clock);
        let owner = self.owner.map_or_else(|| Tokens::new().text(), Ok)?;
        let lasting = self.place.is_some();
        let positions = Positions {
            place: self.place.unwrap_or_else(|| Arc::new(MemoryDeduper::new())),
            name,
            owner,
            lease: self.lease,
            lasting,
            sightings: Sightings::default(),
            clock,
        };
        Ok(Trigger::new(
            self.source,
            self.handler,
            self.options,
            positions,
        ))
    }
}

impl<S, H> fmt::Debug for TriggerBuilder<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TriggerBuilder")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
