//! The passes of a reconcile: over the table, over the ledgers, and over what differed.
//!
//! Pages are read as in a bootstrap: a worker requests a page and compares it, and the next free
//! worker reads on as soon as the next cursor is known. Before items are looked at closely, the
//! pages under way are finished, because the close look waits for the lag and changes the ledger.

use std::collections::VecDeque;
use std::future::pending;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use murmur_core::Rejected;
use murmur_core::audit::ItemNow;
use murmur_core::inspection::{Inspection, LedgerPart};
use murmur_state::error::Cause;
use murmur_state::{Deadline, ItemId, OptionError};

use super::error::ReconcileError;
use super::report::ReconcileStep;
use super::run::Reconcile;
use super::state::State;
use crate::budget::{May, Reserved};
use crate::error::SourceError;
use crate::lookup::{LookedUp, Lookup};
use crate::rejected_row::RejectedRow;
use crate::retried::retried;
use crate::source::{BadRow, Cursor, Page};

/// How many items are looked up at a time.
const LOOK_UPS: usize = 32;

/// The most segments of a Scan (Amazon DynamoDB API Reference, "Scan").
const MOST_SEGMENTS: u32 = 1_000_000;

/// The least cost of looking up an item, in read units.
const ONE_ITEM: f64 = 1.0;

/// A step of a page that has ended.
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

impl<T: Send + Sync + 'static, S: Lookup> Reconcile<T, S> {
    /// Reads all pages. Looks closely at what differs whenever enough is gathered.
    pub(super) async fn scan(
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
                        rest = Some(self.processor.retry().clock().sleep(wait));
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
                // A page that arrives ends the pause, since it may cost less than was set aside.
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
        let (retry, name) = (self.processor.retry(), self.source.name());
        let page = retried(retry, recorder, name, Deadline::NONE, || {
            self.source.page(segment, after.as_ref(), reserved.limit)
        });
        let page = page.await?;
        if page.next.is_some() && page.next == after {
            return Err(SourceError::Cursor {
                place: name.to_owned(),
                cursor: after.map(|after| after.to_string()).unwrap_or_default(),
                reason: "the page after it ends where it began; the source is broken".into(),
            }
            .into());
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

    /// Lists the ledgers, for items that the scan has not seen.
    pub(super) async fn list(
        &self,
        inspection: &mut Inspection<'_, T>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        // First the items that the scan gathered, since a repair changes the ledgers.
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

    /// Reads `open` parts of the ledgers, and those after them, until there is none or many items
    /// are to be looked at.
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
            let (rows, next) = listed?;
            // Before those of the next ledger.
            if let Some(next) = next {
                open.push_front(next);
            }
            state.ledger_rows += rows;
            self.tell(inspection, state, ReconcileStep::Ledger);
        }
    }

    /// Looks closely at all gathered items.
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
        Ok(inspection.look(&look_up).await?)
    }

    /// The items as they are now, in this order.
    async fn look_up(&self, items: Vec<ItemId>) -> Result<Vec<ItemNow>, Cause> {
        let recorder = &**self.processor.recorder();
        let found = stream::iter(items).map(|item| async move {
            let (retry, name) = (self.processor.retry(), self.source.name());
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

    /// Waits until an item may be looked up, and sets aside the least cost of that.
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
            self.processor.retry().clock().sleep(rest).await;
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
}

/// Compares a page's rows.
async fn examine<T: Send + Sync + 'static>(
    inspection: &Inspection<'_, T>,
    page: Page,
) -> Result<Step, ReconcileError> {
    let Page { rows, bad, .. } = page;
    Ok(Step::Examined {
        rows: (rows.len() + bad.len()) as u64,
        rejected: inspection.rows(rows).await?,
        bad,
    })
}
