#![doc = include_str!("../README.md")]

// Modules import in one direction: record, decode, window, monoids → batch → plan → verdict
// → delivery → audit → erased → pipeline → definition, processor → inspection.
mod answers;
pub mod audit;
mod batch;
pub mod decimal;
mod decode;
pub mod definition;
mod delivery;
mod deserialize;
mod erased;
pub mod inspection;
pub mod laws;
pub mod monoids;
mod outcome;
mod pipeline;
mod plan;
mod processor;
mod record;
mod verdict;
mod window;

pub use decode::{BoxError, Decoded, Decoder, View};
pub use definition::{BuildError, Definition};
pub use deserialize::from_item;
pub use monoids::{Count, First, Last, Max, Min, Set, Sum};
pub use outcome::{RecordError, RecordOutcome, Rejected};
pub use pipeline::Pipeline;
pub use processor::{Processor, ProcessorBuilder};
pub use record::{Change, EventName, Record, Row, Side, item_id, item_key};
/// The attribute types that records, decoders and sources use.
pub use serde_dynamo::{AttributeValue, Item};
pub use window::{Window, read_range};
