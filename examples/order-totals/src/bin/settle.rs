//! Says how many orders have left the ledger, or lets them leave it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a command line tool"
)]

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, value_parser};
use murmur_core::Processor;
use murmur_core::audit::{AuditOptions, LedgerStatus};
use murmur_snapshot::{ReadBudget, Settle, ShowProgress};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::time::SystemClock;
use murmur_state::{Grouped, RetryPolicy, TracingRecorder};
use order_totals::Tables;
use order_totals::cli::{self, FAILED, STOPPED};
use order_totals::stop::{self, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

Reads the whole ledger, and prints for each pipeline how many orders have settled, on standard
output. Everything else goes to standard error; progress is a bar on a terminal, and lines of JSON
elsewhere. Failing requests are retried for up to 30 minutes. Ctrl-C or SIGTERM ends it at once.

With `--table` it reads no ledger, but lets orders settle whose tables were filled by a release
without `.settle()`: first deploy this release everywhere. A bootstrap of this release does the same
at its end. From then on each order leaves the ledger by its first change, and cannot come back.

Exit status:
  0  it is done
  1  it failed, or was refused, and says why
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before its end; run it again";

/// Say how many orders have left the ledger, or let them leave it.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    /// Let the orders of this table settle. Without it nothing is written.
    #[arg(long, value_name = "ORDERS")]
    table: Option<String>,
    /// How many parts of the ledger are read at a time.
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// How many read units may be used a second [default: as many as there are].
    #[arg(long, value_name = "UNITS")]
    read_units: Option<f64>,
}

fn main() -> ExitCode {
    stop::run(command())
}

async fn command() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log();
    match settle(arguments).await {
        Ok(Some(statuses)) => {
            statuses.iter().for_each(print_status);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("stopped before the end; run it again");
            ExitCode::from(STOPPED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// `None` if it was stopped.
async fn settle(arguments: Arguments) -> anyhow::Result<Option<Vec<LedgerStatus>>> {
    let stop = Stop::listen()?;
    stop.or(run(arguments)).await.transpose()
}

async fn run(arguments: Arguments) -> anyhow::Result<Vec<LedgerStatus>> {
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let tables = Tables::from_env()?;
    cli::check_tables(&client, &tables, arguments.table.as_deref()).await?;
    if let Some(table) = &arguments.table {
        let streams = aws_sdk_dynamodbstreams::Client::new(&config);
        let source = ParallelScan::builder(client.clone(), table.as_str());
        let source = source.streams(streams).build()?;
        let processor = Processor::builder(tables.pipelines(&client)?)
            .recorder(TracingRecorder)
            .build()?;
        let settle = Settle::builder(processor, source).build()?;
        for settling in settle.run().await?.pipelines {
            let since = match settling.already {
                true => "as they did before",
                false => "from now on",
            };
            eprintln!("{}: orders settle {since}", settling.pipeline);
        }
        return Ok(Vec::new());
    }
    let shown = Arc::new(ShowProgress::on_stderr());
    let (told, outages) = (Arc::clone(&shown), Arc::clone(&shown));
    let budget = arguments
        .read_units
        .map_or(ReadBudget::Unlimited, ReadBudget::UnitsPerSecond);
    let options = AuditOptions::default()
        .concurrency(arguments.concurrency.into())
        .pacing(budget.pacing(Arc::new(SystemClock::default()))?)
        .on_progress(move |progress| told.show_audit(progress));
    let processor = Processor::builder(tables.pipelines(&client)?)
        .recorder(TracingRecorder)
        .retry(RetryPolicy::patient())
        .on_outage(move |outage| outages.show_outage(outage))
        .build()?;
    let statuses = processor.ledgers(&options).await;
    shown.finish();
    Ok(statuses?)
}

fn print_status(status: &LedgerStatus) {
    let LedgerStatus {
        pipeline,
        settling,
        items,
        settled,
        ..
    } = status;
    let settling = if *settling {
        "orders settle"
    } else {
        "orders do not settle yet"
    };
    let (settled, items) = (Grouped(*settled), Grouped(*items));
    println!("{pipeline}: {settling}; {settled} of {items} orders have left the ledger");
}
