use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use murmur_core::{BoxError, Decoder, Pipeline, ProcessorBuilder, Rejected};
use murmur_state::{Clock, OptionError, Random, Recorder};

use crate::handler::Handler;

/// How a [`Handler`] works. Deduplication is not among it: it is each pipeline's delivery mode.
#[must_use = "a handler is made by `build`"]
pub struct HandlerBuilder<T> {
    processor: ProcessorBuilder<T>,
    margin: Duration,
}

impl<T: Send + Sync + 'static> HandlerBuilder<T> {
    pub(crate) fn new(
        pipelines: impl IntoIterator<Item = Pipeline<T>>,
        decoder: Decoder<T>,
    ) -> Self {
        Self {
            processor: ProcessorBuilder::with_decoder(pipelines, decoder),
            margin: Duration::from_secs(1),
        }
    }

    /// How often a write is tried in all, where the service or the way to it failed (5xx,
    /// timeouts); at least 1. Throttles and conflicts do not count, they spend the time budget.
    ///
    /// Default 3. More rides out longer failures, and makes the batch's other records wait.
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.processor = self
            .processor
            .retry_with(|policy| policy.max_attempts(max_attempts));
        self
    }

    /// How long to wait before trying again: drawn uniformly from zero to a bound that begins
    /// at `base` and doubles up to `max`, which must not be below it.
    ///
    /// Default 50 ms, after a throttle or a conflict 500 ms, and 5 s. Shorter waits press harder on
    /// a table that is throttled.
    pub fn retry_backoff(mut self, base: Duration, max: Duration) -> Self {
        self.processor = self.processor.retry_with(|policy| policy.waits(base, max));
        self
    }

    /// How long one event may take in all; the invocation's deadline ends it sooner.
    ///
    /// Default 60 s. More helps where throttling lasts longer, and costs Lambda's time.
    pub fn retry_budget(mut self, budget: Duration) -> Self {
        self.processor = self.processor.retry_with(|policy| policy.budget(budget));
        self
    }

    /// How long before the invocation's deadline work ends, so that the answer gets out and
    /// Lambda does not cut the invocation off. At most half of the time there is when the
    /// invocation begins, so that a short timeout still leaves time to work.
    ///
    /// Default 1 s. Less works longer, and risks that a slow answer of DynamoDB, which is
    /// waited for, is overtaken by the deadline: then the whole batch comes again, and in the
    /// claim-first mode what was claimed and not yet counted is lost.
    pub fn deadline_margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// Where counts and errors go: `<name>` for records that took effect in the pipeline of
    /// that name, `<name>:retry`, `:dedup_skip`, `:dead_letter`, `:skip` and more for what else
    /// became of them ([`Recorder`] has them all).
    ///
    /// Default: nowhere. [`TracingRecorder`](murmur_state::TracingRecorder) costs an event per
    /// count where its level is on.
    pub fn metrics(mut self, recorder: impl Recorder) -> Self {
        self.processor = self.processor.recorder(recorder);
        self
    }

    /// Takes records that can never count: unreadable, undecodable, of an unknown kind, with an
    /// unusable key, out of range. `Ok` passes the record over and counts it under `:dead_letter`; `Err`
    /// reports it, so that it comes again. Give it time to finish before the deadline; it is
    /// waited for.
    ///
    /// Default: none, so that such a record is reported. It then blocks its shard until the
    /// mapping's `MaximumRetryAttempts` or `MaximumRecordAgeInSeconds`, and ends in the
    /// on-failure destination. Nothing is dropped silently.
    pub fn on_rejected<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(Rejected) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.processor = self.processor.on_rejected(callback);
        self
    }

    /// Where time comes from: waits, deadlines, and whether a window's retention is over. The
    /// stores must be on the same clock.
    ///
    /// Default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.processor = self.processor.clock(clock);
        self
    }

    /// Where jitter and the owners of claims come from.
    ///
    /// Default: seeded by the system.
    pub fn random(mut self, random: Random) -> Self {
        self.processor = self.processor.random(random);
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option: no pipelines or two of one name (`pipelines`), no
    /// attempts (`max_attempts`), a base above the maximum (`retry_backoff`).
    pub fn build(self) -> Result<Handler<T>, OptionError> {
        Ok(Handler::assembled(self.processor.build()?, self.margin))
    }
}

impl<T> fmt::Debug for HandlerBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerBuilder")
            .field("processor", &self.processor)
            .field("deadline_margin", &self.margin)
            .finish()
    }
}
