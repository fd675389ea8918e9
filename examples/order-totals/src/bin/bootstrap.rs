//! Fills the totals from the orders table, and prints where live begins.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a command line tool"
)]

use std::process::ExitCode;

use clap::Parser;
use murmur_snapshot::{Ended, Report};
use order_totals::Tables;
use order_totals::cli::{self, FAILED, SOME_REJECTED, STOPPED, Scan, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

Prints the handoff token on standard output if the table has a stream, all else on standard error.

Exit status:
  0  every row counts
  1  it failed; mend the cause and run it again
  2  the arguments cannot be used
  3  it was stopped before its end; run it again
  4  every row was read, and some can never count; they are listed";

/// Fills the totals of orders from their table. Writes to the table must rest meanwhile.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    scan: Scan,
    /// Begin anew although there was a run; state and marker tables must be new, and empty.
    #[arg(long)]
    restart: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log();
    match bootstrap(arguments).await {
        Ok(report) => finish(&report),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn bootstrap(arguments: Arguments) -> anyhow::Result<Report> {
    let mut stop = Stop::listen()?;
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let streams = aws_sdk_dynamodbstreams::Client::new(&config);
    let pipelines = Tables::from_env()?.pipelines(&client)?;

    let mut bootstrap = arguments.scan.bootstrap(&client, &streams, pipelines)?;
    if arguments.restart {
        bootstrap = bootstrap.restart();
    }
    Ok(bootstrap.run_until(stop.wait()).await?)
}

/// Says how it ended.
fn finish(report: &Report) -> ExitCode {
    cli::tell_report(report);
    if report.ended == Ended::Stopped {
        return ExitCode::from(STOPPED);
    }
    match &report.token {
        Some(token) => println!("{}", token.encode()),
        None => eprintln!("the table has no stream, so there is no handoff token"),
    }
    if report.counts.rejected > 0 {
        return ExitCode::from(SOME_REJECTED);
    }
    ExitCode::SUCCESS
}
