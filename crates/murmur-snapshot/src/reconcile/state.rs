//! What a reconcile knows while it runs.

use std::time::Duration;

use murmur_core::ItemSet;
use murmur_state::ItemId;

use crate::budget::ReadPacer;
use crate::rejected_row::RejectedRow;

/// What the source has cost so far, and when it may be read again.
#[derive(Default)]
pub(super) struct Spending {
    /// `None` before the source was described.
    pub(super) pace: Option<ReadPacer>,
    pub(super) units: f64,
}

/// What a reconcile knows while it runs.
pub(super) struct State {
    /// Items that the scan has seen, as far as they are remembered.
    pub(super) seen: ItemSet,
    /// For each ledger the items to be looked at closely.
    pub(super) suspects: Vec<Vec<ItemId>>,
    pub(super) rows: u64,
    pub(super) rows_expected: Option<u64>,
    pub(super) rejected_rows: u64,
    /// As many of them as the report lists.
    pub(super) rejected: Vec<RejectedRow>,
    pub(super) ledger_rows: u64,
    pub(super) begun: Duration,
}

/// Which recounts a scan is for, by their place among the recounts.
#[derive(Clone, Copy)]
pub(super) struct Purpose<'p> {
    pub(super) recounts: &'p [usize],
    /// Whether rows are compared with the ledgers too, and what can never count is noted.
    pub(super) first: bool,
}
