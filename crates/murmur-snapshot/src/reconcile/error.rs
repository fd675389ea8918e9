use std::time::Duration;

use murmur_core::{InspectionError, RecordError};
use murmur_state::{OptionError, PipelineName, Roughly};

use crate::error::SourceError;

/// Why a reconcile was refused, or failed.
///
/// What was repaired before it failed stays repaired.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// An option cannot be used.
    #[error("the reconcile cannot be built")]
    Option(#[from] OptionError),
    /// A pipeline's windows go by the time of arrival, which no item has.
    #[error(
        "pipeline `{pipeline}` windows by arrival, which no item of the table tells, so it cannot \
         be recounted; leave it out"
    )]
    WindowsByArrival {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// A pipeline without a ledger goes on counting items that are no longer in the table.
    #[error(
        "pipeline `{pipeline}` goes on counting what Time to Live removed, and without a ledger it \
         is not known what that was, so it cannot be recounted; leave it out, or define it with \
         `.ledger()` and bootstrap it into new tables"
    )]
    KeepsExpired {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// A repair was asked for, and a pipeline keeps no ledger that says what its items contribute.
    #[error(
        "pipeline `{pipeline}` keeps no ledger, so nothing can be repaired while its stream is \
         processed; reconcile without `repair`, or define it with `.ledger()` and bootstrap it \
         into new tables"
    )]
    RepairWithoutLedger {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The state of a pipeline belongs to something else, or to no pipeline yet, or could not be
    /// read.
    #[error("the state cannot be reconciled")]
    Refused(#[source] Box<RecordError>),
    /// The state was filled from another table.
    #[error(
        "the state of pipeline `{pipeline}` follows the stream `{stream}`, and the table to \
         compare it with is `{table}`; nothing was read or changed: give the table that the totals \
         are of"
    )]
    OtherTable {
        /// The pipeline.
        pipeline: PipelineName,
        /// The stream that its state belongs to.
        stream: String,
        /// The table that was given.
        table: String,
    },
    /// The source failed, or leaves items out. The message is the source's own.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// State, ledger or items could not be read.
    #[error(transparent)]
    Inspection(Box<InspectionError>),
    /// Retries failed for as long as the retry policy allows.
    #[error(
        "given up after {} without success; run it again once the cause has passed",
        Roughly(*.tried)
    )]
    GaveUp {
        /// How long it was tried.
        tried: Duration,
        /// What failed.
        #[source]
        source: Box<ReconcileError>,
    },
}

murmur_state::debug_as_message!(ReconcileError);

impl From<InspectionError> for ReconcileError {
    fn from(error: InspectionError) -> Self {
        Self::Inspection(Box::new(error))
    }
}

impl ReconcileError {
    /// Whether running the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(source) => source.is_retryable(),
            Self::Source(source) => source.is_retryable(),
            Self::Inspection(source) => match &**source {
                InspectionError::Store { source, .. } => source.is_retryable(),
                InspectionError::LookUp { source, .. } => source
                    .downcast_ref::<SourceError>()
                    .is_some_and(SourceError::is_retryable),
                _ => false,
            },
            Self::GaveUp { .. } => true,
            _ => false,
        }
    }
}
