//! The handler, fed with events as Lambda hands them over.
#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod claims;
mod deadline;
mod events;
mod failures;
mod options;
mod pipelines;
#[cfg(feature = "runtime")]
mod runtime;
mod support;
mod ttl;
#[cfg(feature = "runtime")]
mod unreadable;
