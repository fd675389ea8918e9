use std::time::Duration;

use murmur_state::{HandoffToken, Outage};

use super::counts::Counts;
use super::report::{Earlier, Report};

pub(crate) type ProgressFn = dyn Fn(&Progress<'_>) + Send + Sync;

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
    /// All is read, and the record says so unless other workers have more to do; or an earlier process
    /// had finished the run, and this is all that is told of it.
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
