//! The state of a reconcile while it runs.

use std::time::Duration;

use crate::budget::ReadPacer;
use crate::rejected_row::RejectedRow;

/// The cost of the source so far, and when it may be read again.
#[derive(Default)]
pub(super) struct Spending {
    /// `None` before the source was described.
    pub(super) pace: Option<ReadPacer>,
    pub(super) units: f64,
}

/// The state of a reconcile while it runs.
pub(super) struct State {
    /// How many scans were begun.
    pub(super) scans: u32,
    pub(super) rows: u64,
    /// How many rows the first scan returned.
    pub(super) first_rows: u64,
    pub(super) rows_expected: Option<u64>,
    pub(super) rejected_rows: u64,
    /// The rejected rows that the report lists.
    pub(super) rejected: Vec<RejectedRow>,
    pub(super) ledger_rows: u64,
    pub(super) begun: Duration,
}
