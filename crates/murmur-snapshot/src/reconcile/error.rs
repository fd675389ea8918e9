use std::time::Duration;

use murmur_core::{InspectionError, RecordError};
use murmur_state::{OptionError, PipelineName, Roughly};

use crate::error::SourceError;

/// Why a reconcile was refused, or did not come to its end.
///
/// What was mended before it failed stays mended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// An option cannot be used.
    #[error("the reconcile cannot be built")]
    Option(#[from] OptionError),
    /// A pipeline's windows go by the time of arrival, which no item has.
    #[error(
        "pipeline `{pipeline}` windows by arrival, which no item of the table tells, so it cannot be recounted; leave it out"
    )]
    WindowsByArrival {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// A pipeline counts items that are not in the table any more, and nobody knows which.
    #[error(
        "pipeline `{pipeline}` goes on counting what Time to Live removed, and without a ledger nobody knows what that was, so it cannot be recounted; leave it out, or define it with `.ledger()` and bootstrap it into new tables"
    )]
    KeepsExpired {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// Nothing says what the items of a pipeline contributed, so nothing can be mended.
    #[error(
        "pipeline `{pipeline}` keeps no ledger, so that nothing can be repaired while live is running; reconcile without `repair`, or define it with `.ledger()` and bootstrap it into new tables"
    )]
    RepairWithoutLedger {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The state of a pipeline belongs to something else or to none yet, or could not be asked.
    #[error("the state cannot be reconciled")]
    Refused(#[source] Box<RecordError>),
    /// The state was filled from another table.
    #[error(
        "the state of pipeline `{pipeline}` follows the stream `{stream}`, and the table to compare it with is `{table}`; nothing was read or changed: give the table that the totals are of"
    )]
    OtherTable {
        /// The pipeline.
        pipeline: PipelineName,
        /// The stream that its state belongs to.
        stream: String,
        /// The table that was given.
        table: String,
    },
    /// The source failed, or leaves items out.
    #[error("`{source_name}` cannot be reconciled with; mend the cause and run it again")]
    Source {
        /// The source.
        source_name: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// State, ledger or items could not be read.
    #[error(transparent)]
    Inspection(Box<InspectionError>),
    /// Nothing succeeded for as long as the retry policy allows.
    #[error(
        "given up after {} without success; run it again once the cause has passed", Roughly(*.tried)
    )]
    GaveUp {
        /// How long it was tried.
        tried: Duration,
        /// What failed.
        #[source]
        source: Box<ReconcileError>,
    },
}

impl From<InspectionError> for ReconcileError {
    fn from(error: InspectionError) -> Self {
        Self::Inspection(Box::new(error))
    }
}

impl ReconcileError {
    /// Whether the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(source) => source.is_retryable(),
            Self::Source { source, .. } => source.is_retryable(),
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
