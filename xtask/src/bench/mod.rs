//! `cargo xtask bench`: what Murmur costs, beside a bare loop of the SDK and the original.

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

/// Measure speed and cost, beside a bare loop of the SDK and the Go original.
///
/// Eight parts. `processor`: nanoseconds per event on the in-memory store (criterion). `server`:
/// the Lambda handler against a DynamoDB Local of its own, each mode beside a loop that sends the
/// same requests through the same client, with the CPU time of this process alone.
/// `trigger`: a stream in this process and one of that DynamoDB Local, read and handed to a handler,
/// beside a loop that does so without the trigger. `bootstrap`: a table of that DynamoDB Local
/// scanned, beside the bare SDK, and counted, beside a loop of the same requests. `memory`: the most
/// memory of a process that does one thing, at 20,000 and at 200,000 keys. `steady`: what
/// exactly-once costs over tables as they are after days, `settling`: what changes of items in a ledger
/// cost until they have left it and afterwards, and `writers`: many processes on one key, all three on a
/// DynamoDB inside this process in virtual time.
///
/// It is built for release first. The figures go to the terminal, each beside its target, and to
/// a file. What is counted fails where it misses its target, but for `--quick`; what is timed does
/// not. Takes less than half an hour.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// A twentieth of the work: shows that it runs, the figures say little
    #[arg(long)]
    quick: bool,
    /// Only this part; can be given several times
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// A DynamoDB Local to use (http://…) instead of one started for this run
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The file for the figures [default: target/bench/figures.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What a process of the memory part does
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

/// How much work there is.
#[derive(Debug, Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or a share of it.
    fn of(self, full: usize) -> usize {
        if self.quick { full.div_ceil(20) } else { full }
    }
}

/// Measures; `false` where a count misses its target. Cancel safe: what it started ends.
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
