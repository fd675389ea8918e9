//! Reads a source's segments and feeds the processor, page by page.
//!
//! A worker requests one page and writes it; there are as many workers as pages may be under way.
//! The next cursor of a segment is known as soon as its page is read, so the next free worker reads
//! on, in this segment or another, while the page before is still being written. So all workers are
//! busy until the end, even if segments are of uneven length. Pages may be done in any order; a
//! segment's checkpoint is where its first unfinished page begins.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, Shared, select};
use futures::stream::{FuturesUnordered, StreamExt};
use murmur_core::{Processor, Record, RecordError, RecordOutcome, Row, Side};
use murmur_state::retry::Retry;
use murmur_state::{Causes, Clock, Deadline, Fault, ItemId, OptionError};

use super::counts::{Counts, Tally};
use super::error::BootstrapError;
use super::progress::{Progress, ProgressFn};
use super::proof::{ENOUGH, Proof};
use super::rejections::{FirstRejected, Rejections};
use super::segment_row::SegmentRows;
use super::segments::{Ask, Next, Save, Segments, Took};
use super::watch::Watch;
use crate::budget::{May, ReadPacer, Reserved};
use crate::error::SourceError;
use crate::rejected_row::{RejectedRow, shown_row};
use crate::retried::retried;
use crate::source::{BadRow, Page, Source};

/// The longest time between the request of a page and its writing: a ledger may have forgotten
/// older events (`Ledger`, "What is forgotten").
const PAGE_LIFE: Duration = Duration::from_secs(3600);

/// What all parts of a scan share.
pub(crate) struct Parts<'a, T, S> {
    pub(crate) source: &'a S,
    pub(crate) processor: &'a Processor<T>,
    pub(crate) retry: &'a Retry,
    pub(crate) rows: &'a SegmentRows<'a>,
    pub(crate) rejections: &'a Rejections,
    pub(crate) progress: &'a ProgressFn,
    /// What the source reads, by its own words.
    pub(crate) settings: &'a str,
    /// How many segments there are for all processes together.
    pub(crate) segments: u32,
    /// Whether a page may be written again after a part of it was.
    pub(crate) knows_repeats: bool,
}

/// The state of a scan while it runs.
pub(crate) struct State {
    pub(crate) segments: Segments,
    pub(crate) pace: ReadPacer,
    pub(crate) watch: Watch,
    /// The outcome of the rows that were read.
    pub(crate) counts: Counts,
    /// Rejected rows, at most `max_listed`.
    pub(crate) rejected: Vec<RejectedRow>,
    pub(crate) max_listed: usize,
    pub(crate) proof: Proof,
}

impl State {
    /// Takes back the counts of pages that will be done again, here or by another process.
    fn give_back(&mut self, Tally { counts, rejected }: Tally) {
        self.counts.take_back(&counts);
        self.watch.take_back(&counts);
        for row in rejected {
            if let Some(place) = self.rejected.iter().rposition(|listed| *listed == row) {
                self.rejected.remove(place);
            }
        }
    }

    /// Whether enough rows were read, and all rejected, to judge the source.
    fn has_enough(&self) -> bool {
        self.proof.waits() && self.watch.total().rows >= ENOUGH
    }
}

pub(crate) type Stop<'a> = Shared<BoxFuture<'a, ()>>;

/// A step that has ended.
enum Step {
    Read {
        segment: u32,
        reserved: Reserved,
        /// The page, and the time until which it may be written; `None` if the scan is to stop.
        page: Result<Option<(Page, Deadline)>, BootstrapError>,
    },
    Written {
        segment: u32,
        page: u64,
        tally: Result<Tally, Unwritten>,
    },
    Saved {
        segment: u32,
        /// `None` if another process saved it.
        version: Result<Option<u64>, BootstrapError>,
    },
}

/// A page that was not completely written.
struct Unwritten {
    error: Box<BootstrapError>,
    /// Whether it ran out of time, and may be read again.
    again: bool,
}

