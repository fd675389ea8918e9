use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use murmur_core::RecordOutcome;
use murmur_state::{HandoffToken, ItemId, Outage, PipelineName};
use serde::{Deserialize, Serialize};

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
}

impl Counts {
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

/// How a bootstrap ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The run's id: the same in every attempt at it, and for all its workers.
    pub run: String,
    /// Whether the run was begun before: by an earlier attempt, or by another worker.
    pub rerun: bool,
    /// Whether all is done.
    pub ended: Ended,
    /// Where live begins, as captured before the run's first page; `None` if the source has no
    /// stream.
    pub token: Option<HandoffToken>,
    /// What this attempt did not read, since it was done with before.
    pub earlier: Earlier,
    /// What became of the rows in this attempt. A page that was read again counts as it was done with
    /// in the end; what reading it cost counts each time that it was done with.
    pub counts: Counts,
    /// How many segments of this part another process took and finished meanwhile. What it made of
    /// their rows is in its report; what this one had saved of them is in `counts`.
    pub left: u32,
    /// The rows that were rejected, by each pipeline that did, those of earlier attempts first,
    /// up to the limit [set](crate::Bootstrap::max_listed). [`Counts::rejected`] of `earlier` and
    /// `counts` say how many rows there were in all.
    pub rejected: Vec<RejectedRow>,
}

/// Whether all of a run is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The run is finished: every segment is done, and its record says so.
    Finished,
    /// The segments of this [worker](crate::Bootstrap::worker) are done. Others are not, and who
    /// finishes the last of them finishes the run.
    OwnPart,
    /// It was stopped before its end: the run is unfinished, and can be run again.
    Stopped,
}

/// What earlier attempts at a run had done of the segments that this one is to read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Earlier {
    /// Segments that were done, and are not read at all.
    pub segments: u32,
    /// What became of all rows that are not read again, those of segments begun included.
    pub counts: Counts,
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

/// A row that can never count.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectedRow {
    /// The row's event id, or where it stands.
    pub id: String,
    /// The pipeline that rejected it; `None` if it cannot be read at all.
    pub pipeline: Option<PipelineName>,
    /// Why, with all causes.
    pub reason: String,
}

/// The row as people write its key, where it is named by one, and why: `order_id = "o1": …`.
impl fmt::Display for RejectedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown_row(&self.id), self.reason)
    }
}

/// A row's event as people write it.
pub(crate) fn shown_row(event: &str) -> String {
    ItemId::of_scan_event(event).map_or_else(|| event.to_owned(), |item| item.to_string())
}

/// The first row that was rejected, of a source of which every row was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirstRejected {
    /// Which, and why.
    pub row: RejectedRow,
    /// What it looks like: the names and types of its attributes.
    pub found: String,
}

/// What a bootstrap tells while it is running.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Its record is saved, the first page comes next.
    Started {
        /// The run's id.
        run: &'a str,
        /// Whether the run was begun before: by an earlier attempt, or by another worker.
        rerun: bool,
        /// Where live begins.
        token: Option<&'a HandoffToken>,
        /// How many segments there are for this process.
        segments: u32,
        /// What of them is not read, since it was done with before.
        earlier: &'a Earlier,
    },
    /// A page is done with.
    Page {
        /// Its segment.
        segment: u32,
        /// What became of its rows.
        page: &'a Counts,
        /// What became of all rows so far, those of earlier attempts included. It becomes less where
        /// pages that were done are read again, or left to another process.
        total: &'a Counts,
        /// How much is done, 0 to 1: an estimate, by the number of rows that the source thinks
        /// it has, or else by segments. 1 only when all is done.
        share_done: f64,
        /// How long the rest will take if it goes on like this: an estimate. `None` as long as
        /// there is nothing to tell it by.
        time_left: Option<Duration>,
        /// How long this attempt has been reading.
        elapsed: Duration,
    },
    /// A segment was read to its end, and its checkpoint says so.
    SegmentDone {
        /// Which.
        segment: u32,
        /// How many of them are done.
        done: u32,
        /// How many there are for this process.
        of: u32,
    },
    /// It may take longer than the stream keeps what comes after the token. Told, and traced, at
    /// most once an hour.
    Late {
        /// How long ago the token was captured.
        age: Duration,
        /// How old it may become: [`SURE_LIFE`](murmur_state::SURE_LIFE).
        life: Duration,
        /// How long the rest will take if it goes on like this; `None` if nobody knows.
        time_left: Option<Duration>,
        /// What to do.
        advice: &'a str,
    },
    /// Operations fail in passing, and are tried again: told once for all of them, after 30 seconds,
    /// then every minute, and when it is over. It can come before [`Started`](Progress::Started).
    Outage {
        /// What there is to tell.
        outage: &'a Outage<'a>,
    },
    /// All is read, and the record says so unless other workers have more to do.
    Finished {
        /// How it ended.
        report: &'a Report,
    },
    /// It was stopped before its end.
    Stopped {
        /// How far it came.
        report: &'a Report,
    },
}
