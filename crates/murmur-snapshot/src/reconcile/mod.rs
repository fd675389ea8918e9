//! Comparing the state with the table, and mending it, while live is running.

mod error;
mod report;
mod run;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{Decoder, InspectionOptions, Pipeline, ProcessorBuilder};
use murmur_state::{Causes, Clock, OptionError, Outage, Random, Recorder, RetryPolicy};
use serde::de::DeserializeOwned;

use crate::budget::{Pace, ReadBudget};
use crate::lookup::Lookup;

pub use error::ReconcileError;
pub use report::{ReconcileProgress, ReconcileStep, Reconciled};
use run::Run;

/// Pages read and compared at a time unless told otherwise.
const CONCURRENCY: usize = 8;

/// Items looked at closely together unless told otherwise.
const MAX_SUSPECTS: usize = 100_000;

type ProgressFn = dyn Fn(&ReconcileProgress) + Send + Sync;

/// Compares the state of pipelines with their table, and repairs it where asked to, with live
/// running all the while: after a gap in the stream, or to be sure.
///
/// Live must be past the gap, and behind by no more than [`lag`](Reconcile::lag). Changes that are
/// lost *after* the reconcile has begun are for the next one.
///
/// # With a ledger
///
/// Every item of the table, and every item that the ledger knows, is compared with what the ledger
/// says it contributes: keys, values and windows by the pipeline's own definition. What differs is
/// looked at closely: its ledger row, then the item itself, and both once more after the lag. A
/// difference is named only if both were the same each time; what kept changing is counted as
/// unsettled. [`repair`](Reconcile::repair) makes the item contribute what it should, unless live
/// was faster. It finds missed inserts, changes, moves and deletions.
///
/// Not a difference: what lies in windows whose retention is over, by this process's clock. One that is
/// fast takes windows for over that are not: what differs in them is not seen, and a repair of an item
/// takes back what it contributed there, until a reconcile by the right clock mends it. (AWS refuses
/// the requests of a machine whose clock is off by more than some minutes.) An item that is gone, in a
/// pipeline that keeps what has expired, may have been removed by Time to Live: it is counted as
/// untold, and never repaired. One that is there again may have expired in between as well, and is
/// taken for a change. A wrong row of the state itself is found by
/// [`Processor::audit`](murmur_core::Processor::audit), not here, unless items settle.
///
/// # Where items settle
///
/// Of an item that has [settled](murmur_core::Definition::settle) the ledger does not say what it
/// contributes, so it never differs there, in the table or gone from it. Where the items of a pipeline
/// settle, or any is met that has, all its keys are recounted as well, as without a ledger: after the
/// repair, if one is asked for. What that finds is [`settled`](murmur_core::Inspected::settled)'s.
///
/// Keys that the recount names are not mended. After a repair they are those of settled items, whose
/// lost changes no ledger can give back: raise the definition's version, and bootstrap into new tables.
/// Where what has expired goes on counting no recount is possible, and the findings
/// [say so](murmur_core::SettledFindings::KeepsExpired); the other items are compared, and mended, all the same.
///
/// # Without a ledger
///
/// The table is counted once more, in memory, and compared with the state; if anything differs,
/// once more after the lag. Where there are more keys than [`max_keys`](Reconcile::max_keys), this is
/// done for a part of them after the other. A key is named if its row, and what each item contributes to
/// it, were the same both times, so a key that never rests is only ever counted as unsettled. A key that
/// is right in the first recount by chance, since what live has yet to do makes up for what was lost, is
/// for the next run. Nothing can be repaired. Without [`retract`](murmur_core::Definition::retract), and
/// for monoids without an inverse (Min, Max, Set), a deletion or a change does not undo what was counted,
/// so such a key differs from then on. Of First and Last only the times are compared.
///
/// # Rows that can never count
///
/// They contribute nothing: counted, and listed up to the limit. The callback for rejected records
/// is not asked again.
///
/// # What it costs
///
/// One scan, and with a ledger a read of each of its rows twice, by the scan's pages and as a list.
/// An item that the ledger knows is looked up if it differed, or was not among the
/// [remembered](Reconcile::remember) ones. Without a ledger one listing of the state and, if anything
/// differs, a second scan, for each part of the keys. Where items settle it is both together, and the
/// first scan serves both; if items were mended the recount begins anew after that, so that the table is
/// scanned twice, and a third time if anything differs.
///
/// Memory is bounded, whatever the size of the table:
///
/// | held | option | about |
/// |---|---|---|
/// | items of the scan | [`remember`](Reconcile::remember) | 20 to 40 bytes each, 140 MB by default |
/// | items looked at closely | [`max_suspects`](Reconcile::max_suspects) | 500 bytes each, 50 MB |
/// | items and keys that differ | [`max_differing`](Reconcile::max_differing) | 40 bytes an item until it is mended, 200 a key, 240 MB at most |
/// | keys of a recount | [`max_keys`](Reconcile::max_keys) | 200 bytes each, 400 MB; for each pipeline without a ledger, or whose items settle |
/// | pages under way | [`concurrency`](Reconcile::concurrency) | 1 MB of the table each, decoded |
#[must_use = "nothing is read before `run`"]
pub struct Reconcile<T, S> {
    processor: ProcessorBuilder<T>,
    source: S,
    inspection: InspectionOptions,
    budget: ReadBudget,
    concurrency: usize,
    max_suspects: usize,
    progress: Box<ProgressFn>,
}

