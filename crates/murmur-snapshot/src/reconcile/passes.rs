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
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use murmur_core::{Compared, Contributing, Found, InspectionError, LedgerInspection, Recounted};
use murmur_state::{Cause, Deadline, ItemId, ListSegment, OptionError, PipelineName, StoreError};

use super::error::ReconcileError;
use super::inspections::{Inspections, OfKeys, OfLedger};
use super::report::ReconcileStep;
use super::run::Reconcile;
use super::state::{Purpose, State};
use crate::budget::{May, Reserved};
use crate::error::SourceError;
use crate::lookup::{LookedUp, Lookup};
use crate::rejected_row::RejectedRow;
use crate::retried::retried;
use crate::source::{BadRow, Cursor, Page};

/// How many items are looked up at a time.
const LOOK_UPS: usize = 32;

/// In how many segments DynamoDB lists at most (API reference, Scan).
const MOST_SEGMENTS: u32 = 1_000_000;

/// What looking up an item costs at least, in read units.
const ONE_ITEM: f64 = 1.0;

/// Something of a page that came to its end.
enum Step<T> {
    Read {
        segment: u32,
        reserved: Reserved,
        page: Page,
    },
    Examined(Examined<T>),
}

/// A page, decoded and compared.
struct Examined<T> {
    bad: Vec<BadRow>,
    found: Vec<Found<T>>,
    /// One for each ledger, in their order.
    compared: Vec<Compared>,
}

