use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use murmur_core::{AttributeValue, Record, Rejected, Row};

use crate::rejected_row::RejectedRow;

/// How many attributes of a row are listed.
const MAX_SHOWN: usize = 12;

/// The first row of a source of which every row was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirstRejected {
    /// The row, and why it was rejected.
    pub row: RejectedRow,
    /// The names and types of its attributes.
    pub found: String,
}

/// The rows that were rejected, until their pages are done.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    /// By event id; only of pages that are being written.
    noted: Mutex<HashMap<String, Vec<RejectedRow>>>,
    first: OnceLock<FirstRejected>,
}

impl Rejections {
    pub(crate) fn first(&self) -> Option<&FirstRejected> {
        self.first.get()
    }

    pub(crate) fn note(&self, rejected: &Rejected) {
        let row = RejectedRow::from(rejected);
        self.first.get_or_init(|| FirstRejected {
            row: row.clone(),
            found: looks(&rejected.record),
        });
        self.noted().entry(row.id.clone()).or_default().push(row);
    }

    /// Takes out what was noted of the rows called `ids`.
    pub(crate) fn of<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Vec<RejectedRow> {
        let mut noted = self.noted();
        if noted.is_empty() {
            return Vec::new();
        }
        let ids = ids.into_iter();
        ids.flat_map(|id| noted.remove(id).unwrap_or_default())
            .collect()
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<String, Vec<RejectedRow>>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names and types of a row's attributes, without their values, which may be secret.
fn looks(record: &Record) -> String {
    let Record::Scanned(Row { item, .. }) = record else {
        return "no row".to_owned();
    };
    let mut attributes: Vec<_> = item.iter().collect();
    attributes.sort_unstable_by_key(|(name, _)| *name);
    let more = attributes.len().saturating_sub(MAX_SHOWN);
    let shown = attributes.iter().take(MAX_SHOWN);
    let shown: Vec<_> = shown
        .map(|(name, value)| format!("`{name}` ({})", kind(value)))
        .collect();
    match (shown.is_empty(), more) {
        (true, _) => "whose attributes cannot be read".to_owned(),
        (false, 0) => format!("with {}", shown.join(", ")),
        (false, more) => format!("with {} and {more} more attributes", shown.join(", ")),
    }
}

fn kind(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::N(_) => "N",
        AttributeValue::S(_) => "S",
        AttributeValue::Bool(_) => "BOOL",
        AttributeValue::B(_) => "B",
        AttributeValue::Null(_) => "NULL",
        AttributeValue::M(_) => "M",
        AttributeValue::L(_) => "L",
        AttributeValue::Ss(_) => "SS",
        AttributeValue::Ns(_) => "NS",
        AttributeValue::Bs(_) => "BS",
    }
}
