use std::sync::Arc;

use murmur_state::error::Failure;
use murmur_state::{Fault, IdError, PipelineName, StoreError};

use crate::record::{Record, Side};

/// The outcome of a record: the worst of its outcomes in all pipelines.
#[derive(Debug, Clone)]
pub enum RecordOutcome {
    /// It was counted.
    Applied,
    /// It was counted before; nothing changed.
    Duplicate,
    /// A later version of its item was counted already; nothing changed.
    Superseded,
    /// The decoder skipped it, it names no key, or it is a removal by Time to Live in a pipeline
    /// that keeps expired items.
    Skipped,
    /// Its windows' retention has ended; it was dropped and counted.
    Expired,
    /// It, or a part of it, can never count; the callback for rejected records took it.
    PassedOver,
    /// An earlier record of one of its keys failed. It must be delivered again.
    Blocked,
    /// It was not counted in every pipeline. It must be delivered again.
    Failed(Box<RecordError>),
}

impl RecordOutcome {
    /// Whether the record is finished, so that it need not be delivered again.
    pub fn is_done(&self) -> bool {
        !matches!(self, Self::Blocked | Self::Failed(_))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Skipped => 0,
            Self::Expired => 1,
            Self::Duplicate => 2,
            Self::Superseded => 3,
            Self::Applied => 4,
            Self::PassedOver => 5,
            Self::Blocked => 6,
            Self::Failed(_) => 7,
        }
    }

    /// Keeps the worse of the two.
    pub(crate) fn worsen(&mut self, by: Self) {
        if by.rank() > self.rank() {
            *self = by;
        }
    }
}

/// Why a record was not counted.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The decoder failed.
    #[error("the {side} cannot be decoded")]
    Undecodable {
        /// Which image.
        side: Side,
        /// The decoder's error.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Its event name is unknown to this release.
    #[error("the event name `{name}` is not known; a newer release may know it")]
    UnknownEvent {
        /// The name.
        name: String,
    },
    /// Its source could not read it.
    #[error("the record cannot be read: {reason}")]
    Unreadable {
        /// The reason.
        reason: String,
    },
    /// Its source could not read one of its images.
    #[error("the {side} cannot be read: {reason}")]
    UnreadableImage {
        /// Which image.
        side: Side,
        /// The reason.
        reason: String,
    },
    /// It does not say which item changed.
    #[error("the record names no item: its `Keys` are missing or empty")]
    NoKeys,
    /// Its event id cannot be used.
    #[error("the record's event id cannot be used")]
    InvalidId(#[source] IdError),
    /// The stream does not carry an image that is needed.
    #[error(
        "the record has no {side}: set the stream's view type to NEW_AND_OLD_IMAGES{}",
        if *.side == Side::New { " or NEW_IMAGE" } else { ", which retraction needs" }
    )]
    MissingImage {
        /// Which image.
        side: Side,
    },
    /// A pipeline could not count it.
    #[error("pipeline `{pipeline}` could not count the record")]
    Store {
        /// The pipeline's name.
        pipeline: PipelineName,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// A pipeline's state cannot be used, for any record.
    #[error("the state of pipeline `{pipeline}` cannot be used")]
    State {
        /// The pipeline's name.
        pipeline: PipelineName,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// The callback for rejected records failed, so the record is not passed over.
    #[error("the callback for rejected records failed")]
    Callback {
        /// The callback's error.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

murmur_state::debug_as_message!(RecordError);

impl RecordError {
    /// What the caller can do about it.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Undecodable { .. }
            | Self::UnknownEvent { .. }
            | Self::Unreadable { .. }
            | Self::UnreadableImage { .. }
            | Self::NoKeys
            | Self::InvalidId(_) => Fault::Record,
            Self::MissingImage { .. } => Fault::Setup,
            Self::Store { source, .. } | Self::State { source, .. } => source.fault(),
            Self::Callback { .. } => Fault::Transient,
        }
    }

    /// Whether a retry can help.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }
}

impl Failure for RecordError {
    fn fault(&self) -> Fault {
        RecordError::fault(self)
    }
}

/// A record that can never count, as the callback for rejected records receives it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rejected {
    /// The record, as its source gave it.
    pub record: Record,
    /// Which pipeline rejected it; `None` if all did, because the record cannot be read or decoded.
    pub pipeline: Option<PipelineName>,
    /// The reason.
    pub error: RecordError,
}

impl Rejected {
    /// A record that `pipeline` rejected with `error`, or all pipelines: to try a callback.
    pub fn new(record: Record, pipeline: Option<PipelineName>, error: RecordError) -> Self {
        Self {
            record,
            pipeline,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_come_again_is_worse_than_anything_that_is_done() {
        let failed = |error| RecordOutcome::Failed(Box::new(error));
        let outcomes = [
            RecordOutcome::Skipped,
            RecordOutcome::Expired,
            RecordOutcome::Duplicate,
            RecordOutcome::Superseded,
            RecordOutcome::Applied,
            RecordOutcome::PassedOver,
            RecordOutcome::Blocked,
            failed(RecordError::UnknownEvent { name: "?".into() }),
            failed(RecordError::MissingImage { side: Side::New }),
        ];
        for one in &outcomes {
            for other in &outcomes {
                let mut both = one.clone();
                both.worsen(other.clone());
                assert_eq!(both.is_done(), one.is_done() && other.is_done());
                assert_eq!(both.rank(), one.rank().max(other.rank()));
            }
        }
    }
}
