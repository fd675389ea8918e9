//! Fills the totals from the table of orders, and prints the handoff token. On Lambda it is a
//! function that does some of the segments.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a command line tool"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use murmur_snapshot::{BootstrapError, Ended, Report};
use order_totals::Tables;
use order_totals::cli::{self, FAILED, GIVEN_UP, SOME_REJECTED, STOPPED, Scan};
use order_totals::stop::{self, Stop};
use order_totals::worker;

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`

Prints the handoff token on standard output; the table needs a stream. Everything else goes to
standard error; progress is a bar on a terminal, and lines of JSON elsewhere. Ctrl-C or SIGTERM
stops it within two seconds: pages under way are finished if there is time, and read again
otherwise. A run that was stopped, failed or killed goes on where it was when it is run again. A
second signal ends it at once.

Exit status:
  0  every row of its part counts, or the run was finished before: then it reads nothing, says so,
     and prints the token again
  1  it failed; fix the cause and run it again
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before its end; run it again
  4  every row of its part was read, in this attempt or an earlier one, and some can never count;
     they are listed
  130, 143  a second Ctrl-C or SIGTERM ended it at once";

/// Fill the totals from the table of orders, which may be written at the same time.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    scan: Scan,
    /// Check the event source mapping that keeps the totals live, before anything is written. The
    /// file holds what `aws lambda get-event-source-mapping` prints. The mapping must have been
    /// enabled at TRIM_HORIZON since before the run began, and not edited since.
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Start a new run although there was one. Make new state and marker tables first: in tables
    /// that are filled, rows that the ledger knows do not count again.
    #[arg(long)]
    restart: bool,
    /// Do only some segments of the run of this name, as one of several processes that share the
    /// tables. The last process to finish also finishes the run.
    #[arg(long, value_name = "NAME", requires = "from", requires = "to")]
    run: Option<String>,
    /// The first segment to do, counted from 0.
    #[arg(long, value_name = "SEGMENT", requires = "run")]
    from: Option<u32>,
    /// The segment after the last one to do.
    #[arg(long, value_name = "SEGMENT", requires = "run")]
    to: Option<u32>,
}

fn main() -> ExitCode {
    stop::run(command())
}

async fn command() -> ExitCode {
    if worker::is_called() {
        return worker::serve().await;
    }
    let arguments = Arguments::parse();
    cli::log();
    match bootstrap(arguments).await {
        Ok(Some(report)) => finish(&report),
        Ok(None) => {
            eprintln!("{GIVEN_UP}");
            ExitCode::from(STOPPED)
        }
        Err(error) if is_stopped(&error) => {
            eprintln!("{error}");
            ExitCode::from(STOPPED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// `None` if it was stopped, and the pages under way did not end in time.
async fn bootstrap(arguments: Arguments) -> anyhow::Result<Option<Report>> {
    let stop = Stop::listen()?;
    let work = run(arguments, &stop);
    stop.finishing("the pages under way", work)
        .await
        .transpose()
}

async fn run(arguments: Arguments, stop: &Stop) -> anyhow::Result<Report> {
    let config = order_totals::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let streams = aws_sdk_dynamodbstreams::Client::new(&config);
    let tables = Tables::from_env()?;
    let scan = &arguments.scan;
    let mut bootstrap = scan.bootstrap(&client, &streams, tables.pipelines(&client)?)?;
    if arguments.restart {
        bootstrap = bootstrap.restart();
    }
    if let Some(file) = arguments.mapping {
        bootstrap = cli::checking(bootstrap, cli::read_mapping(&file)?);
    }
    if let (Some(run), Some(from), Some(to)) = (arguments.run, arguments.from, arguments.to) {
        bootstrap = bootstrap.worker(run, from..to);
    }
    let bootstrap = bootstrap.build()?;
    cli::check_tables(&client, &tables, Some(&scan.orders.table)).await?;
    Ok(bootstrap.run_until(stop.wait()).await?)
}

/// Whether it was stopped before there was anything to report.
fn is_stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(BootstrapError::Stopped { .. }))
}

/// Prints how it ended.
fn finish(report: &Report) -> ExitCode {
    cli::tell_report(report);
    if report.ended == Ended::Stopped {
        return ExitCode::from(STOPPED);
    }
    match &report.token {
        Some(token) => println!("{}", token.encode()),
        None => eprintln!("the table has no stream, so there is no handoff token"),
    }
    if report.counts.rejected + report.earlier.counts.rejected > 0 {
        return ExitCode::from(SOME_REJECTED);
    }
    ExitCode::SUCCESS
}
