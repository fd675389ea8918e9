//! The options of an audit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::{OptionError, PipelineName, RetryPolicy};

use crate::delivery::Pacing;

/// Default number of keys held in memory.
const MAX_KEYS: usize = 2_000_000;

/// Default number of ledger segments listed at a time.
const CONCURRENCY: u32 = 8;

/// Default number of differing keys listed.
const MAX_LISTED: usize = 100;

pub(crate) type ProgressFn = dyn Fn(&AuditProgress<'_>) + Send + Sync;

/// The options of an [audit](crate::Processor::audit), or of a [status of the
/// ledgers](crate::Processor::ledgers).
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
    /// The number of differing keys listed for each pipeline. Default 100.
    pub fn max_listed(mut self, keys: usize) -> Self {
        self.max_listed = keys;
        self
    }

    /// The number of keys held in memory at a time; at least 1. Each takes about 200 bytes,
    /// including entity and value: 200 MB per million. A state of more keys is audited in several
    /// parts, each of which lists ledger and state once more. Default 2,000,000.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// The number of segments in which the ledger is listed, all at the same time; at least 1. Each
    /// holds one part of the listing in memory, about 1 MB. Default 8.
    pub fn concurrency(mut self, segments: u32) -> Self {
        self.concurrency = segments;
        self
    }

    /// How often, and for how long, a failed read is tried again. Default: any number of times, for
    /// 30 minutes each.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Limits the rate of listings. Default: no limit.
    pub fn pacing(mut self, pacing: Arc<dyn Pacing>) -> Self {
        self.pacing = Some(pacing);
        self
    }

    /// A callback for the progress. It is called between parts of a listing, so it should return
    /// soon. Default: none.
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

/// The progress of an audit, or of a status of a ledger.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AuditProgress<'a> {
    /// The current pipeline.
    pub pipeline: &'a PipelineName,
    /// The current part of the keys, from 1. There is more than one only if there are more keys
    /// than [`max_keys`](AuditOptions::max_keys).
    pub part: u32,
    /// The current pass over the ledger in this part, from 1. Second and later passes are for keys
    /// that differ.
    pub pass: u32,
    /// The number of items that the ledger has listed in this pass.
    pub ledger_rows: u64,
    /// The number of rows that the state has listed in this part.
    pub state_rows: u64,
    /// The cost in read units so far, if the store knows it.
    pub read_units: f64,
    /// The time since the audit of this pipeline began.
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
