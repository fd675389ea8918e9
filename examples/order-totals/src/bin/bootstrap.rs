//! Fills the totals from the orders table, and prints where live begins.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a command line tool"
)]

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use murmur_snapshot::{Bootstrap, Progress, Report};
use murmur_snapshot_ddb::ParallelScan;
use order_totals::{Order, Tables};
use tracing_subscriber::EnvFilter;

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

const FAILED: u8 = 1;
const STOPPED: u8 = 3;
const SOME_REJECTED: u8 = 4;

/// Fills the totals of orders from their table. Writes to the table must rest meanwhile.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    /// The table of orders.
    #[arg(long)]
    table: String,
    /// How many parts of the table are read at once.
    #[arg(long, default_value_t = 8)]
    segments: u32,
    /// How many rows one request may read [default: as many as fit 1 MB].
    #[arg(long)]
    page_size: Option<u32>,
    /// Begin anew although a run was finished; state and marker tables must be new.
    #[arg(long)]
    again: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .init();
    match bootstrap(arguments).await {
        Ok(report) => finish(&report),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn bootstrap(arguments: Arguments) -> anyhow::Result<Report> {
    let stop = stop_signal()?;
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let streams = aws_sdk_dynamodbstreams::Client::new(&config);
    let pipelines = Tables::from_env()?.pipelines(&client)?;

    let mut source = ParallelScan::builder(client, arguments.table)
        .streams(streams)
        .segments(arguments.segments);
    if let Some(rows) = arguments.page_size {
        source = source.page_size(rows);
    }
    let mut bootstrap = Bootstrap::<Order, _>::new(pipelines, source.build()?).on_progress(tell);
    if arguments.again {
        bootstrap = bootstrap.again();
    }
    Ok(bootstrap.run_until(stop).await?)
}

fn tell(progress: &Progress<'_>) {
    match progress {
        Progress::Started { run, rerun, .. } => {
            let begun = if *rerun { "begun again" } else { "begun" };
            eprintln!("run {run} {begun}");
        }
        Progress::Page { total, .. } if stderr().is_terminal() => {
            eprint!("\r{} rows", total.rows);
        }
        Progress::SegmentDone { done, of, .. } => eprintln!("\r{done} of {of} segments are done"),
        _ => {}
    }
}

/// Completes on Ctrl-C, and on what tells a container to stop. Listens from the call on.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => (),
            _ = terminated.recv() => (),
        }
    })
}

/// Completes on Ctrl-C. Listens from the call on.
#[cfg(windows)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupted = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupted.recv().await;
    })
}

/// Says how it ended.
fn finish(report: &Report) -> ExitCode {
    let counts = &report.counts;
    eprintln!(
        "{} rows: {} count now, {} did before, {} expired, {} skipped, {} rejected",
        counts.rows,
        counts.applied,
        counts.duplicates,
        counts.expired,
        counts.skipped,
        counts.rejected
    );
    for row in &report.rejected {
        eprintln!("rejected: {}: {}", row.id, row.reason);
    }
    if report.stopped {
        eprintln!("stopped before the end: run it again within 24 hours of its first start");
        return ExitCode::from(STOPPED);
    }
    match &report.token {
        Some(token) => println!("{}", token.encode()),
        None => eprintln!("the table has no stream, so there is no handoff token"),
    }
    if counts.rejected > 0 {
        return ExitCode::from(SOME_REJECTED);
    }
    ExitCode::SUCCESS
}