impl<T: Send + Sync + 'static, S: Lookup> Reconcile<T, S> {
    /// Compares `pipelines` with `source`, in one scan, decoding each row once by serde.
    pub fn new(pipelines: impl IntoIterator<Item = Pipeline<T>>, source: S) -> Self
    where
        T: DeserializeOwned,
    {
        Self::with_decoder(pipelines, source, Decoder::serde())
    }

    /// Compares `pipelines` with `source`, in one scan, decoding each row once by `decoder`: the
    /// one that bootstrap and live decode by.
    pub fn with_decoder(
        pipelines: impl IntoIterator<Item = Pipeline<T>>,
        source: S,
        decoder: Decoder<T>,
    ) -> Self {
        let processor = ProcessorBuilder::with_decoder(pipelines, decoder);
        Self {
            processor: processor.retry(RetryPolicy::patient()),
            source,
            inspection: InspectionOptions::default(),
            budget: ReadBudget::Unlimited,
            concurrency: CONCURRENCY,
            max_suspects: MAX_SUSPECTS,
            progress: Box::new(|_| ()),
        }
    }

    /// How often and how long a failed read or write is tried again. The budget is the time that one
    /// operation may go without success; after that the reconcile fails with
    /// [`GaveUp`](ReconcileError::GaveUp). Default: [`RetryPolicy::patient`], 30 minutes.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.processor = self.processor.retry(policy);
        self
    }

    /// Where counts and errors go: `<pipeline>:retry` and `<source>:retry` for what is tried again.
    /// Default: nowhere.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.processor = self.processor.recorder(recorder);
        self
    }

    /// Where time comes from. Default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.processor = self.processor.clock(clock);
        self
    }

    /// Where jitter comes from. Default: seeded by the system.
    pub fn random(mut self, random: Random) -> Self {
        self.processor = self.processor.random(random);
        self
    }

    /// How far live may be behind: a difference is named only if it stands for so long. It is waited
    /// once per [`max_suspects`](Reconcile::max_suspects) items that differ, a few times for items
    /// that keep changing. Too short, and what live has not done yet is taken for missed; mending
    /// that is harmless. Default 1 minute.
    pub fn lag(mut self, lag: Duration) -> Self {
        self.inspection.lag = lag;
        self
    }

    /// Makes every item that differs contribute what it should. Keys that differ by a recount because of
    /// items that have settled are told, and not mended. Refused before anything is read unless every
    /// pipeline keeps a ledger. Default: differences are only told.
    pub fn repair(mut self) -> Self {
        self.inspection.repair = true;
        self
    }

    /// How fast the source may be read: pages and items that are looked up together. Ledger and
    /// state are listed at no more units a second than that, from their own tables; the ledger rows
    /// of scanned items, one unit each of the marker table, are not held back. Default: unlimited.
    pub fn read_budget(mut self, budget: ReadBudget) -> Self {
        self.budget = budget;
        self
    }

    /// How many pages are read or compared at a time, and in how many segments a ledger is listed;
    /// at least 1. A segment's next page is read while the one before is compared. Default 8.
    pub fn concurrency(mut self, pages: usize) -> Self {
        self.concurrency = pages;
        self
    }

    /// How many of the scanned items are remembered, 20 to 40 bytes each (40 MB per million at
    /// most), so that they need not be looked up when the ledger lists them. Further ones are, each
    /// for one consistent read. Default 7,000,000, which is 140 MB.
    pub fn remember(mut self, items: usize) -> Self {
        self.inspection.remember = items;
        self
    }

    /// How many items are gathered before they are looked at closely; at least 1. Each costs about
    /// half a kilobyte of memory if it differs; fewer make for more waits. Default 100,000.
    pub fn max_suspects(mut self, items: usize) -> Self {
        self.max_suspects = items;
        self
    }

    /// How many keys a recount holds in memory; at least 1. Each takes about 200 bytes: 200 MB per
    /// million. With more keys the table is scanned once more, or twice where anything differs, for
    /// each further part of them. Default 2,000,000.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.inspection.max_keys = keys;
        self
    }

    /// How many items, and how many of their keys, may differ in a pipeline with a ledger before the
    /// reconcile gives up. It bounds memory, up to 240 MB per million, and not what a repair writes:
    /// mended items do not count; their keys do, since the report names them. What was mended stays
    /// so. Default 1,000,000.
    pub fn max_differing(mut self, items: usize) -> Self {
        self.inspection.max_differing = items;
        self
    }

    /// How many differing items, differing keys and rejected rows are listed, each pipeline's.
    /// Default 100.
    pub fn max_listed(mut self, entries: usize) -> Self {
        self.inspection.max_listed = entries;
        self
    }

    /// Hears how it goes; called between pages, so it should return soon. Default: nobody.
    pub fn on_progress(
        mut self,
        progress: impl Fn(&ReconcileProgress) + Send + Sync + 'static,
    ) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Hears of an [outage](Outage) while it lasts, and when it is over; called between attempts, so
    /// it should return soon. Default: it is traced only.
    pub fn on_outage(mut self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        self.processor = self.processor.on_outage(tell);
        self
    }

    /// Reads the table to its end, compares, and repairs where asked to.
    ///
    /// # Errors
    ///
    /// [`ReconcileError`]: it was refused (no row was read then), or a read failed after all
    /// retries. A repair that fails is no error: it stands in the report.
    ///
    /// # Cancel safety
    ///
    /// Dropped, each item is mended or is not; what was found is lost. Run it again.
    pub async fn run(self) -> Result<Reconciled, ReconcileError> {
        let Self {
            processor,
            source,
            inspection,
            budget,
            concurrency,
            max_suspects,
            progress,
        } = self;
        for (option, is_zero) in [
            ("concurrency", concurrency == 0),
            ("max_suspects", max_suspects == 0),
            ("max_keys", inspection.max_keys == 0),
        ] {
            if is_zero {
                return Err(OptionError::new(option, "must be at least 1").into());
            }
        }
        Pace::check(budget)?;
        let processor = processor.build()?;
        let run = Run {
            retry: processor.retry().clone(),
            processor,
            source,
            inspection,
            budget,
            concurrency,
            max_suspects,
            progress,
            spending: Mutex::default(),
        };
        let result = run.to_end().await;
        let result = result.map_err(|error| match run.retry.gave_up_after() {
            Some(tried) if error.is_retryable() => ReconcileError::GaveUp {
                tried,
                source: Box::new(error),
            },
            _ => error,
        });
        if let Err(error) = run.source.close().await {
            tracing::warn!(source = run.source.name(), error = %Causes(&error), "not closed");
        }
        result
    }
}

impl<T, S: Lookup> fmt::Debug for Reconcile<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconcile")
            .field("source", &self.source.name())
            .field("processor", &self.processor)
            .field("inspection", &self.inspection)
            .finish_non_exhaustive()
    }
}
