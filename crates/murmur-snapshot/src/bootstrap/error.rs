use std::time::Duration;

use murmur_core::{BoxError, RecordError};
use murmur_state::{OptionError, PipelineName, Roughly, StoreError};

use super::rejections::FirstRejected;
use crate::error::SourceError;
use crate::run_record::RunRecordError;

/// Why a bootstrap was refused, or did not come to its end.
///
/// Whatever it is, the run's record stays as it was: refused before anything was read, or
/// unfinished. How far each segment is, is kept.
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
    /// Some of the pipelines were bootstrapped in a run that is finished, and others were not.
    #[error(
        "pipeline `{pipeline}` was bootstrapped from `{source_name}` already, in run `{run}`, and {} not in that run; bootstrap those by themselves, or make the state and marker tables of all anew and ask for `restart`",
        .missing.join(", ")
    )]
    SomeFinished {
        /// The pipeline that was bootstrapped.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// The finished run.
        run: String,
        /// The pipelines that were not bootstrapped in it.
        missing: Vec<String>,
    },
    /// An unfinished run that began more than [`SURE_LIFE`](murmur_state::SURE_LIFE) ago.
    #[error(
        "the unfinished run of pipeline `{pipeline}` over `{source_name}` began {hours} h ago, and after 22 h 30 min changes made since may be gone from the stream, and markers forgotten; make its state and marker tables anew and ask for `restart`. If it keeps a ledger, and live has been reading the stream since before the run began, say `live_is_running`"
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
        "pipeline `{pipeline}` has an unfinished run over `{source_name}`, and would count the rows it had reached twice; make its state table anew and ask for `restart`, or give it a mode that recognises repeats"
    )]
    WouldCountTwice {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// The pipelines of this bootstrap are not those of the unfinished run.
    #[error(
        "pipeline `{pipeline}` has an unfinished run over `{source_name}` together with others; run exactly these again: {}; or make their state and marker tables anew and ask for `restart`",
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
    /// The unfinished run is not the one that this worker was told to take part in.
    #[error(
        "pipeline `{pipeline}` has the unfinished run `{theirs}` over `{source_name}`, and this worker is for run `{ours}`; give all workers the id of one run, or make the state and marker tables anew and ask for `restart`"
    )]
    OtherRun {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// The unfinished run.
        theirs: String,
        /// The run that was asked for.
        ours: String,
    },
    /// The source is not set up as it was when the run began.
    #[error(
        "the unfinished run of pipeline `{pipeline}` reads {theirs}, and this is {ours}; set the source up as it was, or make the state and marker tables anew and ask for `restart`"
    )]
    OtherSettings {
        /// The pipeline.
        pipeline: PipelineName,
        /// The settings that the run began with.
        theirs: String,
        /// The settings now.
        ours: String,
    },
    /// A pipeline is not defined as it was when the run began, or its state is elsewhere.
    #[error(
        "the run over `{source_name}` feeds pipeline `{pipeline}` as `{theirs}`, and now it is `{ours}`; define it as it was, or make new state and marker tables for it; with the same marker table, ask for `restart`"
    )]
    OtherDefinition {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// Its fingerprint when the run began.
        theirs: String,
        /// Its fingerprint now.
        ours: String,
    },
    /// The stream of the run is not the one that the table has now.
    #[error(
        "the run over `{source_name}` hands over to stream `{theirs}`, and its stream is now `{ours}`: what was changed between the two is in neither; make the state and marker tables anew and begin again; with the same marker table, ask for `restart`"
    )]
    OtherStream {
        /// The source.
        source_name: String,
        /// The stream of the run's token.
        theirs: String,
        /// The stream now.
        ours: String,
    },
    /// Whoever looked at the handoff token ([`on_token`](crate::BootstrapBuilder::on_token)) said no.
    #[error(
        "run `{run}` over `{source_name}` may not begin, or go on, with its handoff token; nothing was read: mend what the cause says, and run it again"
    )]
    TokenRefused {
        /// The source.
        source_name: String,
        /// The run. Nothing is kept of it if this was its first attempt.
        run: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// A pipeline needs an image that the stream does not carry.
    #[error(
        "pipeline `{pipeline}` needs {needed}, which stream `{stream}` does not carry; switch on a stream of view type NEW_AND_OLD_IMAGES"
    )]
    MissingImages {
        /// The pipeline.
        pipeline: PipelineName,
        /// The stream.
        stream: String,
        /// The images it needs.
        needed: &'static str,
    },
    /// A ledger, and a source that leaves rows out by attributes that can change.
    #[error(
        "pipeline `{pipeline}` keeps a ledger, and the filter of `{source_name}` leaves rows out by {}: nobody would know what an item that changes there contributes; leave the filter out and skip in the decoder what must not count (`Decoded::Skip`), or filter by the primary key only",
        .attributes.join(", ")
    )]
    LedgerOfSome {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// The attributes outside the primary key.
        attributes: Vec<String>,
    },
    /// A ledger, and a source that shows what may be a moment old, or older.
    #[error(
        "pipeline `{pipeline}` keeps a ledger, and `{source_name}` is not read consistently: what it does not show yet may be gone from the stream's beginning already; read it consistently (a table without `eventually_consistent`; a file cannot be)"
    )]
    LedgerOfThePast {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// A pipeline's state belongs to something else, or could not be asked.
    #[error("the state that is to be filled from `{source_name}` cannot be; nothing was read")]
    State {
        /// The source.
        source_name: String,
        /// Which pipeline, and why.
        #[source]
        source: Box<RecordError>,
    },
    /// All rows were counted, and it could not be said beside a pipeline's state that its items
    /// [settle](murmur_core::Definition::settle).
    #[error(
        "all rows of `{source_name}` are counted, but its items could not be let settle; mend the cause and run it again: nothing is read twice"
    )]
    NotSettling {
        /// The source.
        source_name: String,
        /// Which pipeline, and why.
        #[source]
        source: Box<RecordError>,
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
    /// What is kept of a segment cannot be read.
    #[error("the checkpoint of segment {segment} of `{source_name}` cannot be used")]
    SegmentRow {
        /// The source.
        source_name: String,
        /// The segment.
        segment: u32,
        /// Why.
        #[source]
        source: Box<RunRecordError>,
    },
    /// How far a segment is could not be saved.
    #[error(
        "how far segment {segment} of `{source_name}` is was not saved; mend the cause and run it again"
    )]
    SegmentNotSaved {
        /// The source.
        source_name: String,
        /// The segment.
        segment: u32,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// Another process saved how far the segment is, and is not done with it.
    #[error(
        "another process is at segment {segment} of `{source_name}` in run `{run}`; end one of the two (an old one may still be running), and run this again if that was the other"
    )]
    SegmentTaken {
        /// The source.
        source_name: String,
        /// The segment.
        segment: u32,
        /// The run.
        run: String,
    },
    /// What fails in passing failed for longer than the budget of the
    /// [policy](murmur_core::ProcessorBuilder::retry).
    #[error(
        "given up after {} without success; what was done is kept: run it again once the cause has passed", Roughly(*.tried)
    )]
    GaveUp {
        /// How long it was tried.
        tried: Duration,
        /// What failed.
        #[source]
        source: Box<BootstrapError>,
    },
    /// It was stopped before it had a run to report of.
    #[error("the bootstrap from `{source_name}` was stopped before its end; run it again")]
    Stopped {
        /// The source.
        source_name: String,
    },
    /// Every row was rejected.
    #[error(
        "none of the {rows} rows read of `{source_name}` ({settings}) can count, so it is not what these pipelines and their decoder read; give the right source or decoder, or take it as it is with `accept_all_rejected`. The first, `{}`, {}, was rejected: {}",
        .first.row.id, .first.found, .first.row.reason
    )]
    AllRejected {
        /// The source.
        source_name: String,
        /// What it reads, by its own words.
        settings: String,
        /// How many rows were read, those of earlier attempts included.
        rows: u64,
        /// The first row that was rejected.
        first: Box<FirstRejected>,
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
            Self::Row { source, .. }
            | Self::State { source, .. }
            | Self::NotSettling { source, .. } => source.is_retryable(),
            Self::RecordNotSaved { source, .. } | Self::SegmentNotSaved { source, .. } => {
                source.is_retryable()
            }
            Self::Record { source, .. } | Self::SegmentRow { source, .. } => source.is_retryable(),
            Self::GaveUp { .. } | Self::Stopped { .. } | Self::RowBlocked { .. } => true,
            _ => false,
        }
    }
}