/// Reads all segments, with `concurrency` pages at a time, until all are done, one fails, or
/// `shutdown` completes. `true` if all are done. In every case the pages that are being written are
/// finished and their checkpoints saved, because a processor that is cut off may hold claims.
pub(crate) async fn scan<'a, T, S>(
    parts: &'a Parts<'a, T, S>,
    state: &mut State,
    concurrency: usize,
    shutdown: impl Future<Output = ()> + Send + 'a,
) -> Result<bool, BootstrapError>
where
    T: Send + Sync + 'static,
    S: Source,
{
    let (halt, halted) = oneshot::channel::<()>();
    let stop = async move {
        select(pin!(shutdown), halted).await;
    };
    let stop: Stop<'a> = stop.boxed().shared();
    let is_stopping = || stop.clone().now_or_never().is_some();
    let (mut halt, mut error) = (Some(halt), None);
    let mut steps: FuturesUnordered<BoxFuture<'a, Step>> = FuturesUnordered::new();
    let mut pages = 0;
    loop {
        let mut rest = None;
        while pages < concurrency && state.segments.may_read() && !is_stopping() {
            match state.pace.may(parts.now()) {
                May::Begin => {}
                May::Wait(wait) => {
                    rest = Some(parts.clock().sleep(wait));
                    break;
                }
                May::Learn => break,
            }
            let Some(ask) = state.segments.next() else {
                break;
            };
            pages += 1;
            let reserved = state.pace.begin(parts.now());
            steps.push(parts.read(ask, reserved, stop.clone()).boxed());
        }
        let step = match rest {
            None => match steps.next().await {
                Some(step) => step,
                None if error.is_none() && !is_stopping() => {
                    match parts.judge(state).await {
                        Ok(saves) if saves.is_empty() => break,
                        Ok(saves) => steps.extend(saves),
                        Err(failed) => error = Some(failed),
                    }
                    continue;
                }
                None => break,
            },
            // A page that arrives ends the pause, since it may cost less than was set aside.
            Some(rest) => {
                let rest = select(stop.clone(), rest);
                let page = async {
                    match steps.is_empty() {
                        true => pending().await,
                        false => steps.next().await,
                    }
                };
                match select(pin!(page), rest).await {
                    Either::Left((Some(step), _)) => step,
                    Either::Left((None, _)) | Either::Right(_) => continue,
                }
            }
        };
        let went = match step {
            Step::Read {
                segment,
                reserved,
                page,
            } => {
                let begun = match page {
                    Ok(Some((page, deadline))) => {
                        parts.begin(state, segment, reserved, page, deadline)
                    }
                    page => {
                        state.pace.gave_up();
                        page.map(|_| None)
                    }
                };
                if !matches!(begun, Ok(Some(_))) {
                    pages -= 1;
                }
                begun.map(|write| write.into_iter().collect())
            }
            Step::Written {
                segment,
                page,
                tally,
            } => {
                pages -= 1;
                match tally {
                    Ok(tally) => parts.written(state, segment, page, tally),
                    Err(Unwritten { again: true, error }) if !is_stopping() => {
                        let source = parts.source.name();
                        let error = Causes(&*error);
                        tracing::warn!(source, segment, %error, "a page is read again");
                        let dropped = state.segments.again(segment, page);
                        state.give_back(dropped);
                        Ok(Vec::new())
                    }
                    Err(Unwritten { error, .. }) => Err(*error),
                }
            }
            Step::Saved { segment, version } => {
                version.map(|version| parts.saved(state, segment, version))
            }
        };
        let went = match went {
            Ok(more) if error.is_none() && !is_stopping() && state.has_enough() => {
                steps.extend(more);
                parts.judge(state).await
            }
            went => went,
        };
        match went {
            Ok(more) => steps.extend(more),
            // The next attempt reads it again.
            Err(failed) if error.is_none() && is_stopping() && failed.is_retryable() => {
                tracing::debug!(error = %Causes(&failed), "a page failed after the stop");
            }
            Err(failed) => {
                weigh(&mut error, failed);
                // Pages that are being read are dropped, and no further page is begun.
                drop(halt.take());
                parts.retry.stop();
            }
        }
    }
    match error {
        Some(error) => Err(error),
        None => Ok(state.segments.all_done()),
    }
}

/// Keeps the first of several errors, or the first that is not retryable.
fn weigh(first: &mut Option<BootstrapError>, error: BootstrapError) {
    let passes = first.as_ref().is_none_or(BootstrapError::is_retryable);
    let other = match passes && (first.is_none() || !error.is_retryable()) {
        true => first.replace(error),
        false => Some(error),
    };
    if let Some(other) = other {
        tracing::debug!(error = %Causes(&other), "another page failed as well");
    }
}

