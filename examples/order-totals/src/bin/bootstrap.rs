//! Fills the totals from the orders table, and prints where live begins. On Lambda it is a function
//! that does some segments of it.
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

Prints the handoff token on standard output, all else on standard error; the table needs a stream:
a bar where that is a terminal, elsewhere lines of JSON, and how it ended. Ctrl-C or SIGTERM stops
it within two seconds: pages under way are finished if they come in that time, else they are read
again, and a run that was stopped, failed or killed goes on where it was when it is run again. A
second signal ends it at once.

Exit status:
  0  every row of its part counts, or the run was finished before: then it reads nothing, says so, and
     prints the token again
  1  it failed; mend the cause and run it again
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before its end; run it again
  4  every row of its part was read, in this attempt or an earlier one, and some can never count;
     they are listed
  130, 143  a second Ctrl-C or SIGTERM ended it at once";

/// Fills the totals of orders from their table, which may be written all the while.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    scan: Scan,
    /// Check the event source mapping that keeps the totals live, before anything is written: a file
    /// with what `aws lambda get-event-source-mapping` prints. It has to be enabled at TRIM_HORIZON
    /// since before the run began, and not edited since.
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Begin anew although there was a run. Make the state and marker tables anew before: in those that
    /// are filled, what the ledger knows does not count again.
    #[arg(long)]
    restart: bool,
    /// Do only some segments of the run of this name, as one of several processes that share the
    /// tables; the last to finish finishes the run.
    #[arg(long, value_name = "NAME", requires = "from", requires = "to")]
    run: Option<String>,
    /// The first of these segments, counted from 0.
    #[arg(long, value_name = "SEGMENT", requires = "run")]
    from: Option<u32>,
    /// The segment after the last of them.
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

/// `None` if it was stopped, and what was under way did not end in time.
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
    let pipelines = Tables::from_env()?.pipelines(&client)?;

    let mut bootstrap = arguments.scan.bootstrap(&client, &streams, pipelines)?;
    if arguments.restart {
        bootstrap = bootstrap.restart();
    }
    if let Some(file) = arguments.mapping {
        bootstrap = cli::checking(bootstrap, cli::read_mapping(&file)?);
    }
    if let (Some(run), Some(from), Some(to)) = (arguments.run, arguments.from, arguments.to) {
        bootstrap = bootstrap.worker(run, from..to);
    }
    Ok(bootstrap.build()?.run_until(stop.wait()).await?)
}

/// Whether it was stopped before there was anything to report.
fn is_stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(BootstrapError::Stopped { .. }))
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
    if report.counts.rejected + report.earlier.counts.rejected > 0 {
        return ExitCode::from(SOME_REJECTED);
    }
    ExitCode::SUCCESS
}
