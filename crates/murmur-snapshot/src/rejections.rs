use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::BoxFuture;
use murmur_core::{AttributeValue, BoxError, Record, Rejected, Row};
use murmur_state::Causes;

use crate::report::RejectedRow;
use crate::source::BadRow;

/// How many attributes of a row are named.
const MAX_SHOWN: usize = 12;

pub(crate) type RejectFn =
    dyn Fn(Rejected) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// Takes every row that can never count: asks the user's callback, and notes it for its page.
pub(crate) struct Rejections {
    callback: Option<Box<RejectFn>>,
    /// By event id; of the pages that are being written only.
    noted: Mutex<HashMap<String, Vec<RejectedRow>>>,
    first: OnceLock<FirstRejected>,
}

/// The first row that was rejected.
#[derive(Debug, Clone)]
pub(crate) struct FirstRejected {
    pub(crate) row: RejectedRow,
    /// What it looks like.
    pub(crate) found: String,
}

impl Rejections {
    pub(crate) fn new(callback: Option<Box<RejectFn>>) -> Self {
        Self {
            callback,
            noted: Mutex::default(),
            first: OnceLock::new(),
        }
    }

    pub(crate) fn first(&self) -> Option<&FirstRejected> {
        self.first.get()
    }

    /// `Err` if the callback did not take it.
    pub(crate) async fn take(&self, rejected: Rejected) -> Result<(), BoxError> {
        let row = RejectedRow::from(&rejected);
        self.first.get_or_init(|| FirstRejected {
            row: row.clone(),
            found: looks(&rejected.record),
        });
        if let Some(callback) = &self.callback {
            callback(rejected).await?;
        }
        self.noted().entry(row.id.clone()).or_default().push(row);
        Ok(())
    }

    /// What was noted of the rows called `ids`, which is forgotten here.
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

/// What a row looks like: the names and types of its attributes, and no values, which may be
/// secret.
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
        (true, _) => "of which no attribute could be read".to_owned(),
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

impl fmt::Debug for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejections").finish_non_exhaustive()
    }
}
