//! Compares the state with the table: item by item for pipelines with a ledger, key by key for
//! those without, and in both ways where items settle.
//!
//! ARCHITECTURE.md, "Reconcile and repair", explains why a reported difference is real, and why
//! repairing it is right.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use murmur_state::error::{Cause, Place};
use murmur_state::store::ListSegment;
use murmur_state::{Deadline, ItemId};

use crate::answers::all_answered;
use crate::audit::{
    ByItems, ByKeys, Findings, Found, Inspected, InspectionError, InspectionOptions, ItemNow,
    ItemSet, LookUp, Recounted, SettledFindings,
};
use crate::delivery::{Context, Pacing};
use crate::outcome::{RecordError, Rejected};
use crate::pipeline::Pipeline;
use crate::processor::Processor;
use crate::record::{Record, Row, Side};

/// One comparison of the state of a processor's pipelines with their table, made by
/// [`Processor::inspect`]. Stream processing may go on meanwhile.
///
/// Call [`next`](Inspection::next) for the next pass, until it is `Done`:
///
/// | [`Pass`] | what to do |
/// |---|---|
/// | `Table` | pass every [row of the table](Inspection::rows) |
/// | `TableAgain` | wait for the [lag](InspectionOptions::lag), then do the same |
/// | `Ledgers` | read every [part of the ledgers](Inspection::ledger_parts) |
/// | `Done` | take the [findings](Inspection::findings) |
///
/// On the way it gathers items that may differ. Call [`look`](Inspection::look) whenever
/// [enough](Inspection::gathered) are gathered, and at the end of each pass of `Ledgers`. Rows and
/// parts may be passed concurrently and in any order.
pub struct Inspection<'a, T> {
    processor: &'a Processor<T>,
    options: InspectionOptions,
    context: Context<'a>,
    ledgers: Vec<OfLedger<'a, T>>,
    gathering: Mutex<Gathering<'a, T>>,
    state: Progress,
}

impl<T> fmt::Debug for Inspection<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection")
            .field("processor", &self.processor)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What an [`Inspection`] needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Every row of the table.
    Table,
    /// Every row of the table, after the lag.
    TableAgain,
    /// Every part of the ledgers.
    Ledgers,
    /// Nothing more.
    Done,
}

/// A part of a ledger to read.
#[derive(Debug, Clone)]
pub struct LedgerPart {
    /// Index of the ledger.
    ledger: usize,
    segment: ListSegment,
    after: Option<String>,
}

/// A pipeline's items, compared with its ledger.
struct OfLedger<'a, T> {
    /// Index of the pipeline.
    place: usize,
    items: Box<dyn ByItems<T> + 'a>,
    /// Whether the table alone tells what its items contribute.
    can_be_recounted: bool,
}

/// A pipeline's keys, recounted.
struct OfKeys<'a, T> {
    /// Index of the pipeline.
    place: usize,
    /// Whether its items are compared with a ledger as well.
    beside_ledger: bool,
    keys: Box<dyn ByKeys<T> + 'a>,
}

/// What concurrent calls gather.
struct Gathering<'a, T> {
    recounts: Vec<OfKeys<'a, T>>,
    /// Items that the scan has seen, as far as they are remembered.
    seen: ItemSet,
    /// What is gathered of each ledger's items.
    items: Vec<GatheredItems>,
}

#[derive(Clone, Default)]
struct GatheredItems {
    /// The items to look at closely.
    suspects: Vec<ItemId>,
    /// The number of items that the ledger has listed.
    listed: u64,
    /// The number of them that have settled.
    settled: u64,
}

/// The pass that an inspection is in.
enum Progress {
    Begun,
    /// The first pass over the table, which is also compared with the ledgers.
    FirstTable,
    /// The pass over the ledgers. These recounts come next: those that need the same keys again,
    /// and those with further keys.
    Ledgers {
        again: Vec<usize>,
        rest: Vec<usize>,
    },
    /// A pass over the table for these recounts, which need the same keys again; then those with
    /// further keys.
    Again {
        recounts: Vec<usize>,
        rest: Vec<usize>,
    },
    /// A pass over the table for these recounts.
    Table {
        recounts: Vec<usize>,
    },
    /// A pass or a look failed or was dropped, so some of its items are lost.
    BrokenOff,
    Done,
}