impl<T: Send + Sync + 'static, S: Lookup> Reconcile<T, S> {
    /// Reads all pages, and looks closely at what differs whenever that is much.
    pub(super) async fn scan(
        &self,
        inspections: &mut Inspections<'_, T>,
        state: &mut State,
        purpose: Purpose<'_>,
    ) -> Result<(), ReconcileError> {
        let segments = 0..self.source.segments();
        let mut open: VecDeque<(u32, Option<Cursor>)> =
            segments.map(|segment| (segment, None)).collect();
        while !open.is_empty() {
            let Inspections { ledgers, recounts } = &mut *inspections;
            self.pages(ledgers, recounts, &mut open, state, purpose)
                .await?;
            if self.is_full(state) {
                self.settle(inspections, state).await?;
            }
        }
        Ok(())
    }

    fn is_full(&self, state: &State) -> bool {
        state.suspects.iter().map(Vec::len).sum::<usize>() >= self.max_suspects
    }

    /// Reads `open` pages, and those after them, until all are compared or many items differ.
    async fn pages(
        &self,
        ledgers: &[OfLedger<'_, T>],
        recounts: &mut [OfKeys<'_, T>],
        open: &mut VecDeque<(u32, Option<Cursor>)>,
        state: &mut State,
        purpose: Purpose<'_>,
    ) -> Result<(), ReconcileError> {
        let mut steps: FuturesUnordered<BoxFuture<'_, Result<Step<T>, ReconcileError>>> =
            FuturesUnordered::new();
        let mut pages = 0;
        loop {
            let mut rest = None;
            while pages < self.concurrency && !open.is_empty() && !self.is_full(state) {
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
                    steps.push(self.examine(ledgers, page, purpose.first).boxed());
                }
                Step::Examined(page) => {
                    pages -= 1;
                    self.take(recounts, state, page, purpose);
                    let suspects = ledgers.iter().map(|of| of.items.suspects()).sum::<u64>()
                        + recounts.iter().map(|of| of.keys.suspects()).sum::<u64>();
                    self.tell_of(suspects, state, ReconcileStep::Scan);
                }
            }
        }
    }

    async fn read(
        &self,
        segment: u32,
        after: Option<Cursor>,
        reserved: Reserved,
    ) -> Result<Step<T>, ReconcileError> {
        let recorder = &**self.processor.recorder();
        let (retry, name) = (self.processor.retry(), self.source.name());
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

    /// Decodes a page's rows, and compares them with the ledgers if asked to.
    async fn examine(
        &self,
        ledgers: &[OfLedger<'_, T>],
        page: Page,
        compare: bool,
    ) -> Result<Step<T>, ReconcileError> {
        let rows = page.rows.into_iter();
        let found: Vec<Found<T>> = rows.map(|row| self.processor.find(row)).collect();
        let mut compared = Vec::new();
        if compare && !found.is_empty() {
            for OfLedger { items, .. } in ledgers {
                let looked = items.compare(&found).await;
                compared.push(looked.map_err(|e| failed(items.pipeline(), e))?);
            }
        }
        Ok(Step::Examined(Examined {
            bad: page.bad,
            found,
            compared,
        }))
    }

    /// Takes what a page gave.
    fn take(
        &self,
        recounts: &mut [OfKeys<'_, T>],
        state: &mut State,
        mut page: Examined<T>,
        purpose: Purpose<'_>,
    ) {
        state.rows += (page.found.len() + page.bad.len()) as u64;
        let mut rejected = Vec::new();
        for &place in purpose.recounts {
            if let Some(of) = recounts.get_mut(place) {
                let refused = of.keys.add(&page.found);
                // The comparison with the ledger tells of the same.
                if !of.beside_ledger {
                    rejected.extend(refused);
                }
            }
        }
        if !purpose.first {
            return;
        }
        rejected.extend(page.found.iter_mut().filter_map(Found::take_rejected));
        for (compared, suspects) in page.compared.into_iter().zip(&mut state.suspects) {
            rejected.extend(compared.rejected);
            suspects.extend(compared.differing);
        }
        if !state.suspects.is_empty() {
            let room = self.remember.saturating_sub(state.seen.len());
            let items = page.found.iter().take(room);
            items.for_each(|found| state.seen.insert(found.item()));
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

    /// Compares the recounts at these places with the state: the places of those that need the same
    /// keys again, and of those that have further keys.
    pub(super) async fn compare(
        &self,
        inspections: &mut Inspections<'_, T>,
        recounts: &[usize],
    ) -> Result<(Vec<usize>, Vec<usize>), ReconcileError> {
        let (mut again, mut rest) = (Vec::new(), Vec::new());
        for &place in recounts {
            if let Some(OfKeys { keys, .. }) = inspections.recounts.get_mut(place) {
                let compared = keys.compare().await;
                match compared.map_err(|error| failed(keys.pipeline(), error))? {
                    Recounted::Done => {}
                    Recounted::Again => again.push(place),
                    Recounted::Rest => rest.push(place),
                }
            }
        }
        Ok((again, rest))
    }

    /// Goes over what the ledgers know, for items that the scan has not seen.
    pub(super) async fn list(
        &self,
        inspections: &mut Inspections<'_, T>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        let of = u32::try_from(self.concurrency).unwrap_or(u32::MAX);
        let of = NonZeroU32::new(of.min(MOST_SEGMENTS)).unwrap_or(NonZeroU32::MIN);
        for place in 0..inspections.ledgers.len() {
            let mut open: VecDeque<(ListSegment, Option<String>)> = ListSegment::all(of)
                .map(|segment| (segment, None))
                .collect();
            while !open.is_empty() {
                self.parts(inspections, place, &mut open, state).await?;
                if self.is_full(state) {
                    self.settle(inspections, state).await?;
                }
            }
        }
        self.settle(inspections, state).await
    }

    /// Reads `open` parts of a ledger's listing, and those after them, until there is none or many
    /// items are to be looked at.
    async fn parts(
        &self,
        inspections: &Inspections<'_, T>,
        place: usize,
        open: &mut VecDeque<(ListSegment, Option<String>)>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        type Part = (ListSegment, Result<Contributing, StoreError>);
        let Some(OfLedger { items: ledger, .. }) = inspections.ledgers.get(place) else {
            return Ok(());
        };
        let mut parts: FuturesUnordered<BoxFuture<'_, Part>> = FuturesUnordered::new();
        loop {
            while !self.is_full(state) {
                let Some((segment, after)) = open.pop_front() else {
                    break;
                };
                let part = async move {
                    let listed = ledger.contributing(segment, after.as_deref()).await;
                    (segment, listed)
                };
                parts.push(part.boxed());
            }
            let Some((segment, listed)) = parts.next().await else {
                return Ok(());
            };
            let listed = listed.map_err(|error| failed(ledger.pipeline(), error))?;
            if listed.next.is_some() {
                open.push_back((segment, listed.next));
            }
            state.ledger_rows += listed.rows;
            let unseen = listed.items.into_iter();
            let unseen = unseen.filter(|item| !state.seen.contains(item));
            if let Some(suspects) = state.suspects.get_mut(place) {
                suspects.extend(unseen);
            }
            self.tell(inspections, state, ReconcileStep::Ledger);
        }
    }

    /// Looks closely at all that is gathered.
    pub(super) async fn settle(
        &self,
        inspections: &mut Inspections<'_, T>,
        state: &mut State,
    ) -> Result<(), ReconcileError> {
        for place in 0..inspections.ledgers.len() {
            let items = state.suspects.get_mut(place).map(std::mem::take);
            let items = items.unwrap_or_default();
            if items.is_empty() {
                continue;
            }
            let step = ReconcileStep::Settle {
                items: items.len() as u64,
            };
            self.tell(inspections, state, step);
            if let Some(of) = inspections.ledgers.get_mut(place) {
                self.settle_in(&mut of.items, items).await?;
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
            let (retry, name) = (self.processor.retry(), self.source.name());
            self.pay_for_look_up().await;
            let looked_up = retried(retry, recorder, name, Deadline::NONE, || {
                self.source.look_up(&item)
            });
            let looked = looked_up.await?;
            self.looked_up(looked.read_units);
            Ok(match looked.found {
                LookedUp::Row(row) => self.processor.find(row),
                LookedUp::Bad(_) => Found::unreadable(item),
                LookedUp::Gone => Found::gone(item),
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

fn failed(pipeline: &PipelineName, source: impl Into<InspectionError>) -> ReconcileError {
    ReconcileError::Inspection {
        pipeline: pipeline.clone(),
        source: Box::new(source.into()),
    }
}
