//! Compares the totals with the table of orders, and mends them where asked to.
#![allow(clippy::print_stderr, reason = "it is a command line tool")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use murmur_core::{KeyDifference, Processor, RecountFindings};
use murmur_snapshot::{Findings, Inspected, Reconcile, Reconciled, SettledFindings, ShowProgress};
use murmur_state::{Key, PipelineName, TracingRecorder};
use order_totals::Tables;
use order_totals::cli::{self, DIFFERENCES, FAILED, Limits, Orders, STOPPED, grouped};
use order_totals::stop::{self, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

Live may go on meanwhile; it must be past the gap, if there was one, and no further behind than
`--lag`. Each differing key is a line on standard output, with the state less what it should be:
`order_totals (\"alice\", 19876): off by -500` lacks 500. All else goes to standard error. What kept
changing, and what nobody can tell, is counted there, and is no difference. Progress is a bar where
standard error is a terminal, elsewhere lines of JSON. An outage is waited out for up to 30 minutes.
Ctrl-C or SIGTERM ends it at once.

Exit status:
  0  no difference was found, or all of them were mended
  1  it failed; mend the cause and run it again
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before its end; what was mended stays mended, run it again
  5  there are differences, and not all of them were mended";

/// Compares the totals of orders with their table.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    orders: Orders,
    /// Mend what differs. Refused unless the pipelines keep a ledger. Totals that are off because of
    /// orders that have left the ledger are named, and not mended.
    #[arg(long)]
    repair: bool,
    /// How many seconds live may be behind: a difference counts only if it stands that long.
    #[arg(long, default_value_t = 60)]
    lag: u64,
    #[command(flatten)]
    limits: Limits,
    /// How many items of the scan are remembered, 20 to 40 bytes each; those that the ledger knows
    /// beside them are looked up, for a read unit each.
    #[arg(long, value_name = "ITEMS", default_value_t = 7_000_000)]
    max_remembered: usize,
    /// How many items are gathered before they are looked at closely, about 500 bytes each; the lag
    /// is waited for each time.
    #[arg(long, value_name = "ITEMS", default_value_t = 100_000, value_parser = cli::at_least_one)]
    max_suspects: usize,
    /// How many items, or keys of them, of a pipeline may differ before it gives up, about 240 bytes
    /// each. Items that are mended do not count, their keys do.
    #[arg(long, value_name = "ITEMS", default_value_t = 1_000_000)]
    max_differing: usize,
}

fn main() -> ExitCode {
    stop::run(command())
}

async fn command() -> ExitCode {
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
    let stop = Stop::listen()?;
    stop.or(run(arguments)).await.transpose()
}

async fn run(arguments: Arguments) -> anyhow::Result<Reconciled> {
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let pipelines = Tables::from_env()?.pipelines(&client)?;
    let source = arguments.orders.source(&client).build()?;

    let shown = Arc::new(ShowProgress::on_stderr());
    let (told, outages) = (Arc::clone(&shown), Arc::clone(&shown));
    let processor = Processor::builder(pipelines)
        .recorder(TracingRecorder)
        .on_outage(move |outage| outages.show_outage(outage))
        .build()?;
    let mut reconcile = Reconcile::builder(processor, source)
        .lag(Duration::from_secs(arguments.lag))
        .read_budget(arguments.limits.read_budget())
        .concurrency(arguments.limits.concurrency.into())
        .remember(arguments.max_remembered)
        .max_suspects(arguments.max_suspects)
        .max_differing(arguments.max_differing)
        .max_keys(arguments.limits.max_keys)
        .max_listed(arguments.limits.max_listed)
        .on_progress(move |progress| told.show_reconcile(progress));
    if arguments.repair {
        reconcile = reconcile.repair();
    }
    let reconciled = reconcile.build()?.run().await;
    shown.finish();
    Ok(reconciled?)
}

/// Says what was found.
fn finish(reconciled: &Reconciled) -> ExitCode {
    eprintln!(
        "{} rows, of which {} can never count",
        grouped(reconciled.rows),
        grouped(reconciled.rejected_rows)
    );
    for row in &reconciled.rejected {
        eprintln!("rejected: {row}");
    }
    for pipeline in &reconciled.pipelines {
        tell_pipeline(pipeline);
    }
    match reconciled.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENCES),
    }
}

fn tell_pipeline(reconciled: &Inspected) {
    let Inspected {
        pipeline,
        findings,
        settled,
        ..
    } = reconciled;
    let keys = match findings {
        Findings::Ledger(found) => {
            eprintln!(
                "{pipeline}: {} items differ, {} of them mended; {} unsettled, {} gone that may \
                 have expired; {} have left the ledger",
                grouped(found.differing),
                grouped(found.mended),
                grouped(found.unsettled),
                grouped(found.untold),
                grouped(found.settled)
            );
            for item in &found.items {
                eprintln!("{pipeline}: item {}: {}", item.item, item.mending);
            }
            found.differing_keys
        }
        Findings::Recount(found) => {
            tell_recount(pipeline, found);
            found.differing
        }
        _ => 0,
    };
    if let SettledFindings::Recount(found) = settled {
        tell_recount(pipeline, found);
    }
    if let Some(advice) = settled.advice() {
        eprintln!("{pipeline}: {advice}");
    }
    // A key that both name is as far off as the recount says, which sees all of its items.
    let all = reconciled.keys().iter().chain(settled.keys());
    let all: BTreeMap<&Key, &KeyDifference> = all.map(|key| (&key.key, key)).collect();
    let all: Vec<KeyDifference> = all.into_values().cloned().collect();
    cli::print_keys(pipeline, &all, keys.max(settled.differing()));
}

fn tell_recount(pipeline: &PipelineName, found: &RecountFindings) {
    eprintln!(
        "{pipeline}: {} keys differ, {} unsettled",
        grouped(found.differing),
        grouped(found.unsettled)
    );
}
