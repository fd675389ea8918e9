use std::fmt;

use murmur_core::Rejected;
use murmur_state::{Causes, ItemId, PipelineName};

use crate::source::BadRow;

/// A row that can never count.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectedRow {
    /// The row's event id, or its place in the source, such as `line 17`.
    pub id: String,
    /// The pipeline that rejected it; `None` if the row cannot be read at all.
    pub pipeline: Option<PipelineName>,
    /// Why, with all causes.
    pub reason: String,
}

/// The row's key as people write it, and the reason: `order_id = "o1": …`.
impl fmt::Display for RejectedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown_row(&self.id), self.reason)
    }
}

/// The name of a row for people: its key, if the event id is made of one.
pub(crate) fn shown_row(event: &str) -> String {
    ItemId::of_scan_event(event).map_or_else(|| event.to_owned(), |item| item.to_string())
}

impl From<&Rejected> for RejectedRow {
    fn from(rejected: &Rejected) -> Self {
        Self {
            id: rejected.record.event_id().to_owned(),
            pipeline: rejected.pipeline.clone(),
            reason: Causes(&rejected.error).to_string(),
        }
    }
}

impl From<&BadRow> for RejectedRow {
    fn from(bad: &BadRow) -> Self {
        Self {
            id: bad.id.clone(),
            pipeline: None,
            reason: Causes(&*bad.error).to_string(),
        }
    }
}
