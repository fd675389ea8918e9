use std::time::Duration;

use murmur_core::{KeyDifference, LedgerFindings, RecountFindings};
use murmur_state::PipelineName;

use crate::report::RejectedRow;

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
    /// Whether every difference that stands was mended, or there is none.
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

impl ReconciledPipeline {
    /// The differing keys that are listed, in order.
    pub fn keys(&self) -> &[KeyDifference] {
        match &self.findings {
            Findings::Ledger(found) => &found.keys,
            Findings::Recount(found) => &found.keys,
        }
    }

    /// How many differences were not mended: items by the ledger, keys by a recount.
    pub fn left(&self) -> u64 {
        match &self.findings {
            Findings::Ledger(found) => found.differing - found.mended,
            Findings::Recount(found) => found.differing,
        }
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
    /// How many items, or keys without a ledger, differed at first.
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
    /// It waits for the lag, to recount the table a second time.
    Wait,
}
