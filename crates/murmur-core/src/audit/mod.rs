//! Comparisons of the state with the table, or with the ledger.

mod by_items;
mod by_keys;
mod by_rows;
mod difference;
mod error;
mod findings;
mod found;
mod inspecting;
mod item_set;
mod listing;
mod options;
mod share;
mod status;
mod sums;

pub use crate::delivery::Pacing;
pub(crate) use by_items::{ByItems, by_items};
pub(crate) use by_keys::{ByKeys, Recounted, by_keys};
pub use by_rows::Audited;
pub(crate) use by_rows::audit;
pub use difference::{Difference, KeyDifference};
pub use error::AuditError;
pub use findings::{
    Findings, Inspected, ItemDifference, LedgerFindings, Mending, RecountFindings, SettledFindings,
};
pub(crate) use found::Found;
pub use found::ItemNow;
pub use inspecting::{InspectionError, InspectionOptions, LookUp};
pub(crate) use item_set::ItemSet;
pub use options::{AuditOptions, AuditProgress};
pub use status::LedgerStatus;
pub(crate) use status::status;
