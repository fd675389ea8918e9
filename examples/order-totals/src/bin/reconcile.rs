//! Compares the totals with the table of orders, and repairs them on request.
#![allow(clippy::print_stderr, reason = "it is a command line tool")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use murmur_core::Processor;
use murmur_core::audit::{KeyDifference, RecountFindings};
use murmur_snapshot::reconcile::{Findings, Inspected, SettledFindings};
use murmur_snapshot::{Reconcile, Reconciled, ShowProgress};
use murmur_state::{Grouped, Key, PipelineName, TracingRecorder};
use order_totals::Tables;
use order_totals::cli::{self, DIFFERENCES, FAILED, Limits, Orders, STOPPED};
use order_totals::stop::{self, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

The stream consumer may keep running. It must be past the gap, if there was one, and at most `--lag`
behind. Each differing key is a line on standard output, with the total minus what it should be:
`order_totals (\"alice\", 19876): off by -500` lacks 500. Everything else goes to standard error.
Orders and totals that kept changing, or that cannot be compared, are counted there and are no
difference. Progress is a bar on a terminal, and lines of JSON elsewhere. Failing requests are
retried for up to 30 minutes. Ctrl-C or SIGTERM ends it at once.

Exit status:
  0  no difference was found, or all differences were repaired
  1  it failed; fix the cause and run it again
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before its end; what was repaired stays repaired, run it again
  5  there are differences, and not all of them were repaired";

/// Compare the totals with the table of orders.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    orders: Orders,
    /// Repair what differs. Refused unless the pipelines keep a ledger. Totals that are off because
    /// of orders that have left the ledger are named, and not repaired.
    #[arg(long)]
    repair: bool,
    /// How many seconds the stream consumer may be behind: a difference counts only if it lasts
    /// that long.
    #[arg(long, default_value_t = 60)]
    lag: u64,
    #[command(flatten)]
    limits: Limits,
    /// How many orders of the scan are remembered, 20 to 40 bytes each. Other orders that the
    /// ledger knows are looked up, for a read unit each.
    #[arg(long, value_name = "ITEMS", default_value_t = 7_000_000)]
    max_remembered: usize,
    /// How many orders are gathered before they are looked at closely, about 500 bytes each. Each
    /// time costs a wait of `--lag`.
    #[arg(long, value_name = "ITEMS", default_value_t = 100_000, value_parser = cli::at_least_one)]
    max_suspects: usize,
    /// How many orders, or their keys, may differ in a pipeline before the command gives up, about
    /// 240 bytes each. Repaired orders do not count, their keys do.
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
            eprintln!("stopped before the end; what was repaired stays repaired: run it again");
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
    let tables = Tables::from_env()?;
    let source = arguments.orders.source(&client).build()?;

    let shown = Arc::new(ShowProgress::on_stderr());
    let (told, outages) = (Arc::clone(&shown), Arc::clone(&shown));
    let processor = Processor::builder(tables.pipelines(&client)?)
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
    let reconcile = reconcile.build()?;
    cli::check_tables(&client, &tables, Some(&arguments.orders.table)).await?;
    let reconciled = reconcile.run().await;
    shown.finish();
    Ok(reconciled?)
}

/// Prints what was found.
fn finish(reconciled: &Reconciled) -> ExitCode {
    eprintln!(
        "{} rows scanned: {} can never count",
        Grouped(reconciled.rows),
        Grouped(reconciled.rejected_rows)
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
                "{pipeline}: {} orders differ, {} of them repaired; {} kept changing, {} are gone \
                 and may have expired, {} have left the ledger",
                Grouped(found.differing),
                Grouped(found.mended),
                Grouped(found.unsettled),
                Grouped(found.untold),
                Grouped(found.settled)
            );
            for item in &found.items {
                eprintln!("{pipeline}: order {}: {}", item.item, item.mending);
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
    // The recount sees all items of a key, so its figure wins where both name the key.
    let all = reconciled.keys().iter().chain(settled.keys());
    let all: BTreeMap<&Key, &KeyDifference> = all.map(|key| (&key.key, key)).collect();
    let all: Vec<KeyDifference> = all.into_values().cloned().collect();
    cli::print_keys(pipeline, &all, keys.max(settled.differing()));
}

fn tell_recount(pipeline: &PipelineName, found: &RecountFindings) {
    eprintln!(
        "{pipeline}: {} totals differ, {} kept changing",
        Grouped(found.differing),
        Grouped(found.unsettled)
    );
}
