//! Fills the totals from the table of orders, then keeps them live from its stream.
#![allow(clippy::print_stderr, reason = "it is a command line tool")]

use std::cmp::Reverse;
use std::convert::Infallible;
use std::io::{IsTerminal, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use aws_sdk_dynamodb::Client;
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, ValueEnum, value_parser};
use murmur_core::{Change, Processor, Record, Rejected, item_id};
use murmur_lambda_ddbstreams::Handler;
use murmur_snapshot::{BootstrapError, Ended, Source};
use murmur_state::{Causes, Deadline, Grouped, HandoffToken, RetryPolicy, TracingRecorder};
use murmur_state_ddb::Deduper;
use murmur_streams::{
    Monitor, OnGap, ShardStatus, StreamError, StreamViewType, StreamsApi, Summary, Trigger,
    TriggerError, describe_stream_info,
};
use order_totals::Tables;
use order_totals::cli::{self, CLEAR_LINE, FAILED, GIVEN_UP, Orders, STOPPED, Scan};
use order_totals::stop::{self, Stop};

const AFTER_HELP: &str = "\
Environment:
  TOTALS_TABLE, COUNTS_TABLE, MARKER_TABLE   tables of the application
  AWS_REGION, AWS_PROFILE, ...               as for every AWS tool
  RUST_LOG                                   what is logged, default `warn`;
                                             `murmur::metrics=debug` logs counts and lag

Ctrl-C or SIGTERM ends it within two seconds: work under way is finished if there is time, and done
again otherwise; the position in each shard is saved. Run again, after that or after a crash, it
goes on from there, within the 24 hours that a stream keeps. A second signal ends it at once. All
output goes to standard error.

Exit status:
  0  it was reading the stream, and was told to stop
  1  it failed; fix the cause and run it again
  2  the arguments cannot be read; a value that turns out wrong later is 1
  3  it was stopped before it read the stream; run it again
  130, 143  a second Ctrl-C or SIGTERM ended it at once";

/// The name of the positions in the marker table, and the prefix of the trigger's metrics.
const LIVE: &str = "orders_live";

/// How long one delivery of a batch is retried without success.
const DELIVERY_BUDGET: Duration = Duration::from_secs(30);

/// The status tells the lag of this many shards, the slowest ones.
const SHARDS_TOLD: usize = 6;

/// How often the status is printed where standard error is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Fill the totals from the table of orders, then keep them live from its stream. The table may be
/// written at the same time.
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    scan: Scan,
    /// The most changes in one batch, 1 to 10000; changes of one customer share a write.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    /// How many batches of a shard are worked on at once, 1 to 10; raise it when the lag grows.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=10))]
    parallelization_factor: u16,
    /// The name under which this process leases shards. Processes that run at the same time need
    /// different names. A process that starts again under its old name goes on at once; with the
    /// default it waits for its old leases to end [default: random].
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    worker: Option<String>,
    /// How many shards this process reads at most [default: an even share of all].
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    maximum_shards: Option<u32>,
    /// How many MiB of changes may be read ahead, at least 4; less slows down a stream of many
    /// shards.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(4..=1_048_576))]
    read_ahead_mib: u32,
    /// After how many seconds, at least 3, another worker takes over the shards of a dead one.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u16).range(3..))]
    lease_seconds: u16,
    /// What to do with changes that can never count, such as an order without an amount.
    #[arg(long, value_enum, default_value_t = OnRejected::Stop)]
    on_rejected: OnRejected,
    /// How often a failing change is retried, up to 10000, before the command stops. The default
    /// takes some minutes.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u16).range(..=10_000))]
    maximum_retry_attempts: u16,
    /// What to do when the stream has lost changes that were not read.
    #[arg(long, value_enum, default_value_t = GapPolicy::Fail)]
    on_gap: GapPolicy,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnRejected {
    /// Treat them as failing: the command stops, and starts with them when it is run again.
    Stop,
    /// Print their key and sequence number, and skip them.
    Skip,
}

#[derive(Clone, Copy, ValueEnum)]
enum GapPolicy {
    /// Fail: the totals would lack them.
    Fail,
    /// Continue without them.
    Continue,
}

fn main() -> ExitCode {
    stop::run(command())
}

async fn command() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log();
    match run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let stop = Stop::listen()?;
    let is_live = AtomicBool::new(false);
    let work = fill_and_follow(&arguments, &stop, &is_live);
    match stop.finishing("pages or batches under way", work).await {
        Some(code) => code,
        None if is_live.load(Ordering::Relaxed) => {
            eprintln!(
                "live ended in the middle of batches, which will be delivered again: run it again"
            );
            Ok(ExitCode::SUCCESS)
        }
        None => {
            eprintln!("{GIVEN_UP}");
            Ok(ExitCode::from(STOPPED))
        }
    }
}

