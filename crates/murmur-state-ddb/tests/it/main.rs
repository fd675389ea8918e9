//! The stores and the deduper on a DynamoDB, with and without faults on the way to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is the failure message"
)]

mod bytes;
mod checkpoints;
mod claim_first;
mod codes;
mod conformance;
mod deduper;
mod errors;
mod int64;
mod ledger;
mod markers;
mod once;
mod owner;
mod reads;
mod settled;
mod spread;
mod support;
mod tables;
