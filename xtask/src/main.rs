//! Tasks of the Murmur workspace: `cargo xtask --help`.
//!
//! Exit codes:
//!
//! - 0: everything passed
//! - 1: a check or a test failed
//! - 2: the task could not run
//! - 130 and 143: stopped by Ctrl-C or SIGTERM, within two seconds, or at once by a second signal

// A command line tool prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod book;
mod chaos;
mod ci;
mod demo;
mod interrupt;
mod itest;
mod process;
mod server;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// One file per task. The doc comments of its arguments are its help.
#[derive(Subcommand)]
enum Task {
    Bench(bench::Args),
    Book(book::Args),
    Demo(demo::Args),
    Itest(itest::Args),
    Chaos(chaos::Args),
    Ci(ci::Args),
}

impl Task {
    /// Returns `false` if the task ran and found a failure.
    async fn run(self) -> Result<bool> {
        match self {
            Self::Bench(args) => bench::run(args).await,
            Self::Book(args) => book::run(args).await,
            Self::Demo(args) => demo::run(args).await,
            Self::Itest(args) => itest::run(args).await,
            Self::Chaos(args) => chaos::run(args).await,
            Self::Ci(args) => ci::run(args).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let task = Cli::parse().task;
    let interrupted = interrupt::listen();
    // An interrupt drops the task, which stops everything that it started.
    tokio::select! {
        result = task.run() => match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(2)
            }
        },
        code = interrupted => ExitCode::from(code),
    }
}
