use std::time::Duration;

use murmur_core::{KeyDifference, LedgerFindings, RecountFindings};
use murmur_state::PipelineName;

use crate::rejected_row::RejectedRow;

/// What a reconcile found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Reconciled {
    /// How many rows the scan gave, bad ones included.
    pub rows: u64,
    /// How many times a row can never count, in one pipeline or in all: it contributes nothing.
    pub rejected_rows: u64,
    /// The first of them, up to the limit.
    pub rejected: Vec<RejectedRow>,
    /// What scanning the source and looking its items up cost in read units, where the source says.
    pub read_units: f64,
    /// What was found of each pipeline, in their order.
    pub pipelines: Vec<ReconciledPipeline>,
}

impl Reconciled {
    /// Whether every difference that stands was mended, or there is none. What cannot be told is none:
    /// see [`SettledFindings::KeepsExpired`].
    pub fn is_clean(&self) -> bool {
        self.pipelines.iter().all(|pipeline| pipeline.left() == 0)
    }
}

/// What a reconcile found of one pipeline.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReconciledPipeline {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// What was found.
    pub findings: Findings,
    /// What was found of its keys, where items of its ledger have settled.
    pub settled: SettledFindings,
}

/// What was found, by the way it was looked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Findings {
    /// Item by item, by the ledger.
    Ledger(LedgerFindings),
    /// Key by key, by a recount.
    Recount(RecountFindings),
}

/// What was found of the keys of a pipeline whose items [settle](murmur_core::Definition::settle).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettledFindings {
    /// Its items do not settle, and none has; or it keeps no ledger, and its findings are of keys anyway.
    NotSettling,
    /// What a recount of all its keys found, after the repair where one was asked for. A key differs
    /// because of a settled item, or because of one that the findings by the ledger name and that was
    /// not mended.
    Recount(RecountFindings),
    /// Nothing: items that Time to Live removed go on counting, and of settled ones nobody knows which
    /// those were, so no recount can tell what the keys should be.
    KeepsExpired,
}

impl SettledFindings {
    /// The differing keys that are listed, in order.
    pub fn keys(&self) -> &[KeyDifference] {
        match self {
            Self::Recount(found) => &found.keys,
            Self::NotSettling | Self::KeepsExpired => &[],
        }
    }

    /// How many keys differ.
    pub fn differing(&self) -> u64 {
        match self {
            Self::Recount(found) => found.differing,
            Self::NotSettling | Self::KeepsExpired => 0,
        }
    }

    /// What to do about what cannot be mended, or told, here; `None` if there is nothing to be done.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Recount(found) if found.differing > 0 => Some(
                "keys of settled items are not mended: repair the items that the ledger names, if there are any; for what is named after that, raise the definition's `version`, make new state and marker tables, and bootstrap into them",
            ),
            Self::KeepsExpired => Some(
                "what Time to Live removed goes on counting, so keys of settled items cannot be recounted; if changes may have been lost, raise the definition's `version`, make new state and marker tables, and bootstrap into them",
            ),
            Self::Recount(_) | Self::NotSettling => None,
        }
    }
}

impl ReconciledPipeline {
    /// The differing keys that are listed, in order: by the ledger where there is one. Those of settled
    /// items are [`settled`](Self::settled)'s.
    pub fn keys(&self) -> &[KeyDifference] {
        match &self.findings {
            Findings::Ledger(found) => &found.keys,
            Findings::Recount(found) => &found.keys,
        }
    }

    /// How many differences were not mended: items by the ledger, and keys by a recount. Where items
    /// settle both are counted, also of a key that differs because of an item of the ledger.
    pub fn left(&self) -> u64 {
        let left = match &self.findings {
            Findings::Ledger(found) => found.differing - found.mended,
            Findings::Recount(found) => found.differing,
        };
        left + self.settled.differing()
    }
}

/// How far a reconcile is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ReconcileProgress {
    /// What it is doing.
    pub step: ReconcileStep,
    /// How many rows of the table it looked at, each time it did.
    pub rows: u64,
    /// About how many rows the table has, where the source knows: an estimate.
    pub rows_expected: Option<u64>,
    /// How many items the ledgers have listed.
    pub ledger_rows: u64,
    /// How many items, or keys in a recount, differed at first.
    pub suspects: u64,
    /// What scanning and looking items up cost in read units so far, where the source says.
    pub read_units: f64,
    /// How long it takes so far.
    pub elapsed: Duration,
}

/// What a reconcile is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconcileStep {
    /// It scans the table.
    Scan,
    /// It lists what the ledgers know.
    Ledger,
    /// It looks at these items closely, and waits for the lag where any differ.
    Settle {
        /// How many.
        items: u64,
    },
    /// It waits for the lag, to recount the table once more.
    Wait,
}
