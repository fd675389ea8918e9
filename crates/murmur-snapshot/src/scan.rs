//! Reading a source's segments and feeding the processor, a page at a time.
//!
//! A worker takes one page from being asked for to being written, and there are as many workers
//! as may be at it at once. Where a segment goes on is known as soon as a page of it is read, so
//! the next free worker reads on, in this segment or another, while the page before is still
//! being written: all are busy to the end, though segments are of uneven length. In whatever
//! order pages are done with, a segment's checkpoint is the end of the longest beginning of them
//! that is.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, Shared, select};
use futures::stream::{FuturesUnordered, StreamExt};
use murmur_core::{Processor, Record, RecordError, RecordOutcome, Row, Side};
use murmur_state::{Causes, Clock, Deadline, ItemId, OptionError, Recorder, Retry};

use crate::budget::{May, Pace, Reserved};
use crate::error::{BootstrapError, SourceError};
use crate::rejections::Rejections;
use crate::report::{Counts, Progress, RejectedRow, Tally, shown_row};
use crate::segment_row::SegmentRows;
use crate::segments::{Ask, Next, Save, Segments};
use crate::source::{BadRow, Page, Source};
use crate::watch::Watch;

pub(crate) type ProgressFn = dyn Fn(&Progress<'_>) + Send + Sync;

/// How long after it was asked for a page may be written, at most: a ledger may have forgotten
/// whatever is older (`Ledger`, "What is forgotten").
const PAGE_LIFE: Duration = Duration::from_secs(3600);

/// What every part of a scan works with.
pub(crate) struct Parts<'a, T, S> {
    pub(crate) source: &'a S,
    pub(crate) processor: &'a Processor<T>,
    pub(crate) retry: &'a Retry,
    pub(crate) rows: &'a SegmentRows<'a>,
    pub(crate) rejections: &'a Rejections,
    pub(crate) progress: &'a ProgressFn,
}

/// What changes while it goes on.
pub(crate) struct State {
    pub(crate) segments: Segments,
    pub(crate) pace: Pace,
    pub(crate) watch: Watch,
    /// What became of the rows that were read.
    pub(crate) counts: Counts,
    /// Rows that were rejected, no more than `max_listed`.
    pub(crate) rejected: Vec<RejectedRow>,
    pub(crate) max_listed: usize,
}

type Stop<'a> = Shared<BoxFuture<'a, ()>>;

/// Something that came to its end.
enum Step {
    Read {
        segment: u32,
        reserved: Reserved,
        deadline: Deadline,
        /// `None` if the scan is to stop.
        page: Result<Option<Page>, BootstrapError>,
    },
    Written {
        segment: u32,
        page: u64,
        tally: Result<Tally, BootstrapError>,
    },
    Saved {
        segment: u32,
        version: Result<u64, BootstrapError>,
    },
}

