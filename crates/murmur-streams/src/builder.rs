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

/// A lease others can see, unless told otherwise.
const LEASE: Duration = Duration::from_secs(30);

impl<S, H> Trigger<S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    /// A trigger that hands what `source` has to `handler`.
    pub fn builder(source: S, handler: H) -> TriggerBuilder<S, H> {
        TriggerBuilder::new(source, handler)
    }
}

/// Settings of a [`Trigger`], named as Lambda's event source mapping names them.
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

    /// The most records of one batch, 1 to 10,000. Default 100; larger ones mean fewer calls,
    /// more memory, and more that comes again when one record fails.
    #[must_use]
    pub fn batch_size(mut self, records: usize) -> Self {
        self.options.batch_size = records;
        self
    }

    /// How long to wait for a batch to fill, at most 300 s, from when its first record was read.
    /// Default zero: whatever a read brings is delivered at once. Longer means fuller batches,
    /// so fewer writes, and totals that are that much later.
    #[must_use]
    pub fn maximum_batching_window(mut self, window: Duration) -> Self {
        self.options.batching_window = window;
        self
    }

    /// How many batches of a shard are under way at once, 1 to 10; each item's changes are in
    /// one of them at a time, so that its order is kept. Default 1. Records of a shard that
    /// fail are read past up to twice what all its batches take, then the shard waits.
    #[must_use]
    pub fn parallelization_factor(mut self, batches: usize) -> Self {
        self.options.parallelization_factor = batches;
        self
    }

    /// Whether a batch of which nothing got done comes again in two halves, so that the record
    /// it fails of is found. Cutting is no retry. Default no.
    #[must_use]
    pub fn bisect_batch_on_error(mut self, bisect: bool) -> Self {
        self.options.bisect_batch_on_error = bisect;
        self
    }

    /// How often a batch may come again, at most 10,000; then it goes to
    /// [`on_failure`](Self::on_failure), or the trigger stops with
    /// [`TriggerError::RetriesExhausted`](crate::TriggerError::RetriesExhausted). 0 allows one
    /// delivery only. A batch of which something got done begins to count anew. Default: without
    /// end, as in Lambda; one record that always fails then holds up its shard until it is
    /// trimmed.
    #[must_use]
    pub fn maximum_retry_attempts(mut self, attempts: u32) -> Self {
        self.options.maximum_retry_attempts = Some(attempts);
        self
    }

    /// How old a record may be when it is delivered, 60 s to 7 days; older ones go to
    /// [`on_failure`](Self::on_failure), or the trigger stops with
    /// [`TriggerError::RecordTooOld`](crate::TriggerError::RecordTooOld). Where the handler
    /// [recognises events](Repeats::EventOnce) it is at most [`EVENT_LIFE`], and that is the
    /// default there; else there is no limit by default. A record that does not say when it was
    /// made is never too old.
    #[must_use]
    pub fn maximum_record_age(mut self, age: Duration) -> Self {
        self.options.maximum_record_age = Some(age);
        self
    }

    /// Takes the records that are given up, with their positions. `Ok` passes them over and
    /// counts them; `Err` makes them come again after a pause. Default: nobody, and the trigger
    /// stops instead of losing them.
    #[must_use]
    pub fn on_failure<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(FailedBatch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.options.on_failure = Some(OnFailure::new(callback));
        self
    }

    /// Delivers only changes with one of these event names; the others are passed over and
    /// counted. Records that could not be read ([`UNREADABLE`]) are delivered all the same; where
    /// only an image could not be read ([`ImageNotes`]), the filter goes by what happened. Default:
    /// all, and at least one name. Totals that take old images back need all of them.
    #[must_use]
    pub fn filter_event_names(mut self, names: impl IntoIterator<Item = OperationType>) -> Self {
        self.options.event_names = Some(names.into_iter().collect());
        self
    }

    /// Where to begin if the stream was not read before under this name. Default
    /// [`StartingPosition::TrimHorizon`], which reads up to 24 hours of old records first.
    #[must_use]
    pub fn starting_position(mut self, position: StartingPosition) -> Self {
        self.options.starting_position = position;
        self
    }

    /// Begins where a bootstrap's token says, if the stream was not read before under this name:
    /// shards listed closed are left out, every other is read from its oldest record, parents
    /// first.
    ///
    /// What was put before the capture then comes although it was scanned, so the handler must
    /// count an item [once however it comes](Repeats::ItemOnce), or the table must have
    /// [rested](Self::table_at_rest). A token is void, which is a [gap](Self::on_gap), where a
    /// shard listed open is not begun within a day of the capture: 22 h 30 min, since clocks may
    /// be off. Default: no token.
    #[must_use]
    pub fn handoff(mut self, token: HandoffToken) -> Self {
        self.options.handoff = Some(token);
        self
    }

    /// Promises that nothing was written to the table from the beginning of its stream, or for
    /// 24 hours, until the bootstrap's scan had ended; then a [`handoff`](Self::handoff) is
    /// exact with any handler. If it is not true, changes of that time count twice.
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

    /// Keeps how far each shard is at `place`, for instance a marker table, under `name`: 1 to
    /// 128 of the characters `A-Z a-z 0-9 _ - .`. Triggers of one name share the shards among
    /// them and go on where another stopped. Costs one write per batch, and one every third of
    /// a [lease](Self::lease) per shard. The name also begins the names of its metrics, so it
    /// should not be a pipeline's.
    ///
    /// Default: within this value, under the name `trigger`.
    #[must_use]
    pub fn positions(mut self, place: impl Checkpoints, name: impl Into<String>) -> Self {
        self.place = Some(Arc::new(place));
        self.name = name.into();
        self
    }

    /// Who holds the leases; unlike every other reader that runs at the same time. A process
    /// that is started again under its old name need not wait until its own leases expire.
    /// Default: random.
    #[must_use]
    pub fn owner(mut self, name: impl Into<String>) -> Self {
        self.owner = Some(name.into());
        self
    }

    /// How long a lease lasts if it is not renewed, 3 s to 1 hour: by then another reader takes
    /// the shards of one that died. Compared by wall clocks; where they differ, leases are taken
    /// over early or late, which costs deliveries of the same records, and nothing else. A third of it,
    /// but at most 10 s, is also how often readers look at each other's shards. Default 30 s.
    #[must_use]
    pub fn lease(mut self, duration: Duration) -> Self {
        self.lease = duration;
        self
    }

    /// How many shards this reader holds at most, at least 1, where its share would be more. A
    /// shard that no reader has room for is not read: together they need room for all that are
    /// open at once, those that take over from one that died included. Default: its share.
    #[must_use]
    pub fn maximum_shards(mut self, shards: usize) -> Self {
        self.options.maximum_shards = shards;
        self
    }

    /// How many bytes of records may be read and not done, over all shards, at least 4 MiB, by an
    /// estimate of the memory they take. A read under way counts as 4 MiB, so that this also bounds
    /// how many are; only a read that brings more goes beyond it. Records with the handler
    /// count too, and their copies that it gets do not: in the worst case they take as much again.
    ///
    /// Where room is short, [batches](Self::maximum_batching_window) are not waited for to fill. A
    /// shard whose batches keep failing without a
    /// [limit](Self::maximum_retry_attempts) then drops what it has read, and reads it again later.
    /// Default 256 MiB, which is 64 reads at a time; less makes a stream of many shards slower.
    #[must_use]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.options.read_ahead = bytes;
        self
    }

    /// The pauses before a batch comes again and before a failed read is made again: drawn
    /// uniformly from zero to `min(cap, base · 2ⁿ)`. Default 50 ms and 5 s; a shorter cap mends
    /// faster, and costs more useless calls while what is broken stays so.
    #[must_use]
    pub fn retry_backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.options.retry = self.options.retry.waits(base, cap);
        self
    }

    /// How long reads of the stream, and loads and saves of positions, that fail in passing
    /// (throttled, server errors) are tried again before the trigger stops with
    /// [`TriggerError::GaveUp`](crate::TriggerError::GaveUp): the time that each may go without
    /// success. An outage is traced while it lasts, after 30 s and then once a minute. Default
    /// 30 min; zero tries once.
    #[must_use]
    pub fn retry_budget(mut self, budget: Duration) -> Self {
        self.options.retry = self.options.retry.budget(budget);
        self
    }

    /// The longest pause between reads. After one that left nothing behind it is a fifth of this,
    /// and doubles while reads give nothing. Default 1 s, at least 1 ms; shorter means less delay,
    /// smaller batches and more calls (a shard takes 5 reads a second). Iterators expire after 15
    /// minutes, so with [`StartingPosition::Latest`] it is less than that.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval;
        self
    }

    /// How many empty answers in a row are taken for the end of a shard that is still open,
    /// 1 to 1000: [`Trigger::drain`] then leaves it, and a [`Monitor`](crate::Monitor) shows no
    /// lag. Default 1, which is exact for the in-process store, DynamoDB Local
    /// and the embedded one. AWS may answer empty though records follow: take 10 or more there,
    /// each costing a `poll_interval`.
    #[must_use]
    pub fn drain_empty_reads(mut self, reads: u32) -> Self {
        self.options.drain_empty_reads = reads;
        self
    }

    /// Where time comes from. Default the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.options.clock = clock;
        self
    }

    /// Where jitter comes from. Default seeded by the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.options.random = random;
        self
    }

    /// Where counts go, under the trigger's name: `<name>:records`, `:batches`, `:retry`,
    /// `:failed`, `:errors`, `:bisected`, `:filtered`, `:given_up`, `:gap`, `:lease_lost`,
    /// `:lease_given`, and
    /// the gauge `:lag_ms`, how far the slowest shard is behind. Default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.options.recorder = Arc::new(recorder);
        self
    }

    /// The trigger. Nothing is read before it is run.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option that cannot be used.
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
                    "{age:?} is above {EVENT_LIFE:?}, after which the handler no longer recognises an event that comes again; take that or less"
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
                "{poll_interval:?} is too long with LATEST: an iterator that gave no record yet expires after {ITERATOR_LIFE:?}, and with it the place it stood at"
            );
            return refuse("poll_interval", reason);
        }
        if event_names.as_ref().is_some_and(Vec::is_empty) {
            let reason =
                "no event name is left, so that nothing is ever delivered; leave it out for all";
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
                "what was put before its capture is streamed although it was scanned, and this handler counts it twice; use pipelines with a ledger, or, if nothing was written from the stream's beginning to the scan's end, say `table_at_rest`".to_owned(),
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
