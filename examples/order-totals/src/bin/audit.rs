//! Compares the totals with the ledger; the table of orders is not read.
#![allow(clippy::print_stderr, reason = "it is a command line tool")]

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use murmur_core::Processor;
use murmur_core::audit::{AuditOptions, Audited};
use murmur_snapshot::ShowProgress;
use murmur_state::time::SystemClock;
use murmur_state::{Grouped, RetryPolicy, TracingRecorder};
use order_totals::Tables;
use order_totals::cli::{self, DIFFERENCES, FAILED, Limits, STOPPED};
use order_totals::stop::{self, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

The stream consumer may keep running. Each differing key is a line on standard output: by how much
the total differs from the sum of what the ledger says its orders contribute. Everything else goes
to standard error; progress is a bar on a terminal, and lines of JSON elsewhere. Failing requests
are retried for up to 30 minutes. Ctrl-C or SIGTERM ends it at once.

Exit status:
  0  no difference was found
  1  it failed; fix the cause and run it again
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before its end; run it again
  5  there are differences: find out what else wrote to these tables, and fill new ones";

/// Compare every total with the ledger. This works until the first order has left the ledger;
/// `reconcile` compares totals with the table of orders at any time.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    limits: Limits,
}

fn main() -> ExitCode {
    stop::run(command())
}

async fn command() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log();
    match audit(&arguments).await {
        Ok(Some(audited)) => finish(&audited),
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
async fn audit(arguments: &Arguments) -> anyhow::Result<Option<Vec<Audited>>> {
    let stop = Stop::listen()?;
    let work = run(arguments);
    stop.or(work).await.transpose()
}

async fn run(arguments: &Arguments) -> anyhow::Result<Vec<Audited>> {
    let Limits {
        concurrency,
        max_keys,
        max_listed,
        ..
    } = arguments.limits;
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let tables = Tables::from_env()?;
    cli::check_tables(&client, &tables, None).await?;
    let shown = Arc::new(ShowProgress::on_stderr());
    let (told, outages) = (Arc::clone(&shown), Arc::clone(&shown));
    let budget = arguments.limits.read_budget();
    let options = AuditOptions::default()
        .concurrency(concurrency.into())
        .max_keys(max_keys)
        .max_listed(max_listed)
        .pacing(budget.pacing(Arc::new(SystemClock::default()))?)
        .on_progress(move |progress| told.show_audit(progress));
    let processor = Processor::builder(tables.pipelines(&client)?)
        .recorder(TracingRecorder)
        .retry(RetryPolicy::patient())
        .on_outage(move |outage| outages.show_outage(outage))
        .build()?;
    let audited = processor.audit(&options).await;
    shown.finish();
    Ok(audited?)
}

/// Prints what was found.
fn finish(audited: &[Audited]) -> ExitCode {
    for of in audited {
        let pipeline = &of.pipeline;
        eprintln!(
            "{pipeline}: {} totals and {} orders in the ledger compared: {} totals differ, {} kept \
             changing",
            Grouped(of.state_rows),
            Grouped(of.ledger_rows),
            Grouped(of.differing),
            Grouped(of.unsettled)
        );
        cli::print_keys(pipeline, &of.keys, of.differing);
    }
    match audited.iter().all(|of| of.differing == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENCES),
    }
}
