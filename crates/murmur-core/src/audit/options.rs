//! How an audit goes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::{OptionError, PipelineName, RetryPolicy};

use crate::delivery::Pacing;

/// Keys held in memory unless told otherwise.
const MAX_KEYS: usize = 2_000_000;

/// Segments of the ledger listed at a time unless told otherwise.
const CONCURRENCY: u32 = 8;

/// Differing keys listed unless told otherwise.
const MAX_LISTED: usize = 100;

pub(crate) type ProgressFn = dyn Fn(&AuditProgress<'_>) + Send + Sync;

/// How an [audit](crate::Processor::audit), or a [status of the ledgers](crate::Processor::ledgers), goes.
#[derive(Clone)]
#[must_use]
pub struct AuditOptions {
    pub(crate) max_listed: usize,
    pub(crate) max_keys: usize,
    pub(crate) concurrency: u32,
    pub(crate) retry: RetryPolicy,
    pub(crate) pacing: Option<Arc<dyn Pacing>>,
    pub(crate) progress: Arc<ProgressFn>,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            max_listed: MAX_LISTED,
            max_keys: MAX_KEYS,
            concurrency: CONCURRENCY,
            retry: RetryPolicy::patient(),
            pacing: None,
            progress: Arc::new(|_| ()),
        }
    }
}

impl AuditOptions {
    /// How many differing keys of each pipeline are listed. Default 100.
    pub fn max_listed(mut self, keys: usize) -> Self {
        self.max_listed = keys;
        self
    }

    /// How many keys are held in memory at a time; at least 1. Each takes about 200 bytes, its
    /// entity and value included: 200 MB per million. A state of more keys is audited in several
    /// parts, each of which lists ledger and state once more. Default 2,000,000.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// In how many segments the ledger is listed, all at a time; at least 1. Each has one part of
    /// the listing in memory, about 1 MB. Default 8.
    pub fn concurrency(mut self, segments: u32) -> Self {
        self.concurrency = segments;
        self
    }

    /// How often and how long a failed read is tried again. Default: as often as it takes, for 30
    /// minutes each.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// What holds the listings back. Default: nothing.
    pub fn pacing(mut self, pacing: Arc<dyn Pacing>) -> Self {
        self.pacing = Some(pacing);
        self
    }

    /// Hears how it goes; called between parts of a listing, so it should return soon. Default: nobody.
    pub fn on_progress(
        mut self,
        progress: impl Fn(&AuditProgress<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    pub(crate) fn check(&self) -> Result<(), OptionError> {
        let one = "must be at least 1";
        if self.max_keys == 0 {
            return Err(OptionError::new("max_keys", one));
        }
        if self.concurrency == 0 {
            return Err(OptionError::new("concurrency", one));
        }
        self.retry.validate()
    }
}

impl fmt::Debug for AuditOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditOptions")
            .field("max_listed", &self.max_listed)
            .field("max_keys", &self.max_keys)
            .field("concurrency", &self.concurrency)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// How far an audit, or a status of a ledger, is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AuditProgress<'a> {
    /// The pipeline that is looked at.
    pub pipeline: &'a PipelineName,
    /// Which part of the keys, counted from 1. There is a second one only where the keys are more
    /// than are [held](AuditOptions::max_keys).
    pub part: u32,
    /// Which pass over the ledger in this part, counted from 1; the second and later ones are for
    /// keys that differ.
    pub pass: u32,
    /// How many items the ledger has listed in this pass.
    pub ledger_rows: u64,
    /// How many rows the state has listed in this part.
    pub state_rows: u64,
    /// What the audit cost in read units so far, where the store knows.
    pub read_units: f64,
    /// How long the audit of this pipeline takes so far.
    pub elapsed: Duration,
}

impl<'a> AuditProgress<'a> {
    /// The beginning of a pass over the first part of the keys of `pipeline`.
    pub fn at(pipeline: &'a PipelineName, pass: u32) -> Self {
        Self {
            pipeline,
            part: 1,
            pass,
            ledger_rows: 0,
            state_rows: 0,
            read_units: 0.0,
            elapsed: Duration::ZERO,
        }
    }
}
