use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use murmur_state::{
    Causes, Clock, Deadline, EventId, Fault, NoopRecorder, OptionError, Outcome, PipelineName,
    Random, Recorder, Retry, RetryPolicy, SystemClock,
};
use serde::de::DeserializeOwned;

use crate::decode::{BoxError, DecodeFailure, Decoded, Decoder, Side};
use crate::delivery::Context;
use crate::outcome::{RecordError, RecordOutcome, Rejected};
use crate::pipeline::{Pipeline, Repeats};
use crate::plan::{Entry, Verdict};
use crate::record::{EventName, Record};

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
    on_rejected: Option<Arc<RejectFn>>,
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
            on_rejected: None,
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

    /// Where jitter and owners come from. Default: seeded by the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// Takes records that can never count: undecodable, with an unusable key, out of range. `Ok`
    /// passes the record over and counts it under `:dead_letter`; `Err` reports it as failed, so
    /// that it comes again. It may be called more than once for a record that is redelivered.
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

    /// Checks the options.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option: no pipelines, two of one name, a retry policy that
    /// cannot be followed.
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
        }
        let retry = Retry::new(self.policy, self.clock, self.random.clone());
        Ok(Processor {
            needs_old: self.pipelines.iter().any(Pipeline::retracts),
            needs_old_of_expired: self
                .pipelines
                .iter()
                .any(|pipeline| pipeline.run.needs_old_image_of_expired()),
            pipelines: self.pipelines,
            decoder: self.decoder,
            retry,
            recorder: self.recorder,
            random: self.random,
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
    retry: Retry,
    recorder: Arc<dyn Recorder>,
    random: Random,
    on_rejected: Option<Arc<RejectFn>>,
}

/// A record on its way through the batch.
struct Prepared<T> {
    id: EventId,
    new: Option<T>,
    old: Option<T>,
    passed_over: bool,
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
        let deadline = self.retry.batch_deadline(deadline);
        let mut outcomes = vec![RecordOutcome::Skipped; records.len()];
        let mut prepared: Vec<(usize, Prepared<T>)> = Vec::with_capacity(records.len());
        let mut first: HashMap<&str, usize> = HashMap::with_capacity(records.len());
        for (place, record) in records.iter().enumerate() {
            // A record without an id is nobody's repetition.
            let id = record.event_id();
            if !id.is_empty() && *first.entry(id).or_insert(place) != place {
                continue;
            }
            match self.prepare(record, deadline).await {
                Ok(ready) => prepared.push((place, ready)),
                Err(outcome) => outcomes[place] = outcome,
            }
        }

        let entries: Vec<Entry<'_, T>> = prepared
            .iter()
            .map(|(place, ready)| Entry {
                record: &records[*place],
                id: &ready.id,
                new: ready.new.as_ref(),
                old: ready.old.as_ref(),
            })
            .collect();
        let context = Context {
            retry: &self.retry,
            random: &self.random,
            recorder: &*self.recorder,
            deadline,
        };
        let runs = self
            .pipelines
            .iter()
            .map(|pipeline| pipeline.run.run(&entries, context));
        let verdicts = join_all(runs).await;
        for (pipeline, verdicts) in self.pipelines.iter().zip(verdicts) {
            for ((place, ready), verdict) in prepared.iter().zip(verdicts) {
                let outcome = self
                    .conclude(pipeline.name(), &records[*place], verdict, deadline)
                    .await;
                let so_far = std::mem::replace(&mut outcomes[*place], RecordOutcome::Skipped);
                let so_far = if ready.passed_over {
                    so_far.worse(RecordOutcome::PassedOver)
                } else {
                    so_far
                };
                outcomes[*place] = so_far.worse(outcome);
            }
        }

        for (place, record) in records.iter().enumerate() {
            if let Some(&original) = first.get(record.event_id())
                && original != place
            {
                outcomes[place] = outcomes[original].clone();
                self.count_all(":dedup_skip");
            }
        }
        outcomes
    }

    /// Decodes what is needed. `Err` is the outcome of a record that goes no further.
    async fn prepare(
        &self,
        record: &Record,
        deadline: Deadline,
    ) -> Result<Prepared<T>, RecordOutcome> {
        let id = match EventId::new(record.event_id()) {
            Ok(id) => id,
            Err(error) => {
                return Err(self
                    .reject_whole(record, RecordError::InvalidId(error), deadline)
                    .await);
            }
        };
        if let Record::Changed(change) = record
            && let EventName::Other(name) = &change.event
        {
            let error = RecordError::UnknownEvent { name: name.clone() };
            return Err(self.reject_whole(record, error, deadline).await);
        }
        let mut ready = Prepared {
            id,
            new: None,
            old: None,
            passed_over: false,
        };
        let needs_old = if record.is_removal_by_ttl() {
            self.needs_old_of_expired
        } else {
            self.needs_old
        };
        let sides = [Some(Side::New), needs_old.then_some(Side::Old)];
        for side in sides.into_iter().flatten() {
            let image = match self.decoder.decode(record, side) {
                None => None,
                Some(Ok(Decoded::Record(value))) => Some(value),
                Some(Ok(Decoded::Skip)) => None,
                Some(Err(DecodeFailure::MissingImage)) => {
                    let error = RecordError::MissingImage { side };
                    self.note(&error, record, None);
                    return Err(RecordOutcome::Failed(error));
                }
                Some(Err(DecodeFailure::Undecodable(source))) => {
                    let error = RecordError::Undecodable {
                        side,
                        source: source.into(),
                    };
                    self.hand_over(record, None, error, deadline)
                        .await
                        .map_err(RecordOutcome::Failed)?;
                    ready.passed_over = true;
                    None
                }
            };
            match side {
                Side::New => ready.new = image,
                Side::Old => ready.old = image,
            }
        }
        Ok(ready)
    }

    async fn conclude(
        &self,
        pipeline: &PipelineName,
        record: &Record,
        verdict: Verdict,
        deadline: Deadline,
    ) -> RecordOutcome {
        let (suffix, outcome) = match verdict {
            Verdict::Skipped => (":skip", RecordOutcome::Skipped),
            Verdict::Kept => (":ttl_kept", RecordOutcome::Skipped),
            // Counted image by image where they were dropped.
            Verdict::Expired => return RecordOutcome::Expired,
            Verdict::Delivered(Outcome::Applied) => ("", RecordOutcome::Applied),
            Verdict::Delivered(Outcome::Duplicate) => (":dedup_skip", RecordOutcome::Duplicate),
            Verdict::Delivered(Outcome::Superseded) => (":superseded", RecordOutcome::Superseded),
            Verdict::Delivered(Outcome::Blocked) => (":blocked", RecordOutcome::Blocked),
            Verdict::Delivered(Outcome::Failed(source)) => {
                let record_fault = source.fault() == Fault::Record;
                let error = RecordError::Store {
                    pipeline: pipeline.clone(),
                    source,
                };
                if record_fault {
                    return match self
                        .hand_over(record, Some(pipeline), error, deadline)
                        .await
                    {
                        Ok(()) => RecordOutcome::PassedOver,
                        Err(error) => RecordOutcome::Failed(error),
                    };
                }
                self.note(&error, record, Some(pipeline));
                return RecordOutcome::Failed(error);
            }
        };
        self.recorder.count(&format!("{pipeline}{suffix}"), 1);
        outcome
    }

    async fn reject_whole(
        &self,
        record: &Record,
        error: RecordError,
        deadline: Deadline,
    ) -> RecordOutcome {
        match self.hand_over(record, None, error, deadline).await {
            Ok(()) => RecordOutcome::PassedOver,
            Err(error) => RecordOutcome::Failed(error),
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
                    None => self.count_all(":dead_letter"),
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

    fn count_all(&self, suffix: &str) {
        for pipeline in &self.pipelines {
            self.recorder
                .count(&format!("{}{suffix}", pipeline.name()), 1);
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
