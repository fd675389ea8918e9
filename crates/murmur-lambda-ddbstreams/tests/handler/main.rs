//! The handler, fed with events as Lambda hands them over.

mod claims;
mod deadline;
mod events;
mod failures;
mod options;
mod pipelines;
#[cfg(feature = "runtime")]
mod runtime;
mod support;
