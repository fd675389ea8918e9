//! The passes of a reconcile: over the table, over the ledgers, and over what differed.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};
use futures::stream::{self, StreamExt, TryStreamExt};
use murmur_core::{
    Compared, Found, Inspection, InspectionError, InspectionOptions, LedgerInspection, Processor,
};
use murmur_state::{Cause, Deadline, ItemId, OptionError, PipelineName, Retry};

use super::ProgressFn;
use super::error::ReconcileError;
use super::report::{Findings, ReconcileProgress, ReconcileStep, Reconciled, ReconciledPipeline};
use crate::error::SourceError;
use crate::lookup::{LookedUp, Lookup};
use crate::report::RejectedRow;
use crate::scan::retried;
use crate::source::{BadRow, Cursor, Page};

/// How many items are looked up at a time.
const LOOK_UPS: usize = 32;

pub(super) struct Run<T, S> {
    pub(super) processor: Processor<T>,
    pub(super) source: S,
    pub(super) retry: Retry,
    pub(super) inspection: InspectionOptions,
    pub(super) concurrency: usize,
    pub(super) remember: usize,
    pub(super) max_suspects: usize,
    pub(super) progress: Box<ProgressFn>,
}

/// A page, decoded and compared.
struct Examined<T> {
    segment: u32,
    next: Option<Cursor>,
    read_units: Option<f64>,
    bad: Vec<BadRow>,
    found: Vec<Found<T>>,
    /// One for each inspection by a ledger, with its place.
    compared: Vec<(usize, Compared)>,
}

/// What a reconcile knows while it runs.
struct State<'a, T> {
    inspections: Vec<Inspection<'a, T>>,
    /// Items that the scan has seen, as far as they are remembered.
    seen: HashSet<ItemId>,
    /// For each inspection the items to be looked at closely.
    suspects: Vec<Vec<ItemId>>,
    rows: u64,
    rejected_rows: u64,
    /// As many of them as the report lists.
    rejected: Vec<RejectedRow>,
    read_units: f64,
    ledger_rows: u64,
}

