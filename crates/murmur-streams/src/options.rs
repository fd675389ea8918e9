use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::{Clock, OptionError, Random, RetryPolicy, SystemClock};

use crate::handler::EventHandler;
use crate::source::StreamSource;
use crate::trigger::Trigger;

/// Where a trigger begins that has not read the stream before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartingPosition {
    /// The oldest record the stream still has.
    #[default]
    TrimHorizon,
    /// Only what is put from about now on. Shards that appear later are read from their
    /// beginning all the same, so that a split loses nothing.
    Latest,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) batch_size: usize,
    pub(crate) starting_position: StartingPosition,
    pub(crate) maximum_retry_attempts: Option<u32>,
    pub(crate) retry: RetryPolicy,
    pub(crate) poll_interval: Duration,
    pub(crate) drain_empty_reads: u32,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
}

/// Settings of a [`Trigger`], named as Lambda's event source mapping names them.
pub struct TriggerBuilder<S, H> {
    source: S,
    handler: H,
    options: Options,
}

impl<S: StreamSource, H: EventHandler> TriggerBuilder<S, H> {
    pub(crate) fn new(source: S, handler: H) -> Self {
        Self {
            source,
            handler,
            options: Options {
                batch_size: 100,
                starting_position: StartingPosition::default(),
                maximum_retry_attempts: None,
                retry: RetryPolicy::default(),
                poll_interval: Duration::from_secs(1),
                drain_empty_reads: 1,
                clock: SystemClock::shared(),
                random: Random::new(),
            },
        }
    }

    /// The most records of one batch, 1 to 10,000. Default 100; larger ones mean fewer calls,
    /// more memory, and more that comes again when one record fails.
    #[must_use]
    pub fn batch_size(mut self, records: usize) -> Self {
        self.options.batch_size = records;
        self
    }

    /// Where to begin. Default [`StartingPosition::TrimHorizon`], which reads up to 24 hours of
    /// old records first.
    #[must_use]
    pub fn starting_position(mut self, position: StartingPosition) -> Self {
        self.options.starting_position = position;
        self
    }

    /// How often a batch may come again before the trigger stops with
    /// [`TriggerError::RetriesExhausted`](crate::TriggerError::RetriesExhausted), at most 10,000;
    /// 0 allows one delivery only. A batch of which something got done begins to count anew.
    /// Default: without end, as in Lambda; one record that always fails then holds up its shard
    /// until it is trimmed.
    #[must_use]
    pub fn maximum_retry_attempts(mut self, attempts: u32) -> Self {
        self.options.maximum_retry_attempts = Some(attempts);
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

    /// How long reads that fail in passing (throttled, server errors) are tried again before the
    /// trigger stops with their error. Default 60 s; zero tries once.
    #[must_use]
    pub fn read_retry_budget(mut self, budget: Duration) -> Self {
        self.options.retry = self.options.retry.budget(budget);
        self
    }

    /// The pause after a read that gave nothing. Default 1 s; shorter means less delay and more
    /// calls (a shard takes 5 reads a second).
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval;
        self
    }

    /// How many empty answers in a row [`Trigger::drain`] takes for the end of a shard that is
    /// still open, at least 1. Default 1, which is exact for the in-process store, DynamoDB Local
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

    /// The trigger. Nothing is read before it is run.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option that cannot be used.
    pub fn build(self) -> Result<Trigger<S, H>, OptionError> {
        let Options {
            batch_size,
            maximum_retry_attempts,
            retry,
            drain_empty_reads,
            ..
        } = &self.options;
        let refuse = |option, reason: String| Err(OptionError::new(option, reason));
        if !(1..=10_000).contains(batch_size) {
            return refuse("batch_size", format!("{batch_size} is outside 1..=10,000"));
        }
        if let Some(attempts) = maximum_retry_attempts.filter(|attempts| *attempts > 10_000) {
            let reason = format!("{attempts} is above 10,000; leave it out for no limit");
            return refuse("maximum_retry_attempts", reason);
        }
        if *drain_empty_reads == 0 {
            return refuse("drain_empty_reads", "must be at least 1".to_owned());
        }
        retry.validate()?;
        Ok(Trigger::new(self.source, self.handler, self.options))
    }
}

impl<S, H> fmt::Debug for TriggerBuilder<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TriggerBuilder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
