//! Compares the totals with what the ledger says; the table of orders is not read.
#![allow(clippy::print_stderr, reason = "it is a command line tool")]

use std::process::ExitCode;

use clap::Parser;
use murmur_core::{Audited, ProcessorBuilder};
use murmur_state::{RetryPolicy, TracingRecorder};
use order_totals::Tables;
use order_totals::cli::{self, DIFFERENCES, FAILED, STOPPED, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

Live may go on meanwhile. Each differing key is a line on standard output, with the state less the
sum of what the ledger says its items contribute. All else goes to standard error.

Exit status:
  0  no difference was found
  1  it failed; mend the cause and run it again
  2  the arguments cannot be used
  3  it was stopped before its end; run it again
  5  there are differences: fill new state and marker tables, and say what wrote to these";

/// Compares every total with its ledger, in memory one value per key. Needs pipelines that keep one.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    /// How many differing keys of each pipeline are listed.
    #[arg(long, default_value_t = 1000)]
    max_listed: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log();
    match audit(&arguments).await {
        Ok(Some(audited)) => finish(&audited),
        Ok(None) => {
            eprintln!("stopped before the end: run it again");
            ExitCode::from(STOPPED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// `None` if it was stopped.
async fn audit(arguments: &Arguments) -> anyhow::Result<Option<Vec<Audited>>> {
    let mut stop = Stop::listen()?;
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let processor = ProcessorBuilder::new(Tables::from_env()?.pipelines(&client)?)
        .recorder(TracingRecorder)
        .retry(RetryPolicy::patient())
        .build()?;
    tokio::select! {
        audited = processor.audit(arguments.max_listed) => Ok(Some(audited?)),
        () = stop.wait() => Ok(None),
    }
}

/// Says what was found.
fn finish(audited: &[Audited]) -> ExitCode {
    for of in audited {
        let pipeline = &of.pipeline;
        eprintln!(
            "{pipeline}: {} rows, {} items in the ledger; {} keys differ, {} unsettled",
            of.state_rows, of.ledger_rows, of.differing, of.unsettled
        );
        cli::print_keys(pipeline, &of.keys, of.differing);
    }
    match audited.iter().all(|of| of.differing == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENCES),
    }
}
