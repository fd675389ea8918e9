use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use murmur_core::Processor;
use murmur_core::audit::InspectionOptions;
use murmur_state::{OptionError, RetryPolicy};

use super::error::ReconcileError;
use super::report::ReconcileProgress;
use super::run::Reconcile;
use crate::budget::{ReadBudget, ReadPacer};
use crate::lookup::Lookup;

/// The default of `concurrency`.
const CONCURRENCY: usize = 8;

/// The default of `max_suspects`.
const MAX_SUSPECTS: usize = 100_000;

impl<T: Send + Sync + 'static, S: Lookup> Reconcile<T, S> {
    /// Begins a reconcile of the processor's pipelines with `source`, in one scan. Each row is
    /// decoded once, by the processor's decoder, the same as in bootstrap and stream processing.
    pub fn builder(processor: Processor<T>, source: S) -> ReconcileBuilder<T, S> {
        ReconcileBuilder {
            made: Self {
                processor: processor.or_retry(RetryPolicy::patient()),
                source,
                inspection: InspectionOptions::default(),
                budget: ReadBudget::Unlimited,
                concurrency: CONCURRENCY,
                max_suspects: MAX_SUSPECTS,
                progress: Box::new(|_| ()),
                spending: Mutex::default(),
            },
        }
    }
}

/// The options of a [`Reconcile`] that are not its processor's. Made by [`Reconcile::builder`].
#[must_use = "a reconcile is made by `build`"]
pub struct ReconcileBuilder<T, S> {
    made: Reconcile<T, S>,
}

impl<T: Send + Sync + 'static, S: Lookup> ReconcileBuilder<T, S> {
    /// How far the stream consumer may be behind: a difference is reported only if it lasts that
    /// long. Costs one wait per [`max_suspects`](Self::max_suspects) items that differ, and a few
    /// for items that keep changing. If it is too short, pending changes are taken for missed ones;
    /// repairing those is harmless. Default 1 minute.
    pub fn lag(mut self, lag: Duration) -> Self {
        self.made.inspection.lag = lag;
        self
    }

    /// Makes every item that differs contribute what it should. Keys that differ in a recount
    /// because of settled items are reported, and not repaired. Refused before anything is read
    /// unless every pipeline keeps a ledger. Default: differences are only reported.
    pub fn repair(mut self) -> Self {
        self.made.inspection.repair = true;
        self
    }

    /// How fast the source may be read, pages and looked-up items together. Ledger and state are
    /// listed at the same rate, from their own tables. The ledger rows of scanned items are not
    /// limited: one unit of the marker table each. Default: unlimited.
    pub fn read_budget(mut self, budget: ReadBudget) -> Self {
        self.made.budget = budget;
        self
    }

    /// How many pages are read or compared at a time, and in how many segments a ledger is listed;
    /// at least 1. The next page of a segment is read while the one before is compared. Default 8.
    pub fn concurrency(mut self, pages: usize) -> Self {
        self.made.concurrency = pages;
        self
    }

    /// How many scanned items are remembered, 20 to 40 bytes each (at most 40 MB per million), so
    /// that they are not looked up when the ledger lists them. Each further item costs one
    /// consistent read. Default 7,000,000, which is 140 MB.
    pub fn remember(mut self, items: usize) -> Self {
        self.made.inspection.remember = items;
        self
    }

    /// How many items are gathered before they are looked at closely; at least 1. Each costs about
    /// half a kilobyte of memory if it differs. Fewer items mean more waits. Default 100,000.
    pub fn max_suspects(mut self, items: usize) -> Self {
        self.made.max_suspects = items;
        self
    }

    /// How many keys a recount holds in memory; at least 1. Each takes about 200 bytes: 200 MB per
    /// million. Each further part of this many keys scans the table once more, or twice if anything
    /// differs. Default 2,000,000.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.made.inspection.max_keys = keys;
        self
    }

    /// How many items, and how many of their keys, may differ in a pipeline with a ledger before
    /// the reconcile gives up. It limits memory, up to 240 MB per million, and not what a repair
    /// writes: repaired items do not count; their keys do, since the report names them. What was
    /// repaired stays repaired. Default 1,000,000.
    pub fn max_differing(mut self, items: usize) -> Self {
        self.made.inspection.max_differing = items;
        self
    }

    /// How many differing items, differing keys and rejected rows are listed for each pipeline.
    /// Default 100.
    pub fn max_listed(mut self, entries: usize) -> Self {
        self.made.inspection.max_listed = entries;
        self
    }

    /// Receives the progress. Called between pages, so it should return soon. Default: no callback.
    pub fn on_progress(
        mut self,
        progress: impl Fn(&ReconcileProgress) + Send + Sync + 'static,
    ) -> Self {
        self.made.progress = Box::new(progress);
        self
    }

    /// Checks the options, without any request.
    ///
    /// # Errors
    ///
    /// [`ReconcileError::Option`] with the option's name: zero (`concurrency`, `max_suspects`,
    /// `max_keys`), a budget that cannot be kept (`read_budget`), a source without segments
    /// (`segments`). [`WindowsByArrival`](ReconcileError::WindowsByArrival),
    /// [`RepairWithoutLedger`](ReconcileError::RepairWithoutLedger) or
    /// [`KeepsExpired`](ReconcileError::KeepsExpired) with a pipeline that cannot be compared or
    /// repaired.
    pub fn build(self) -> Result<Reconcile<T, S>, ReconcileError> {
        let Reconcile {
            processor,
            source,
            inspection,
            budget,
            concurrency,
            max_suspects,
            ..
        } = &self.made;
        for (option, is_zero) in [
            ("concurrency", *concurrency == 0),
            ("max_suspects", *max_suspects == 0),
            ("max_keys", inspection.max_keys == 0),
        ] {
            if is_zero {
                return Err(OptionError::new(option, "must be at least 1").into());
            }
        }
        ReadPacer::check(*budget)?;
        if source.segments() == 0 {
            let reason = format!("source `{}` has none; it needs at least 1", source.name());
            return Err(OptionError::new("segments", reason).into());
        }
        for pipeline in processor.pipelines() {
            let name = pipeline.name().clone();
            if pipeline.windows_by_arrival() {
                return Err(ReconcileError::WindowsByArrival { pipeline: name });
            }
            if pipeline.keeps_ledger() {
                continue;
            }
            if inspection.repair {
                return Err(ReconcileError::RepairWithoutLedger { pipeline: name });
            }
            if pipeline.keeps_expired_items() {
                return Err(ReconcileError::KeepsExpired { pipeline: name });
            }
        }
        Ok(self.made)
    }
}

impl<T, S: Lookup> fmt::Debug for ReconcileBuilder<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReconcileBuilder").field(&self.made).finish()
    }
}
