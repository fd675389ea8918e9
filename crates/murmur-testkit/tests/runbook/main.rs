//! The steps of `docs/runbook.md`, and what may break at them, each played with the simulator of
//! Lambda's event source mapping: the commands' own code, in virtual time, over a table that is
//! written to all the while.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod broken;
mod document;
mod settled;
mod steps;
mod without_lambda;
mod world;
mod writes;