async fn fill_and_follow(
    arguments: &Arguments,
    stop: &Stop,
    is_live: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let config = order_totals::aws_config().await;
    let client = Client::new(&config);
    let streams = aws_sdk_dynamodbstreams::Client::new(&config);
    let tables = Tables::from_env()?;
    cli::check_tables(&client, &tables, Some(&arguments.scan.orders.table)).await?;
    // Before anything is counted from a table that cannot be kept live.
    check_stream(&arguments.scan.orders, &client, &streams).await?;

    let bootstrap = arguments
        .scan
        .bootstrap(&client, &streams, tables.pipelines(&client)?)?;
    let report = match bootstrap.build()?.run_until(stop.wait()).await {
        Ok(report) => report,
        Err(error @ BootstrapError::Stopped { .. }) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(STOPPED));
        }
        Err(error) => return Err(error.into()),
    };
    cli::tell_report(&report);
    if report.ended == Ended::Stopped {
        return Ok(ExitCode::from(STOPPED));
    }
    let token = report.handoff_token()?;
    is_live.store(true, Ordering::Relaxed);
    live(arguments, token, &tables, &client, streams, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that the table has a stream that these pipelines can use. The bootstrap checks that it is
/// the stream that they have followed so far.
async fn check_stream(
    orders: &Orders,
    client: &Client,
    streams: &aws_sdk_dynamodbstreams::Client,
) -> anyhow::Result<()> {
    let (table, patience) = (orders.table.as_str(), cli::patience());
    // Retries until the table answers. The checks below report what no retry can help.
    let source = orders.source(client).streams(streams.clone()).build()?;
    let described = patience.run(Deadline::NONE, |_| (), || source.describe());
    if let Err(error) = described.await
        && error.is_retryable()
    {
        return Err(error.into());
    }
    let described = client.describe_table().table_name(table).send().await;
    let described = described
        .with_context(|| format!("table `{table}` cannot be described; check name and region"))?;
    let found = described.table.and_then(|table| table.latest_stream_arn);
    let switch_on = "switch one on with view type NEW_AND_OLD_IMAGES (`aws dynamodb \
                     update-table`), and use new state and marker tables if these have totals \
                     already";
    let Some(arn) = found else {
        bail!("table `{table}` has no stream to keep the totals live from; {switch_on}");
    };
    let info = patience.run(
        Deadline::NONE,
        |_| (),
        || describe_stream_info(streams, &arn),
    );
    let stream = info.await?;
    if !stream.is_enabled() {
        bail!("stream `{arn}` of table `{table}` is switched off; {switch_on}");
    }
    let images = &stream.stream_view_type;
    if !matches!(
        images,
        StreamViewType::NewImage | StreamViewType::NewAndOldImages
    ) {
        bail!(
            "stream `{arn}` of table `{table}` has the view type {images}, and totals need the new \
             images; switch it off, and {switch_on}"
        );
    }
    Ok(())
}

/// Keeps the totals live until the process is told to stop.
async fn live(
    arguments: &Arguments,
    token: HandoffToken,
    tables: &Tables,
    client: &Client,
    streams: aws_sdk_dynamodbstreams::Client,
    stop: &Stop,
) -> anyhow::Result<()> {
    let rejected = Arc::new(AtomicU64::new(0));
    // The time of each delivery is limited, and their number by `maximum_retry_attempts`. A batch
    // survives an outage of most of an hour, and the command still ends soon when told to stop.
    let mut processor = Processor::builder(tables.pipelines(client)?)
        .recorder(TracingRecorder)
        .retry(RetryPolicy::patient().budget(DELIVERY_BUDGET));
    if arguments.on_rejected == OnRejected::Skip {
        let count = Arc::clone(&rejected);
        // Not the trigger's `on_failure`, which would also give up changes that an outage failed,
        // and both images of a change of which one can count.
        processor = processor.on_rejected(move |rejected| {
            count.fetch_add(1, Ordering::Relaxed);
            tell_rejected(&rejected);
            async { Ok(()) }
        });
    }
    let handler = Handler::new(processor.build()?);
    let arn = token.stream_arn.clone();
    let positions = Deduper::new(client.clone(), tables.markers.as_str());
    let mut trigger = Trigger::builder(StreamsApi::new(streams, arn.as_str()), handler)
        .positions(positions, LIVE)
        .read_ahead((arguments.read_ahead_mib as usize).saturating_mul(1024 * 1024))
        .lease(Duration::from_secs(arguments.lease_seconds.into()))
        .handoff(token)
        .batch_size(arguments.batch_size.into())
        .parallelization_factor(arguments.parallelization_factor.into())
        // Without `on_failure` and `maximum_record_age` no change is given up: one that fails for
        // too long, or is older than the pipelines recognise, stops the command.
        .maximum_retry_attempts(arguments.maximum_retry_attempts.into())
        // Finds the one change that fails, so that it can be named.
        .bisect_batch_on_error(true)
        .on_gap(match arguments.on_gap {
            GapPolicy::Fail => OnGap::Fail,
            GapPolicy::Continue => OnGap::Continue,
        })
        .recorder(TracingRecorder);
    if let Some(name) = &arguments.worker {
        trigger = trigger.owner(name.as_str());
    }
    if let Some(shards) = arguments.maximum_shards {
        trigger = trigger.maximum_shards(usize::try_from(shards).unwrap_or(usize::MAX));
    }
    let mut trigger = trigger.build()?;
    let watched = Watched {
        monitor: trigger.monitor(),
        rejected,
    };
    eprintln!("live: reading {arn}");
    let ended = tokio::select! {
        ended = trigger.run(stop.wait()) => ended,
        never = watched.tell() => match never {},
    };
    if stderr().is_terminal() {
        eprint!("{CLEAR_LINE}");
    }
    let done = watched.monitor.status().summary.records;
    let done = Grouped(done);
    eprintln!("live ended: changes done {done}, {}", watched.troubles());
    ended.map_err(advise)?;
    Ok(())
}

fn advise(error: TriggerError) -> anyhow::Error {
    let option = match &error {
        TriggerError::RetriesExhausted { .. } => {
            "if it can never count, `--on-rejected skip` prints it and skips it"
        }
        TriggerError::Gap { .. } => "`--on-gap continue` continues without them",
        TriggerError::Stream(StreamError::Disabled { .. } | StreamError::UnknownStream { .. }) => {
            "changes made while it is off are in no stream: switch it on, and bootstrap into new \
             state and marker tables"
        }
        _ => return error.into(),
    };
    anyhow!("{}; {option}", Causes(&error))
}

/// Prints a change that does not count, so that it can be looked up while the stream keeps it.
fn tell_rejected(rejected: &Rejected) {
    if stderr().is_terminal() {
        eprint!("{CLEAR_LINE}");
    }
    let reason = Causes(&rejected.error);
    match &rejected.record {
        Record::Changed(Change {
            keys,
            sequence_number: Some(number),
            ..
        }) => eprintln!(
            "rejected: sequence number {number}, key {}: {reason}",
            item_id(keys)
        ),
        record => eprintln!("rejected: event {}: {reason}", record.event_id()),
    }
}

/// What the status line shows.
struct Watched {
    monitor: Monitor,
    /// How many changes were skipped.
    rejected: Arc<AtomicU64>,
}

impl Watched {
    /// Prints the status: on a terminal every second in one line, elsewhere every ten seconds.
    async fn tell(&self) -> Infallible {
        let terminal = stderr().is_terminal();
        let interval = match terminal {
            true => Duration::from_secs(1),
            false => PLAIN_INTERVAL,
        };
        let (mut since, mut before) = (Instant::now(), 0);
        loop {
            tokio::time::sleep(interval).await;
            let status = self.monitor.status();
            let done = status.summary.records;
            let rate = done.saturating_sub(before) as f64 / since.elapsed().as_secs_f64();
            (since, before) = (Instant::now(), done);
            let line = format!(
                "live: changes/s {rate:.0}, {}, {}",
                lag(&status.shards),
                self.troubles()
            );
            match terminal {
                true => eprint!("{CLEAR_LINE}{line}"),
                false => eprintln!("{line}"),
            }
        }
    }

    /// The failures so far.
    fn troubles(&self) -> String {
        let Summary {
            failures,
            errors,
            retries,
            gaps,
            ..
        } = self.monitor.status().summary;
        let failures = Grouped(failures + errors);
        let mut text = format!("failures {failures}, retries {}", Grouped(retries));
        let rejected = self.rejected.load(Ordering::Relaxed);
        for (what, many) in [("rejected", rejected), ("gaps", gaps)] {
            if many > 0 {
                text += &format!(", {what} {}", Grouped(many));
            }
        }
        text
    }
}

/// How many shards this process reads, and how far each is behind, the slowest first.
fn lag(shards: &[ShardStatus]) -> String {
    let mut lags: Vec<_> = shards.iter().map(|shard| shard.lag).collect();
    lags.sort_by_key(|lag| Reverse(lag.unwrap_or(Duration::MAX)));
    let tell = |lag: &Option<Duration>| match lag {
        Some(lag) => format!("{} s", lag.as_secs()),
        None => "not known yet".to_owned(),
    };
    let told: Vec<_> = lags.iter().take(SHARDS_TOLD).map(tell).collect();
    let more = if lags.len() > SHARDS_TOLD {
        ", ..."
    } else {
        ""
    };
    match lags.len() {
        0 => "shards 0".to_owned(),
        many => format!("shards {many}, lag {}{more}", told.join(", ")),
    }
}
