use std::time::Duration;

use murmur_core::{BoxError, RecordError};
use murmur_state::outage::Roughly;
use murmur_state::{Grouped, OptionError, PipelineName, StoreError};

use super::rejections::FirstRejected;
use crate::error::SourceError;
use crate::rejected_row::shown_row;
use crate::run_record::RunRecordError;

/// Why a bootstrap was refused, or failed.
///
/// In every case the run's record stays as it was: absent if the run was refused before it began,
/// unfinished otherwise. The checkpoints of its segments are kept.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// An option cannot be used.
    #[error("the bootstrap cannot be built")]
    Option(#[from] OptionError),
    /// A pipeline's windows go by the time of arrival, which a scanned row does not have.
    #[error(
        "pipeline `{pipeline}` windows by arrival, and a scanned row does not say when it \
         arrived; give its `window` a time of the item, or leave it out of the bootstrap"
    )]
    WindowsByArrival {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// A finished run bootstrapped some of the pipelines, but not all of them.
    #[error(
        "pipeline `{pipeline}` was bootstrapped from `{source_name}` already, in run `{run}`, and \
         {} not in that run; bootstrap the pipelines of each run by themselves, since each run has \
         a handoff token of its own, or make the state and marker tables of all again and ask for \
         `restart`",
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
    /// An unfinished run that began more than [`SURE_LIFE`](murmur_state::store::SURE_LIFE) ago.
    #[error(
        "the unfinished run of pipeline `{pipeline}` over `{source_name}` began {hours} h ago; \
         after 22 h 30 min the stream may have lost changes made since then, and the marker table \
         may have forgotten events; make its state and marker tables again and ask for `restart`. \
         If it keeps a ledger, and the stream consumer has been running since before the run \
         began, say `live_is_running`"
    )]
    TooOld {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// How long ago, in whole hours.
        hours: u64,
    },
    /// An unfinished run of a pipeline that counts repeated rows again.
    #[error(
        "pipeline `{pipeline}` has an unfinished run over `{source_name}`, and would count the \
         rows it had reached twice; make its state table again and ask for `restart`, or give it \
         a mode that recognises repeats"
    )]
    WouldCountTwice {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// The pipelines of this bootstrap are not those of the unfinished run.
    #[error(
        "pipeline `{pipeline}` has an unfinished run over `{source_name}` together with others; \
         run exactly these again: {}; or make their state and marker tables again and ask for \
         `restart`",
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
    /// The unfinished run is not the one that this worker belongs to.
    #[error(
        "pipeline `{pipeline}` has the unfinished run `{theirs}` over `{source_name}`, and this \
         worker is for run `{ours}`; give all workers the id of one run, or make the state and \
         marker tables again and ask for `restart`"
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
        "the unfinished run of pipeline `{pipeline}` reads {theirs}, and this is {ours}; set the \
         source up as it was, or make the state and marker tables again and ask for `restart`"
    )]
    OtherSettings {
        /// The pipeline.
        pipeline: PipelineName,
        /// The settings that the run began with.
        theirs: String,
        /// The settings now.
        ours: String,
    },
    /// A pipeline is not defined as it was when the run began, or its state is in another table.
    #[error(
        "the run over `{source_name}` feeds pipeline `{pipeline}` as `{theirs}`, and now it is \
         `{ours}`; define it as it was, or make new state and marker tables for it; with the same \
         marker table, ask for `restart`"
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
        "the run over `{source_name}` hands over to stream `{theirs}`, and its stream is now \
         `{ours}`: neither has the changes made between the two; make the state and marker tables \
         again and bootstrap; with the same marker table, ask for `restart`"
    )]
    OtherStream {
        /// The source.
        source_name: String,
        /// The stream of the run's token.
        theirs: String,
        /// The stream now.
        ours: String,
    },
    /// The check of the handoff token ([`on_token`](crate::bootstrap::BootstrapBuilder::on_token)) refused it.
    #[error(
        "run `{run}` over `{source_name}` may not begin, or go on, with its handoff token; \
         nothing was read: fix the cause, and run it again"
    )]
    TokenRefused {
        /// The source.
        source_name: String,
        /// The run. If this was its first attempt, no record of it is kept.
        run: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// A pipeline needs an image that the stream does not carry.
    #[error(
        "pipeline `{pipeline}` needs {needed}, which stream `{stream}` does not carry; switch on \
         a stream of view type NEW_AND_OLD_IMAGES"
    )]
    MissingImages {
        /// The pipeline.
        pipeline: PipelineName,
        /// The stream.
        stream: String,
        /// The images it needs.
        needed: &'static str,
    },
    /// A pipeline keeps a ledger, and the source leaves rows out by attributes that can change.
    #[error(
        "pipeline `{pipeline}` keeps a ledger, and the filter of `{source_name}` leaves rows out \
         by {}: what an item contributes would be unknown after it changes there; leave the \
         filter out and skip in the decoder what must not count (`Decoded::Skip`), or filter by \
         the primary key only",
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
    /// A pipeline keeps a ledger, and the source may show old contents.
    #[error(
        "pipeline `{pipeline}` keeps a ledger, and `{source_name}` is not read consistently: a \
         change that it does not show yet may be from before the handoff token, so the stream \
         would not bring it either; read it consistently (a table without \
         `eventually_consistent`; a file cannot be)"
    )]
    LedgerOfThePast {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
    },
    /// A pipeline's state belongs to something else, or could not be read.
    #[error("the state that is to be filled from `{source_name}` cannot be; nothing was read")]
    State {
        /// The source.
        source_name: String,
        /// Which pipeline, and why.
        #[source]
        source: Box<RecordError>,
    },
    /// All rows were counted, but the note beside a pipeline's state that its items
    /// [settle](murmur_core::Definition::settle) could not be written.
    #[error(
        "all rows of `{source_name}` are counted, but its items could not be let settle; fix the \
         cause and run it again: nothing is read twice"
    )]
    NotSettling {
        /// The source.
        source_name: String,
        /// Which pipeline, and why.
        #[source]
        source: Box<RecordError>,
    },
    /// Another process began a run at the same time.
    #[error(
        "another bootstrap of pipeline `{pipeline}` over `{source_name}` was begun meanwhile; let \
         it finish"
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
    #[error(
        "the record of the run of pipeline `{pipeline}` over `{source_name}` was not saved; fix \
         the cause and run it again"
    )]
    RecordNotSaved {
        /// The pipeline.
        pipeline: PipelineName,
        /// The source.
        source_name: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// The checkpoint of a segment cannot be read.
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
    /// The checkpoint of a segment could not be saved.
    #[error(
        "the checkpoint of segment {segment} of `{source_name}` was not saved; fix the cause and \
         run it again"
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
    /// Another process saved the segment's checkpoint, and has not finished the segment.
    #[error(
        "another process is at segment {segment} of `{source_name}` in run `{run}`; end one of \
         the two (an old one may still be running), and run this again if you ended the other"
    )]
    SegmentTaken {
        /// The source.
        source_name: String,
        /// The segment.
        segment: u32,
        /// The run.
        run: String,
    },
    /// Retries failed for longer than the budget of the
    /// [policy](murmur_core::ProcessorBuilder::retry).
    #[error(
        "given up after {} without success; what was done is kept: run it again once the cause \
         has passed",
        Roughly(*.tried)
    )]
    GaveUp {
        /// How long it was tried.
        tried: Duration,
        /// What failed.
        #[source]
        source: Box<BootstrapError>,
    },
    /// It was stopped before it had a run to report.
    #[error("the bootstrap from `{source_name}` was stopped before its end; run it again")]
    Stopped {
        /// The source.
        source_name: String,
    },
    /// Every row was rejected.
    #[error(
        "none of the {} rows read of `{source_name}` ({settings}) can count, so it is not what \
         these pipelines and their decoder read; give the right source or decoder, or take it as \
         it is with `accept_all_rejected`. The first, {}, {}, was rejected: {}",
        Grouped(*.rows), shown_row(&.first.row.id), .first.found, .first.row.reason
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
    /// The source failed. The message is the source's own.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A row was not counted by every pipeline that should count it.
    #[error(
        "row {row} of `{source_name}`, segment {segment}, was not counted; fix the cause and run \
         it again: what was counted is recognised, except by at-least-once pipelines"
    )]
    Row {
        /// The source.
        source_name: String,
        /// Its segment.
        segment: u32,
        /// The row's key as people write it, such as `order_id = "o1"`.
        row: String,
        /// Why.
        #[source]
        source: Box<RecordError>,
    },
    /// A row waits for another of the same key, which failed.
    #[error(
        "row {row} of `{source_name}`, segment {segment}, was held back by an earlier row of its \
         key; run it again: what was counted is recognised, except by at-least-once pipelines"
    )]
    RowBlocked {
        /// The source.
        source_name: String,
        /// Its segment.
        segment: u32,
        /// The row's key as people write it, such as `order_id = "o1"`.
        row: String,
    },
}

murmur_state::debug_as_message!(BootstrapError);

impl BootstrapError {
    /// Whether running the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(source) => source.is_retryable(),
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