impl<T: Send + Sync + 'static, S: Lookup> Run<T, S> {
    pub(super) async fn to_end(&self) -> Result<Reconciled, ReconcileError> {
        self.check()?;
        let bound = self.processor.bind(None, Deadline::NONE).await;
        bound.map_err(|error| ReconcileError::Refused(Box::new(error)))?;
        let inspections = self.processor.inspections(self.inspection);
        let mut state = State {
            suspects: inspections.iter().map(|_| Vec::new()).collect(),
            inspections,
            seen: HashSet::new(),
            rows: 0,
            rejected_rows: 0,
            rejected: Vec::new(),
            read_units: 0.0,
            ledger_rows: 0,
        };
        let recounted: Vec<usize> = (0..state.inspections.len())
            .filter(|&place| matches!(state.inspections.get(place), Some(Inspection::Recount(_))))
            .collect();

        self.scan(&mut state, &recounted, true).await?;
        let rows = state.rows;
        let differing = self.compare(&mut state, &recounted).await?;
        self.settle(&mut state).await?;
        self.list(&mut state).await?;
        if !differing.is_empty() {
            self.tell(&state, ReconcileStep::Wait);
            self.retry.clock().sleep(self.inspection.lag).await;
            self.scan(&mut state, &differing, false).await?;
            self.compare(&mut state, &differing).await?;
        }

        let (rejected_rows, read_units) = (state.rejected_rows, state.read_units);
        let rejected = std::mem::take(&mut state.rejected);
        let pipelines = state
            .inspections
            .into_iter()
            .zip(self.processor.pipelines());
        let pipelines = pipelines.map(|(inspection, pipeline)| ReconciledPipeline {
            pipeline: pipeline.name().clone(),
            findings: match inspection {
                Inspection::Ledger(ledger) => Findings::Ledger(ledger.findings()),
                Inspection::Recount(recount) => Findings::Recount(recount.findings()),
            },
        });
        Ok(Reconciled {
            rows,
            rejected_rows,
            rejected,
            read_units,
            pipelines: pipelines.collect(),
        })
    }

    /// Refuses what cannot be right, before anything is read.
    fn check(&self) -> Result<(), ReconcileError> {
        for pipeline in self.processor.pipelines() {
            let name = pipeline.name().clone();
            if pipeline.windows_by_arrival() {
                return Err(ReconcileError::WindowsByArrival { pipeline: name });
            }
            if pipeline.keeps_ledger() {
                continue;
            }
            if self.inspection.repair {
                return Err(ReconcileError::RepairWithoutLedger { pipeline: name });
            }
            if pipeline.keeps_expired_items() {
                return Err(ReconcileError::KeepsExpired { pipeline: name });
            }
        }
        if self.source.segments() == 0 {
            let reason = format!("source `{}` has none; at least 1", self.source.name());
            return Err(OptionError::new("segments", reason).into());
        }
        let whole = self.source.holds_every_item();
        whole.map_err(|error| self.source_error(error))
    }

    /// Reads all pages. Each row goes to the recounts at these places; in the `first` scan also to
    /// the ledgers, and what can never count is noted.
    async fn scan(
        &self,
        state: &mut State<'_, T>,
        recounted: &[usize],
        first: bool,
    ) -> Result<(), ReconcileError> {
        let segments = 0..self.source.segments();
        let mut open: VecDeque<(u32, Option<Cursor>)> =
            segments.map(|segment| (segment, None)).collect();
        while !open.is_empty() {
            let together = open.len().min(self.concurrency);
            let pages = open.drain(..together);
            let inspections = &state.inspections;
            let examined =
                pages.map(|(segment, after)| self.examine(segment, after, inspections, first));
            for page in try_join_all(examined).await? {
                let segment = page.segment;
                if let Some(next) = &page.next {
                    open.push_back((segment, Some(next.clone())));
                }
                self.take(state, page, recounted, first);
            }
            self.tell(state, ReconcileStep::Scan);
            if state.suspects.iter().map(Vec::len).sum::<usize>() >= self.max_suspects {
                self.settle(state).await?;
            }
        }
        Ok(())
    }

    /// Reads a page, decodes its rows, and compares them with the ledgers if asked to.
    async fn examine(
        &self,
        segment: u32,
        after: Option<Cursor>,
        inspections: &[Inspection<'_, T>],
        compare: bool,
    ) -> Result<Examined<T>, ReconcileError> {
        let recorder = &**self.processor.recorder();
        let (retry, name) = (&self.retry, self.source.name());
        let page = retried(retry, recorder, name, Deadline::NONE, || {
            self.source.page(segment, after.as_ref(), None)
        });
        let page = page.await.map_err(|error| self.source_error(error))?;
        let Page {
            rows,
            bad,
            next,
            read_units,
            ..
        } = page;
        if next.is_some() && next == after {
            return Err(self.source_error(SourceError::Cursor {
                place: self.source.name().to_owned(),
                cursor: next.map(|next| next.to_string()).unwrap_or_default(),
                reason: "the page after it ends where it began; the source is broken".into(),
            }));
        }
        let found: Vec<Found<T>> = rows
            .into_iter()
            .map(|row| self.processor.find(row))
            .collect();
        let mut compared = Vec::new();
        if compare && !found.is_empty() {
            for (place, inspection) in inspections.iter().enumerate() {
                if let Inspection::Ledger(ledger) = inspection {
                    let looked = ledger.compare(&found).await;
                    compared.push((place, looked.map_err(|e| failed(ledger.pipeline(), e))?));
                }
            }
        }
        Ok(Examined {
            segment,
            next,
            read_units,
            bad,
            found,
            compared,
        })
    }

    /// Takes what a page gave.
    fn take(
        &self,
        state: &mut State<'_, T>,
        mut page: Examined<T>,
        recounted: &[usize],
        first: bool,
    ) {
        state.rows += (page.found.len() + page.bad.len()) as u64;
        state.read_units += page.read_units.unwrap_or_default();
        let mut rejected = Vec::new();
        for &place in recounted {
            if let Some(Inspection::Recount(recount)) = state.inspections.get_mut(place) {
                rejected.extend(recount.add(&page.found));
            }
        }
        if !first {
            return;
        }
        rejected.extend(page.found.iter_mut().filter_map(Found::take_rejected));
        for (place, compared) in page.compared {
            rejected.extend(compared.rejected);
            if let Some(suspects) = state.suspects.get_mut(place) {
                suspects.extend(compared.differing);
            }
        }
        if self.by_ledger() {
            let room = self.remember.saturating_sub(state.seen.len());
            let items = page
                .found
                .iter()
                .take(room)
                .map(|found| found.item().clone());
            state.seen.extend(items);
        }
        state.rejected_rows += (rejected.len() + page.bad.len()) as u64;
        let rejected = rejected.iter().map(RejectedRow::from);
        let rows = page.bad.iter().map(RejectedRow::from).chain(rejected);
        let room = self
            .inspection
            .max_listed
            .saturating_sub(state.rejected.len());
        state.rejected.extend(rows.take(room));
    }

    fn by_ledger(&self) -> bool {
        let mut pipelines = self.processor.pipelines().iter();
        pipelines.any(|pipeline| pipeline.keeps_ledger())
    }

    /// Compares the recounts at these places with the state; the places of those that need another.
    async fn compare(
        &self,
        state: &mut State<'_, T>,
        recounted: &[usize],
    ) -> Result<Vec<usize>, ReconcileError> {
        let mut differing = Vec::new();
        for &place in recounted {
            if let Some(Inspection::Recount(recount)) = state.inspections.get_mut(place) {
                let again = recount.compare().await;
                if again.map_err(|error| failed(recount.pipeline(), error))? {
                    differing.push(place);
                }
            }
        }
        Ok(differing)
    }

    /// Goes over what the ledgers know, for items that the scan has not seen.
    async fn list(&self, state: &mut State<'_, T>) -> Result<(), ReconcileError> {
        for place in 0..state.inspections.len() {
            let mut after: Option<String> = None;
            while let Some(Inspection::Ledger(ledger)) = state.inspections.get_mut(place) {
                let listed = ledger.contributing(after.as_deref()).await;
                let listed = listed.map_err(|error| failed(ledger.pipeline(), error))?;
                state.ledger_rows += listed.entries.len() as u64;
                let unseen = listed.entries.into_iter();
                let unseen = unseen.filter(|item| !state.seen.contains(item));
                if let Some(suspects) = state.suspects.get_mut(place) {
                    suspects.extend(unseen);
                    if suspects.len() >= self.max_suspects {
                        self.settle(state).await?;
                    }
                }
                self.tell(state, ReconcileStep::Ledger);
                after = listed.next;
                if after.is_none() {
                    break;
                }
            }
        }
        self.settle(state).await
    }

    /// Looks closely at all that is gathered.
    async fn settle(&self, state: &mut State<'_, T>) -> Result<(), ReconcileError> {
        for place in 0..state.inspections.len() {
            let items = state.suspects.get_mut(place).map(std::mem::take);
            let items = items.unwrap_or_default();
            if items.is_empty() {
                continue;
            }
            let step = ReconcileStep::Settle {
                items: items.len() as u64,
            };
            self.tell(state, step);
            if let Some(Inspection::Ledger(ledger)) = state.inspections.get_mut(place) {
                self.settle_in(ledger, items).await?;
            }
        }
        Ok(())
    }

    async fn settle_in(
        &self,
        ledger: &mut LedgerInspection<'_, T>,
        items: Vec<ItemId>,
    ) -> Result<(), ReconcileError> {
        let look_up = |items: Vec<ItemId>| -> BoxFuture<'_, Result<Vec<Found<T>>, Cause>> {
            Box::pin(self.look_up(items))
        };
        let settled = ledger.settle(items, &look_up).await;
        settled.map_err(|error| failed(ledger.pipeline(), error))
    }

    /// The items as they are now, in this order.
    async fn look_up(&self, items: Vec<ItemId>) -> Result<Vec<Found<T>>, Cause> {
        let recorder = &**self.processor.recorder();
        let found = stream::iter(items).map(|item| async move {
            let (retry, name) = (&self.retry, self.source.name());
            let looked_up = retried(retry, recorder, name, Deadline::NONE, || {
                self.source.look_up(&item)
            });
            Ok(match looked_up.await? {
                LookedUp::Row(row) => self.processor.find(row),
                LookedUp::Bad(_) => Found::unreadable(item),
                LookedUp::Gone => Found::gone(item),
            })
        });
        let found = found.buffered(LOOK_UPS).try_collect().await;
        found.map_err(|error: SourceError| Arc::new(error) as Cause)
    }

    fn tell(&self, state: &State<'_, T>, step: ReconcileStep) {
        let suspects = state.inspections.iter().map(|inspection| match inspection {
            Inspection::Ledger(ledger) => ledger.suspects(),
            Inspection::Recount(recount) => recount.suspects(),
        });
        (self.progress)(&ReconcileProgress {
            step,
            rows: state.rows,
            ledger_rows: state.ledger_rows,
            suspects: suspects.sum(),
        });
    }

    fn source_error(&self, source: SourceError) -> ReconcileError {
        ReconcileError::Source {
            source_name: self.source.name().to_owned(),
            source,
        }
    }
}

fn failed(pipeline: &PipelineName, source: impl Into<InspectionError>) -> ReconcileError {
    ReconcileError::Inspection {
        pipeline: pipeline.clone(),
        source: Box::new(source.into()),
    }
}
