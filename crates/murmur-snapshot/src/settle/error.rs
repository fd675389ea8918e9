use murmur_core::RecordError;
use murmur_state::{OptionError, PipelineName};

use crate::error::SourceError;
use crate::run_record::RunRecordError;

/// Why items may not settle, or could not be told to.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// An option cannot be used.
    #[error("`Settle` cannot be built")]
    Option(#[from] OptionError),
    /// A pipeline has no ledger that its items could leave.
    #[error("pipeline `{pipeline}` keeps no ledger, so no item of it can settle; leave it out")]
    NoLedger {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The definition does not say that items settle.
    #[error(
        "the definition of pipeline `{pipeline}` does not say `.settle()`, and a process without it \
         reports every change of a settled item; add it, deploy it in every process that runs the \
         pipeline, and run this again"
    )]
    NotDefined {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The pipeline was not bootstrapped from this source.
    #[error(
        "there is no record of a bootstrap of pipeline `{pipeline}` from `{source_name}`; bootstrap \
         it first, which also lets items settle, or say where the record is kept (`checkpoints`)"
    )]
    NeverBootstrapped {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// The bootstrap is under way, or was stopped before its end.
    #[error(
        "the bootstrap of pipeline `{pipeline}` from `{source_name}`, run `{run}`, is not finished; \
         let it finish, or run it again: with a definition that says `.settle()` its end lets items \
         settle"
    )]
    NotFinished {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// The run.
        run: String,
    },
    /// The bootstrap filled another state table, or used another definition.
    #[error(
        "the bootstrap from `{source_name}` filled pipeline `{pipeline}` as `{theirs}`, and now it \
         is `{ours}`; give the definition and the tables that were bootstrapped, or bootstrap the \
         ones that are given here"
    )]
    OtherDefinition {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// Its fingerprint when it was bootstrapped.
        theirs: String,
        /// Its fingerprint now.
        ours: String,
    },
    /// The source has no stream, or does not know it.
    #[error(
        "`{source_name}` has no known stream, and items settle by the images of its changes; give \
         the table, with a stream of view type NEW_AND_OLD_IMAGES"
    )]
    NoStream {
        /// The source.
        source_name: String,
    },
    /// The stream lacks images.
    #[error(
        "stream `{stream}` of `{source_name}` does not carry old and new images, by which items \
         settle; a stream's view type cannot be changed, and switching it off and on makes another \
         stream: bootstrap the pipeline as a new version from a table whose stream has \
         NEW_AND_OLD_IMAGES, or leave `.settle()` out"
    )]
    MissingImages {
        /// The source.
        source_name: String,
        /// The stream.
        stream: String,
    },
    /// The state of a pipeline belongs to something else, or to no pipeline yet, or could not be
    /// read.
    #[error("the items of this state cannot settle")]
    Refused(#[source] Box<RecordError>),
    /// The state follows another stream.
    #[error(
        "the state of pipeline `{pipeline}` follows stream `{theirs}`, and the source's stream is \
         `{ours}`; give the table that the totals are of, or, if its stream was switched off and \
         on, bootstrap into new state and marker tables"
    )]
    OtherStream {
        /// The pipeline.
        pipeline: PipelineName,
        /// The stream that its state belongs to.
        theirs: String,
        /// The stream of the source.
        ours: String,
    },
    /// The record of the bootstrap cannot be read.
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
    /// The source could not be described. The message is the source's own.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The note beside the state could not be written for every pipeline.
    #[error("items do not settle in every pipeline yet; fix the cause and run this again")]
    State(#[source] Box<RecordError>),
}

murmur_state::debug_as_message!(SettleError);

impl SettleError {
    /// Whether running the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(source) | Self::State(source) => source.is_retryable(),
            Self::Record { source, .. } => source.is_retryable(),
            Self::Source(source) => source.is_retryable(),
            _ => false,
        }
    }
}
