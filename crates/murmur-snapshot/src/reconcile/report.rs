use std::time::Duration;

use murmur_core::audit::Inspected;

use crate::rejected_row::RejectedRow;

/// What a reconcile found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Reconciled {
    /// How many rows the scan returned, bad rows included.
    pub rows: u64,
    /// How often a row was rejected, by one pipeline or by all. Rejected rows contribute nothing.
    pub rejected_rows: u64,
    /// The first rejected rows, up to the limit.
    pub rejected: Vec<RejectedRow>,
    /// The cost of scanning and looking items up in read units, if the source knows it.
    pub read_units: f64,
    /// The findings of each pipeline, in their order.
    pub pipelines: Vec<Inspected>,
}

impl Reconciled {
    /// Whether there is no difference, or every difference was repaired. What cannot be compared is
    /// not a difference: see
    /// [`SettledFindings::KeepsExpired`](murmur_core::audit::SettledFindings::KeepsExpired).
    pub fn is_clean(&self) -> bool {
        self.pipelines.iter().all(|pipeline| pipeline.left() == 0)
    }
}

/// The progress of a reconcile.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ReconcileProgress {
    /// The current step.
    pub step: ReconcileStep,
    /// How many rows of the table were examined, over all scans.
    pub rows: u64,
    /// An estimate of the rows of the table, if the source knows one.
    pub rows_expected: Option<u64>,
    /// How many items of the ledgers were listed.
    pub ledger_rows: u64,
    /// How many items, or keys in a recount, differed at first.
    pub suspects: u64,
    /// The cost of scanning and looking items up in read units so far, if the source knows it.
    pub read_units: f64,
    /// The time since the start.
    pub elapsed: Duration,
}

/// A step of a reconcile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconcileStep {
    /// It scans the table.
    Scan,
    /// It lists the ledgers.
    Ledger,
    /// It looks at items closely, and waits for the lag if any differ.
    Settle {
        /// How many items.
        items: u64,
    },
    /// It waits for the lag before it recounts the table again.
    Wait,
}
