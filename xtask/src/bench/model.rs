//! Concurrent invocations on a DynamoDB inside this process, whose transactions hold their items
//! for a time and are cancelled where they meet.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lambda_events::event::dynamodb::Event;
use aws_sdk_dynamodb::Client;
use futures::future::try_join_all;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::{Deadline, Random};
use murmur_state_ddb::Rules;
use murmur_testkit::cloud::{Cloud, Fault, START, Usage, Weather};
use murmur_testkit::time::Time;
use serde::Serialize;

use super::Effort;
use super::pipeline::{self, Means, Mode, Order, Tables};
use super::workload::{Keys, Workload};

const INVOCATIONS: [usize; 3] = [1, 8, 32];

/// Batches of all invocations together, and the records of each.
const BATCHES: usize = 320;
const BATCH: usize = 100;

/// How many rows are hot from the start: the keys most drawn, where some are.
const HOT: usize = 20;

const MILLI: Duration = Duration::from_millis(1);

/// How long a transaction holds its items.
const HOLD: Duration = Duration::from_millis(15);

/// Events are created this far apart.
pub(super) const EVERY: Duration = MILLI;

/// Some invocations at a time, each a process of its own, over a backlog of batches.
#[derive(Debug, Serialize)]
pub(super) struct Contention {
    pub(super) keys: Keys,
    pub(super) invocations: usize,
    pub(super) batches: usize,
    pub(super) events: usize,
    /// Of all writes sent, the share refused because a transaction held an item.
    pub(super) cancelled: f64,
    pub(super) failed_batches: usize,
    pub(super) hot_rows: usize,
    pub(super) requests_per_event: f64,
    pub(super) write_units_per_event: f64,
    /// Virtual time of a batch: the mean and the longest.
    pub(super) mean_seconds: f64,
    pub(super) longest_seconds: f64,
}

pub(super) async fn measure(effort: Effort) -> Result<Vec<Contention>> {
    let mut all = Vec::new();
    for keys in Keys::ALL {
        for invocations in INVOCATIONS {
            eprintln!("bench: model, {invocations} invocations at a time, {keys}");
            let batches = effort.of(BATCHES).next_multiple_of(invocations);
            let run = move || contend(keys, invocations, batches);
            all.push(in_virtual_time(run).await?);
        }
    }
    Ok(all)
}

/// Runs `work` on tokio's paused clock, on a thread of its own.
pub(super) async fn in_virtual_time<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let result = runtime
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(work()));
        // Nobody waits for it any more where the task was interrupted.
        let _ = done.send(result);
    });
    result.await.context("the simulation panicked")?
}

/// A process of the function, in virtual time.
pub(super) fn process(
    (cloud, time): (&Cloud, &Time),
    tables: &Tables,
    number: u64,
    rules: Rules,
) -> Result<Handler<Order>> {
    let means = Means {
        clock: time.clock(0),
        random: Random::seeded(number),
        rules,
    };
    pipeline::handler(Mode::ExactlyOnce, &cloud.process().client(), tables, means)
}

async fn contend(keys: Keys, invocations: usize, batches: usize) -> Result<Contention> {
    fastrand::seed(3);
    let time = Time::paused(START);
    let cloud = Cloud::in_process_at(&time, 3, Weather::calm());
    let tables = Tables::create(&cloud.admin()).await?;
    let mut workload = Workload::new(keys, 3);
    heat(&cloud, &time, &tables, &mut workload).await?;
    cloud.set_weather(Weather {
        hold: HOLD,
        latency: MILLI..=3 * MILLI,
        ..Weather::calm()
    });

    let begin = time.now();
    let mut backlogs: Vec<Vec<Event>> = vec![Vec::new(); invocations];
    for nth in 0..batches {
        let first = begin.plus(EVERY * u32::try_from(nth * BATCH)?);
        let created = |nth: usize| first.plus(EVERY * u32::try_from(nth).unwrap_or(u32::MAX));
        backlogs[nth % invocations].push(workload.batch(BATCH, created));
    }
    time.sleep(EVERY * u32::try_from(batches * BATCH)?).await;

    let before = Books::of(&cloud);
    let invocations = backlogs.into_iter().zip(1..).map(|(backlog, number)| {
        let handler = process((&cloud, &time), &tables, number, Rules::default());
        let time = time.clone();
        async move { work_off(&handler?, &time, backlog).await }
    });
    let invocations: Vec<_> = invocations.collect();
    let count = invocations.len();
    let done: Vec<Done> = try_join_all(invocations).await?;
    let spent = Books::of(&cloud).since(&before);

    let events = batches * BATCH;
    let done: Vec<(Duration, bool)> = done.into_iter().flatten().collect();
    let times = done.iter().map(|(time, _)| time.as_secs_f64());
    Ok(Contention {
        keys,
        invocations: count,
        batches,
        events,
        cancelled: spent.conflicts as f64 / spent.writes as f64,
        failed_batches: done.iter().filter(|(_, complete)| !complete).count(),
        hot_rows: rows(&cloud.admin(), &tables.state).await?.hot,
        requests_per_event: spent.requests as f64 / events as f64,
        write_units_per_event: spent.write_units / events as f64,
        mean_seconds: times.clone().sum::<f64>() / done.len() as f64,
        longest_seconds: times.fold(0.0, f64::max),
    })
}

