use murmur_state::{HandoffToken, Timestamp};

use super::counts::Counts;
use crate::rejected_row::RejectedRow;

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
    /// stream. [`handoff_token`](Report::handoff_token) has it for what cannot do without.
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
    /// up to the limit [set](crate::BootstrapBuilder::max_listed). [`Counts::rejected`] of `earlier` and
    /// `counts` say how many rows there were in all.
    pub rejected: Vec<RejectedRow>,
}

impl Report {
    /// Where live begins, for what cannot do without: a trigger, the check of a mapping.
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

/// A bootstrap captured no handoff token, so nothing says where live begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "run `{run}` captured no handoff token, since its source has no stream, or was not given the client of its stream: nothing says where live begins; switch a stream on, and bootstrap into new state and marker tables"
)]
#[non_exhaustive]
pub struct NoToken {
    /// The run.
    pub run: String,
}

/// Whether all of a run is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The run is finished: every segment is done, and its record says so.
    Finished,
    /// The run was finished by an earlier process, so nothing was read: [`Report::counts`] and the rest
    /// are empty, and [`Report::token`] is the one that the run captured.
    FinishedBefore {
        /// When it was finished.
        finished_at: Timestamp,
    },
    /// The segments of this [worker](crate::BootstrapBuilder::worker) are done. Others are not, and who
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
