//! The contracts of stores, dedupers and checkpoint stores as test code: run your implementation
//! through it.
//!
//! Unstable by design: a new release may check more. Every function panics with the broken promise
//! as its message, and uses its own names, so one table serves a whole suite. The suite contains
//! real races: call it on a runtime with several threads.
//!
//! ```
//! # use murmur_state::{conformance, MemoryDeduper};
//! # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
//! conformance::deduper(MemoryDeduper::new()).await;
//! conformance::checkpoints(MemoryDeduper::new()).await;
//! # });
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a broken promise is a panic here"
)]

mod checkpoints;
mod dedup;
mod ledger;
mod once;
mod store;
mod support;

pub use checkpoints::checkpoints;
pub use dedup::deduper;
pub use store::Subject;
pub use support::bound;

/// How many tasks race.
const TASKS: u64 = 8;
/// How many rounds they race.
const ROUNDS: u64 = 10;
/// How many events a test of a mode counts.
const MODE_EVENTS: u64 = 100;
