//! Shared tools of Murmur's tests: a DynamoDB to connect to, and substitutes for services that
//! cannot run here.
//!
//! - [`Dynamo`]: the DynamoDB of a test, either the server that [`ENDPOINT_VAR`] names or an
//!   embedded one.
//! - [`Embedded`]: the embedded server by itself, for tests that need the database behind it.
//! - [`damage`]: damaged inputs for decoders.
//! - [`lambda::RuntimeApi`]: the Lambda Runtime API, to run a Lambda binary as a real process.
//! - [`cloud`]: a DynamoDB that fails, loses answers and cancels transactions, like a remote one.
//! - [`time`]: virtual time, with a separate clock for every process of a simulation.
//! - [`esm`]: a simulator of Lambda's event source mapping and of the faults around it.
//! - [`chaos`]: random runs of Murmur's own code on both, compared with a recount.
//! - [`handover`]: random runs of a bootstrap beside stream processing, over a table that keeps
//!   changing.
//! - [`runs`]: what all random runs share.
//! - [`streams`]: the Streams API on an in-process stream store, for handoffs.
//! - [`gate::Gate`]: holds a chosen request of a real process, so that a test can kill it at
//!   exactly that point.
//! - [`wire`]: faults between a client and its server.
//!
//! The crate is not published, and users do not depend on it. An error in a helper is a test
//! failure, so the helpers panic with a message instead of returning an error.

pub mod chaos;
pub mod cloud;
pub mod damage;
mod dynamo;
mod embedded;
pub mod esm;
pub mod gate;
pub mod handover;
pub mod lambda;
mod rewrite;
pub mod runs;
pub mod streams;
pub mod time;
pub mod wire;

pub use dynamo::{Dynamo, ENDPOINT_VAR};
pub use embedded::Embedded;
