#![doc = include_str!("../README.md")]

mod bootstrap;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod jsonl;
mod lookup;
mod reconcile;
mod register;
mod rejections;
mod report;
mod run_record;
mod scan;
mod source;

pub use bootstrap::Bootstrap;
pub use error::{BootstrapError, SourceError};
pub use jsonl::{JsonLines, JsonLinesBuilder};
pub use lookup::{LookedUp, Lookup};
pub use reconcile::{
    Findings, Reconcile, ReconcileError, ReconcileProgress, ReconcileStep, Reconciled,
    ReconciledPipeline,
};
pub use report::{Counts, Progress, RejectedRow, Report};
pub use run_record::{RunRecord, RunRecordError};
pub use source::{BadRow, Cursor, Page, Source};