impl<T: Send + Sync + 'static> Processor<T> {
    /// Begins to compare the state of every pipeline with the table. `pacing` limits the rate at
    /// which ledgers and states are listed.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state could not be read to see
    /// whether its items settle.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn inspect<'a>(
        &'a self,
        options: InspectionOptions,
        pacing: Option<&'a dyn Pacing>,
    ) -> Result<Inspection<'a, T>, RecordError> {
        let settling = self.are_settling(Deadline::NONE).await?;
        let context = self.paced(pacing);
        let (mut ledgers, mut recounts) = (Vec::new(), Vec::new());
        for ((place, pipeline), settling) in self.pipelines().iter().enumerate().zip(settling) {
            let items = pipeline.erased.by_items(options, context);
            let beside_ledger = items.is_some();
            let can_be_recounted = !pipeline.keeps_expired_items();
            if let Some(items) = items {
                ledgers.push(OfLedger {
                    place,
                    items,
                    can_be_recounted,
                });
            }
            if !beside_ledger || (settling && can_be_recounted) {
                recounts.push(OfKeys {
                    place,
                    beside_ledger,
                    keys: pipeline.erased.by_keys(options, context),
                });
            }
        }
        Ok(Inspection {
            processor: self,
            options,
            context,
            gathering: Mutex::new(Gathering {
                recounts,
                seen: ItemSet::default(),
                items: vec![GatheredItems::default(); ledgers.len()],
            }),
            ledgers,
            state: Progress::Begun,
        })
    }

    /// Decodes a row that a scan or a look-up found.
    fn found(&self, row: Row) -> Found<T> {
        let item = row.item_id.clone();
        let record = Record::Scanned(row);
        let mut found = Found::nothing(item, true);
        match self.decode(&record, Side::New) {
            Ok(value) => found.row = value.map(|value| (record, value)),
            Err(error) => {
                found.rejected = Some(Box::new(Rejected {
                    record,
                    pipeline: None,
                    error: *error,
                }));
            }
        }
        found
    }
}