/// How long each batch took, and whether all of it was counted.
type Done = Vec<(Duration, bool)>;

async fn work_off(handler: &Handler<Order>, time: &Time, backlog: Vec<Event>) -> Result<Done> {
    let mut done = Done::new();
    for event in backlog {
        let begun = time.elapsed();
        let answer = handler.handle(event, Deadline::NONE).await?;
        done.push((
            time.elapsed() - begun,
            answer.batch_item_failures.is_empty(),
        ));
    }
    Ok(done)
}

/// Turns rows hot, by a process that does so at their first id.
async fn heat(cloud: &Cloud, time: &Time, tables: &Tables, workload: &mut Workload) -> Result<()> {
    let rules = Rules::default();
    let handler = process((cloud, time), tables, 0, rules)?;
    let hottest: Vec<usize> = (0..HOT).collect();
    for _ in 0..2 {
        let now = time.now();
        pipeline::count(&handler, workload.event(&hottest, |_| now)).await?;
    }
    let hot = rows(&cloud.admin(), &tables.state).await?.hot;
    ensure!(hot == HOT, "{hot} rows are hot instead of {HOT}");
    Ok(())
}

/// What was used so far.
pub(super) struct Books {
    pub(super) requests: u64,
    pub(super) write_units: f64,
    writes: u64,
    conflicts: u64,
}

impl Books {
    pub(super) fn of(cloud: &Cloud) -> Self {
        let usage: Usage = cloud.usage();
        let writes = ["PutItem", "UpdateItem", "TransactWriteItems"];
        Self {
            requests: usage.total_requests(),
            write_units: usage.write_units(),
            writes: writes.map(|write| usage.requests_of(write)).iter().sum(),
            conflicts: cloud.met().count(Fault::HeldConflict),
        }
    }

    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            write_units: self.write_units - before.write_units,
            writes: self.writes - before.writes,
            conflicts: self.conflicts - before.conflicts,
        }
    }
}

/// What a table holds.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Rows {
    pub(super) rows: usize,
    pub(super) hot: usize,
    pub(super) mean_bytes: f64,
    pub(super) largest_bytes: usize,
}

pub(super) async fn rows(admin: &Client, table: &str) -> Result<Rows> {
    let scan = admin.scan().table_name(table).consistent_read(true);
    let mut pages = scan.into_paginator().items().send();
    let (mut rows, mut bytes) = (Rows::default(), 0);
    while let Some(row) = pages.next().await {
        let row = row?;
        let size: usize = row
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum();
        rows.rows += 1;
        rows.hot += usize::from(row.contains_key("hot"));
        rows.largest_bytes = rows.largest_bytes.max(size);
        bytes += size;
    }
    rows.mean_bytes = bytes as f64 / rows.rows.max(1) as f64;
    Ok(rows)
}

/// Bytes of a value (Amazon DynamoDB Developer Guide, "DynamoDB item sizes and formats").
pub(super) fn size(value: &aws_sdk_dynamodb::types::AttributeValue) -> usize {
    use aws_sdk_dynamodb::types::AttributeValue;
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Bs(set) => set.iter().map(|bytes| bytes.as_ref().len()).sum(),
        _ => 0,
    }
}
