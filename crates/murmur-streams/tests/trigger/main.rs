//! The trigger over the in-process store and over sources that misbehave, on virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod basics;
mod batches;
mod handoff;
mod late_children;
mod limits;
mod log;
mod outage;
mod positions;
mod sharing;
mod support;
mod suspended;