impl<'a, T: Send + Sync + 'static> Inspection<'a, T> {
    /// Ends the current pass, and returns the next one.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: start over with a new inspection.
    pub async fn next(&mut self) -> Result<Pass, InspectionError> {
        let state = std::mem::replace(&mut self.state, Progress::BrokenOff);
        let (again, rest) = match state {
            Progress::Begun => {
                self.state = Progress::FirstTable;
                return Ok(Pass::Table);
            }
            Progress::FirstTable => {
                let recounts: Vec<usize> = (0..self.gathered_mut().recounts.len()).collect();
                let (again, rest) = self.compare(&recounts).await?;
                if !self.ledgers.is_empty() {
                    self.state = Progress::Ledgers { again, rest };
                    return Ok(Pass::Ledgers);
                }
                (again, rest)
            }
            Progress::Ledgers {
                mut again,
                mut rest,
            } => {
                let begun = self.begin_due_recounts();
                for of_before in [&mut again, &mut rest] {
                    of_before.retain(|recount| !begun.contains(recount));
                }
                rest.extend(begun);
                (again, rest)
            }
            Progress::Again { recounts, mut rest } => {
                rest.extend(self.compare(&recounts).await?.1);
                (Vec::new(), rest)
            }
            Progress::Table { recounts } => self.compare(&recounts).await?,
            Progress::BrokenOff => return Err(InspectionError::BrokenOff),
            Progress::Done => {
                self.state = Progress::Done;
                return Ok(Pass::Done);
            }
        };
        if !again.is_empty() {
            let recounts = again;
            self.state = Progress::Again { recounts, rest };
            return Ok(Pass::TableAgain);
        }
        if rest.is_empty() {
            self.state = Progress::Done;
            return Ok(Pass::Done);
        }
        self.state = Progress::Table { recounts: rest };
        Ok(Pass::Table)
    }

    /// Takes rows of the table, as a scan found them. In the first pass over the table it returns
    /// the rows that can never count, in one pipeline or in all; in later passes it returns none.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the rows were not taken, so pass them again.
    pub async fn rows(&self, rows: Vec<Row>) -> Result<Vec<Rejected>, InspectionError> {
        let rows = rows.into_iter();
        let mut found: Vec<Found<T>> = rows.map(|row| self.processor.found(row)).collect();
        let mut compared = Vec::new();
        if self.is_first() && !found.is_empty() {
            for of in &self.ledgers {
                compared.push(of.items.compare(&found).await?);
            }
        }
        let mut gathering = self.gathering();
        let mut rejected = Vec::new();
        for (place, of) in gathering.recounts.iter_mut().enumerate() {
            if self.counts(place) {
                let refused = of.keys.add(&found);
                // The comparison with the ledger reports the same row.
                if !of.beside_ledger {
                    rejected.extend(refused);
                }
            }
        }
        if !self.is_first() {
            return Ok(Vec::new());
        }
        let undecoded = found.iter_mut().filter_map(|found| found.rejected.take());
        rejected.extend(undecoded.map(|rejected| *rejected));
        let Gathering { seen, items, .. } = &mut *gathering;
        for (compared, of) in compared.into_iter().zip(&mut *items) {
            rejected.extend(compared.rejected);
            of.suspects.extend(compared.differing);
        }
        if !items.is_empty() {
            let room = self.options.remember.saturating_sub(seen.len());
            let items = found.iter().take(room);
            items.for_each(|found| seen.insert(&found.item));
        }
        Ok(rejected)
    }

    /// The parts to begin with: `segments` for each ledger, those of one ledger next to each other.
    pub fn ledger_parts(&self, segments: NonZeroU32) -> VecDeque<LedgerPart> {
        let ledgers = 0..self.ledgers.len();
        let of_ledger = |ledger| {
            ListSegment::all(segments).map(move |segment| LedgerPart {
                ledger,
                segment,
                after: None,
            })
        };
        ledgers.flat_map(of_ledger).collect()
    }

    /// Reads a part of a ledger. Returns the number of items listed, and the part that follows.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the part was not read, so read it again.
    pub async fn ledger(
        &self,
        part: LedgerPart,
    ) -> Result<(u64, Option<LedgerPart>), InspectionError> {
        let LedgerPart {
            ledger,
            segment,
            after,
        } = part;
        let Some(of) = self.ledgers.get(ledger) else {
            return Ok((0, None));
        };
        let listed = of.items.contributing(segment, after.as_deref()).await?;
        let Gathering { seen, items, .. } = &mut *self.gathering();
        if let Some(of) = items.get_mut(ledger) {
            let unseen = listed.items.into_iter();
            of.suspects
                .extend(unseen.filter(|item| !seen.contains(item)));
            of.listed += listed.rows;
            of.settled += listed.settled;
        }
        let next = listed.next.map(|after| LedgerPart {
            ledger,
            segment,
            after: Some(after),
        });
        Ok((listed.rows, next))
    }

    /// The number of items gathered for [`look`](Inspection::look); all are held in memory.
    pub fn gathered(&self) -> usize {
        let gathering = self.gathering();
        gathering.items.iter().map(|of| of.suspects.len()).sum()
    }

    /// Looks closely at all gathered items: at each in the ledger, then in the table by `look_up`,
    /// and after the lag once more at those that differ. A difference that is the same both times
    /// is listed, and with [`repair`](InspectionOptions::repair) repaired at once. An item that
    /// changed in between is looked at again, three times in all.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries, or because more items differ than fit in memory.
    /// Items listed and repaired before stay so. A repair that fails is not an error: the findings
    /// report it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, each item is either repaired or not, and the findings are lost.
    pub async fn look(&mut self, look_up: &LookUp<'_>) -> Result<(), InspectionError> {
        let processor = self.processor;
        let find = |items: Vec<ItemId>| {
            let names = items.clone();
            let found = async move {
                let now = look_up(items).await?;
                let place = || Place::table("the look-up of items", "-");
                let now = all_answered(place, names.len(), now);
                let now = now.map_err(|error| Arc::new(error) as Cause)?;
                let found = names.into_iter().zip(now).map(|(item, now)| match now {
                    ItemNow::Row(row) => processor.found(row),
                    ItemNow::Unreadable => Found::nothing(item, true),
                    ItemNow::Gone => Found::nothing(item, false),
                });
                Ok(found.collect())
            };
            found.boxed()
        };
        let state = std::mem::replace(&mut self.state, Progress::BrokenOff);
        for place in 0..self.ledgers.len() {
            let of = self.gathered_mut().items.get_mut(place);
            let items = of.map(|of| std::mem::take(&mut of.suspects));
            let items = items.unwrap_or_default();
            if let Some(of) = self.ledgers.get_mut(place).filter(|_| !items.is_empty()) {
                of.items.look(items, &find).await?;
            }
        }
        self.state = state;
        Ok(())
    }

    /// The number of items, or of keys in a recount, that differed at first, so far.
    pub fn suspects(&self) -> u64 {
        let of_ledgers = self.ledgers.iter().map(|of| of.items.suspects());
        let gathering = self.gathering();
        let of_recounts = gathering.recounts.iter().map(|of| of.keys.suspects());
        of_ledgers.sum::<u64>() + of_recounts.sum::<u64>()
    }

    /// The findings for each pipeline, in the order of the pipelines.
    pub fn findings(self) -> Vec<Inspected> {
        let name = |place: usize| self.processor.pipelines().get(place).map(Pipeline::name);
        let mut all: Vec<(usize, Findings, SettledFindings)> = Vec::new();
        let gathering = self.gathering.into_inner();
        let Gathering {
            recounts, items, ..
        } = gathering.unwrap_or_else(PoisonError::into_inner);
        for (of, gathered) in self.ledgers.into_iter().zip(items) {
            let mut found = of.items.findings();
            (found.ledger_rows, found.settled) = (gathered.listed, gathered.settled);
            let settled = match found.settled > 0 && !of.can_be_recounted {
                true => SettledFindings::KeepsExpired,
                false => SettledFindings::NotSettling,
            };
            all.push((of.place, Findings::Ledger(found), settled));
        }
        for of in recounts {
            let found = of.keys.findings();
            match all.iter_mut().find(|(place, ..)| *place == of.place) {
                Some((.., settled)) => *settled = SettledFindings::Recount(found),
                None => {
                    let settled = SettledFindings::NotSettling;
                    all.push((of.place, Findings::Recount(found), settled));
                }
            }
        }
        all.sort_by_key(|(place, ..)| *place);
        let inspected = all.into_iter().filter_map(|(place, findings, settled)| {
            Some(Inspected {
                pipeline: name(place)?.clone(),
                findings,
                settled,
            })
        });
        inspected.collect()
    }

    fn is_first(&self) -> bool {
        matches!(self.state, Progress::FirstTable)
    }

    /// Whether this pass over the table is for the recount with this index.
    fn counts(&self, recount: usize) -> bool {
        match &self.state {
            Progress::FirstTable => true,
            Progress::Again { recounts, .. } | Progress::Table { recounts } => {
                recounts.contains(&recount)
            }
            Progress::Begun | Progress::Ledgers { .. } | Progress::BrokenOff | Progress::Done => {
                false
            }
        }
    }

    /// Compares these recounts with the state. Returns those that need the same keys again, and
    /// those that have further keys.
    async fn compare(
        &mut self,
        recounts: &[usize],
    ) -> Result<(Vec<usize>, Vec<usize>), InspectionError> {
        let (mut again, mut rest) = (Vec::new(), Vec::new());
        for &recount in recounts {
            if let Some(of) = self.gathered_mut().recounts.get_mut(recount) {
                match of.keys.compare().await? {
                    Recounted::Done => {}
                    Recounted::Again => again.push(recount),
                    Recounted::Rest => rest.push(recount),
                }
            }
        }
        Ok((again, rest))
    }

    /// After all items were compared with the ledgers: begins the recounts that have become
    /// necessary, because items were repaired after the first one, or because settled items
    /// appeared where none was expected.
    fn begin_due_recounts(&mut self) -> Vec<usize> {
        let pipelines = self.processor.pipelines();
        let (options, context) = (self.options, self.context);
        let gathering = self.gathering.get_mut();
        let Gathering {
            recounts, items, ..
        } = gathering.unwrap_or_else(PoisonError::into_inner);
        let mut begun = Vec::new();
        for (of, gathered) in self.ledgers.iter().zip(items) {
            let before = recounts
                .iter()
                .position(|recount| recount.place == of.place);
            let is_due = match before {
                Some(_) => of.items.mended() > 0,
                None => gathered.settled > 0 && of.can_be_recounted,
            };
            let Some(pipeline) = pipelines.get(of.place).filter(|_| is_due) else {
                continue;
            };
            let recount = OfKeys {
                place: of.place,
                beside_ledger: true,
                keys: pipeline.erased.by_keys(options, context),
            };
            match before.and_then(|before| Some((before, recounts.get_mut(before)?))) {
                Some((before, of_before)) => {
                    *of_before = recount;
                    begun.push(before);
                }
                None => {
                    recounts.push(recount);
                    begun.push(recounts.len() - 1);
                }
            }
        }
        begun
    }

    fn gathering(&self) -> MutexGuard<'_, Gathering<'a, T>> {
        self.gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn gathered_mut(&mut self) -> &mut Gathering<'a, T> {
        self.gathering
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
