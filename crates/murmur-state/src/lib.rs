#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod checkpoint;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dedup;
pub mod error;
mod grouped;
pub mod handler;
pub mod handoff;
mod ids;
pub mod images;
#[cfg(feature = "conformance")]
pub mod intercept;
mod memory;
mod metrics;
pub mod monoid;
pub mod outage;
pub mod retry;
pub mod service;
mod shard_ids;
mod spread;
pub mod store;
pub mod time;
pub mod tokens;

pub use checkpoint::Checkpoints;
pub use dedup::Deduper;
pub use error::{Fault, OptionError, StoreError};
pub use grouped::Grouped;
pub use handler::{EventHandler, HandlerError, Repeats};
pub use handoff::{HandoffError, HandoffToken};
pub use ids::{EventId, IdError, ItemId, Key, PipelineName, SequenceNumber};
pub use memory::{MemoryDeduper, MemoryStore};
pub use metrics::{Causes, NoopRecorder, Recorder, TracingRecorder};
pub use monoid::{Group, Monoid};
pub use outage::Outage;
pub use retry::RetryPolicy;
pub use spread::Spread;
pub use store::{ExactlyOnce, Ledger, Read, ReadExt, Store};
pub use time::{Clock, Deadline, Timestamp};
