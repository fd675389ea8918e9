use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::future::BoxFuture;
use murmur_core::{BoxError, Rejected};
use murmur_state::Causes;

use crate::report::RejectedRow;
use crate::source::BadRow;

pub(crate) type RejectFn =
    dyn Fn(Rejected) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// Takes every row that can never count: asks the user's callback, and lists it.
pub(crate) struct Rejections {
    pub(crate) callback: Option<Box<RejectFn>>,
    pub(crate) limit: usize,
    listed: Mutex<Vec<RejectedRow>>,
}

impl Rejections {
    pub(crate) fn new(callback: Option<Box<RejectFn>>, limit: usize) -> Self {
        Self {
            callback,
            limit,
            listed: Mutex::default(),
        }
    }

    /// `Err` if the callback did not take it.
    pub(crate) async fn take(&self, rejected: Rejected) -> Result<(), BoxError> {
        let row = RejectedRow::from(&rejected);
        if let Some(callback) = &self.callback {
            callback(rejected).await?;
        }
        self.list(row);
        Ok(())
    }

    /// Lists a row, if there is room.
    pub(crate) fn list(&self, row: RejectedRow) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() < self.limit {
            listed.push(row);
        }
    }

    pub(crate) fn listed(&self) -> Vec<RejectedRow> {
        self.listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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
        f.debug_struct("Rejections")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
