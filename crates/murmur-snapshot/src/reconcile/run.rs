//! The passes of a reconcile: over the table, over the ledgers, and over what differed.
//!
//! Pages are read as a bootstrap reads them: a worker takes a page from being asked for to being
//! compared, and the next free worker reads on as soon as it is known where. Before items are looked
//! at closely what is under way is finished, since that waits for the lag and changes what is known
//! of the ledger.

use std::collections::VecDeque;
use std::future::pending;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use murmur_core::{
    Inspection, InspectionError, InspectionOptions, ItemNow, LedgerPart, Pass, Processor, Rejected,
};
use murmur_state::{Cause, Deadline, ItemId, OptionError, Retry};

use super::ProgressFn;
use super::error::ReconcileError;
use super::report::{ReconcileProgress, ReconcileStep, Reconciled};
use crate::budget::{Account, May, Pace, ReadBudget, Reserved};
use crate::error::SourceError;
use crate::lookup::{LookedUp, Lookup};
use crate::report::RejectedRow;
use crate::scan::retried;
use crate::source::{BadRow, Cursor, Description, Page};

/// How many items are looked up at a time.
const LOOK_UPS: usize = 32;

/// In how many segments DynamoDB lists at most (API reference, Scan).
const MOST_SEGMENTS: u32 = 1_000_000;

/// What looking up an item costs at least, in read units.
const ONE_ITEM: f64 = 1.0;

pub(super) struct Run<T, S> {
    pub(super) processor: Processor<T>,
    pub(super) source: S,
    pub(super) retry: Retry,
    pub(super) inspection: InspectionOptions,
    pub(super) budget: ReadBudget,
    pub(super) concurrency: usize,
    pub(super) max_suspects: usize,
    pub(super) progress: Box<ProgressFn>,
    pub(super) spending: Mutex<Spending>,
}

/// What the source has cost so far, and when it may be read again.
#[derive(Default)]
pub(super) struct Spending {
    /// `None` before the source was described.
    pace: Option<Pace>,
    units: f64,
}

/// Something of a page that came to its end.
enum Step {
    Read {
        segment: u32,
        reserved: Reserved,
        page: Page,
    },
    Examined {
        rows: u64,
        bad: Vec<BadRow>,
        rejected: Vec<Rejected>,
    },
}

/// What a reconcile knows while it runs.
struct State {
    /// How many times the table was begun to be read.
    scans: u32,
    rows: u64,
    /// How many rows the first scan gave.
    first_rows: u64,
    rows_expected: Option<u64>,
    rejected_rows: u64,
    /// As many of them as the report lists.
    rejected: Vec<RejectedRow>,
    ledger_rows: u64,
    begun: Duration,
}

