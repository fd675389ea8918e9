//! Reconcile against a table that is written, a live side that lags, and a gap in the stream.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod by_ledger;
mod large;
mod outage;
mod random;
mod recount;
mod refused;
mod settled;
mod settled_random;
mod world;
