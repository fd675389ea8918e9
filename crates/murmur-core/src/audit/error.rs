use murmur_state::{OptionError, PipelineName, StoreError};

use crate::outcome::RecordError;

/// Why an audit did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// An option cannot be used.
    #[error("the audit cannot be begun")]
    Option(#[from] OptionError),
    /// There is nothing to compare the state with.
    #[error(
        "pipeline `{pipeline}` keeps no ledger, so there is nothing to audit its state by; recount its table instead, or define it with `.ledger()` and bootstrap it into new tables"
    )]
    NoLedger {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The state belongs to something else or to none yet, or could not be asked whom it belongs to.
    #[error("the state cannot be audited")]
    Refused(#[source] Box<RecordError>),
    /// What items contribute that have settled is in no ledger.
    #[error(
        "{items} items or more of the ledger of pipeline `{pipeline}` have settled, and it does not say what they contribute, so the state cannot be audited by it; reconcile the pipeline with its table instead, which recounts the keys of settled items"
    )]
    Settled {
        /// The pipeline.
        pipeline: PipelineName,
        /// How many had been met when it gave up; there may be more.
        items: u64,
    },
    /// State or ledger could not be read.
    #[error("the audit of pipeline `{pipeline}` did not come to its end; run it again")]
    Store {
        /// The pipeline.
        pipeline: PipelineName,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl AuditError {
    /// Whether the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Option(_) | Self::NoLedger { .. } | Self::Settled { .. } => false,
            Self::Refused(source) => source.is_retryable(),
            Self::Store { source, .. } => source.is_retryable(),
        }
    }
}