impl<'a, T: Send + Sync + 'static, S: Source> Parts<'a, T, S> {
    fn clock(&self) -> &dyn Clock {
        &**self.retry.clock()
    }

    fn now(&self) -> Duration {
        self.clock().monotonic()
    }

    async fn read(&self, ask: Ask, reserved: Reserved, stop: Stop<'a>) -> Step {
        let Ask { segment, after } = &ask;
        let recorder = &**self.processor.recorder();
        let name = self.source.name();
        let page = retried(self.retry, recorder, name, Deadline::NONE, || {
            let deadline = Deadline::within(self.clock(), PAGE_LIFE);
            let page = self.source.page(*segment, after.as_ref(), reserved.limit);
            async move { Ok((page.await?, deadline)) }
        });
        // Stop is asked first: a source that always has a page ready must not outrun it.
        let page = match select(stop, pin!(page)).await {
            Either::Left(_) => Ok(None),
            Either::Right((Ok((page, _)), _)) if after.is_some() && page.next == *after => {
                Err(SourceError::Cursor {
                    place: name.to_owned(),
                    cursor: after.iter().map(ToString::to_string).collect(),
                    reason: "the page after it ends where it began; the source is broken".into(),
                }
                .into())
            }
            Either::Right((page, _)) => page.map(Some).map_err(BootstrapError::from),
        };
        Step::Read {
            segment: *segment,
            reserved,
            page,
        }
    }

    /// Notes where the page ends. Returns the write of the page, if it is to be written.
    fn begin(
        &'a self,
        state: &mut State,
        segment: u32,
        reserved: Reserved,
        page: Page,
        deadline: Deadline,
    ) -> Result<Option<BoxFuture<'a, Step>>, BootstrapError> {
        let came = state.pace.came(reserved, &page, self.source.name());
        came.map_err(|error: OptionError| BootstrapError::Option(error))?;
        if deadline.passed(self.clock()) {
            let source = self.source.name();
            tracing::warn!(
                source,
                segment,
                "a page took too long to read, and is read again"
            );
            state.segments.unread(segment);
            return Ok(None);
        }
        let Some(number) = state.segments.read(segment, page.next.clone()) else {
            return Ok(None);
        };
        let write = async move {
            let written = self.write(segment, page, deadline).await;
            Step::Written {
                segment,
                page: number,
                tally: written.map_err(|error| Unwritten {
                    again: self.may_again(&error, deadline),
                    error: Box::new(error),
                }),
            }
        };
        Ok(Some(write.boxed()))
    }

    /// Whether a page was not written only because its time was up: an old page must not be
    /// written. A page that used up its budget or its attempts has failed.
    fn may_again(&self, error: &BootstrapError, deadline: Deadline) -> bool {
        let passes = match error {
            BootstrapError::RowBlocked { .. } => true,
            BootstrapError::Row { source, .. } => match **source {
                RecordError::Callback { .. } => false,
                // Past the deadline the row was not sent at all.
                _ => {
                    source.is_retryable()
                        || source.fault() == Fault::Record && deadline.passed(self.clock())
                }
            },
            _ => false,
        };
        passes && self.knows_repeats && !self.retry.is_exhausted()
    }

    /// Counts a page's rows. An error if any row was neither counted nor passed over.
    async fn write(
        &self,
        segment: u32,
        page: Page,
        deadline: Deadline,
    ) -> Result<Tally, BootstrapError> {
        let mut counts = Counts {
            examined: page.examined,
            rows: (page.rows.len() + page.bad.len()) as u64,
            read_units: page.read_units.unwrap_or_default(),
            ..Counts::default()
        };
        let mut rejected = Vec::new();
        for bad in page.bad {
            let id = bad.id.clone();
            self.reject(segment, bad).await?;
            rejected.extend(self.rejections.of([id.as_str()]));
            counts.rejected += 1;
        }
        let records: Vec<Record> = page.rows.into_iter().map(Record::Scanned).collect();
        let outcomes = match records.is_empty() {
            true => Vec::new(),
            false => self.processor.process(&records, deadline).await,
        };
        rejected.extend(self.rejections.of(records.iter().map(Record::event_id)));
        let (mut failed, mut blocked) = (None, None);
        for (record, outcome) in records.iter().zip(outcomes) {
            match (counts.take(&outcome), outcome) {
                (Some(()), _) => {}
                (None, RecordOutcome::Failed(error)) => {
                    weigh(
                        &mut failed,
                        self.row_error(segment, record.event_id(), error),
                    );
                }
                // The row that blocked it has the error that matters.
                (None, _) => blocked = blocked.or(Some(record.event_id())),
            }
        }
        match (failed, blocked) {
            (Some(error), _) => Err(error),
            (None, None) => Ok(Tally { counts, rejected }),
            (None, Some(row)) => Err(BootstrapError::RowBlocked {
                source_name: self.source.name().to_owned(),
                segment,
                row: shown_row(row),
            }),
        }
    }

    /// Passes over entries that are not rows.
    async fn reject(&self, segment: u32, bad: BadRow) -> Result<(), BootstrapError> {
        let error = RecordError::Undecodable {
            side: Side::New,
            source: bad.error,
        };
        let record = Record::Scanned(Row {
            event_id: bad.id.clone(),
            item_id: ItemId::from_parts([bad.id.as_str()]),
            item: bad.item,
        });
        let rejected = self.processor.reject(&record, error).await;
        rejected.map_err(|error| self.row_error(segment, &bad.id, Box::new(error)))
    }

    /// Reports the page. Returns the saves of its segment's checkpoint and of those that waited for
    /// it.
    fn written(
        &'a self,
        state: &mut State,
        segment: u32,
        page: u64,
        tally: Tally,
    ) -> Result<Vec<BoxFuture<'a, Step>>, BootstrapError> {
        let (counts, rejected) = (tally.counts, tally.rejected.clone());
        let Took::Page(save) = state.segments.written(segment, page, tally) else {
            return Ok(Vec::new());
        };
        state.counts += counts;
        let room = state.max_listed.saturating_sub(state.rejected.len());
        state.rejected.extend(rejected.into_iter().take(room));
        let (done, of) = (state.segments.written_out(), state.segments.of());
        let figures = state.watch.page(&counts, done, of, self.clock());
        let recorder = &**self.processor.recorder();
        state.watch.gauge(&figures, self.source.name(), recorder);
        (self.progress)(&Progress::Page {
            segment,
            page: &counts,
            total: state.watch.total(),
            share_done: figures.share_done,
            time_left: figures.time_left,
            elapsed: figures.elapsed,
        });
        if let Some(late) = state.watch.late(&figures, self.clock()) {
            if let Progress::Late { age, advice, .. } = &late {
                let (source, minutes) = (self.source.name(), age.as_secs() / 60);
                tracing::warn!(
                    source,
                    minutes_since_capture = minutes,
                    "the bootstrap may come too late: {advice}"
                );
            }
            (self.progress)(&late);
        }
        self.proven(state, save.map(|save| *save))
    }

    /// The checkpoints to save, once the source is known to be the right one.
    fn proven(
        &'a self,
        state: &mut State,
        save: Option<Save>,
    ) -> Result<Vec<BoxFuture<'a, Step>>, BootstrapError> {
        let total = state.watch.total();
        let mut saves = match &mut state.proof {
            Proof::Given => Vec::new(),
            Proof::Waiting(saves) if Proof::is_in(total) => std::mem::take(saves),
            // No row was rejected either.
            Proof::Waiting(_) if total.rows == 0 => {
                return Ok(save
                    .map(|save| self.save(save).boxed())
                    .into_iter()
                    .collect());
            }
            Proof::Waiting(saves) => {
                saves.extend(save);
                return Ok(Vec::new());
            }
        };
        state.proof = Proof::Given;
        saves.extend(save);
        Ok(saves
            .into_iter()
            .map(|save| self.save(save).boxed())
            .collect())
    }

    /// After enough rows, or at the end: returns the waiting checkpoints if another process has met
    /// an accepted row.
    async fn judge(
        &'a self,
        state: &mut State,
    ) -> Result<Vec<BoxFuture<'a, Step>>, BootstrapError> {
        if !state.proof.waits() {
            return Ok(Vec::new());
        }
        let others = self.rows.counts(0..self.segments).await?;
        match std::mem::replace(&mut state.proof, Proof::Given) {
            Proof::Waiting(saves) if Proof::is_in(&others) => Ok(saves
                .into_iter()
                .map(|save| self.save(save).boxed())
                .collect()),
            _ => Err(self.all_rejected(state)),
        }
    }

    fn all_rejected(&self, state: &State) -> BootstrapError {
        // Without a first row, all rows were rejected in earlier attempts.
        let first = self.rejections.first().cloned();
        let first = first.unwrap_or_else(|| FirstRejected {
            row: state.rejected.first().cloned().unwrap_or(RejectedRow {
                id: "of an earlier attempt".to_owned(),
                pipeline: None,
                reason: "see there".to_owned(),
            }),
            found: "as it was then".to_owned(),
        });
        BootstrapError::AllRejected {
            source_name: self.source.name().to_owned(),
            settings: self.settings.to_owned(),
            rows: state.watch.total().rows,
            first: Box::new(first),
        }
    }

    async fn save(&self, Save { segment, row, over }: Save) -> Step {
        Step::Saved {
            segment,
            version: self.rows.save(segment, &row, over).await,
        }
    }

    fn saved(
        &'a self,
        state: &mut State,
        segment: u32,
        version: Option<u64>,
    ) -> Vec<BoxFuture<'a, Step>> {
        let Some(version) = version else {
            let (source, run) = (self.source.name(), &self.rows.run);
            tracing::warn!(
                source,
                run,
                segment,
                "another process is at this segment, and has it from now on"
            );
            let dropped = state.segments.leave(segment);
            state.give_back(dropped);
            return Vec::new();
        };
        match state.segments.saved(segment, version) {
            Next::Rest => Vec::new(),
            Next::Save(save) => vec![self.save(*save).boxed()],
            Next::Done => {
                (self.progress)(&Progress::SegmentDone {
                    segment,
                    done: state.segments.done(),
                    of: state.segments.of(),
                });
                Vec::new()
            }
        }
    }

    fn row_error(&self, segment: u32, row: &str, source: Box<RecordError>) -> BootstrapError {
        BootstrapError::Row {
            source_name: self.source.name().to_owned(),
            segment,
            row: shown_row(row),
            source,
        }
    }
}
