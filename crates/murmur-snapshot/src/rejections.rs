use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::future::BoxFuture;
use murmur_core::{BoxError, Rejected};
use murmur_state::Causes;

use crate::report::RejectedRow;

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
        let row = RejectedRow {
            id: rejected.record.event_id().to_owned(),
            pipeline: rejected.pipeline.clone(),
            reason: Causes(&rejected.error).to_string(),
        };
        if let Some(callback) = &self.callback {
            callback(rejected).await?;
        }
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() < self.limit {
            listed.push(row);
        }
        Ok(())
    }

    pub(crate) fn listed(&self) -> Vec<RejectedRow> {
        self.listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejections")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
