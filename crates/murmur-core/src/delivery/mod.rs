//! The delivery modes: how the additions of a batch reach the store. One file per mode; the retry
//! loop that they share has its own.

mod answered;
mod at_least_once;
mod claim_first;
mod context;
mod exactly_once;
mod ledger;
mod ledger_of;
mod merge;
mod mode;
mod owned;
mod retrying;

pub(crate) use at_least_once::AtLeastOnce;
pub(crate) use claim_first::{ClaimFirst, ClaimNames};
pub(crate) use context::Context;
pub use context::Pacing;
pub(crate) use exactly_once::OncePerKey;
pub(crate) use ledger::InLedger;
pub(crate) use ledger_of::LedgerOf;
pub(crate) use mode::Delivery;
pub(crate) use owned::{Owned, Ownership};
pub(crate) use retrying::{of_keys, until_done};
