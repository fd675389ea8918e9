//! Reading a source's segments and feeding the processor, a page at a time.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, Shared, join_all, select};
use murmur_core::{Processor, Record, RecordError, RecordOutcome, Row, Side};
use murmur_state::{Causes, Deadline, ItemId, Recorder, Retry};

use crate::error::{BootstrapError, SourceError};
use crate::report::{Counts, Progress};
use crate::source::{BadRow, Cursor, Page, Source};

pub(crate) type ProgressFn = dyn Fn(&Progress<'_>) + Send + Sync;

/// What every part of a scan works with.
pub(crate) struct Parts<'a, T, S> {
    pub(crate) source: &'a S,
    pub(crate) processor: &'a Processor<T>,
    pub(crate) retry: &'a Retry,
    pub(crate) progress: &'a ProgressFn,
}

/// How far a scan came.
pub(crate) struct Scanned {
    pub(crate) counts: Counts,
    pub(crate) complete: bool,
}

struct Scan<'a, T, S> {
    parts: Parts<'a, T, S>,
    segments: u32,
    next: AtomicU64,
    stop: Shared<BoxFuture<'a, ()>>,
    halt: Mutex<Option<oneshot::Sender<()>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counts: Counts,
    done: u32,
    error: Option<BootstrapError>,
}

/// Reads all segments, `concurrency` of them at a time, until all are done, one fails, or
/// `shutdown` completes. In any case the pages under way are finished: a processor that is cut
/// off may hold claims.
pub(crate) async fn scan<'a, T, S>(
    parts: Parts<'a, T, S>,
    concurrency: usize,
    shutdown: impl Future<Output = ()> + Send + 'a,
) -> Result<Scanned, BootstrapError>
where
    T: Send + Sync + 'static,
    S: Source,
{
    let (halt, halted) = oneshot::channel();
    let stop = async move {
        select(pin!(shutdown), halted).await;
    };
    let segments = parts.source.segments();
    let scan = Scan {
        parts,
        segments,
        next: AtomicU64::new(0),
        stop: stop.boxed().shared(),
        halt: Mutex::new(Some(halt)),
        state: Mutex::default(),
    };
    let workers = concurrency.min(usize::try_from(segments).unwrap_or(usize::MAX));
    join_all((0..workers).map(|_| scan.work())).await;
    let state = std::mem::take(&mut *scan.state());
    match state.error {
        Some(error) => Err(error),
        None => Ok(Scanned {
            counts: state.counts,
            complete: state.done == segments,
        }),
    }
}

impl<T: Send + Sync + 'static, S: Source> Scan<'_, T, S> {
    /// Takes segments until there are none left.
    async fn work(&self) {
        loop {
            let Ok(segment) = u32::try_from(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            if segment >= self.segments {
                return;
            }
            match self.segment(segment).await {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(error) => {
                    self.state().error.get_or_insert(error);
                    // The others stop at their next page.
                    drop(
                        self.halt
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .take(),
                    );
                    return;
                }
            }
        }
    }

    /// Reads one segment to its end; breaks if it was stopped before.
    async fn segment(&self, segment: u32) -> Result<ControlFlow<()>, BootstrapError> {
        let mut after: Option<Cursor> = None;
        loop {
            let Some(page) = self.read(segment, after.as_ref()).await? else {
                return Ok(ControlFlow::Break(()));
            };
            let next = page.next.clone();
            self.take(segment, page).await?;
            match next {
                None => break,
                Some(next) if after.as_ref() == Some(&next) => {
                    return Err(self.source_error(SourceError::Cursor {
                        place: self.parts.source.name().to_owned(),
                        cursor: next.to_string(),
                        reason: "the page after it ends where it began; the source is broken"
                            .into(),
                    }));
                }
                next => after = next,
            }
        }
        let done = {
            let mut state = self.state();
            state.done += 1;
            state.done
        };
        (self.parts.progress)(&Progress::SegmentDone {
            segment,
            done,
            of: self.segments,
        });
        Ok(ControlFlow::Continue(()))
    }

    /// The next page; `None` if the scan is to stop.
    async fn read(
        &self,
        segment: u32,
        after: Option<&Cursor>,
    ) -> Result<Option<Page>, BootstrapError> {
        let Parts {
            source,
            processor,
            retry,
            ..
        } = &self.parts;
        let recorder = &**processor.recorder();
        let page = retried(retry, recorder, source.name(), || {
            source.page(segment, after)
        });
        // Stop is asked first: a source that always has a page ready must not outrun it.
        match select(self.stop.clone(), pin!(page)).await {
            Either::Left(_) => Ok(None),
            Either::Right((page, _)) => page.map(Some).map_err(|error| self.source_error(error)),
        }
    }

    /// Counts a page's rows; an error if any of them neither counts nor is passed over.
    async fn take(&self, segment: u32, page: Page) -> Result<(), BootstrapError> {
        let mut counts = Counts {
            examined: page.examined,
            rows: (page.rows.len() + page.bad.len()) as u64,
            read_units: page.read_units.unwrap_or_default(),
            ..Counts::default()
        };
        for bad in page.bad {
            self.reject(segment, bad).await?;
            counts.rejected += 1;
        }
        let records: Vec<Record> = page.rows.into_iter().map(Record::Scanned).collect();
        if !records.is_empty() {
            let outcomes = self.parts.processor.process(&records, Deadline::NONE).await;
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
            if let Some(row) = blocked {
                return Err(BootstrapError::RowBlocked {
                    source_name: self.parts.source.name().to_owned(),
                    segment,
                    row: row.to_owned(),
                });
            }
        }
        let total = {
            let mut state = self.state();
            state.counts += counts;
            state.counts
        };
        (self.parts.progress)(&Progress::Page {
            segment,
            page: &counts,
            total: &total,
        });
        Ok(())
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
        self.parts
            .processor
            .reject(&record, error)
            .await
            .map_err(|error| self.row_error(segment, &bad.id, Box::new(error)))
    }

    fn row_error(&self, segment: u32, row: &str, source: Box<RecordError>) -> BootstrapError {
        BootstrapError::Row {
            source_name: self.parts.source.name().to_owned(),
            segment,
            row: row.to_owned(),
            source,
        }
    }

    fn source_error(&self, source: SourceError) -> BootstrapError {
        BootstrapError::Source {
            source_name: self.parts.source.name().to_owned(),
            source,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a source until it answers, fails for good, or attempts or time are used up.
///
/// Boxed, because a source's futures nest deeply already and the compiler gives up on deeper ones.
pub(crate) fn retried<'a, A, Op, Fut>(
    retry: &'a Retry,
    recorder: &'a dyn Recorder,
    source_name: &'a str,
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
    retry.run(Deadline::NONE, on_retry, operation).boxed()
}
