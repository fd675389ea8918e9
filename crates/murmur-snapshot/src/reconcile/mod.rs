//! Comparing the state with the table, and mending it, while live is running.

mod error;
mod report;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use murmur_core::{Decoder, InspectionOptions, Pipeline, ProcessorBuilder};
use murmur_state::{Causes, Clock, OptionError, Random, Recorder, Retry, RetryPolicy};
use serde::de::DeserializeOwned;

use crate::lookup::Lookup;

pub use error::ReconcileError;
pub use report::{Findings, ReconcileProgress, ReconcileStep, Reconciled, ReconciledPipeline};
use run::Run;

/// How far live may be behind unless told otherwise.
const LAG: Duration = Duration::from_secs(60);

/// Segments read at a time unless told otherwise.
const CONCURRENCY: usize = 8;

/// Items of the scan remembered unless told otherwise.
const REMEMBERED: usize = 1_000_000;

/// Items looked at closely together unless told otherwise.
const MAX_SUSPECTS: usize = 100_000;

/// Differences and rejected rows listed unless told otherwise.
const MAX_LISTED: usize = 100;

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
/// Not a difference: what lies in windows whose retention is over. An item that is gone, in a
/// pipeline that keeps what has expired, may have been removed by Time to Live: it is counted as
/// untold, and never repaired. One that is there again may have expired in between as well, and is
/// taken for a change. A wrong row of the state itself is found by
/// [`Processor::audit`](murmur_core::Processor::audit), not here.
///
/// # Without a ledger
///
/// The table is counted once more, in memory, and compared with the state; if anything differs,
/// once more after the lag. A key is named if row and recount were the same both times, so a key
/// that never rests is only ever counted as unsettled. Nothing can be repaired. Without
/// [`retract`](murmur_core::Definition::retract), and for monoids without an inverse (Min, Max,
/// Set), a deletion or a change does not undo what was counted, so such a key differs from then
/// on. Of First and Last only the times are compared.
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
/// differs, a second scan. In memory: the remembered items, the items looked at closely, one name
/// per differing item, one value per differing key; without a ledger one value per key.
#[must_use = "nothing is read before `run`"]
pub struct Reconcile<T, S> {
    processor: ProcessorBuilder<T>,
    source: S,
    policy: RetryPolicy,
    random: Random,
    inspection: InspectionOptions,
    concurrency: usize,
    remember: usize,
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
        let random = Random::new();
        let processor = ProcessorBuilder::with_decoder(pipelines, decoder);
        Self {
            processor: processor.random(random.clone()),
            source,
            policy: RetryPolicy::default(),
            random,
            inspection: InspectionOptions {
                lag: LAG,
                repair: false,
                max_listed: MAX_LISTED,
            },
            concurrency: CONCURRENCY,
            remember: REMEMBERED,
            max_suspects: MAX_SUSPECTS,
            progress: Box::new(|_| ()),
        }
    }

    /// How often and how long a failed read or write is tried again. Default:
    /// [`RetryPolicy::default`], 60 s each.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
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
        self.random = random.clone();
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

    /// Makes every item that differs contribute what it should. Refused before anything is read
    /// unless every pipeline keeps a ledger. Default: differences are only told.
    pub fn repair(mut self) -> Self {
        self.inspection.repair = true;
        self
    }

    /// How many segments are read at a time; at least 1. Each has one page in memory. Default 8, or
    /// as many segments as the source has.
    pub fn concurrency(mut self, segments: usize) -> Self {
        self.concurrency = segments;
        self
    }

    /// How many of the scanned items are remembered, about 100 bytes each, so that they need not be
    /// looked up when the ledger lists them. Further ones are, each for one consistent read.
    /// Default 1,000,000.
    pub fn remember(mut self, items: usize) -> Self {
        self.remember = items;
        self
    }

    /// How many items are gathered before they are looked at closely; at least 1. Each costs about
    /// half a kilobyte of memory if it differs; fewer make for more waits. Default 100,000.
    pub fn max_suspects(mut self, items: usize) -> Self {
        self.max_suspects = items;
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
            policy,
            random,
            inspection,
            concurrency,
            remember,
            max_suspects,
            progress,
        } = self;
        for (option, number) in [("concurrency", concurrency), ("max_suspects", max_suspects)] {
            if number == 0 {
                return Err(OptionError::new(option, "must be at least 1").into());
            }
        }
        let processor = processor.build()?;
        let run = Run {
            retry: Retry::new(policy, Arc::clone(processor.clock()), random),
            processor,
            source,
            inspection,
            concurrency,
            remember,
            max_suspects,
            progress,
        };
        let result = run.to_end().await;
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
