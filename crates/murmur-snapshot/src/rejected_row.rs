use std::fmt;

use murmur_core::Rejected;
use murmur_state::{Causes, ItemId, PipelineName};

use crate::source::BadRow;

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
