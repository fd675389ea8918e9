use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use murmur_state::{
    Causes, Clock, Deadline, Fault, IdError, NoopRecorder, OptionError, Outage, PipelineName,
    Random, Recorder, Repeats, Retry, RetryPolicy, StoreError, SystemClock, Tokens,
};
use serde::de::DeserializeOwned;

use crate::batch::Index;
use crate::decode::{BoxError, DecodeFailure, Decoded, Decoder, Side};
use crate::delivery::Context;
use crate::outcome::{RecordError, RecordOutcome, Rejected};
use crate::pipeline::Pipeline;
use crate::plan::{Entry, PassedOver, Tally, Verdict};
use crate::record::{Change, EventName, Record};

type OutageFn = dyn Fn(&Outage<'_>) + Send + Sync;

type RejectFn = dyn Fn(Rejected) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// How records are processed: decoder, retry, metrics, callback, time. The options that handler
/// and bootstrap share.
pub struct ProcessorBuilder<T> {
    pipelines: Vec<Pipeline<T>>,
    decoder: Decoder<T>,
    policy: RetryPolicy,
    recorder: Arc<dyn Recorder>,
    clock: Arc<dyn Clock>,
    random: Random,
    tokens: Tokens,
    on_rejected: Option<Arc<RejectFn>>,
    on_outage: Option<Box<OutageFn>>,
}

impl<T: Send + Sync + 'static> ProcessorBuilder<T> {
    /// Processes records for `pipelines`, decoding each image once for all of them, by serde.
    pub fn new(pipelines: impl IntoIterator<Item = Pipeline<T>>) -> Self
    where
        T: DeserializeOwned,
    {
        Self::with_decoder(pipelines, Decoder::serde())
    }

    /// Processes records for `pipelines`, decoding each image once for all of them.
    pub fn with_decoder(
        pipelines: impl IntoIterator<Item = Pipeline<T>>,
        decoder: Decoder<T>,
    ) -> Self {
        Self {
            pipelines: pipelines.into_iter().collect(),
            decoder,
            policy: RetryPolicy::default(),
            recorder: Arc::new(NoopRecorder),
            clock: SystemClock::shared(),
            random: Random::new(),
            tokens: Tokens::new(),
            on_rejected: None,
            on_outage: None,
        }
    }

    /// How often and how long a failed write is tried again. Default: [`RetryPolicy::default`].
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Changes the retry policy in place, for single options.
    #[must_use]
    pub fn retry_with(mut self, change: impl FnOnce(RetryPolicy) -> RetryPolicy) -> Self {
        self.policy = change(self.policy);
        self
    }

    /// Where counts and errors go. Default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.recorder = Arc::new(recorder);
        self
    }

    /// Where time comes from. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where jitter comes from. Default: seeded by the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// Where the owners of claims come from, which no two processes may share: only tests should
    /// change it. Default: the operating system, each time.
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Takes records that can never count: unreadable, undecodable, with an unusable key, out of
    /// range. `Ok` passes the record over and counts it under `:dead_letter`; `Err` reports it as
    /// failed, so that it comes again. It may be called more than once for a record that is
    /// redelivered. Of items that have [settled](crate::Definition::settle), a change that cannot be read
    /// at all, or that fits no sum, is reported whatever the callback says.
    ///
    /// Default: none, so that such a record is reported, blocks its shard until the mapping's
    /// retry limit, and ends in its on-failure destination. Nothing is ever dropped silently.
    #[must_use]
    pub fn on_rejected<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(Rejected) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.on_rejected = Some(Arc::new(move |rejected| Box::pin(callback(rejected))));
        self
    }

    /// Hears of an [outage](Outage) while it lasts, once for all that fails in it; called between
    /// attempts, so it should return soon. Default: nobody; it is traced in any case.
    #[must_use]
    pub fn on_outage(mut self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        self.on_outage = Some(Box::new(tell));
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option: no pipelines, two of one name or on one state table, a
    /// retry policy that cannot be followed.
    pub fn build(self) -> Result<Processor<T>, OptionError> {
        self.policy.validate()?;
        if self.pipelines.is_empty() {
            return Err(OptionError::new(
                "pipelines",
                "there is none; give at least one",
            ));
        }
        for (n, pipeline) in self.pipelines.iter().enumerate() {
            if self.pipelines[..n]
                .iter()
                .any(|other| other.name() == pipeline.name())
            {
                let name = pipeline.name();
                return Err(OptionError::new(
                    "pipelines",
                    format!("two are called `{name}`"),
                ));
            }
            // Each would take the other's values for its own, and those of modes without a control row
            // without a sign of it.
            let table = pipeline.run.place().table;
            let mut others = self.pipelines[..n].iter();
            if let Some(other) = others.find(|other| other.run.place().table == table) {
                let (name, other) = (pipeline.name(), other.name());
                return Err(OptionError::new(
                    "pipelines",
                    format!(
                        "`{other}` and `{name}` keep their values in one state table, `{table}`; \
                         give each a table of its own"
                    ),
                ));
            }
        }
        if self.decoder.sees_records()
            && let Some(pipeline) = self.pipelines.iter().find(|pipeline| pipeline.settles())
        {
            let name = pipeline.name();
            return Err(OptionError::new(
                "settle",
                format!(
                    "`{name}` takes back what an image contributed by what it says later, and a decoder \
                     of whole records may tell otherwise by then: decode by `Decoder::item` or \
                     `Decoder::serde`, or leave `settle` out"
                ),
            ));
        }
        let mut retry = Retry::new(self.policy, self.clock, self.random);
        if let Some(tell) = self.on_outage {
            retry = retry.on_outage(tell);
        }
        Ok(Processor {
            needs_old: self
                .pipelines
                .iter()
                .any(|pipeline| pipeline.run.needs_old_image()),
            needs_old_of_expired: self
                .pipelines
                .iter()
                .any(|pipeline| pipeline.run.needs_old_image_of_expired()),
            needs_old_of_removed: self
                .pipelines
                .iter()
                .any(|pipeline| pipeline.run.needs_old_image_of_removed()),
            settles: self.pipelines.iter().any(Pipeline::settles),
            pipelines: self.pipelines,
            decoder: self.decoder,
            retry,
            recorder: self.recorder,
            tokens: self.tokens,
            on_rejected: self.on_rejected,
        })
    }
}

