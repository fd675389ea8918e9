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
mod rejected_row;
mod retried;
mod run_record;
mod settle;
#[cfg(feature = "progress")]
mod show;
mod source;

pub use bootstrap::{
    Bootstrap, BootstrapBuilder, BootstrapError, Counts, Earlier, Ended, FirstRejected, NoToken,
    Progress, Report,
};
pub use budget::ReadBudget;
pub use error::SourceError;
pub use jsonl::{JsonLines, JsonLinesBuilder, KeyType};
pub use lookup::{Look, LookedUp, Lookup};
/// What a reconcile finds of each pipeline.
pub use murmur_core::{Findings, Inspected, SettledFindings};
pub use reconcile::{
    Reconcile, ReconcileBuilder, ReconcileError, ReconcileProgress, ReconcileStep, Reconciled,
};
pub use rejected_row::RejectedRow;
pub use run_record::{RunRecord, RunRecordError};
pub use settle::{Settle, SettleBuilder, SettleError, SettleReport, SettlingPipeline};
#[cfg(feature = "progress")]
pub use show::ShowProgress;
pub use source::{BadRow, Cursor, Description, Page, Source, StreamView};
