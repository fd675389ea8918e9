#![doc = include_str!("../README.md")]

mod audit;
mod batch;
pub mod decimal;
mod decode;
mod delivery;
mod deserialize;
pub mod laws;
mod monoids;
mod outcome;
mod pipeline;
mod plan;
mod processor;
mod record;
mod window;

pub use audit::{
    AuditError, AuditOptions, AuditProgress, Audited, Compared, Contributing, Difference, Found,
    Inspection, InspectionError, InspectionOptions, ItemDifference, ItemSet, KeyDifference,
    LedgerFindings, LedgerInspection, LedgerStatus, LookUp, Mending, Pacing, RecountFindings,
    RecountInspection, Recounted,
};
pub use decode::{BoxError, Decoded, Decoder, Side, View};
pub use deserialize::from_item;
pub use monoids::{ByTime, Count, Dated, Element, First, Last, Max, Min, Set, Sum};
pub use outcome::{RecordError, RecordOutcome, Rejected};
pub use pipeline::{BuildError, Definition, Keyed, Pipeline, PipelineBuilder, Stored, Valued};
pub use processor::{Processor, ProcessorBuilder};
pub use record::{Change, EventName, Record, Row, item_id, item_key};
/// The attribute types that records, decoders and sources speak of.
pub use serde_dynamo::{AttributeValue, Item};
pub use window::{Window, read_range};
