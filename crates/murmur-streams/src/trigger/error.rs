//! Why a trigger stopped.

use std::sync::Arc;
use std::time::Duration;

use murmur_state::{Cause, Failure, Fault, Roughly, StoreError, Timestamp};

use crate::error::StreamError;
use crate::trigger::gap::Gap;

/// Why a trigger stopped.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TriggerError {
    /// The stream could not be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A transient error lasted longer than [`retry_budget`](crate::TriggerBuilder::retry_budget).
    #[error(
        "given up after {} without success; nothing is lost: run the trigger again once the cause has passed", Roughly(*.tried)
    )]
    GaveUp {
        /// How long it was tried.
        tried: Duration,
        /// The last error.
        #[source]
        source: Box<TriggerError>,
    },
    /// A record failed as often as it may. It and the records after it in its batch are not done.
    #[error(
        "shard `{shard}`: the record with sequence number {sequence_number} still fails after {retries} retries; it was not passed over: fix the cause and run the trigger again, raise `maximum_retry_attempts`, or give the trigger an `on_failure` that takes such records"
    )]
    RetriesExhausted {
        /// The shard.
        shard: String,
        /// The first record that is not done; empty if it has no number.
        sequence_number: String,
        /// How often the batch was delivered again.
        retries: u32,
        /// The handler's last error, if it failed as a whole.
        #[source]
        source: Option<Cause>,
    },
    /// The handler kept records that it had to leave in the event because they are not done
    /// ([`EventHandler`](murmur_state::EventHandler)).
    #[error(
        "shard `{shard}`: of {lent} records the handler left {left}, and not all are done, so they cannot be delivered again; nothing is lost: fix the handler, which must leave the event as it was unless all records are done, and run the trigger again"
    )]
    RecordsKept {
        /// The shard.
        shard: String,
        /// How many records the handler was given.
        lent: usize,
        /// How many it left.
        left: usize,
        /// The handler's error, if it failed as a whole.
        #[source]
        source: Option<Cause>,
    },
    /// A record is older than it may be, and no callback takes it.
    #[error(
        "shard `{shard}`: the record with sequence number {sequence_number} was created {} ago, more than the {} of `maximum_record_age`; it was not passed over: raise that limit, or give the trigger an `on_failure` that takes such records", hours(.age), hours(.limit)
    )]
    RecordTooOld {
        /// The shard.
        shard: String,
        /// The first such record; empty if it has no number.
        sequence_number: String,
        /// Its age.
        age: Duration,
        /// The greatest age allowed: `maximum_record_age`, or less if the handler forgets events
        /// sooner.
        limit: Duration,
    },
    /// Records that had not been read are gone.
    #[error(
        "shard `{shard}`: {gap}; what was missed needs a repair or a new bootstrap into new tables; to give it up, set `on_gap(OnGap::Continue)`"
    )]
    Gap {
        /// The shard.
        shard: String,
        /// How they were lost.
        gap: Gap,
    },
    /// The positions or the handoff token belong to another stream.
    #[error(
        "`{arn}` is not the stream of {whose}, which is `{known}`: read that stream; if the table's stream was switched off and on again, it has a new ARN, and the changes in between are in neither stream: bootstrap again into new tables, with a new trigger name"
    )]
    OtherStream {
        /// What names the other stream.
        whose: String,
        /// The stream that it names.
        known: String,
        /// The stream that is read.
        arn: String,
    },
    /// Reading started from another handoff token, or from none.
    #[error(
        "the trigger `{name}` began {} and has read further, so it cannot begin at the handoff captured at {captured_at}; use another trigger name for another bootstrap, or leave `handoff` out to continue", from(.known)
    )]
    OtherHandoff {
        /// The trigger's name.
        name: String,
        /// When the token was captured from which it started, or `None` if it started without one.
        known: Option<Timestamp>,
        /// When the given token was captured.
        captured_at: Timestamp,
    },
    /// A position could not be loaded or saved.
    #[error("the position `{name}` could not be loaded or saved")]
    Position {
        /// The checkpoint's name.
        name: String,
        /// The cause.
        #[source]
        source: Box<StoreError>,
    },
    /// The checkpoint is not a position, or not a complete one.
    #[error(
        "the checkpoint `{name}` is not a trigger's position, or is incomplete; restore it, or bootstrap again into new tables, with a new trigger name"
    )]
    UnreadablePosition {
        /// The checkpoint's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The version of a position is not known to this release.
    #[error(
        "the checkpoint `{name}` is of version {version}, which this release does not know; use the release that wrote it, or a later one"
    )]
    UnknownPosition {
        /// The checkpoint's name.
        name: String,
        /// Its version.
        version: u32,
    },
}

murmur_state::debug_as_message!(TriggerError);

fn hours(duration: &Duration) -> String {
    let seconds = duration.as_secs();
    format!(
        "{}h {}m {}s",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn from(known: &Option<Timestamp>) -> String {
    match known {
        Some(at) => format!("at the handoff captured at {at}"),
        None => "without a handoff".to_owned(),
    }
}

impl Failure for TriggerError {
    fn fault(&self) -> Fault {
        match self {
            Self::Stream(error) => error.fault(),
            Self::Position { source, .. } => source.fault(),
            Self::GaveUp { source, .. } => source.fault(),
            _ => Fault::Setup,
        }
    }
}

impl TriggerError {
    /// Whether it can help to run the trigger again without a change.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }
}
