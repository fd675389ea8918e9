//! Compares the state with the table, and repairs it, while the stream consumer keeps running.

mod builder;
mod error;
mod passes;
mod report;
mod run;
mod state;

pub use builder::ReconcileBuilder;
pub use error::ReconcileError;
/// What a reconcile finds of each pipeline.
pub use murmur_core::audit::{Findings, Inspected, SettledFindings};
pub use report::{ReconcileProgress, ReconcileStep, Reconciled};
pub use run::Reconcile;
