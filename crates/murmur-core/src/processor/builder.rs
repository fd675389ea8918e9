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
    /// Makes a processor for `pipelines` with every option at its default. Each image is decoded
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

    /// Begins a processor for `pipelines`. Each image is decoded once for all pipelines, by serde.
    pub fn builder(pipelines: impl IntoIterator<Item = Pipeline<T>>) -> ProcessorBuilder<T>
    where
        T: DeserializeOwned,
    {
        Self::with_decoder(pipelines, Decoder::serde())
    }

    /// Begins a processor for `pipelines`. Each image is decoded once for all pipelines, by
    /// `decoder`.
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

/// The options shared by everything that is built on a [`Processor`]: a Lambda handler, a
/// bootstrap, a reconcile. Made by [`Processor::builder`] and [`Processor::with_decoder`].
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
    /// How often, and for how long, a failed read or write is tried again.
    ///
    /// Defaults:
    ///
    /// - [`RetryPolicy::default`] in a handler, and where the processor itself is called: three
    ///   attempts, 60 seconds without success.
    /// - [`RetryPolicy::patient`] in a bootstrap, a reconcile and a settle: 30 minutes without
    ///   success.
    ///
    /// A policy set here applies to all of them. A longer one survives longer outages, and makes
    /// the other records of a batch wait.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Where counts and errors go. Records that took effect are counted under `<pipeline name>`,
    /// other outcomes under `<name>:retry`, `:dedup_skip`, `:dead_letter`, `:skip` and more
    /// ([`Recorder`] lists them all).
    ///
    /// Default: nowhere. [`TracingRecorder`](murmur_state::TracingRecorder) costs a tracing event
    /// per count where its level is on.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.recorder = Arc::new(recorder);
        self
    }

    /// The source of time: for waits, deadlines, and the end of a window's retention. The stores
    /// must use the same clock. Default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The source of jitter. Default: seeded by the system.
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// The source of claim owners and run ids. No two processes may share tokens, so only tests
    /// should set it. Default: the operating system's randomness, read every time, so that
    /// environments restored by SnapStart differ.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// A callback for records that can never count: unreadable, undecodable, of an unknown kind,
    /// with an unusable key, out of range.
    ///
    /// `Ok` passes the record over and counts it under `:dead_letter`. `Err` reports the record as
    /// failed, so that it is delivered again. The callback is awaited; in a handler it should
    /// return before the deadline. It may be called more than once for a redelivered record, and is
    /// called once for each pipeline that rejects it.
    ///
    /// A change of a [settled](crate::Definition::settle) item that cannot be read at all, or that
    /// overflows a sum, is always reported as failed, and never passed over.
    ///
    /// Default: none. A handler then reports such a record as failed: it blocks its shard until the
    /// mapping's `MaximumRetryAttempts` or `MaximumRecordAgeInSeconds`, and ends in the on-failure
    /// destination. A bootstrap passes such rows over, and lists them in its report. Nothing is
    /// dropped silently.
    pub fn on_rejected<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(Rejected) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.on_rejected = Some(Arc::new(move |rejected| Box::pin(callback(rejected))));
        self
    }

    /// A callback for an [outage](Outage): called while it lasts, once for everything that fails in
    /// it, and when it is over. It runs between attempts, so it should return soon. Default:
    /// outages are only traced.
    pub fn on_outage(mut self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        self.on_outage = Some(Arc::new(tell));
        self
    }

    /// Checks the options. Nothing is read or written.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option:
    ///
    /// - `pipelines`: there are none, or two share a name or a state table.
    /// - `max_attempts`, `retry_backoff`: the retry policy cannot be followed.
    /// - `settle`: items settle, and the decoder is one of whole records.
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
                    "`{name}` settles items, so an old image must decode as it did as a new image; a decoder \
                     of whole records does not ensure that; decode by `Decoder::item` or \
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

/// Refuses an empty list, and two pipelines with one name or one state table. Each would take the
/// other's values for its own; in modes without a control row, nothing would reveal it.
fn check_pipelines<T>(pipelines: &[Pipeline<T>]) -> Result<(), OptionError> {
    let refused = |reason: String| Err(OptionError::new("pipelines", reason));
    if pipelines.is_empty() {
        return refused("there are none: give at least one".to_owned());
    }
    for (n, pipeline) in pipelines.iter().enumerate() {
        let (name, table) = (pipeline.name(), &pipeline.facts().place.table);
        for other in &pipelines[..n] {
            if other.name() == name {
                return refused(format!("two have the name `{name}`: give each its own"));
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
