#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod bootstrap;
mod budget;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod jsonl;
mod lookup;
#[cfg(test)]
mod mutations;
mod reconcile;
mod register;
mod rejections;
mod report;
mod run;
mod run_record;
mod scan;
mod segment_row;
mod segments;
mod settle;
#[cfg(feature = "progress")]
mod show;
mod source;
mod watch;

pub use bootstrap::Bootstrap;
pub use budget::ReadBudget;
pub use error::{BootstrapError, SourceError};
pub use jsonl::{JsonLines, JsonLinesBuilder, KeyType};
pub use lookup::{Look, LookedUp, Lookup};
pub use reconcile::{
    Findings, Reconcile, ReconcileError, ReconcileProgress, ReconcileStep, Reconciled,
    ReconciledPipeline, SettledFindings,
};
pub use report::{Counts, Earlier, Ended, FirstRejected, Progress, RejectedRow, Report};
pub use run_record::{RunRecord, RunRecordError};
pub use settle::{Settle, SettleError, SettleReport, SettlingPipeline};
#[cfg(feature = "progress")]
pub use show::ShowProgress;
pub use source::{BadRow, Cursor, Description, Page, Source, StreamView};
