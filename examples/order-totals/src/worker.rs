//! The bootstrap as a function on Lambda: each call does some segments of a run, for as long as a call
//! may take, and the next one goes on. `deploy/bootstrap.asl.json` calls it until all is done.
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

/// What is kept of a call's time for finishing the pages under way and saving how far it came.
const MARGIN: Duration = Duration::from_secs(60);

/// Of a call that has less than that in all, half is kept.
const SHORT_CALL: Duration = Duration::from_secs(120);

/// What one worker is to do.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Part {
    /// What all workers do together.
    pub fill: Fill,
    /// The first segment of this worker's.
    pub from: u32,
}

/// A run, as the input of the state machine describes it. A field that is not one of these is an
/// error, so that no option is lost by a slip.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// The run's name: the same when it is started again.
    pub run: String,
    /// The table of orders.
    pub table: String,
    /// How many segments there are in all.
    pub segments: u32,
    /// How many each worker takes, or as many as there are.
    pub take: u32,
    /// The mapping that the run relies on, looked at before anything is written; `None` for no look.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// Whether live has been reading the stream since before this run began: then it may be of any
    /// age. Default false.
    #[serde(default)]
    pub live_is_running: bool,
    /// How many read units of the table each worker may use a second; `None` for as many as it gives.
    #[serde(default)]
    pub read_units: Option<f64>,
    /// Whether the state machine ends as succeeded although rows were rejected, and goes on where
    /// every row is. Default false.
    #[serde(default)]
    pub accept_rejected: bool,
}

/// How far it came.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Answer {
    /// Whether its segments are done; else it has to be called again.
    pub done: bool,
    /// Whether the whole run is finished.
    pub finished: bool,
    /// How many rows it counted in this call.
    pub rows: u64,
    /// How many rows of its segments can never count, those of earlier calls included; the log names
    /// them.
    pub rejected: u64,
    /// Whether that is known: not where the run was finished before, since nothing is kept of it then.
    pub rejected_is_known: bool,
}

/// Whether this process is a function that Lambda has started.
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

/// The type of an error that may pass, by which the state machine knows what to try again.
const RETRYABLE: &str = "Retryable";

/// The type of an error that does not: somebody has to change something first.
const FAILED_FOR_GOOD: &str = "FailedForGood";

/// A call that was cut off may be at its segments for a while.
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
    // Lambda is told what an error says of itself, and not its causes.
    answer.map_err(|error| Diagnostic {
        error_type: match error.downcast_ref::<BootstrapError>() {
            Some(error) if may_pass(error) => RETRYABLE.into(),
            _ => FAILED_FOR_GOOD.into(),
        },
        error_message: format!("{error:#}"),
    })
}

/// Does the part until it is done or `stop` completes.
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
        // Called again it would come no further: what keeps it is for people to see.
        Ended::Stopped if report.counts.examined == 0 => Err(BootstrapError::Stopped {
            source_name: fill.table,
        }
        .into()),
        Ended::FinishedBefore { .. } if report.run != run => bail!(
            "the totals were filled before, by run `{}`: start it under that name, or fill new tables",
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
