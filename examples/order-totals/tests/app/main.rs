//! The application as its user meets it: processes, the template, the README.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a panic is the failure message"
)]

mod bootstrap;
mod cutover;
mod deploy;
mod killed;
mod lambda;
mod live;
mod manifest;
mod reconcile;
mod run;
mod settle;
mod signals;
mod support;
mod template;
