//! Whether the state is what the table says: item by item where a pipeline keeps a ledger, key by key
//! where it keeps none, and both where items settle.
//!
//! Why a difference that is named is one, and why mending it is right: ARCHITECTURE.md, "Reconcile and
//! repair".

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use murmur_state::{Deadline, ItemId, ListSegment};

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
/// [`Processor::inspect`]. Processing may go on meanwhile.
///
/// It says [what to do next](Inspection::next), until that is nothing:
///
/// | [`Pass`] | what to do |
/// |---|---|
/// | `Table` | give every [row of the table](Inspection::rows) |
/// | `TableAgain` | wait for the [lag](InspectionOptions::lag), then the same |
/// | `Ledgers` | read every [part of the ledgers](Inspection::ledger_parts) |
/// | `Done` | take the [findings](Inspection::findings) |
///
/// On the way it gathers items that may differ; whenever [enough](Inspection::gathered) are gathered,
/// and at the end of each pass of `Ledgers`, it is told to [look](Inspection::look) at them. Rows, and
/// parts, may be given side by side and in any order.
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
    /// Every row of the table, once the lag is over.
    TableAgain,
    /// Every part of the ledgers.
    Ledgers,
    /// Nothing more.
    Done,
}

/// A part of a ledger that is to be read.
#[derive(Debug)]
pub struct LedgerPart {
    /// Which of the ledgers.
    ledger: usize,
    segment: ListSegment,
    after: Option<String>,
}

/// A pipeline's items, compared with its ledger.
struct OfLedger<'a, T> {
    /// Which of the pipelines.
    place: usize,
    items: Box<dyn ByItems<T> + 'a>,
    /// Whether the table tells all that its items contribute.
    can_be_recounted: bool,
}

/// A pipeline's keys, recounted.
struct OfKeys<'a, T> {
    /// Which of the pipelines.
    place: usize,
    /// Whether its items are compared with a ledger, too.
    beside_ledger: bool,
    keys: Box<dyn ByKeys<T> + 'a>,
}

/// What is gathered by calls that go on side by side.
struct Gathering<'a, T> {
    recounts: Vec<OfKeys<'a, T>>,
    /// Items that the scan has seen, as far as they are remembered.
    seen: ItemSet,
    /// For each ledger the items to be looked at closely.
    suspects: Vec<Vec<ItemId>>,
}

/// Where an inspection is.
enum Progress {
    Begun,
    /// The first pass over the table, which is compared with the ledgers too.
    FirstTable,
    /// Over the ledgers; then these recounts need the same keys again, and those further ones.
    Ledgers {
        again: Vec<usize>,
        rest: Vec<usize>,
    },
    /// A pass over the table for these recounts, which need the same keys again; then for those with
    /// further ones.
    Again {
        recounts: Vec<usize>,
        rest: Vec<usize>,
    },
    /// A pass over the table for these recounts.
    Table {
        recounts: Vec<usize>,
    },
    Done,
}

