//! The handler on a DynamoDB in another process, compared with a bare loop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lambda_events::event::dynamodb::Event;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::Clock;
use murmur_state::time::SystemClock;
use murmur_testkit::Dynamo;
use serde::Serialize;

use super::Effort;
use super::bare::{self, Script};
use super::machine::Stopwatch;
use super::pipeline::{self, Means, Mode, Order, Tables};
use super::workload::{Keys, Workload};

/// Batch sizes, and the number of events sent with each size.
const BATCHES: [(usize, usize); 3] = [(1, 1_500), (100, 10_000), (1_000, 10_000)];

/// How often Murmur and the bare loop run, alternating. The medians are reported.
const ROUNDS: usize = 3;

/// The number of events before the measurement, so that the server has compiled its code.
const WARM_UP: usize = 20_000;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) runs: Vec<Run>,
}

/// The result of one mode on one workload.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) mode: Mode,
    pub(super) keys: Keys,
    pub(super) batch: usize,
    pub(super) events: usize,
    pub(super) ours: Speed,
    pub(super) bare: Speed,
    /// Murmur divided by the bare loop, the median of the rounds.
    pub(super) ratio: f64,
    pub(super) requests_per_event: f64,
    /// For the same events on the DynamoDB in this process.
    pub(super) write_units_per_event: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Speed {
    pub(super) events_per_second: f64,
    /// Microseconds of CPU time of this process.
    pub(super) cpu_per_event: f64,
}

pub(super) async fn measure(endpoint: &str, effort: Effort) -> Result<Figures> {
    let (client, requests) = client(endpoint);
    warm_up(&client, effort).await?;

    let mut runs = Vec::new();
    for keys in Keys::ALL {
        for (batch, events) in BATCHES {
            for mode in Mode::ALL {
                let kind = Kind { mode, keys, batch };
                eprintln!("bench: server, {kind}");
                let events = effort.of(events).next_multiple_of(batch);
                runs.push(run(&client, &requests, kind, events, effort).await?);
            }
        }
    }
    Ok(Figures { runs })
}

/// A client that sends each request once and counts them.
pub(super) fn client(endpoint: &str) -> (Client, Requests) {
    let requests = Requests::default();
    let config = Dynamo::at(endpoint)
        .client_config()
        .retry_config(RetryConfig::disabled())
        .interceptor(requests.clone());
    (Client::from_conf(config.build()), requests)
}

/// The code that is run.
#[derive(Debug, Clone, Copy)]
struct Kind {
    mode: Mode,
    keys: Keys,
    batch: usize,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, keys, batch } = self;
        write!(f, "{mode}, {keys}, batches of {batch}")
    }
}

pub(super) async fn warm_up(client: &Client, effort: Effort) -> Result<()> {
    eprintln!("bench: warming the server up");
    for mode in Mode::ALL {
        let tables = Tables::create(client).await?;
        let handler = pipeline::handler(mode, client, &tables, Means::default())?;
        let events = effort.of(WARM_UP) / Mode::ALL.len();
        one_by_one(&handler, Keys::Uniform, 100, events / 100).await?;
        tables.remove(client).await?;
    }
    Ok(())
}

/// Counts batches that are generated just before they are sent.
async fn one_by_one(
    handler: &Handler<Order>,
    keys: Keys,
    batch: usize,
    batches: usize,
) -> Result<()> {
    let mut workload = Workload::new(keys, 1);
    let clock = SystemClock::new();
    for _ in 0..batches {
        let now = clock.now();
        pipeline::count(handler, workload.batch(batch, |_| now)).await?;
    }
    Ok(())
}

fn events(workload: &mut Workload, batch: usize, count: usize) -> Vec<Event> {
    let now = SystemClock::new().now();
    let batches = (0..count / batch).map(|_| workload.batch(batch, |_| now));
    batches.collect()
}

async fn run(
    client: &Client,
    requests: &Requests,
    kind: Kind,
    count: usize,
    effort: Effort,
) -> Result<Run> {
    let Kind { mode, keys, batch } = kind;
    let mut workload = Workload::new(keys, 11);
    let events = events(&mut workload, batch, count);
    let script = Script::of(mode, &events).await?;

    let rounds = if effort.quick { 1 } else { ROUNDS };
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut sent = 0;
    for _ in 0..rounds {
        let tables = Tables::create(client).await?;
        let handler = pipeline::handler(mode, client, &tables, Means::default())?;
        // Separate copies, made before the clock starts.
        let given = events.clone();
        let before = requests.count();
        let watch = Stopwatch::start();
        for event in given {
            pipeline::count(&handler, event).await?;
        }
        ours.push(Speed::of(count, &watch));
        sent = requests.count() - before;
        recount(client, &tables, workload.total).await?;
        tables.remove(client).await?;

        let tables = Tables::create(client).await?;
        let calls = script.for_tables(&tables)?;
        let watch = Stopwatch::start();
        bare::send(client, &calls).await?;
        bare.push(Speed::of(count, &watch));
        tables.remove(client).await?;
    }
    let ratios = ours.iter().zip(&bare);
    let ratios = ratios.map(|(ours, bare)| ours.events_per_second / bare.events_per_second);
    Ok(Run {
        mode,
        keys,
        batch,
        events: count,
        ratio: median(ratios.collect()),
        ours: Speed::median(&ours),
        bare: Speed::median(&bare),
        requests_per_event: sent as f64 / count as f64,
        write_units_per_event: script.usage.write_units() / count as f64,
    })
}

/// Checks that every event was counted once: the speed of a mode that counts wrong is no result.
pub(super) async fn recount(client: &Client, tables: &Tables, expected: i64) -> Result<()> {
    let mut total = 0;
    let scan = client
        .scan()
        .table_name(&tables.state)
        .consistent_read(true);
    let mut rows = scan.into_paginator().items().send();
    while let Some(row) = rows.next().await {
        if let Some(AttributeValue::N(value)) = row?.get("v") {
            total += value.parse::<i64>().context("a total")?;
        }
    }
    ensure!(total == expected, "counted {total} instead of {expected}");
    Ok(())
}

impl Speed {
    pub(super) fn of(events: usize, watch: &Stopwatch) -> Self {
        let (wall, cpu): (Duration, Duration) = (watch.wall(), watch.cpu());
        Self {
            events_per_second: events as f64 / wall.as_secs_f64(),
            cpu_per_event: cpu.as_secs_f64() * 1e6 / events as f64,
        }
    }

    pub(super) fn median(all: &[Self]) -> Self {
        Self {
            events_per_second: median(all.iter().map(|one| one.events_per_second).collect()),
            cpu_per_event: median(all.iter().map(|one| one.cpu_per_event).collect()),
        }
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Counts the requests that leave this process, at almost no cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<AtomicU64>);

impl Requests {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
