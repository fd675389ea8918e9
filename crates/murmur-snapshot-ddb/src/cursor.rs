use murmur_core::Item;
use murmur_snapshot::{Cursor, SourceError};
use serde::{Deserialize, Serialize};

use crate::attributes::{self, Attributes, RowError};
use crate::parallel_scan::ParallelScan;

/// Where a page ended. A LastEvaluatedKey means something only in the same segment of the same
/// number of segments, so both are part of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScanCursor {
    pub(crate) table: String,
    pub(crate) segment: u32,
    pub(crate) segments: u32,
    pub(crate) key: Item,
}

impl ScanCursor {
    pub(crate) fn new(
        scan: &ParallelScan,
        segment: u32,
        last_evaluated: Attributes,
    ) -> Result<Self, RowError> {
        Ok(Self {
            table: scan.table.clone(),
            segment,
            segments: scan.segments,
            key: attributes::item(last_evaluated)?,
        })
    }

    pub(crate) fn encode(&self) -> Cursor {
        Cursor::new(serde_json::json!(self).to_string())
    }

    /// The ExclusiveStartKey that continues at `cursor`.
    pub(crate) fn start_key(
        scan: &ParallelScan,
        segment: u32,
        cursor: &Cursor,
    ) -> Result<Attributes, SourceError> {
        let refused = |reason| SourceError::Cursor {
            place: scan.place(),
            cursor: cursor.to_string(),
            reason,
        };
        let at: Self = serde_json::from_str(cursor.as_str())
            .map_err(|error| refused(format!("it is not a cursor of a table scan ({error})")))?;
        let (theirs, ours) = (
            (at.table.as_str(), at.segment, at.segments),
            (scan.table.as_str(), segment, scan.segments),
        );
        if theirs != ours {
            return Err(refused(format!(
                "it belongs to segment {} of {} of table `{}`, and this is segment {} of {} of \
                 table `{}`; scan with the settings it was made with",
                theirs.1, theirs.2, theirs.0, ours.1, ours.2, ours.0
            )));
        }
        Ok(at.key.into())
    }
}
