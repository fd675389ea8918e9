//! What the commands share: arguments, progress, exit statuses.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is of command line tools"
)]

use std::future::ready;
use std::io::{IsTerminal, stderr};
use std::path::Path;

use anyhow::Context;
use aws_sdk_dynamodb::Client;
use clap::value_parser;
use murmur_core::{KeyDifference, Pipeline, Processor};
use murmur_lambda_ddbstreams::Mapping;
use murmur_snapshot::{Bootstrap, BootstrapBuilder, Ended, ReadBudget, Report, ShowProgress};
use murmur_snapshot_ddb::{ParallelScan, ParallelScanBuilder};
use murmur_state::{
    OptionError, PipelineName, Random, Retry, RetryPolicy, SystemClock, TracingRecorder,
};
use tracing_subscriber::EnvFilter;

use crate::Order;

/// The exit status of a command that failed.
pub const FAILED: u8 = 1;

/// The exit status of a command that was stopped before its end.
pub const STOPPED: u8 = 3;

/// The exit status of a bootstrap that found rows that can never count, in any of its attempts.
pub const SOME_REJECTED: u8 = 4;

/// The exit status of a reconcile or an audit that found differences, and did not mend all of them.
pub const DIFFERENCES: u8 = 5;

/// Which table is read, and in what parts.
#[derive(Debug, clap::Args)]
pub struct Orders {
    /// The table of orders.
    #[arg(long)]
    pub table: String,
    /// How many parts the table is read in; a bootstrap goes on with the number it began with.
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

/// How an audit or a reconcile listens to its limits.
#[derive(Debug, clap::Args)]
pub struct Limits {
    /// How many parts of tables are read at a time.
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// How many read units may be used a second [default: as many as there are].
    #[arg(long, value_name = "UNITS")]
    pub read_units: Option<f64>,
    /// How many keys are held in memory, about 200 bytes each; more are compared in several parts,
    /// for each of which all is read once more.
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
    /// Says that live has been reading the stream since before this run began: then it may take
    /// longer than the 22 hours that live may begin after it.
    #[arg(long)]
    pub live_is_running: bool,
    /// Takes a table of which every row is rejected, which is else taken for the wrong one.
    #[arg(long)]
    pub accept_all_rejected: bool,
}

impl Scan {
    /// The bootstrap of `pipelines` from this table, which tells its progress; to be built.
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

/// Tries again what fails in passing, as long as bootstrap and trigger do.
pub fn patience() -> Retry {
    Retry::new(RetryPolicy::patient(), SystemClock::shared(), Random::new())
}

/// The bootstrap, refused before anything is written if `mapping` would miss changes.
pub fn checking(
    bootstrap: BootstrapBuilder<Order, ParallelScan>,
    mapping: Mapping,
) -> BootstrapBuilder<Order, ParallelScan> {
    bootstrap.on_token(move |token| ready(mapping.check(&token).map_err(Into::into)))
}

/// The event source mapping that `file` describes, as `aws lambda get-event-source-mapping` prints it.
///
/// # Errors
///
/// Naming the file, if it cannot be read, or is nothing of the kind.
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

/// Logs to standard error what `RUST_LOG` says, by default warnings. On a terminal each line
/// takes the place of the one that is being redrawn.
pub fn log() {
    let filter = EnvFilter::try_from_default_env();
    // The errors among the metrics are warned of where they happen, too.
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

/// Takes a terminal back to the beginning of its line, which is empty then.
pub const CLEAR_LINE: &str = "\r\x1b[2K";

/// What is said of a bootstrap that was stopped in the middle of pages.
pub const GIVEN_UP: &str = "stopped before the end, with pages under way, which are read again: run it \
                            again, within 22 hours of its first start, and it goes on from there";

/// Says what became of the rows.
pub fn tell_report(report: &Report) {
    if let Ended::FinishedBefore { finished_at } = report.ended {
        return eprintln!(
            "the bootstrap was finished before, as run {}, at {finished_at}: nothing was read",
            report.run
        );
    }
    let counts = &report.counts;
    eprintln!(
        "{} rows: {} count now, {} did before, of {} live knows something later, {} expired, {} \
         skipped, {} rejected",
        grouped(counts.rows),
        grouped(counts.applied),
        grouped(counts.duplicates),
        grouped(counts.superseded),
        grouped(counts.expired),
        grouped(counts.skipped),
        grouped(counts.rejected)
    );
    let earlier = &report.earlier;
    if earlier.counts.rows > 0 {
        eprintln!(
            "{} rows ({} rejected) and {} whole segments were done before, and are not among them",
            grouped(earlier.counts.rows),
            grouped(earlier.counts.rejected),
            earlier.segments
        );
    }
    for row in &report.rejected {
        eprintln!("rejected: {row}");
    }
    match report.ended {
        Ended::Finished | Ended::FinishedBefore { .. } => {}
        Ended::OwnPart => eprintln!(
            "this part is done, and others are not yet: the run is finished when the last of them is"
        ),
        Ended::Stopped => eprintln!(
            "stopped before the end: run it again, within 22 hours of its first start, and it goes \
             on from here"
        ),
    }
}

/// A count as people write it: `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
            grouped(more)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn counts_are_grouped() {
        for (count, shown) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (18_104_200, "18,104,200"),
        ] {
            assert_eq!(grouped(count), shown);
        }
    }
}
