//! What the tests of Murmur share: a DynamoDB to talk to, and stand-ins for what cannot run here.
//!
//! - [`Dynamo`]: the DynamoDB of a test: the server that [`ENDPOINT_VAR`] names, else an embedded one.
//! - [`Embedded`]: that embedded server by itself, for whoever needs the database behind it.
//! - [`damage`]: damaged inputs for decoders.
//! - [`lambda::RuntimeApi`]: the Lambda Runtime API, to run a Lambda binary as a real process.
//! - [`cloud`]: a DynamoDB that fails, loses answers and cancels transactions, as one far away does.
//! - [`time`]: virtual time, with a clock of its own for every process of a simulation.
//! - [`esm`]: Lambda's event source mapping, simulated, with what goes wrong around one.
//! - [`chaos`]: random runs of Murmur's own code over both, held against a recount.
//! - [`handover`]: random runs of a bootstrap and live beside it, over a table that keeps changing.
//! - [`runs`]: what random runs of any kind share.
//! - [`streams`]: the Streams API over an in-process stream store, for handoffs.
//! - [`gate::Gate`]: holds a chosen request of a real process, to kill it at exactly that point.
//! - [`wire`]: faults between a client and its server.
//!
//! Not published, and no part of what a user depends on. What goes wrong here is the failure of a
//! test, so the helpers for tests panic with a message instead of returning an error.

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