impl<T> fmt::Debug for ProcessorBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorBuilder")
            .field("pipelines", &self.pipelines)
            .field("decoder", &self.decoder)
            .field("retry", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Takes batches of records through decoding and every pipeline: a batch in, an outcome per
/// record out.
pub struct Processor<T> {
    pipelines: Vec<Pipeline<T>>,
    decoder: Decoder<T>,
    needs_old: bool,
    needs_old_of_expired: bool,
    /// Of an item that something else than Time to Live removed, by what the stream says.
    needs_old_of_removed: bool,
    /// Whether items of any pipeline settle, by what changes say that they were before.
    settles: bool,
    retry: Retry,
    recorder: Arc<dyn Recorder>,
    tokens: Tokens,
    on_rejected: Option<Arc<RejectFn>>,
}

/// What no record can count without. `sees_records` says whether the decoder is given whole records,
/// and not one image at a time.
fn check(record: &Record, sees_records: bool) -> Result<(), Box<RecordError>> {
    let missing = match record {
        Record::Changed(change) => match &change.event {
            EventName::Unreadable(reason) => Some(RecordError::Unreadable {
                reason: reason.clone(),
            }),
            EventName::Other(name) => Some(RecordError::UnknownEvent { name: name.clone() }),
            // In a ledger, all such records would be of one item.
            _ if change.keys.is_empty() => Some(RecordError::NoKeys),
            _ => None,
        },
        Record::Scanned(_) => None,
    };
    let no_id = || RecordError::InvalidId(IdError::EmptyEventId);
    let missing = missing.or_else(|| record.event_id().is_empty().then(no_id));
    // Such a decoder may look at either image, whichever side it is asked for.
    let image = |side| {
        let reason = record.unreadable(side)?.to_owned();
        Some(RecordError::UnreadableImage { side, reason })
    };
    let images = || [Side::New, Side::Old].into_iter().find_map(image);
    let missing = missing.or_else(|| sees_records.then(images).flatten());
    missing.map_or(Ok(()), |error| Err(Box::new(error)))
}

/// Whether a record that could not be read, for this reason, still says which item changed, and
/// when in the order of its changes, so that a ledger can note that the item contributes nothing:
/// as with a record that can be read and not decoded.
fn is_of_an_item(record: &Record, error: &RecordError) -> bool {
    use RecordError::{Unreadable, UnreadableImage};
    matches!(error, Unreadable { .. } | UnreadableImage { .. })
        && matches!(
            record,
            Record::Changed(Change { keys, sequence_number, .. })
                if !keys.is_empty() && sequence_number.is_some()
        )
}

fn not_its_state<T>(pipeline: &Pipeline<T>, source: StoreError) -> RecordError {
    RecordError::State {
        pipeline: pipeline.name().clone(),
        source,
    }
}

impl<T: Send + Sync + 'static> Processor<T> {
    /// The pipelines fed.
    pub fn pipelines(&self) -> &[Pipeline<T>] {
        &self.pipelines
    }

    /// The clock deadlines are measured on.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.retry.clock()
    }

    /// How it tries again. Operations beside the processor's own that go by a clone of it share its
    /// policy, and what is known of an outage.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Where counts go.
    pub fn recorder(&self) -> &Arc<dyn Recorder> {
        &self.recorder
    }

    /// The least of what the pipelines' modes make of a record that comes again.
    pub fn repeats(&self) -> Repeats {
        self.pipelines
            .iter()
            .map(Pipeline::repeats)
            .min()
            .unwrap_or(Repeats::Counted)
    }

    /// Makes the state of every pipeline that keeps track of whom it belongs to belong to that
    /// pipeline, fed from `stream`, or sees that it does; other modes have nothing to see to.
    /// The first batch would find it out too. Whoever wants to know before anything is read or
    /// counted calls this.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state belongs to something else, or
    /// could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    pub async fn bind(&self, stream: Option<&str>, deadline: Deadline) -> Result<(), RecordError> {
        let context = self.context(deadline);
        for pipeline in &self.pipelines {
            let bound = pipeline.run.bind(stream, context).await;
            bound.map_err(|source| not_its_state(pipeline, source))?;
        }
        Ok(())
    }

    /// Sees that the state of every pipeline that keeps track of whom it belongs to belongs to that
    /// pipeline, as [`bind`](Self::bind) does, and writes nothing. State that was never bound, by a
    /// bootstrap or by live, belongs to none. Answers, for each pipeline, the stream that its state
    /// belongs to, if one was ever named.
    ///
    /// # Errors
    ///
    /// As `bind`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn check_binding(
        &self,
        deadline: Deadline,
    ) -> Result<Vec<Option<Arc<str>>>, RecordError> {
        let context = self.context(deadline);
        let mut streams = Vec::with_capacity(self.pipelines.len());
        for pipeline in &self.pipelines {
            let checked = pipeline.run.check_binding(context).await;
            streams.push(checked.map_err(|source| not_its_state(pipeline, source))?);
        }
        Ok(streams)
    }

    /// Lets the items of every pipeline that [settles](crate::Definition::settle) do so from now on:
    /// says so beside its state, where each process that runs the pipeline looks about once a minute. It
    /// stays said. Pipelines that do not settle are left out. A bootstrap does this at its end.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state was never bound, belongs to something
    /// else, or could not be written.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    pub async fn settle(&self, deadline: Deadline) -> Result<(), RecordError> {
        let context = self.context(deadline);
        for pipeline in self.pipelines.iter().filter(|pipeline| pipeline.settles()) {
            let settled = pipeline.run.settle(context).await;
            settled.map_err(|source| not_its_state(pipeline, source))?;
        }
        Ok(())
    }

    /// For each pipeline, whether its items settle: [`settle`](Self::settle) was called for it.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state could not be asked, or, if it keeps a
    /// ledger, was never bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn are_settling(&self, deadline: Deadline) -> Result<Vec<bool>, RecordError> {
        let context = self.context(deadline);
        let mut settling = Vec::with_capacity(self.pipelines.len());
        for pipeline in &self.pipelines {
            let asked = pipeline.run.is_settling(context).await;
            settling.push(asked.map_err(|source| not_its_state(pipeline, source))?);
        }
        Ok(settling)
    }

    pub(crate) fn context(&self, deadline: Deadline) -> Context<'_> {
        Context {
            retry: &self.retry,
            tokens: &self.tokens,
            recorder: &*self.recorder,
            deadline,
            pacing: None,
        }
    }

    /// Processes `records`, in stream order, and answers each.
    ///
    /// Nothing new is begun after `deadline`; what could not be finished is reported, and is safe
    /// to send again as far as each pipeline's mode says. A record that comes twice in the batch
    /// is processed once and answered twice.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: any part of the batch may have been applied, and claims may be held.
    /// Give a deadline instead of dropping the future.
    pub async fn process(&self, records: &[Record], deadline: Deadline) -> Vec<RecordOutcome> {
        let mut outcomes = vec![RecordOutcome::Skipped; records.len()];
        let (entries, repeated) = self.prepare(records, deadline, &mut outcomes).await;

        let context = self.context(deadline);
        let runs = self
            .pipelines
            .iter()
            .map(|pipeline| pipeline.run.run(&entries, context));
        let verdicts = join_all(runs).await;
        for (pipeline, verdicts) in self.pipelines.iter().zip(verdicts) {
            let name = pipeline.name();
            let mut tally = Tally::default();
            let mut passed_over = Vec::new();
            for (entry, verdict) in entries.iter().zip(verdicts) {
                tally.add(&verdict);
                let outcome = match verdict {
                    Verdict::Applied => RecordOutcome::Applied,
                    Verdict::Duplicate => RecordOutcome::Duplicate,
                    Verdict::Superseded => RecordOutcome::Superseded,
                    Verdict::Skipped | Verdict::Kept => RecordOutcome::Skipped,
                    Verdict::Expired => RecordOutcome::Expired,
                    Verdict::Blocked => RecordOutcome::Blocked,
                    Verdict::Failed(source) => {
                        // What comes too late has no part in what its item contributes, and a
                        // scanned row that contributes nothing changes nothing.
                        let late = matches!(
                            *source,
                            StoreError::TooOld { .. } | StoreError::RowEnds { .. }
                        );
                        let noted = pipeline.keeps_ledger()
                            && matches!(entry.record, Record::Changed(_))
                            && !late;
                        let by_its_images = !matches!(*source, StoreError::Overflow { .. });
                        let error = Box::new(RecordError::Store {
                            pipeline: name.clone(),
                            source: *source,
                        });
                        let outcome = self.fail(entry.record, Some(name), error, deadline).await;
                        if noted && matches!(outcome, RecordOutcome::PassedOver) {
                            passed_over.push(PassedOver {
                                entry,
                                by_its_images,
                            });
                        }
                        outcome
                    }
                };
                outcomes[entry.place].worsen(outcome);
            }
            tally.record(name, &*self.recorder);
            // What can never count contributes nothing, as what cannot be decoded does.
            if passed_over.is_empty() {
                continue;
            }
            let verdicts = pipeline.run.pass_over(&passed_over, context).await;
            for (PassedOver { entry, .. }, verdict) in passed_over.into_iter().zip(verdicts) {
                let outcome = match verdict {
                    Verdict::Blocked => RecordOutcome::Blocked,
                    Verdict::Failed(source) if source.fault() != Fault::Record => {
                        let error = RecordError::Store {
                            pipeline: name.clone(),
                            source: *source,
                        };
                        self.note(&error, entry.record, Some(name));
                        RecordOutcome::Failed(Box::new(error))
                    }
                    _ => continue,
                };
                outcomes[entry.place].worsen(outcome);
            }
        }

        for &(place, original) in &repeated {
            outcomes[place] = outcomes[original].clone();
        }
        self.count_all(":dedup_skip", repeated.len() as u64);
        outcomes
    }

    /// The records that go further, decoded as far as it is needed, and for each that repeats an
    /// earlier one the places of both. The others have their outcome.
    async fn prepare<'a>(
        &self,
        records: &'a [Record],
        deadline: Deadline,
        outcomes: &mut [RecordOutcome],
    ) -> (Vec<Entry<'a, T>>, Vec<(usize, usize)>) {
        let mut entries = Vec::with_capacity(records.len());
        let mut repeated = Vec::new();
        let now = self.clock().now();
        let mut impossible = 0;
        let mut first = Index::with_capacity(records.len());
        'records: for (place, record) in records.iter().enumerate() {
            let mut entry = Entry {
                place,
                record,
                new: None,
                old: None,
            };
            if let Err(error) = check(record, self.decoder.sees_records()) {
                if self.must_count(record, &error) {
                    self.note(&error, record, None);
                    outcomes[place] = RecordOutcome::Failed(error);
                    continue;
                }
                let is_of_an_item = is_of_an_item(record, &error);
                outcomes[place] = self.fail(record, None, error, deadline).await;
                if outcomes[place].is_done() && is_of_an_item {
                    entries.push(entry);
                }
                continue;
            }
            let original = first.entry(record.event_id(), |place| records[place].event_id());
            let original = *original.or_insert(place).get();
            if original != place {
                repeated.push((place, original));
                continue;
            }
            if let Some(at) = record.impossible_creation(now) {
                impossible += 1;
                tracing::warn!(
                    event_id = record.event_id(),
                    created = at.as_secs(),
                    now = now.as_secs(),
                    "the record's creation time, in seconds, lies in the future: it counts as absent",
                );
            }
            for side in self.sides(record) {
                match self.decode(record, *side) {
                    Ok(image) => *entry.image(*side) = image,
                    Err(error) if self.counts_for_nothing(record, *side, &error) => {}
                    Err(error) => {
                        outcomes[place] = self.fail(record, None, error, deadline).await;
                        if !outcomes[place].is_done() {
                            continue 'records;
                        }
                    }
                }
            }
            entries.push(entry);
        }
        self.count_all(":impossible_time", impossible);
        (entries, repeated)
    }

    /// Whether a record that no pipeline can take must not be passed over all the same: it may be the
    /// change of a settled item, whose next change takes back what this one should have added.
    fn must_count(&self, record: &Record, error: &RecordError) -> bool {
        matches!(record, Record::Changed(change) if !change.keys.is_empty())
            && !is_of_an_item(record, error)
            && self.settles
    }

    /// Whether some pipeline cannot do without the old image of `record`.
    fn needs_old(&self, record: &Record) -> bool {
        match record.is(&EventName::Remove) {
            true if record.is_removal_by_ttl() => self.needs_old_of_expired,
            true => self.needs_old || self.needs_old_of_removed,
            false => self.needs_old,
        }
    }

    /// The sides of `record` that some pipeline looks at.
    fn sides(&self, record: &Record) -> &'static [Side] {
        match self.settles || self.needs_old(record) {
            true => &[Side::New, Side::Old],
            false => &[Side::New],
        }
    }

    /// Whether an image is only looked at because items settle, so that one which cannot be decoded
    /// counts for nothing: it was rejected when it was the new one.
    fn counts_for_nothing(&self, record: &Record, side: Side, error: &RecordError) -> bool {
        use RecordError::{Undecodable, UnreadableImage};
        side == Side::Old
            && !self.needs_old(record)
            && matches!(error, Undecodable { .. } | UnreadableImage { .. })
    }

    pub(crate) fn decode(
        &self,
        record: &Record,
        side: Side,
    ) -> Result<Option<T>, Box<RecordError>> {
        let error = match self.decoder.decode(record, side) {
            None | Some(Ok(Decoded::Skip)) => return Ok(None),
            Some(Ok(Decoded::Record(value))) => return Ok(Some(value)),
            Some(Err(DecodeFailure::MissingImage)) => RecordError::MissingImage { side },
            Some(Err(DecodeFailure::Unreadable(reason))) => {
                RecordError::UnreadableImage { side, reason }
            }
            Some(Err(DecodeFailure::Undecodable(source))) => RecordError::Undecodable {
                side,
                source: source.into(),
            },
        };
        Err(Box::new(error))
    }

    /// The outcome of a record that failed with `error`, in one pipeline or before any: if it can
    /// never count, the callback may take it.
    async fn fail(
        &self,
        record: &Record,
        pipeline: Option<&PipelineName>,
        error: Box<RecordError>,
        deadline: Deadline,
    ) -> RecordOutcome {
        if error.fault() != Fault::Record {
            self.note(&error, record, pipeline);
            return RecordOutcome::Failed(error);
        }
        match self.hand_over(record, pipeline, *error, deadline).await {
            Ok(()) => RecordOutcome::PassedOver,
            Err(error) => RecordOutcome::Failed(Box::new(error)),
        }
    }

    /// Passes a record over that can never count in any pipeline, for a reason its source knows:
    /// counted, traced and handed to the callback like one that cannot be decoded.
    ///
    /// # Errors
    ///
    /// `error` itself if there is no callback, or the callback's: the record is not passed over.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the callback may or may not have taken the record.
    pub async fn reject(&self, record: &Record, error: RecordError) -> Result<(), RecordError> {
        self.hand_over(record, None, error, Deadline::NONE).await
    }

    /// Hands a record that can never count to the callback, if there is one and time for it.
    /// `Ok` if it took it.
    async fn hand_over(
        &self,
        record: &Record,
        pipeline: Option<&PipelineName>,
        error: RecordError,
        deadline: Deadline,
    ) -> Result<(), RecordError> {
        self.note(&error, record, pipeline);
        let Some(callback) = &self.on_rejected else {
            return Err(error);
        };
        if deadline.passed(&**self.clock()) {
            return Err(error);
        }
        let rejected = Rejected {
            record: record.clone(),
            pipeline: pipeline.cloned(),
            error,
        };
        match callback(rejected).await {
            Ok(()) => {
                match pipeline {
                    Some(pipeline) => self.recorder.count(&format!("{pipeline}:dead_letter"), 1),
                    None => self.count_all(":dead_letter", 1),
                }
                Ok(())
            }
            Err(source) => {
                let error = RecordError::Callback {
                    source: source.into(),
                };
                self.note(&error, record, pipeline);
                Err(error)
            }
        }
    }

    /// Counts and traces a failure with the id of its record.
    fn note(&self, error: &RecordError, record: &Record, pipeline: Option<&PipelineName>) {
        let names = self.pipelines.iter().map(Pipeline::name);
        for name in names.filter(|name| pipeline.is_none_or(|only| only == *name)) {
            let name = format!("{name}:failed");
            self.recorder.count(&name, 1);
            self.recorder.error(&name, error);
        }
        tracing::warn!(
            event_id = record.event_id(),
            sequence_number = record.sequence_number().map(|number| number.as_str()),
            pipeline = pipeline.map(PipelineName::as_str),
            error = %Causes(error),
            "a record failed",
        );
    }

    fn count_all(&self, suffix: &str, by: u64) {
        if by > 0 {
            for pipeline in &self.pipelines {
                let name = format!("{}{suffix}", pipeline.name());
                self.recorder.count(&name, by);
            }
        }
    }
}

impl<T> fmt::Debug for Processor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor")
            .field("pipelines", &self.pipelines)
            .field("decoder", &self.decoder)
            .finish_non_exhaustive()
    }
}
