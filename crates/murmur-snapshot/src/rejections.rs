use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use murmur_core::{BoxError, Rejected};
use murmur_state::Causes;

use crate::report::RejectedRow;
use crate::source::BadRow;

pub(crate) type RejectFn =
    dyn Fn(Rejected) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// Takes every row that can never count: asks the user's callback, and notes it for its page.
pub(crate) struct Rejections {
    callback: Option<Box<RejectFn>>,
    /// By event id; of the pages that are being written only.
    noted: Mutex<HashMap<String, Vec<RejectedRow>>>,
}

impl Rejections {
    pub(crate) fn new(callback: Option<Box<RejectFn>>) -> Self {
        Self {
            callback,
            noted: Mutex::default(),
        }
    }

    /// `Err` if the callback did not take it.
    pub(crate) async fn take(&self, rejected: Rejected) -> Result<(), BoxError> {
        let row = RejectedRow::from(&rejected);
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
