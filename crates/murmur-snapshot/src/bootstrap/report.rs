use murmur_state::{HandoffToken, Timestamp};

use super::counts::Counts;
use crate::rejected_row::RejectedRow;

/// How a bootstrap ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The run's id: the same in every attempt at it, and for all its workers.
    pub run: String,
    /// Whether an earlier attempt, or another worker, began the run.
    pub rerun: bool,
    /// Whether the run is finished.
    pub ended: Ended,
    /// Where the stream consumer has to begin, captured before the run's first page; `None` if the
    /// source has no stream. [`handoff_token`](Report::handoff_token) returns it or an error.
    pub token: Option<HandoffToken>,
    /// What earlier attempts did, which this one did not read again.
    pub earlier: Earlier,
    /// The outcome of the rows in this attempt. The rows of a page that was read again count once,
    /// with their last outcome; the cost of reading it counts each time.
    pub counts: Counts,
    /// How many segments of this part another process took over and finished. Their rows are in the
    /// report of that process; what this process had saved of them is in `counts`.
    pub left: u32,
    /// The rejected rows, once for each pipeline that rejected them, earlier attempts first, up to
    /// [`max_listed`](crate::BootstrapBuilder::max_listed). [`Counts::rejected`] of `earlier` and
    /// `counts` have the number of all rejected rows.
    pub rejected: Vec<RejectedRow>,
}

impl Report {
    /// Where the stream consumer has to begin, for a trigger or the check of a mapping.
    ///
    /// # Errors
    ///
    /// [`NoToken`] if the source has no stream.
    pub fn handoff_token(&self) -> Result<HandoffToken, NoToken> {
        self.token.clone().ok_or_else(|| NoToken {
            run: self.run.clone(),
        })
    }
}

/// A bootstrap captured no handoff token, so it is not known where the stream consumer has to
/// begin.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "run `{run}` captured no handoff token, because its source has no stream, or no client for it: \
     it is not known where to begin reading the stream; switch a stream on, and bootstrap into new \
     state and marker tables"
)]
#[non_exhaustive]
pub struct NoToken {
    /// The run.
    pub run: String,
}

murmur_state::debug_as_message!(NoToken);

/// How a call of a bootstrap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The run is finished: every segment is done, and its record says so.
    Finished,
    /// An earlier process finished the run, so nothing was read. [`Report::counts`] and the rest
    /// are empty; [`Report::token`] is the token that the run captured.
    FinishedBefore {
        /// When it was finished.
        finished_at: Timestamp,
    },
    /// The segments of this [worker](crate::BootstrapBuilder::worker) are done, others are not. The
    /// worker that finishes the last segment finishes the run.
    OwnPart,
    /// The run was stopped before its end. It is unfinished, and can be run again.
    Stopped,
}

/// What earlier attempts at a run did of the segments of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Earlier {
    /// Segments that are done, and are not read.
    pub segments: u32,
    /// The outcome of all rows that are not read again, including those of unfinished segments.
    pub counts: Counts,
}
