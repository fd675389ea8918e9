#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod checkpoint;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dedup;
mod error;
mod grouped;
mod handler;
mod handoff;
mod ids;
mod images;
#[cfg(feature = "conformance")]
pub mod intercept;
mod memory;
mod metrics;
mod monoid;
mod outage;
mod retry;
mod service;
mod shard_ids;
mod spread;
mod store;
mod time;
mod tokens;

pub use checkpoint::{Checkpoint, Checkpoints, Removed, Saved};
pub use dedup::{Claim, Deduper, Owner};
pub use error::{Cause, Failure, Fault, OptionError, Place, StoreError};
pub use grouped::Grouped;
pub use handler::{EventHandler, HandlerError, Repeats, UNREADABLE};
pub use handoff::{HandoffError, HandoffToken};
pub use ids::{EventId, IdError, ItemId, Key, PipelineName, SequenceNumber};
pub use images::{ImageNote, ImageNotes};
pub use memory::{MemoryDeduper, MemoryStore};
pub use metrics::{Causes, NoopRecorder, Recorder, TracingRecorder};
pub use monoid::{
    Additive, Codec, CodecError, Group, KeepsGreatest, KeepsLeast, Monoid, Origin, Overflow,
};
pub use outage::{Outage, Roughly};
pub use retry::{Attempts, Retry, RetryPolicy};
pub use service::CallFailure;
pub use shard_ids::ShardIds;
pub use spread::Spread;
pub use store::{
    Add, Binding, Bound, EVENT_LIFE, ExactlyOnce, HORIZON, ItemChange, LEDGER_MODE, Ledger,
    LedgerEntry, ListSegment, Listed, MAX_KEYS, Mend, Once, Outcome, Position, ROW_LIFE, Read,
    ReadExt, Replace, SURE_LIFE, StateRow, Store,
};
pub use time::{Clock, Deadline, ManualClock, Random, SystemClock, Timestamp};
pub use tokens::{NoRandomness, Tokens};
