#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bootstrap;
mod budget;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
pub mod jsonl;
pub mod lookup;
#[cfg(test)]
mod mutations;
pub mod reconcile;
mod rejected_row;
mod retried;
pub mod run_record;
pub mod settle;
#[cfg(feature = "progress")]
mod show;
pub mod source;

pub use bootstrap::{Bootstrap, BootstrapError, Ended, Progress, Report};
pub use budget::ReadBudget;
pub use error::SourceError;
pub use jsonl::JsonLines;
pub use lookup::Lookup;
pub use reconcile::{Reconcile, ReconcileError, Reconciled};
pub use rejected_row::RejectedRow;
pub use settle::Settle;
#[cfg(feature = "progress")]
pub use show::ShowProgress;
pub use source::Source;
