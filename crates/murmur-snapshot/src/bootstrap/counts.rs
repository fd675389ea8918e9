use std::ops::AddAssign;

use murmur_core::RecordOutcome;
use serde::{Deserialize, Serialize};

use crate::rejected_row::RejectedRow;

/// How many rows had which outcome.
///
/// Every row has exactly one of six outcomes, the worst that it had in any pipeline:
/// `rows = applied + duplicates + superseded + skipped + expired + rejected`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Rows the source examined, filtered rows included.
    pub examined: u64,
    /// Rows the source returned, bad rows included.
    pub rows: u64,
    /// Rows that were counted.
    pub applied: u64,
    /// Rows that were already counted, in an earlier attempt at the run.
    pub duplicates: u64,
    /// Rows of items of which a newer version is already counted.
    pub superseded: u64,
    /// Rows that the decoder skipped, or that have no key.
    pub skipped: u64,
    /// Rows of windows whose retention is over.
    pub expired: u64,
    /// Rows that at least one pipeline can never count. They are passed over.
    pub rejected: u64,
    /// The cost of reading in read units, if the source knows it.
    pub read_units: f64,
}

impl Counts {
    /// Counts a row by its outcome; `None` if the row failed or was blocked.
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

    /// Takes back the outcomes of rows that will be read again, but not the cost of reading them.
    pub(crate) fn take_back(&mut self, other: &Self) {
        self.each(other, |count, less| *count = count.saturating_sub(less));
    }

    /// Combines each count of rows with the other's.
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

/// The outcome of a page, or of all pages of a segment so far.
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
