//! What the commands share: arguments, the check of tables, output, exit statuses.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is of command line tools"
)]

use std::collections::HashMap;
use std::error::Error;
use std::future::ready;
use std::io::{IsTerminal, stderr};
use std::path::Path;

use anyhow::{Context, bail};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use clap::value_parser;
use murmur_core::audit::KeyDifference;
use murmur_core::{Pipeline, Processor};
use murmur_lambda_ddbstreams::Mapping;
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::{Bootstrap, Ended, ReadBudget, Report, ShowProgress};
use murmur_snapshot_ddb::{ParallelScan, ParallelScanBuilder};
use murmur_state::retry::Retry;
use murmur_state::time::{Random, SystemClock};
use murmur_state::{Grouped, OptionError, PipelineName, RetryPolicy, TracingRecorder};
use tracing_subscriber::EnvFilter;

use crate::{Order, Tables};

/// The exit status of a command that failed.
pub const FAILED: u8 = 1;

/// The exit status of a command that was stopped before it was done.
pub const STOPPED: u8 = 3;

/// The exit status of a bootstrap that rejected rows, in this attempt or an earlier one.
pub const SOME_REJECTED: u8 = 4;

/// The exit status of a reconcile or an audit that left differences unrepaired.
pub const DIFFERENCES: u8 = 5;

/// Which table is read, and in how many parts.
#[derive(Debug, clap::Args)]
pub struct Orders {
    /// The table of orders.
    #[arg(long)]
    pub table: String,
    /// How many parts the table is read in; a bootstrap that is run again needs the same number.
    #[arg(long, default_value_t = 8)]
    pub segments: u32,
    /// How many rows one request may read [default: 1000, or as many as fit 1 MB].
    #[arg(long)]
    pub page_size: Option<u32>,
}

impl Orders {
    /// This table, without its stream.
    pub fn source(&self, client: &Client) -> ParallelScanBuilder {
        let source = ParallelScan::builder(client.clone(), self.table.as_str());
        let source = source.segments(self.segments);
        match self.page_size {
            Some(rows) => source.page_size(rows),
            None => source,
        }
    }
}

/// The limits of an audit or a reconcile.
#[derive(Debug, clap::Args)]
pub struct Limits {
    /// How many parts of tables are read at a time.
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// How many read units may be used a second [default: as many as there are].
    #[arg(long, value_name = "UNITS")]
    pub read_units: Option<f64>,
    /// How many keys are held in memory, about 200 bytes each. More keys are compared in several
    /// parts, and each part reads everything again.
    #[arg(long, value_name = "KEYS", default_value_t = 2_000_000, value_parser = at_least_one)]
    pub max_keys: usize,
    /// How many differing keys of each pipeline are listed.
    #[arg(long, value_name = "KEYS", default_value_t = 1000)]
    pub max_listed: usize,
}

impl Limits {
    /// How fast tables may be read.
    pub fn read_budget(&self) -> ReadBudget {
        self.read_units
            .map_or(ReadBudget::Unlimited, ReadBudget::UnitsPerSecond)
    }
}

/// A number of at least 1.
///
/// # Errors
///
/// Saying what it has to be.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number of at least 1".into()),
        Ok(number) => Ok(number),
    }
}

/// How the table is scanned to be counted.
#[derive(Debug, clap::Args)]
pub struct Scan {
    /// Which table.
    #[command(flatten)]
    pub orders: Orders,
    /// How many pages are read or written at a time.
    #[arg(long, default_value_t = 8)]
    pub concurrency: usize,
    /// How many read units of the table may be used a second [default: as many as it gives].
    #[arg(long, value_name = "UNITS", conflicts_with = "read_percent")]
    pub read_units: Option<f64>,
    /// How many percent of the table's provisioned read units may be used.
    #[arg(long, value_name = "PERCENT")]
    pub read_percent: Option<f64>,
    /// The stream consumer has been running since before this run began: the run may then take
    /// longer than 22 hours.
    #[arg(long)]
    pub live_is_running: bool,
    /// Accept a table of which every row is rejected; otherwise it is taken for the wrong table.
    #[arg(long)]
    pub accept_all_rejected: bool,
}

impl Scan {
    /// The options of a bootstrap of `pipelines` from this table, which shows its progress.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the argument that cannot be used.
    pub fn bootstrap(
        &self,
        client: &Client,
        streams: &aws_sdk_dynamodbstreams::Client,
        pipelines: [Pipeline<Order>; 2],
    ) -> Result<BootstrapBuilder<Order, ParallelScan>, OptionError> {
        let source = self.orders.source(client).streams(streams.clone());
        let shown = ShowProgress::on_stderr();
        let processor = Processor::builder(pipelines)
            .recorder(TracingRecorder)
            .build()?;
        let mut bootstrap = Bootstrap::builder(processor, source.build()?)
            .concurrency(self.concurrency)
            .read_budget(match (self.read_units, self.read_percent) {
                (Some(units), _) => ReadBudget::UnitsPerSecond(units),
                (None, Some(percent)) => ReadBudget::PercentOfProvisioned(percent),
                (None, None) => ReadBudget::Unlimited,
            })
            .on_progress(move |progress| shown.show(progress));
        if self.live_is_running {
            bootstrap = bootstrap.live_is_running();
        }
        if self.accept_all_rejected {
            bootstrap = bootstrap.accept_all_rejected();
        }
        Ok(bootstrap)
    }
}

/// Retries for as long as a bootstrap and a trigger do.
pub fn patience() -> Retry {
    Retry::new(RetryPolicy::patient(), SystemClock::shared(), Random::new())
}

