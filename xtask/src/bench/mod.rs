//! `cargo xtask bench`: the cost of Murmur, compared with a bare loop of the SDK and the Go
//! original.

mod bare;
mod bootstrap;
mod machine;
mod memory;
mod orders;
mod pipeline;
mod processor;
mod report;
mod server;
mod settling;
mod steady;
mod trigger;
mod virtual_time;
mod workload;
mod writers;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::server::{Found, Server, choose};
use crate::{process, workspace};

use report::Report;

/// Measure speed and cost, compared with a bare loop of the SDK and the Go original.
///
/// There are eight parts. `processor`: nanoseconds per event on the in-memory store (criterion).
/// `server`: the Lambda handler on its own DynamoDB Local, each mode compared with a loop that
/// sends the same requests through the same client, with the CPU time of this process alone.
/// `trigger`: a stream in this process and one of that DynamoDB Local, read and passed to a
/// handler, compared with a loop without the trigger. `bootstrap`: a table of that DynamoDB Local,
/// scanned and compared with the bare SDK, then counted and compared with a loop of the same
/// requests. `memory`: the peak memory of a process that does a single task, at 20,000 and at
/// 200,000 keys. The last three parts run on a DynamoDB inside this process in virtual time.
/// `steady`: the cost of exactly-once on tables as they are after days. `settling`: the cost of
/// changes to items in a ledger, until the items have left it and afterwards. `writers`: many
/// processes on one key.
///
/// The task builds for release first. It prints the figures, each with its target, and writes them
/// to a file. The task fails if a counted figure misses its target, except with `--quick`; timed
/// figures do not fail it. It takes less than half an hour.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Do a twentieth of the work: shows that the bench runs, but the figures mean little
    #[arg(long)]
    quick: bool,
    /// Run only this part; can be given several times
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Use this DynamoDB Local (http://…) instead of starting one
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Write the figures to this file [default: target/bench/figures.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The task of a process in the memory part
    #[arg(long, hide = true, value_name = "TASK")]
    alone: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Processor,
    Server,
    Trigger,
    Bootstrap,
    Memory,
    Steady,
    Settling,
    Writers,
}

/// The amount of work.
#[derive(Debug, Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or a fraction of it.
    fn of(self, full: usize) -> usize {
        if self.quick { full.div_ceil(20) } else { full }
    }
}

/// Runs the measurements. Returns `false` if a counted figure misses its target. Cancel safe:
/// everything that it started is stopped.
pub(crate) async fn run(args: Args) -> Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("bench: building for release");
        let build = ["run", "--quiet", "--release", "--package", "xtask", "--"];
        let mut optimised = process::cargo(build);
        return process::succeeds(optimised.args(std::env::args_os().skip(1))).await;
    }
    if let Some(task) = args.alone {
        memory::alone(&task).await?;
        return Ok(true);
    }
    let effort = Effort { quick: args.quick };
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut report = Report::new(effort.quick);

    if wanted(Part::Processor) {
        report.processor = Some(processor::measure(effort).await?);
    }
    if [Part::Server, Part::Trigger, Part::Bootstrap]
        .into_iter()
        .any(wanted)
    {
        let way = match args.endpoint {
            Some(url) => crate::server::Way::Given(url),
            None => choose(&Found::look().await)?,
        };
        eprintln!("bench: {way}");
        let server = Server::start(way).await?;
        let endpoint = server.endpoint().context(
            "the figures of the server, trigger and bootstrap parts are those of a DynamoDB Local \
             in another process: give one by --endpoint, or leave these parts out by --only",
        )?;
        if wanted(Part::Server) {
            report.server = Some(server::measure(endpoint, effort).await?);
        }
        if wanted(Part::Trigger) {
            report.trigger = Some(trigger::measure(endpoint, effort).await?);
        }
        if wanted(Part::Bootstrap) {
            report.bootstrap = Some(bootstrap::measure(endpoint, effort).await?);
        }
    }
    if wanted(Part::Memory) {
        report.memory = Some(memory::measure(effort).await?);
    }
    if wanted(Part::Steady) {
        report.steady = Some(steady::measure(effort).await?);
    }
    if wanted(Part::Settling) {
        report.settling = Some(settling::measure(effort).await?);
    }
    if wanted(Part::Writers) {
        report.writers = Some(writers::measure(effort).await?);
    }

    print!("{report}");
    let path = args
        .json
        .unwrap_or_else(|| workspace::target("bench").join("figures.json"));
    report.save(&path)?;
    println!("\nThe figures as JSON: {}", path.display());
    Ok(effort.quick || report.counts_are_met())
}
