use std::time::Duration;

use murmur_state::{HandoffToken, Outage};

use super::counts::Counts;
use super::report::{Earlier, Report};

pub(crate) type ProgressFn = dyn Fn(&Progress<'_>) + Send + Sync;

/// The progress of a bootstrap.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The run's record is saved, and the first page comes next.
    Started {
        /// The run's id.
        run: &'a str,
        /// Whether an earlier attempt, or another worker, began the run.
        rerun: bool,
        /// Where the stream consumer has to begin.
        token: Option<&'a HandoffToken>,
        /// How many segments this process has to do.
        segments: u32,
        /// What earlier attempts did, which is not read again.
        earlier: &'a Earlier,
    },
    /// A page is done.
    Page {
        /// Its segment.
        segment: u32,
        /// The outcome of its rows.
        page: &'a Counts,
        /// The outcome of all rows so far, earlier attempts included. It decreases if finished
        /// pages are read again, or left to another process.
        total: &'a Counts,
        /// The share that is done, 0 to 1. An estimate, by the source's estimate of its rows, or by
        /// segments. 1 only when everything is done.
        share_done: f64,
        /// An estimate of how long the rest will take at the present speed. `None` if it cannot be
        /// estimated yet.
        time_left: Option<Duration>,
        /// How long this attempt has been reading so far.
        elapsed: Duration,
    },
    /// A segment is done, and its checkpoint says so.
    SegmentDone {
        /// The segment.
        segment: u32,
        /// How many segments of this process are done.
        done: u32,
        /// How many segments this process has to do.
        of: u32,
    },
    /// The run may take longer than the stream keeps the changes that follow the token. Reported,
    /// and traced, at most once an hour.
    Late {
        /// How long ago the token was captured.
        age: Duration,
        /// How old the token may become: [`SURE_LIFE`](murmur_state::store::SURE_LIFE).
        life: Duration,
        /// How long the rest will take at the present speed; `None` if that is not known.
        time_left: Option<Duration>,
        /// What to do.
        advice: &'a str,
    },
    /// Requests fail and are retried. Reported once for all of them: after 30 seconds, then every
    /// minute, and when it is over. Can come before [`Started`](Progress::Started).
    Outage {
        /// The outage.
        outage: &'a Outage<'a>,
    },
    /// This process is done. The run's record says that the run is finished, unless other workers
    /// have more to do. If an earlier process finished the run, this is the only progress reported.
    Finished {
        /// How it ended.
        report: &'a Report,
    },
    /// The run was stopped before its end.
    Stopped {
        /// How far it got.
        report: &'a Report,
    },
}
