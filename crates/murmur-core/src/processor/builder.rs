use std::fmt;
use std::future::Future;
use std::sync::Arc;

use murmur_state::{
    Clock, NoopRecorder, OptionError, Outage, Random, Recorder, RetryPolicy, SystemClock, Tokens,
};
use serde::de::DeserializeOwned;

use super::{OutageFn, Processor, RejectFn, Shared, retry};
use crate::decode::{BoxError, Decoder};
use crate::outcome::Rejected;
use crate::pipeline::Pipeline;

impl<T: Send + Sync + 'static> Processor<T> {
    /// A processor of records for `pipelines` with every option at its default: each image is decoded
    /// once for all pipelines, by serde.
    ///
    /// # Errors
    ///
    /// As [`ProcessorBuilder::build`].
    pub fn new(pipelines: impl IntoIterator<Item = Pipeline<T>>) -> Result<Self, OptionError>
    where
        T: DeserializeOwned,
    {
        Self::builder(pipelines).build()
    }

    /// Begins a processor of records for `pipelines`. Each image is decoded once for all pipelines,
    /// by serde.
    pub fn builder(pipelines: impl IntoIterator<Item = Pipeline<T>>) -> ProcessorBuilder<T>
    where
        T: DeserializeOwned,
    {
        Self::with_decoder(pipelines, Decoder::serde())
    }

    /// Begins a processor of records for `pipelines`. Each image is decoded once for all pipelines,
    /// by `decoder`.
    pub fn with_decoder(
        pipelines: impl IntoIterator<Item = Pipeline<T>>,
        decoder: Decoder<T>,
    ) -> ProcessorBuilder<T> {
        ProcessorBuilder {
            pipelines: pipelines.into_iter().collect(),
            decoder,
            policy: None,
            recorder: Arc::new(NoopRecorder),
            clock: SystemClock::shared(),
            random: Random::new(),
            tokens: Tokens::new(),
            on_rejected: None,
            on_outage: None,
        }
    }
}

/// The options that everything built on a [`Processor`] shares: a Lambda handler, a bootstrap, a
/// reconcile. Made by [`Processor::builder`] and [`Processor::with_decoder`].
#[must_use = "a processor is made by `build`"]
pub struct ProcessorBuilder<T> {
    pipelines: Vec<Pipeline<T>>,
    decoder: Decoder<T>,
    policy: Option<RetryPolicy>,
    recorder: Arc<dyn Recorder>,
    clock: Arc<dyn Clock>,
    random: Random,
    tokens: Tokens,
    on_rejected: Option<Arc<RejectFn>>,
    on_outage: Option<Arc<OutageFn>>,
}

impl<T: Send + Sync + 'static> ProcessorBuilder<T> {
    /// How often and how long a failed read or write is tried again.
    ///
    /// Default: [`RetryPolicy::default`] in a handler, and wherever the processor itself is called:
    /// three attempts, 60 seconds without success. [`RetryPolicy::patient`] in a bootstrap, a reconcile
    /// and a settle: 30 minutes without success. A policy chosen here holds in all of them. A longer one
    /// rides out longer outages, and makes the batch's other records wait.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Where counts and errors go: `<name>` for records that took effect in the pipeline of that name,
    /// `<name>:retry`, `:dedup_skip`, `:dead_letter`, `:skip` and more for what else became of them
    /// ([`Recorder`] has them all).
    ///
    /// Default: nowhere. [`TracingRecorder`](murmur_state::TracingRecorder) costs an event per count
    /// where its level is on.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.recorder = Arc::new(recorder);
        self
    }

    /// Where time comes from: waits, deadlines, and whether a window's retention is over. The stores
    /// must be on the same clock. Default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where jitter comes from. Default: seeded by the system.
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// Where the owners of claims and the ids of runs come from. No two processes may share them, so
    /// only tests should change this. Default: the operating system, each time, also in environments
    /// that SnapStart restores.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Takes records that can never count: unreadable, undecodable, of an unknown kind, with an unusable
    /// key, out of range. `Ok` passes the record over and counts it under `:dead_letter`; `Err` reports
    /// it as failed, so that it comes again. The callback is waited for; in a handler it should return
    /// before the deadline. It may be called more than once for a record that is redelivered, and once
    /// for each pipeline that rejects it. Of items that have [settled](crate::Definition::settle), a
    /// change that cannot be read at all, or that fits no sum, is reported whatever the callback says.
    ///
    /// Default: none. A handler then reports such a record: it blocks its shard until the mapping's
    /// `MaximumRetryAttempts` or `MaximumRecordAgeInSeconds`, and ends in the on-failure destination. A
    /// bootstrap passes such rows over, and lists them in its report. Nothing is dropped silently.
    pub fn on_rejected<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(Rejected) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.on_rejected = Some(Arc::new(move |rejected| Box::pin(callback(rejected))));
        self
    }

    /// Hears of an [outage](Outage) while it lasts, once for all that fails in it, and when it is over;
    /// called between attempts, so it should return soon. Default: it is traced only.
    pub fn on_outage(mut self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        self.on_outage = Some(Arc::new(tell));
        self
    }

    /// Checks the options. Nothing is read or written.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option: no pipelines, two of one name or on one state table
    /// (`pipelines`), a retry policy that cannot be followed (`max_attempts`, `retry_backoff`), a decoder
    /// of whole records where items settle (`settle`).
    pub fn build(self) -> Result<Processor<T>, OptionError> {
        if let Some(policy) = &self.policy {
            policy.validate()?;
        }
        check_pipelines(&self.pipelines)?;
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
        let any = |is: fn(&Pipeline<T>) -> bool| self.pipelines.iter().any(is);
        let shared = Shared {
            needs_old: any(Pipeline::retracts),
            needs_old_of_expired: any(|pipeline| pipeline.facts().needs_old_of_expired),
            needs_old_of_removed: any(|pipeline| pipeline.facts().needs_old_of_removed),
            settles: any(Pipeline::settles),
            pipelines: self.pipelines,
            decoder: self.decoder,
            recorder: self.recorder,
            random: self.random.clone(),
            tokens: self.tokens,
        };
        let tell = self.on_outage.clone();
        Ok(Processor {
            shared: Arc::new(shared),
            policy: self.policy,
            retry: retry(self.policy, self.clock, self.random, tell),
            on_rejected: self.on_rejected,
            on_outage: self.on_outage,
        })
    }
}

/// Refuses no pipelines, and two of one name or on one state table: each would take the other's values
/// for its own, and those of modes without a control row without a sign of it.
fn check_pipelines<T>(pipelines: &[Pipeline<T>]) -> Result<(), OptionError> {
    let refused = |reason: String| Err(OptionError::new("pipelines", reason));
    if pipelines.is_empty() {
        return refused("there is none; give at least one".to_owned());
    }
    for (n, pipeline) in pipelines.iter().enumerate() {
        let (name, table) = (pipeline.name(), &pipeline.facts().place.table);
        for other in &pipelines[..n] {
            if other.name() == name {
                return refused(format!("two are called `{name}`"));
            }
            if other.facts().place.table == *table {
                return refused(format!(
                    "`{}` and `{name}` keep their values in one state table, `{table}`; give each a \
                     table of its own",
                    other.name()
                ));
            }
        }
    }
    Ok(())
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
