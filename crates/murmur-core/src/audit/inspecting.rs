//! Options, look-up and errors of a comparison of the state with the table.

use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::error::Cause;
use murmur_state::{Grouped, ItemId, PipelineName, StoreError};

use super::found::ItemNow;

/// The options of an inspection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectionOptions {
    /// How far the stream consumer may be behind: a difference is listed only if it persists for
    /// this long. Default 1 minute.
    pub lag: Duration,
    /// Whether differing items are repaired, so that they contribute what they should. Default: no.
    pub repair: bool,
    /// The number of keys and items listed for each pipeline. Default 100.
    pub max_listed: usize,
    /// The number of keys that a recount holds in memory at a time; at least 1. Each takes about
    /// 200 bytes. More keys are recounted in several parts. Default 2,000,000.
    pub max_keys: usize,
    /// The number of differing items, and of keys that they change, at which the inspection gives
    /// up. Both are held in memory: an item takes up to 40 bytes until it is repaired, a key about
    /// 200 bytes to the end, repaired or not, since the findings list it. Default 1,000,000.
    pub max_differing: usize,
    /// The number of scanned items remembered, at 20 to 40 bytes each, so that they need not be
    /// looked up when a ledger lists them. Default 7,000,000.
    pub remember: usize,
}

impl Default for InspectionOptions {
    fn default() -> Self {
        Self {
            lag: Duration::from_secs(60),
            repair: false,
            max_listed: 100,
            max_keys: 2_000_000,
            max_differing: 1_000_000,
            remember: 7_000_000,
        }
    }
}

/// Looks items up in their table by consistent reads, and answers each, in their order.
pub type LookUp<'a> =
    dyn Fn(Vec<ItemId>) -> BoxFuture<'a, Result<Vec<ItemNow>, Cause>> + Send + Sync + 'a;

/// Why an inspection did not finish.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum InspectionError {
    /// The state or the ledger of a pipeline could not be read.
    #[error(
        "the state of pipeline `{pipeline}`, or its ledger, could not be read; fix the cause and run it again"
    )]
    Store {
        /// The pipeline.
        pipeline: PipelineName,
        /// The cause.
        #[source]
        source: Box<StoreError>,
    },
    /// An item could not be looked up in its table.
    #[error(
        "an item of pipeline `{pipeline}` could not be looked up in its table; fix the cause and run it again"
    )]
    LookUp {
        /// The pipeline.
        pipeline: PipelineName,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// More items or keys differ than may be held in memory.
    #[error(
        "more than {limit} items of pipeline `{pipeline}` differ, or they change more than {limit} keys, the limit of `max_differing`; check that state and table belong together; if they do, `repair` and run it again until nothing is left, raise the limit, or bootstrap into new tables",
        limit = Grouped(*most as u64)
    )]
    TooManyDiffer {
        /// The pipeline.
        pipeline: PipelineName,
        /// The limit.
        most: usize,
    },
    /// A pass or a look failed or was dropped before, so some of its items are lost.
    #[error("the inspection was broken off before it was complete; start over with a new one")]
    BrokenOff,
}

murmur_state::debug_as_message!(InspectionError);
