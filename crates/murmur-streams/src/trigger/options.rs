//! The settings of a trigger, in the form that a run needs.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{EventRecord, OperationType};
use murmur_state::handler::UNREADABLE;
use murmur_state::images::ImageNotes;
use murmur_state::retry::Retry;
use murmur_state::time::{Random, SystemClock};
use murmur_state::{Clock, HandoffToken, NoopRecorder, Recorder, RetryPolicy};

use crate::trigger::failed::OnFailure;
use crate::trigger::gap::OnGap;

/// The default bound of what is read ahead.
const READ_AHEAD: usize = 256 * 1024 * 1024;

/// Where a trigger starts if it has not read the stream before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartingPosition {
    /// The oldest record that the stream still has.
    #[default]
    TrimHorizon,
    /// Only records put from about now on. Shards that appear later are still read from their
    /// beginning, so that a split loses nothing.
    Latest,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) batch_size: usize,
    pub(crate) batching_window: Duration,
    pub(crate) parallelization_factor: usize,
    pub(crate) bisect_batch_on_error: bool,
    pub(crate) maximum_retry_attempts: Option<u32>,
    pub(crate) maximum_record_age: Option<Duration>,
    /// The limit that results from that age and from how long the handler recognises events.
    pub(crate) record_age_limit: Option<Duration>,
    pub(crate) on_failure: Option<OnFailure>,
    pub(crate) event_names: Option<Vec<OperationType>>,
    pub(crate) starting_position: StartingPosition,
    pub(crate) handoff: Option<HandoffToken>,
    pub(crate) table_at_rest: bool,
    pub(crate) on_gap: OnGap,
    pub(crate) maximum_shards: usize,
    pub(crate) read_ahead: usize,
    pub(crate) retry: RetryPolicy,
    pub(crate) poll_interval: Duration,
    pub(crate) drain_empty_reads: u32,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) recorder: Arc<dyn Recorder>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch_size: 100,
            batching_window: Duration::ZERO,
            parallelization_factor: 1,
            bisect_batch_on_error: false,
            maximum_retry_attempts: None,
            maximum_record_age: None,
            record_age_limit: None,
            on_failure: None,
            event_names: None,
            starting_position: StartingPosition::default(),
            handoff: None,
            table_at_rest: false,
            on_gap: OnGap::default(),
            maximum_shards: usize::MAX,
            read_ahead: READ_AHEAD,
            retry: RetryPolicy::patient(),
            poll_interval: Duration::from_secs(1),
            drain_empty_reads: 1,
            clock: SystemClock::shared(),
            random: Random::new(),
            recorder: Arc::new(NoopRecorder),
        }
    }
}

impl Options {
    /// The retry state of one run.
    pub(crate) fn retry(&self) -> Retry {
        Retry::new(self.retry, Arc::clone(&self.clock), self.random.clone())
    }

    /// Whether the record passes the filter. If not even its event name could be read, the handler
    /// decides about it.
    pub(crate) fn wants(&self, record: &EventRecord) -> bool {
        let Some(names) = &self.event_names else {
            return true;
        };
        let is_wanted = |wanted: &str| names.iter().any(|name| name.to_string() == wanted);
        if !record.event_name.starts_with(UNREADABLE) {
            return is_wanted(&record.event_name);
        }
        let notes = ImageNotes::read(record.record_format.as_deref());
        notes.event_name.is_none_or(|name| is_wanted(&name))
    }

    /// Warns of settings that are allowed but rarely intended.
    pub(crate) fn warn(&self) {
        if self.maximum_retry_attempts.is_none() && self.maximum_record_age.is_none() {
            tracing::warn!(
                "neither `maximum_retry_attempts` nor `maximum_record_age` is set: a record that always fails blocks its shard until it is trimmed"
            );
        }
    }
}