impl<T: Send + Sync + 'static> Processor<T> {
    /// Begins to compare the state of every pipeline with the table. `pacing` holds back the listings of
    /// ledgers and states.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state could not be asked whether its items
    /// settle.
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
        let context = Context {
            pacing,
            ..self.context(Deadline::NONE)
        };
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
                suspects: vec![Vec::new(); ledgers.len()],
            }),
            ledgers,
            state: Progress::Begun,
        })
    }

    /// Decodes a row as a scan or a look into the table found it.
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
    /// What is needed next; the pass before has come to its end.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the inspection has to be begun once more.
    pub async fn next(&mut self) -> Result<Pass, InspectionError> {
        let state = std::mem::replace(&mut self.state, Progress::Done);
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
            Progress::Done => return Ok(Pass::Done),
        };
        if !again.is_empty() {
            let recounts = again;
            self.state = Progress::Again { recounts, rest };
            return Ok(Pass::TableAgain);
        }
        if rest.is_empty() {
            return Ok(Pass::Done);
        }
        self.state = Progress::Table { recounts: rest };
        Ok(Pass::Table)
    }

    /// Takes rows of the table, as a scan found them, and gives back those that can never count, in one
    /// pipeline or in all: in the first pass over the table, and in later ones none.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the rows were not taken.
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
                // The comparison with the ledger tells of the same.
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
        let Gathering { seen, suspects, .. } = &mut *gathering;
        for (compared, suspects) in compared.into_iter().zip(&mut *suspects) {
            rejected.extend(compared.rejected);
            suspects.extend(compared.differing);
        }
        if !suspects.is_empty() {
            let room = self.options.remember.saturating_sub(seen.len());
            let items = found.iter().take(room);
            items.for_each(|found| seen.insert(&found.item));
        }
        Ok(rejected)
    }

    /// The parts of all ledgers to begin with, each listed in so many segments; those of one ledger
    /// follow each other.
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

    /// Reads a part of a ledger; how many items it lists, and the part that follows.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the part was not read.
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
        let Gathering { seen, suspects, .. } = &mut *self.gathering();
        if let Some(suspects) = suspects.get_mut(ledger) {
            let unseen = listed.items.into_iter();
            suspects.extend(unseen.filter(|item| !seen.contains(item)));
        }
        let next = listed.next.map(|after| LedgerPart {
            ledger,
            segment,
            after: Some(after),
        });
        Ok((listed.rows, next))
    }

    /// How many items are gathered to be looked at; each is held in memory.
    pub fn gathered(&self) -> usize {
        self.gathering().suspects.iter().map(Vec::len).sum()
    }

    /// Looks closely at all that is gathered: each item in the ledger, and then in the table by
    /// `look_up`; those that differ once more after the lag. What is the same both times is named, and
    /// with [`repair`](InspectionOptions::repair) mended at once. An item that changed in between is
    /// looked at again, three times in all.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries, or because more differs than is held in memory. What was
    /// named and mended before stays so. A repair that fails is no error: it stands in the findings.
    ///
    /// # Cancel safety
    ///
    /// Dropped, each item is mended or is not; what was found is lost.
    pub async fn look(&mut self, look_up: &LookUp<'_>) -> Result<(), InspectionError> {
        let processor = self.processor;
        let find = |items: Vec<ItemId>| {
            let names = items.clone();
            let found = async move {
                let now = look_up(items).await?;
                let found = names.into_iter().zip(now).map(|(item, now)| match now {
                    ItemNow::Row(row) => processor.found(row),
                    ItemNow::Unreadable => Found::nothing(item, true),
                    ItemNow::Gone => Found::nothing(item, false),
                });
                Ok(found.collect())
            };
            found.boxed()
        };
        for place in 0..self.ledgers.len() {
            let items = self.gathered_mut().suspects.get_mut(place);
            let items = items.map(std::mem::take).unwrap_or_default();
            if let Some(of) = self.ledgers.get_mut(place).filter(|_| !items.is_empty()) {
                of.items.look(items, &find).await?;
            }
        }
        Ok(())
    }

    /// How many items, or keys in a recount, differed at first, so far.
    pub fn suspects(&self) -> u64 {
        let of_ledgers = self.ledgers.iter().map(|of| of.items.suspects());
        let gathering = self.gathering();
        let of_recounts = gathering.recounts.iter().map(|of| of.keys.suspects());
        of_ledgers.sum::<u64>() + of_recounts.sum::<u64>()
    }

    /// What was found of each pipeline, in their order.
    pub fn findings(self) -> Vec<Inspected> {
        let name = |place: usize| self.processor.pipelines().get(place).map(Pipeline::name);
        let mut all: Vec<(usize, Findings, SettledFindings)> = Vec::new();
        for of in self.ledgers {
            let found = of.items.findings();
            let settled = match found.settled > 0 && !of.can_be_recounted {
                true => SettledFindings::KeepsExpired,
                false => SettledFindings::NotSettling,
            };
            all.push((of.place, Findings::Ledger(found), settled));
        }
        let gathering = self.gathering.into_inner();
        for of in gathering.unwrap_or_else(PoisonError::into_inner).recounts {
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

    /// Whether this pass over the table is for the recount at this place.
    fn counts(&self, recount: usize) -> bool {
        match &self.state {
            Progress::FirstTable => true,
            Progress::Again { recounts, .. } | Progress::Table { recounts } => {
                recounts.contains(&recount)
            }
            Progress::Begun | Progress::Ledgers { .. } | Progress::Done => false,
        }
    }

    /// Compares these recounts with the state: those that need the same keys again, and those that
    /// have further keys.
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

    /// Once all items were compared with the ledgers: begins the recounts that have to begin now, since
    /// items were mended after the first one, or settled ones were met where none was expected.
    fn begin_due_recounts(&mut self) -> Vec<usize> {
        let pipelines = self.processor.pipelines();
        let (options, context) = (self.options, self.context);
        let gathering = self.gathering.get_mut();
        let recounts = &mut gathering.unwrap_or_else(PoisonError::into_inner).recounts;
        let mut begun = Vec::new();
        for of in &self.ledgers {
            let before = recounts
                .iter()
                .position(|recount| recount.place == of.place);
            let is_due = match before {
                Some(_) => of.items.mended() > 0,
                None => of.items.settled() > 0 && of.can_be_recounted,
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