/// Reads all segments, with `concurrency` pages at it at a time, until all are done, one fails,
/// or `shutdown` completes; `true` if all are done. In any case pages that are being written are
/// finished, and how far they bring their segments is saved: a processor that is cut off may hold
/// claims.
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
    let (mut halt, mut error) = (Some(halt), None);
    let mut steps: FuturesUnordered<BoxFuture<'a, Step>> = FuturesUnordered::new();
    let mut pages = 0;
    loop {
        let mut rest = None;
        while pages < concurrency
            && state.segments.may_read()
            && stop.clone().now_or_never().is_none()
        {
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
                None => break,
                Some(step) => step,
            },
            // A page that comes cuts the rest short, since it may cost less than was set aside.
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
                deadline,
                page,
            } => {
                let begun = page.and_then(|page| match page {
                    Some(page) => parts
                        .begin(state, segment, reserved, page, deadline)
                        .map(Some),
                    None => Ok(None),
                });
                if !matches!(begun, Ok(Some(_))) {
                    state.pace.gave_up();
                    pages -= 1;
                }
                begun
            }
            Step::Written {
                segment,
                page,
                tally,
            } => {
                pages -= 1;
                tally.map(|tally| parts.written(state, segment, page, tally))
            }
            Step::Saved { segment, version } => {
                version.map(|version| parts.saved(state, segment, version))
            }
        };
        match went {
            Ok(more) => steps.extend(more),
            Err(failed) => {
                error.get_or_insert(failed);
                // What is being read is dropped, and nothing more is begun.
                drop(halt.take());
            }
        }
    }
    match error {
        Some(error) => Err(error),
        None => Ok(state.segments.all_done()),
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
        let deadline = Deadline::within(self.clock(), PAGE_LIFE);
        let recorder = &**self.processor.recorder();
        let name = self.source.name();
        let page = retried(self.retry, recorder, name, deadline, || {
            self.source.page(*segment, after.as_ref(), reserved.limit)
        });
        // Stop is asked first: a source that always has a page ready must not outrun it.
        let page = match select(stop, pin!(page)).await {
            Either::Left(_) => Ok(None),
            Either::Right((Ok(page), _)) if after.is_some() && page.next == *after => Err(self
                .source_error(SourceError::Cursor {
                    place: name.to_owned(),
                    cursor: after.iter().map(ToString::to_string).collect(),
                    reason: "the page after it ends where it began; the source is broken".into(),
                })),
            Either::Right((page, _)) => page.map(Some).map_err(|error| self.source_error(error)),
        };
        Step::Read {
            segment: *segment,
            reserved,
            deadline,
            page,
        }
    }

    /// Notes where the page ends; what writes it.
    fn begin(
        &'a self,
        state: &mut State,
        segment: u32,
        reserved: Reserved,
        page: Page,
        deadline: Deadline,
    ) -> Result<BoxFuture<'a, Step>, BootstrapError> {
        if deadline.passed(self.clock()) {
            return Err(BootstrapError::PageTooOld {
                source_name: self.source.name().to_owned(),
                segment,
            });
        }
        let came = state.pace.came(reserved, &page, self.source.name());
        came.map_err(|error: OptionError| BootstrapError::Option(error))?;
        let number = state.segments.read(segment, page.next.clone());
        let write = async move {
            Step::Written {
                segment,
                page: number,
                tally: self.write(segment, page, deadline).await,
            }
        };
        Ok(write.boxed())
    }

    /// Counts a page's rows; an error if any of them neither counts nor is passed over.
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
        let mut blocked = None;
        for (record, outcome) in records.iter().zip(outcomes) {
            match (counts.take(&outcome), outcome) {
                (Some(()), _) => {}
                (None, RecordOutcome::Failed(error)) => {
                    return Err(self.row_error(segment, record.event_id(), error));
                }
                // The row that blocked it has the better error.
                (None, _) => blocked = blocked.or(Some(record.event_id())),
            }
        }
        match blocked {
            None => Ok(Tally { counts, rejected }),
            Some(row) => Err(BootstrapError::RowBlocked {
                source_name: self.source.name().to_owned(),
                segment,
                row: shown_row(row),
            }),
        }
    }

    /// Passes over what is no row.
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

    /// Tells of the page; what saves how far it brings its segment, if it does.
    fn written(
        &'a self,
        state: &mut State,
        segment: u32,
        page: u64,
        tally: Tally,
    ) -> Option<BoxFuture<'a, Step>> {
        let counts = tally.counts;
        state.counts += counts;
        let room = state.max_listed.saturating_sub(state.rejected.len());
        let listed = tally.rejected.iter().take(room);
        state.rejected.extend(listed.cloned());
        let save = state.segments.written(segment, page, tally);
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
        save.map(|save| self.save(save).boxed())
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
        version: u64,
    ) -> Option<BoxFuture<'a, Step>> {
        match state.segments.saved(segment, version) {
            Next::Rest => None,
            Next::Save(save) => Some(self.save(*save).boxed()),
            Next::Done => {
                (self.progress)(&Progress::SegmentDone {
                    segment,
                    done: state.segments.done(),
                    of: state.segments.of(),
                });
                None
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

    fn source_error(&self, source: SourceError) -> BootstrapError {
        BootstrapError::Source {
            source_name: self.source.name().to_owned(),
            source,
        }
    }
}

/// Asks a source until it answers, fails for good, or attempts or time are used up.
///
/// Boxed, because a source's futures nest deeply already and the compiler gives up on deeper ones.
pub(crate) fn retried<'a, A, Op, Fut>(
    retry: &'a Retry,
    recorder: &'a dyn Recorder,
    source_name: &'a str,
    deadline: Deadline,
    operation: Op,
) -> BoxFuture<'a, Result<A, SourceError>>
where
    A: Send + 'a,
    Op: FnMut() -> Fut + Send + 'a,
    Fut: Future<Output = Result<A, SourceError>> + Send + 'a,
{
    let on_retry = move |error: &SourceError| {
        tracing::warn!(source = source_name, error = %Causes(error), "the source failed");
        let name = format!("{source_name}:retry");
        recorder.count(&name, 1);
        recorder.error(&name, error);
    };
    retry.run(deadline, on_retry, operation).boxed()
}