/// Refuses the bootstrap before anything is written if `mapping` would miss changes.
pub fn checking(
    bootstrap: BootstrapBuilder<Order, ParallelScan>,
    mapping: Mapping,
) -> BootstrapBuilder<Order, ParallelScan> {
    bootstrap.on_token(move |token| ready(mapping.check(&token).map_err(Into::into)))
}

/// The event source mapping that `file` describes, as `aws lambda get-event-source-mapping` prints
/// it.
///
/// # Errors
///
/// Names the file, if it cannot be read or is something else.
pub fn read_mapping(file: &Path) -> anyhow::Result<Mapping> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("`{}` cannot be read", file.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "`{}` is not what `aws lambda get-event-source-mapping --output json` prints",
            file.display()
        )
    })
}

/// Logs to standard error what `RUST_LOG` says, by default warnings. On a terminal each log line
/// replaces the status line, which is then drawn again.
pub fn log() {
    let filter = EnvFilter::try_from_default_env();
    // Errors among the metrics are logged as warnings where they happen as well.
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("warn,murmur::metrics=off"));
    let terminal = stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal)
        .with_writer(move || {
            if terminal {
                eprint!("{CLEAR_LINE}");
            }
            stderr()
        })
        .init();
}

/// Clears the line of a terminal, and moves the cursor to its beginning.
pub const CLEAR_LINE: &str = "\r\x1b[2K";

/// The message of a bootstrap that was stopped in the middle of pages.
pub const GIVEN_UP: &str = "stopped in the middle of pages, which will be read again: run it again \
                            within 22 hours of its first start to go on";

/// Prints how many rows were counted, and how the bootstrap ended.
pub fn tell_report(report: &Report) {
    if let Ended::FinishedBefore { finished_at } = report.ended {
        return eprintln!(
            "the bootstrap was finished before, as run `{}`, at {finished_at}: nothing was read",
            report.run
        );
    }
    let counts = &report.counts;
    eprintln!(
        "{} rows scanned: {} counted, {} already counted, {} superseded by newer changes, {} \
         expired, {} skipped, {} rejected",
        Grouped(counts.rows),
        Grouped(counts.applied),
        Grouped(counts.duplicates),
        Grouped(counts.superseded),
        Grouped(counts.expired),
        Grouped(counts.skipped),
        Grouped(counts.rejected)
    );
    let earlier = &report.earlier;
    if earlier.counts.rows > 0 {
        eprintln!(
            "an earlier attempt did another {} rows ({} rejected) and finished {} segments",
            Grouped(earlier.counts.rows),
            Grouped(earlier.counts.rejected),
            earlier.segments
        );
    }
    for row in &report.rejected {
        eprintln!("rejected: {row}");
    }
    match report.ended {
        Ended::Finished | Ended::FinishedBefore { .. } => {}
        Ended::OwnPart => eprintln!(
            "this part is done, other parts are not: the run is finished when the last part is"
        ),
        Ended::Stopped => eprintln!(
            "stopped before the end: run it again within 22 hours of its first start to go on"
        ),
    }
}

/// Looks at every table before the work begins: all missing tables are named together, and a
/// server that does not answer is named at once.
///
/// # Errors
///
/// Names the tables that do not exist. Every other failure is left to the work itself, which
/// retries it or says what to do.
pub async fn check_tables(
    client: &Client,
    tables: &Tables,
    orders: Option<&str>,
) -> anyhow::Result<()> {
    let once = || Builder::new().retry_config(RetryConfig::disabled());
    let mut missing = Vec::new();
    let states = [tables.totals.as_str(), &tables.counts];
    for table in orders.into_iter().chain(states) {
        let scan = client.scan().table_name(table).limit(1).customize();
        let scanned = scan.config_override(once()).send().await;
        if !is_answered(table, &scanned, &mut missing) {
            return Ok(());
        }
    }
    let key = HashMap::from([
        ("pk".to_owned(), AttributeValue::S("-".to_owned())),
        ("sk".to_owned(), AttributeValue::N("0".to_owned())),
    ]);
    let markers = tables.markers.as_str();
    let get = client.get_item().table_name(markers).set_key(Some(key));
    let got = get.customize().config_override(once()).send().await;
    if is_answered(markers, &got, &mut missing) && !missing.is_empty() {
        bail!(
            "no such table in this account and region: {}; create what is missing, or correct \
             names and region",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Whether the server answered. Says so if it did not, and notes `table` if it is missing.
fn is_answered<T, E: ProvideErrorMetadata + Error + 'static>(
    table: &str,
    answer: &Result<T, SdkError<E>>,
    missing: &mut Vec<String>,
) -> bool {
    let Err(error) = answer else { return true };
    match error {
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {}
        SdkError::TimeoutError(_) => {}
        error => {
            if error.code() == Some("ResourceNotFoundException") {
                missing.push(format!("`{table}`"));
            }
            return true;
        }
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    eprintln!(
        "DynamoDB does not answer: {cause}; check endpoint, region and network. Still trying"
    );
    false
}

/// Prints the differing keys of a pipeline, one a line, and says how many are not listed.
pub fn print_keys(pipeline: &PipelineName, keys: &[KeyDifference], differing: u64) {
    for key in keys {
        println!("{pipeline} {key}");
    }
    let more = differing.saturating_sub(keys.len() as u64);
    if more > 0 {
        eprintln!(
            "{pipeline}: {} more keys differ; `--max-listed` lists more",
            Grouped(more)
        );
    }
}
