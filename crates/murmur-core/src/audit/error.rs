use murmur_state::{Grouped, OptionError, PipelineName, StoreError};

use crate::outcome::RecordError;

/// Why an audit did not finish.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// An option cannot be used.
    #[error("the audit cannot begin")]
    Option(#[from] OptionError),
    /// The pipeline has no ledger to compare its state with.
    #[error(
        "pipeline `{pipeline}` keeps no ledger, so there is nothing to audit its state by; recount its table instead, or define it with `.ledger()` and bootstrap it into new tables"
    )]
    NoLedger {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The state belongs to something else, was never bound, or its owner could not be read.
    #[error("the state cannot be audited")]
    Refused(#[source] Box<RecordError>),
    /// Items have settled, so the ledger does not hold their contributions.
    #[error(
        "{} items or more of the ledger of pipeline `{pipeline}` have settled, and it does not say what they contribute, so the state cannot be audited by it; reconcile the pipeline with its table instead, which recounts the keys of settled items",
        Grouped(*items)
    )]
    Settled {
        /// The pipeline.
        pipeline: PipelineName,
        /// The number of settled items met before the audit gave up; there may be more.
        items: u64,
    },
    /// State or ledger could not be read.
    #[error("the audit of pipeline `{pipeline}` did not finish; run it again")]
    Store {
        /// The pipeline.
        pipeline: PipelineName,
        /// The cause.
        #[source]
        source: StoreError,
    },
}

murmur_state::debug_as_message!(AuditError);

impl AuditError {
    /// Whether running it again can help without a change first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Option(_) | Self::NoLedger { .. } | Self::Settled { .. } => false,
            Self::Refused(source) => source.is_retryable(),
            Self::Store { source, .. } => source.is_retryable(),
        }
    }
}
