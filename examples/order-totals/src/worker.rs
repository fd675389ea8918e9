//! The bootstrap as a function on Lambda. Each call works on some segments of a run until its time
//! is up, and the next call goes on. `deploy/bootstrap.asl.json` calls it until the run is
//! finished.
#![allow(clippy::print_stderr, reason = "it is the log of a function")]

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use murmur_core::Processor;
use murmur_lambda_ddbstreams::Mapping;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, ReadBudget};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::TracingRecorder;

use crate::Tables;
use crate::cli::{self, FAILED};

/// How much of a call's time is kept for finishing pages and saving checkpoints.
const MARGIN: Duration = Duration::from_secs(60);

/// A call that has less time than this keeps half of it.
const SHORT_CALL: Duration = Duration::from_secs(120);

/// The work of one worker.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Part {
    /// The run that all workers share.
    pub fill: Fill,
    /// The first segment of this worker.
    pub from: u32,
}

/// A run, as the input of the state machine describes it. An unknown field is an error, so that a
/// misspelt option is not lost.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// The run's name; use the same name to start the run again.
    pub run: String,
    /// The table of orders.
    pub table: String,
    /// How many segments the table is read in.
    pub segments: u32,
    /// How many segments each worker takes; the last worker may take fewer.
    pub take: u32,
    /// The mapping that keeps the totals live, checked before anything is written. Default: no
    /// check.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// Whether the stream consumer has been running since before this run began; the run may then
    /// be of any age. Default false.
    #[serde(default)]
    pub live_is_running: bool,
    /// How many read units of the table each worker may use a second. Default: no limit.
    #[serde(default)]
    pub read_units: Option<f64>,
    /// Whether the state machine succeeds although rows were rejected, even if all were. Default
    /// false.
    #[serde(default)]
    pub accept_rejected: bool,
}

/// What one call achieved.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Answer {
    /// Whether its segments are done; if not, it has to be called again.
    pub done: bool,
    /// Whether the whole run is finished.
    pub finished: bool,
    /// How many rows it counted in this call.
    pub rows: u64,
    /// How many rows of its segments can never count, earlier calls included; the log names them.
    pub rejected: u64,
    /// Whether `rejected` is known. It is not if the run was finished before this call.
    pub rejected_is_known: bool,
}

/// Whether Lambda started this process.
pub fn is_called() -> bool {
    std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some()
}

/// Answers Lambda's calls until the process ends.
pub async fn serve() -> ExitCode {
    lambda_runtime::tracing::init_default_subscriber();
    match lambda_runtime::run(service_fn(call)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// The type of an error that may pass: the state machine tries again.
const RETRYABLE: &str = "Retryable";

/// The type of an error that needs a person: the state machine fails.
const FAILED_FOR_GOOD: &str = "FailedForGood";

/// Also for segments that another call holds: one that was cut off may still be running.
fn may_pass(error: &BootstrapError) -> bool {
    let meets_another = matches!(
        error,
        BootstrapError::SegmentTaken { .. } | BootstrapError::BegunElsewhere { .. }
    );
    meets_another || error.is_retryable()
}

async fn call(event: LambdaEvent<Part>) -> Result<Answer, Diagnostic> {
    let ends = UNIX_EPOCH + Duration::from_millis(event.context.deadline);
    let left = ends
        .elapsed()
        .err()
        .map_or(Duration::ZERO, |left| left.duration());
    let margin = if left < SHORT_CALL { left / 2 } else { MARGIN };
    let answer = work(event.payload, tokio::time::sleep(left - margin)).await;
    // Lambda shows only the message of the error itself, so the causes go into it.
    answer.map_err(|error| Diagnostic {
        error_type: match error.downcast_ref::<BootstrapError>() {
            Some(error) if may_pass(error) => RETRYABLE.into(),
            _ => FAILED_FOR_GOOD.into(),
        },
        error_message: format!("{error:#}"),
    })
}

/// Works on the part until it is done or `stop` completes.
async fn work(part: Part, stop: impl Future<Output = ()> + Send) -> anyhow::Result<Answer> {
    let config = crate::aws_config().await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let streams = aws_sdk_dynamodbstreams::Client::new(&config);
    let pipelines = Tables::from_env()?.pipelines(&client)?;
    let Part { fill, from } = part;
    let source = ParallelScan::builder(client, fill.table.as_str())
        .streams(streams)
        .segments(fill.segments)
        .build()?;
    let to = from.saturating_add(fill.take).min(fill.segments);
    let run = fill.run;
    let processor = Processor::builder(pipelines)
        .recorder(TracingRecorder)
        .build()?;
    let mut bootstrap = Bootstrap::builder(processor, source).worker(run.clone(), from..to);
    if let Some(mapping) = fill.mapping {
        bootstrap = cli::checking(bootstrap, mapping);
    }
    if fill.live_is_running {
        bootstrap = bootstrap.live_is_running();
    }
    if fill.accept_rejected {
        bootstrap = bootstrap.accept_all_rejected();
    }
    if let Some(units) = fill.read_units {
        bootstrap = bootstrap.read_budget(ReadBudget::UnitsPerSecond(units));
    }
    let report = bootstrap.build()?.run_until(stop).await?;
    match report.ended {
        // Another call would get no further, so this is an error for people to see.
        Ended::Stopped if report.counts.examined == 0 => Err(BootstrapError::Stopped {
            source_name: fill.table,
        }
        .into()),
        Ended::FinishedBefore { .. } if report.run != run => bail!(
            "run `{}` has filled these tables already: start it under that name, or fill new tables",
            report.run
        ),
        ended => {
            for row in &report.rejected {
                eprintln!("rejected: {row}");
            }
            let before = matches!(ended, Ended::FinishedBefore { .. });
            Ok(Answer {
                done: ended != Ended::Stopped,
                finished: before || ended == Ended::Finished,
                rows: report.counts.rows,
                rejected: report.earlier.counts.rejected + report.counts.rejected,
                rejected_is_known: report.left == 0 && !before,
            })
        }
    }
}
