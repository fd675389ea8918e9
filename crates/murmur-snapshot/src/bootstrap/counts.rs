use std::ops::AddAssign;

use murmur_core::RecordOutcome;
use serde::{Deserialize, Serialize};

use crate::rejected_row::RejectedRow;

/// What became of the rows.
///
/// Every row is in exactly one of the six kinds, by the worst that became of it in any pipeline:
/// `rows = applied + duplicates + superseded + skipped + expired + rejected`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Rows the source looked at, filtered ones included.
    pub examined: u64,
    /// Rows the source gave, bad ones included.
    pub rows: u64,
    /// Rows that count now.
    pub applied: u64,
    /// Rows that counted before, in an earlier attempt at the run.
    pub duplicates: u64,
    /// Rows of items of which a later version counts already.
    pub superseded: u64,
    /// Rows the decoder skipped, or without a key to count for.
    pub skipped: u64,
    /// Rows of windows that are over.
    pub expired: u64,
    /// Rows that can never count, or not everywhere: passed over.
    pub rejected: u64,
    /// What reading cost in read units, where the source says.
    pub read_units: f64,
}

impl Counts {
    /// Counts a row by its outcome; `None` for one that is neither counted nor passed over.
    pub(crate) fn take(&mut self, outcome: &RecordOutcome) -> Option<()> {
        let kind = match outcome {
            RecordOutcome::Applied => &mut self.applied,
            RecordOutcome::Duplicate => &mut self.duplicates,
            RecordOutcome::Superseded => &mut self.superseded,
            RecordOutcome::Skipped => &mut self.skipped,
            RecordOutcome::Expired => &mut self.expired,
            RecordOutcome::PassedOver => &mut self.rejected,
            RecordOutcome::Blocked | RecordOutcome::Failed(_) => return None,
        };
        *kind += 1;
        Some(())
    }

    /// Takes back what became of rows that will be read again, not what reading them cost.
    pub(crate) fn take_back(&mut self, other: &Self) {
        self.each(other, |count, less| *count = count.saturating_sub(less));
    }

    /// Combines each number of rows with the other's.
    fn each(&mut self, other: &Self, combine: impl Fn(&mut u64, u64)) {
        let Self {
            examined,
            rows,
            applied,
            duplicates,
            superseded,
            skipped,
            expired,
            rejected,
            read_units: _,
        } = self;
        combine(examined, other.examined);
        combine(rows, other.rows);
        combine(applied, other.applied);
        combine(duplicates, other.duplicates);
        combine(superseded, other.superseded);
        combine(skipped, other.skipped);
        combine(expired, other.expired);
        combine(rejected, other.rejected);
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.each(&other, |count, more| *count += more);
        self.read_units += other.read_units;
    }
}

/// What became of the rows of a page, or of all pages of a segment so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    pub(crate) rejected: Vec<RejectedRow>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, Self { counts, rejected }: Self) {
        self.counts += counts;
        self.rejected.extend(rejected);
    }
}
