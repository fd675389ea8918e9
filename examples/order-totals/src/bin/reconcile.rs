//! Compares the totals with the table of orders, and mends them where asked to.
#![allow(clippy::print_stderr, reason = "it is a command line tool")]

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use murmur_snapshot::{
    Findings, Reconcile, ReconcileProgress, ReconcileStep, Reconciled, ReconciledPipeline,
};
use murmur_state::TracingRecorder;
use order_totals::Tables;
use order_totals::cli::{self, DIFFERENCES, FAILED, Orders, STOPPED, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

Live may go on meanwhile; it must be past the gap, if there was one, and no further behind than
`--lag`. Each differing key is a line on standard output, with the state less what it should be:
`order_totals (\"alice\", 19876): off by -500` lacks 500. All else goes to standard error. What kept
changing, and what nobody can tell, is counted there, and is no difference.

Exit status:
  0  no difference was found, or all of them were mended
  1  it failed; mend the cause and run it again
  2  the arguments cannot be used
  3  it was stopped before its end; what was mended stays mended, run it again
  5  there are differences, and not all of them were mended";

/// Compares the totals of orders with their table.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    orders: Orders,
    /// Mend what differs. Refused unless the pipelines keep a ledger.
    #[arg(long)]
    repair: bool,
    /// How many seconds live may be behind: a difference counts only if it stands that long.
    #[arg(long, default_value_t = 60)]
    lag: u64,
    /// How many differing keys of each pipeline are listed.
    #[arg(long, default_value_t = 1000)]
    max_listed: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log();
    match reconcile(arguments).await {
        Ok(Some(reconciled)) => finish(&reconciled),
        Ok(None) => {
            eprintln!("stopped before the end: what was mended stays mended; run it again");
            ExitCode::from(STOPPED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// `None` if it was stopped.
async fn reconcile(arguments: Arguments) -> anyhow::Result<Option<Reconciled>> {
    let mut stop = Stop::listen()?;
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let pipelines = Tables::from_env()?.pipelines(&client)?;
    let source = arguments.orders.source(&client).build()?;

    let mut reconcile = Reconcile::new(pipelines, source)
        .recorder(TracingRecorder)
        .lag(Duration::from_secs(arguments.lag))
        .max_listed(arguments.max_listed)
        .on_progress(tell);
    if arguments.repair {
        reconcile = reconcile.repair();
    }
    tokio::select! {
        reconciled = reconcile.run() => Ok(Some(reconciled?)),
        () = stop.wait() => Ok(None),
    }
}

fn tell(progress: &ReconcileProgress) {
    let ReconcileProgress {
        step,
        rows,
        ledger_rows,
        suspects,
        ..
    } = progress;
    match step {
        ReconcileStep::Settle { items } => {
            eprintln!("\r{items} items are looked at closely, after {rows} rows");
        }
        ReconcileStep::Wait => {
            eprintln!("\r{suspects} keys differ; the table is counted once more after the lag");
        }
        _ if stderr().is_terminal() => {
            eprint!("\r{rows} rows, {ledger_rows} in ledgers, {suspects} suspects");
        }
        _ => {}
    }
}

/// Says what was found.
fn finish(reconciled: &Reconciled) -> ExitCode {
    eprintln!(
        "\r{} rows, of which {} can never count",
        reconciled.rows, reconciled.rejected_rows
    );
    for row in &reconciled.rejected {
        eprintln!("rejected: {}: {}", row.id, row.reason);
    }
    for pipeline in &reconciled.pipelines {
        tell_pipeline(pipeline);
    }
    match reconciled.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENCES),
    }
}

fn tell_pipeline(reconciled: &ReconciledPipeline) {
    let ReconciledPipeline {
        pipeline, findings, ..
    } = reconciled;
    let keys = match findings {
        Findings::Ledger(found) => {
            eprintln!(
                "{pipeline}: {} items differ, {} of them mended; {} unsettled, {} gone that may \
                 have expired",
                found.differing, found.mended, found.unsettled, found.untold
            );
            for item in &found.items {
                eprintln!("{pipeline}: item {}: {:?}", item.item, item.mending);
            }
            found.differing_keys
        }
        Findings::Recount(found) => {
            eprintln!(
                "{pipeline}: {} keys differ, {} unsettled",
                found.differing, found.unsettled
            );
            found.differing
        }
        _ => 0,
    };
    cli::print_keys(pipeline, reconciled.keys(), keys);
}
