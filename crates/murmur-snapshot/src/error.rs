use murmur_core::RecordError;
use murmur_state::{Cause, Failure, Fault, OptionError, PipelineName, StoreError};

use crate::run_record::{RunRecord, RunRecordError};

/// Why a source could not be read. `place` says which, such as ``table `orders` ``.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source's capacity is used up.
    #[error(
        "{place}: throttled; it is tried again while time allows, more capacity or fewer segments help"
    )]
    Throttled {
        /// Which source.
        place: String,
        /// The answer that said so.
        #[source]
        source: Option<Cause>,
    },
    /// A server error, a timeout, a broken connection, a failed disk.
    #[error("{place}: it could not be read; try again later")]
    Unavailable {
        /// Which source.
        place: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// The set-up is wrong: `advice` says what to do.
    #[error("{place}: {advice}")]
    Setup {
        /// Which source.
        place: String,
        /// What to do.
        advice: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// The cursor does not continue anything here.
    #[error("{place}: cannot continue at cursor `{cursor}`: {reason}")]
    Cursor {
        /// Which source.
        place: String,
        /// The cursor's text.
        cursor: String,
        /// Why not, and what would be right.
        reason: String,
    },
}

impl SourceError {
    /// What the failure asks of the caller.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Throttled { .. } => Fault::Contention,
            Self::Unavailable { .. } => Fault::Transient,
            Self::Setup { .. } | Self::Cursor { .. } => Fault::Setup,
        }
    }

    /// Whether trying the same again can help.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }
}

impl Failure for SourceError {
    fn fault(&self) -> Fault {
        SourceError::fault(self)
    }
}

/// Why a bootstrap was refused, or did not come to its end.
///
/// Whatever it is, the run's record stays as it was: refused before anything was read, or
/// unfinished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// An option cannot be used.
    #[error("the bootstrap cannot be built")]
    Option(#[from] OptionError),
    /// A pipeline's windows go by the time of arrival, which a scanned row does not have.
    #[error(
        "pipeline `{pipeline}` windows by arrival, and a scanned row does not say when it arrived; give its `window` a time of the item, or leave it out of the bootstrap"
    )]
    WindowsByArrival {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// A finished run is not repeated unless asked for by name.
    #[error(
        "pipeline `{pipeline}` was bootstrapped from `{source_name}` already; go on to live, or make its state and marker tables anew and ask for `again`"
    )]
    AlreadyFinished {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// The record of the finished run, with its handoff token.
        record: Box<RunRecord>,
    },
    /// An unfinished run whose first scan began more than 24 hours ago.
    #[error(
        "the unfinished run of pipeline `{pipeline}` over `{source_name}` began {hours} h ago, and a stream keeps 24 h: changes made since may be gone; make its state and marker tables anew and ask for `again`"
    )]
    TooOld {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// How long ago, in whole hours.
        hours: u64,
    },
    /// An unfinished run of a pipeline that counts whatever comes again once more.
    #[error(
        "pipeline `{pipeline}` has an unfinished run over `{source_name}`, and would count the rows it had reached twice; make its state table anew and ask for `again`, or give it a mode that recognises repeats"
    )]
    WouldCountTwice {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// The pipelines of this bootstrap are not those of the unfinished run.
    #[error(
        "pipeline `{pipeline}` has an unfinished run over `{source_name}` together with others; run exactly these again: {}; or make their state and marker tables anew and ask for `again`",
        .together.join(", ")
    )]
    OtherPipelines {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// The pipelines of the unfinished run.
        together: Vec<String>,
    },
    /// Somebody else began a run at the same time.
    #[error(
        "another bootstrap of pipeline `{pipeline}` over `{source_name}` was begun meanwhile; let it finish"
    )]
    BegunElsewhere {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// The record of a run cannot be read.
    #[error("the record of the run of pipeline `{pipeline}` over `{source_name}` cannot be used")]
    Record {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// Why.
        #[source]
        source: Box<RunRecordError>,
    },
    /// The record of a run could not be saved.
    #[error("the record of the run of pipeline `{pipeline}` over `{source_name}` was not saved")]
    RecordNotSaved {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// The source failed.
    #[error("`{source_name}` could not be read to its end; mend the cause and run it again")]
    Source {
        /// The source.
        source_name: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// A row was not counted everywhere it should be.
    #[error(
        "row `{row}` of `{source_name}`, segment {segment}, was not counted; mend the cause and run it again: what was counted is recognised, except by at-least-once pipelines"
    )]
    Row {
        /// The source.
        source_name: String,
        /// Its segment.
        segment: u32,
        /// The row's event id.
        row: String,
        /// Why.
        #[source]
        source: Box<RecordError>,
    },
    /// A row waits for another of the same key, which failed.
    #[error(
        "row `{row}` of `{source_name}`, segment {segment}, was held back by an earlier row of its key; run it again: what was counted is recognised, except by at-least-once pipelines"
    )]
    RowBlocked {
        /// The source.
        source_name: String,
        /// Its segment.
        segment: u32,
        /// The row's event id.
        row: String,
    },
}

impl BootstrapError {
    /// Whether running the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source { source, .. } => source.is_retryable(),
            Self::Row { source, .. } => source.is_retryable(),
            Self::RecordNotSaved { source, .. } => source.is_retryable(),
            Self::Record { source, .. } => source.is_retryable(),
            Self::RowBlocked { .. } => true,
            _ => false,
        }
    }
}
