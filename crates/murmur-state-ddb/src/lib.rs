#![doc = include_str!("../README.md")]

#[cfg(test)]
mod any_rows;
mod attribute;
mod bytes;
mod change;
mod checkpoints;
mod create;
mod deduper;
mod error;
mod int64;
mod lanes;
mod ledger;
mod marked;
mod once;
mod options;
mod owner;
mod recent;
mod rows;
mod table;
mod write_gate;

pub use bytes::BytesStore;
pub use create::{create_bytes_table, create_dedup_table, create_int64_table, create_tables};
pub use deduper::Deduper;
pub use int64::{Int64MaxStore, Int64MinStore, Int64SumStore};
pub use marked::{Marked, MarkerTable};
#[cfg(feature = "flaws")]
#[doc(hidden)]
pub use once::{Past, Rules};
pub use options::TableOptions;