impl<T: Send + Sync + 'static, S: Lookup> Run<T, S> {
    pub(super) async fn to_end(&self) -> Result<Reconciled, ReconcileError> {
        self.check()?;
        let checked = self.processor.check_binding(Deadline::NONE).await;
        let streams = checked.map_err(|error| ReconcileError::Refused(Box::new(error)))?;
        let description = self.describe().await?;
        self.check_table(&streams, &description)?;
        let listings = self.begin_spending(&description)?;
        let inspection = self.processor.inspect(self.inspection, Some(&listings));
        let inspection = inspection.await;
        let mut inspection =
            inspection.map_err(|error| ReconcileError::Refused(Box::new(error)))?;
        let mut state = State {
            scans: 0,
            rows: 0,
            first_rows: 0,
            rows_expected: description.rows,
            rejected_rows: 0,
            rejected: Vec::new(),
            ledger_rows: 0,
            begun: self.now(),
        };
        loop {
            match inspection.next().await.map_err(failed)? {
                Pass::Table => self.scan(&mut inspection, &mut state).await?,
                Pass::TableAgain => {
                    self.tell(&inspection, &state, ReconcileStep::Wait);
                    self.retry.clock().sleep(self.inspection.lag).await;
                    self.scan(&mut inspection, &mut state).await?;
                }
                Pass::Ledgers => self.list(&mut inspection, &mut state).await?,
                Pass::Done => break,
            }
        }
        Ok(Reconciled {
            rows: state.first_rows,
            rejected_rows: state.rejected_rows,
            rejected: state.rejected,
            read_units: self.spending().units,
            pipelines: inspection.findings(),
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

    /// Refuses a table that none of the state came from: all of it would be taken for lost. The
    /// table's stream may be another by now.
    fn check_table(
        &self,
        streams: &[Option<Arc<str>>],
        description: &Description,
    ) -> Result<(), ReconcileError> {
        let Some(table) = &description.table_arn else {
            return Ok(());
        };
        for (pipeline, stream) in self.processor.pipelines().iter().zip(streams) {
            if let Some(stream) = stream
                && !stream
                    .strip_prefix(&**table)
                    .is_some_and(|rest| rest.starts_with("/stream/"))
            {
                return Err(ReconcileError::OtherTable {
                    pipeline: pipeline.name().clone(),
                    stream: stream.to_string(),
                    table: table.clone(),
                });
            }
        }
        Ok(())
    }

    async fn describe(&self) -> Result<Description, ReconcileError> {
        let recorder = &**self.processor.recorder();
        let (retry, name) = (&self.retry, self.source.name());
        let described = retried(retry, recorder, name, Deadline::NONE, || {
            self.source.describe()
        });
        described.await.map_err(|error| self.source_error(error))
    }

    /// Begins to keep the budget; what keeps it for listings of ledgers and states.
    fn begin_spending(&self, description: &Description) -> Result<Account, ReconcileError> {
        let pace = Pace::new(self.budget, self.source.name(), description)?;
        let listings = Account::new(pace.per_second(), Arc::clone(self.retry.clock()));
        self.spending().pace = Some(pace);
        Ok(listings)
    }

    fn spending(&self) -> MutexGuard<'_, Spending> {
        self.spending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.retry.clock().monotonic()
    }

    /// Reads all pages, and looks closely at what differs whenever that is much.
    async fn scan(
        &self,
        inspection: &mut Inspection<'_, T>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        state.scans += 1;
        let segments = 0..self.source.segments();
        let mut open: VecDeque<(u32, Option<Cursor>)> =
            segments.map(|segment| (segment, None)).collect();
        while !open.is_empty() {
            self.pages(inspection, &mut open, state).await?;
            if self.is_full(inspection) {
                self.look(inspection, state).await?;
            }
        }
        if state.scans == 1 {
            state.first_rows = state.rows;
        }
        Ok(())
    }

    fn is_full(&self, inspection: &Inspection<'_, T>) -> bool {
        inspection.gathered() >= self.max_suspects
    }

    /// Reads `open` pages, and those after them, until all are compared or many items differ.
    async fn pages(
        &self,
        inspection: &Inspection<'_, T>,
        open: &mut VecDeque<(u32, Option<Cursor>)>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        let mut steps: FuturesUnordered<BoxFuture<'_, Result<Step, ReconcileError>>> =
            FuturesUnordered::new();
        let mut pages = 0;
        loop {
            let mut rest = None;
            while pages < self.concurrency && !open.is_empty() && !self.is_full(inspection) {
                let mut spending = self.spending();
                let Some(pace) = &mut spending.pace else {
                    break;
                };
                match pace.may(self.now()) {
                    May::Begin => {}
                    May::Wait(wait) => {
                        rest = Some(self.retry.clock().sleep(wait));
                        break;
                    }
                    May::Learn => break,
                }
                let Some((segment, after)) = open.pop_front() else {
                    break;
                };
                pages += 1;
                let reserved = pace.begin(self.now());
                steps.push(self.read(segment, after, reserved).boxed());
            }
            let step = match rest {
                None => match steps.next().await {
                    None => return Ok(()),
                    Some(step) => step,
                },
                // A page that comes cuts the rest short, since it may cost less than was set aside.
                Some(rest) => {
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
            match step? {
                Step::Read {
                    segment,
                    reserved,
                    page,
                } => {
                    self.came(reserved, &page)?;
                    if let Some(next) = &page.next {
                        open.push_back((segment, Some(next.clone())));
                    }
                    steps.push(examine(inspection, page).boxed());
                }
                Step::Examined {
                    rows,
                    bad,
                    rejected,
                } => {
                    pages -= 1;
                    state.rows += rows;
                    if state.scans == 1 {
                        self.note(state, bad, rejected);
                    }
                    self.tell(inspection, state, ReconcileStep::Scan);
                }
            }
        }
    }

    async fn read(
        &self,
        segment: u32,
        after: Option<Cursor>,
        reserved: Reserved,
    ) -> Result<Step, ReconcileError> {
        let recorder = &**self.processor.recorder();
        let (retry, name) = (&self.retry, self.source.name());
        let page = retried(retry, recorder, name, Deadline::NONE, || {
            self.source.page(segment, after.as_ref(), reserved.limit)
        });
        let page = page.await.map_err(|error| self.source_error(error))?;
        if page.next.is_some() && page.next == after {
            return Err(self.source_error(SourceError::Cursor {
                place: name.to_owned(),
                cursor: after.map(|after| after.to_string()).unwrap_or_default(),
                reason: "the page after it ends where it began; the source is broken".into(),
            }));
        }
        Ok(Step::Read {
            segment,
            reserved,
            page,
        })
    }

    /// Pays for a page.
    fn came(&self, reserved: Reserved, page: &Page) -> Result<(), OptionError> {
        let mut spending = self.spending();
        spending.units += page.read_units.unwrap_or_default();
        match &mut spending.pace {
            Some(pace) => pace.came(reserved, page, self.source.name()),
            None => Ok(()),
        }
    }

    /// Notes rows that can never count.
    fn note(&self, state: &mut State, bad: Vec<BadRow>, rejected: Vec<Rejected>) {
        state.rejected_rows += (rejected.len() + bad.len()) as u64;
        let rejected = rejected.iter().map(RejectedRow::from);
        let rows = bad.iter().map(RejectedRow::from).chain(rejected);
        let most = self.inspection.max_listed;
        let room = most.saturating_sub(state.rejected.len());
        state.rejected.extend(rows.take(room));
    }

    /// Goes over what the ledgers know, for items that the scan has not seen.
    async fn list(
        &self,
        inspection: &mut Inspection<'_, T>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        // What the scan gathered first, since a repair changes what the ledgers know.
        self.look(inspection, state).await?;
        let segments = u32::try_from(self.concurrency).unwrap_or(u32::MAX);
        let segments = NonZeroU32::new(segments.min(MOST_SEGMENTS)).unwrap_or(NonZeroU32::MIN);
        let mut open = inspection.ledger_parts(segments);
        while !open.is_empty() {
            self.parts(inspection, &mut open, state).await?;
            self.look(inspection, state).await?;
        }
        Ok(())
    }

    /// Reads `open` parts of the ledgers, and those after them, until there is none or many items are
    /// to be looked at.
    async fn parts(
        &self,
        inspection: &Inspection<'_, T>,
        open: &mut VecDeque<LedgerPart>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        let mut parts = FuturesUnordered::new();
        loop {
            while parts.len() < self.concurrency && !self.is_full(inspection) {
                let Some(part) = open.pop_front() else {
                    break;
                };
                parts.push(inspection.ledger(part));
            }
            let Some(listed) = parts.next().await else {
                return Ok(());
            };
            let (rows, next) = listed.map_err(failed)?;
            // Before those of the next ledger.
            if let Some(next) = next {
                open.push_front(next);
            }
            state.ledger_rows += rows;
            self.tell(inspection, state, ReconcileStep::Ledger);
        }
    }

    /// Looks closely at all that is gathered.
    async fn look(
        &self,
        inspection: &mut Inspection<'_, T>,
        state: &State,
    ) -> Result<(), ReconcileError> {
        let items = inspection.gathered() as u64;
        if items == 0 {
            return Ok(());
        }
        self.tell(inspection, state, ReconcileStep::Settle { items });
        let look_up = |items: Vec<ItemId>| -> BoxFuture<'_, Result<Vec<ItemNow>, Cause>> {
            Box::pin(self.look_up(items))
        };
        inspection.look(&look_up).await.map_err(failed)
    }

    /// The items as they are now, in this order.
    async fn look_up(&self, items: Vec<ItemId>) -> Result<Vec<ItemNow>, Cause> {
        let recorder = &**self.processor.recorder();
        let found = stream::iter(items).map(|item| async move {
            let (retry, name) = (&self.retry, self.source.name());
            self.pay_for_look_up().await;
            let looked_up = retried(retry, recorder, name, Deadline::NONE, || {
                self.source.look_up(&item)
            });
            let looked = looked_up.await?;
            self.looked_up(looked.read_units);
            Ok(match looked.found {
                LookedUp::Row(row) => ItemNow::Row(row),
                LookedUp::Bad(_) => ItemNow::Unreadable,
                LookedUp::Gone => ItemNow::Gone,
            })
        });
        let found = found.buffered(LOOK_UPS).try_collect().await;
        found.map_err(|error: SourceError| Arc::new(error) as Cause)
    }

    /// Waits until an item may be looked up, and sets aside what that costs at least.
    async fn pay_for_look_up(&self) {
        loop {
            let now = self.now();
            let rest = match &mut self.spending().pace {
                None => return,
                Some(pace) => match pace.rest(now) {
                    Some(rest) => rest,
                    None => return pace.spend(now, ONE_ITEM),
                },
            };
            self.retry.clock().sleep(rest).await;
        }
    }

    fn looked_up(&self, read_units: Option<f64>) {
        let (now, mut spending) = (self.now(), self.spending());
        let units = read_units.unwrap_or(ONE_ITEM);
        spending.units += read_units.unwrap_or_default();
        if let Some(pace) = &mut spending.pace {
            pace.spend(now, units - ONE_ITEM);
        }
    }

    fn tell(&self, inspection: &Inspection<'_, T>, state: &State, step: ReconcileStep) {
        let read_units = self.spending().units;
        (self.progress)(&ReconcileProgress {
            step,
            rows: state.rows,
            rows_expected: state.rows_expected,
            ledger_rows: state.ledger_rows,
            suspects: inspection.suspects(),
            read_units,
            elapsed: self.now().saturating_sub(state.begun),
        });
    }

    fn source_error(&self, source: SourceError) -> ReconcileError {
        ReconcileError::Source {
            source_name: self.source.name().to_owned(),
            source,
        }
    }
}

/// Compares a page's rows.
async fn examine<T: Send + Sync + 'static>(
    inspection: &Inspection<'_, T>,
    page: Page,
) -> Result<Step, ReconcileError> {
    let Page { rows, bad, .. } = page;
    Ok(Step::Examined {
        rows: (rows.len() + bad.len()) as u64,
        rejected: inspection.rows(rows).await.map_err(failed)?,
        bad,
    })
}

fn failed(source: InspectionError) -> ReconcileError {
    ReconcileError::Inspection(Box::new(source))
}
