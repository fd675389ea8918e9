#![doc = include_str!("../README.md")]

// Modules import in one direction: record, decode, window, monoids → batch → plan → verdict
// → delivery → audit → erased → pipeline → definition, processor → inspection.
mod answers;
mod audit;
mod batch;
pub mod decimal;
mod decode;
mod definition;
mod delivery;
mod deserialize;
mod erased;
mod inspection;
pub mod laws;
mod monoids;
mod outcome;
mod pipeline;
mod plan;
mod processor;
mod record;
mod verdict;
mod window;

pub use audit::{
    AuditError, AuditOptions, AuditProgress, Audited, Difference, Findings, Inspected,
    InspectionError, InspectionOptions, ItemDifference, ItemNow, KeyDifference, LedgerFindings,
    LedgerStatus, LookUp, Mending, RecountFindings, SettledFindings,
};
pub use decode::{BoxError, Decoded, Decoder, View};
pub use definition::{BuildError, Definition, Keyed, PipelineBuilder, Stored, Valued};
pub use delivery::Pacing;
pub use deserialize::from_item;
pub use inspection::{Inspection, LedgerPart, Pass};
pub use monoids::{ByTime, Count, Dated, Element, First, Last, Max, Min, Set, Sum};
pub use outcome::{RecordError, RecordOutcome, Rejected};
pub use pipeline::Pipeline;
pub use processor::{Processor, ProcessorBuilder};
pub use record::{Change, EventName, Record, Row, Side, item_id, item_key};
/// The attribute types that records, decoders and sources use.
pub use serde_dynamo::{AttributeValue, Item};
pub use window::{Window, read_range};
