//! Scans and counts a table, compared with the bare SDK.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use futures::future::try_join_all;
use murmur_core::{AttributeValue, Processor};
use murmur_snapshot::source::Page;
use murmur_snapshot::{Bootstrap, Source as _};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::time::SystemClock;
use murmur_state::{Clock, RetryPolicy};
use murmur_testkit::Dynamo;
use murmur_testkit::cloud::{Cloud, Weather};
use serde::Serialize;

use super::Effort;
use super::bare::{self, Script};
use super::machine::Stopwatch;
use super::orders::{self, OrderTable};
use super::pipeline::{self, Means, Mode, Tables};
use super::server::{self, Requests, Speed, median, recount};
use super::workload::{Keys, Workload};

/// The number of rows in the tables that are counted for speed, and in the table that is scanned.
const ROWS: usize = 20_000;
const MANY_ROWS: usize = 200_000;

/// The segments of a scan, the items of a page, and the pages that run at once. All but the
/// segments are the defaults.
const SEGMENTS: u32 = 8;
const PAGE: i32 = 1_000;
pub(super) const PAGES: usize = 8;

/// How many requests of 25 items run at once when a table is filled.
const PUTS: usize = 8;

/// How long a page may take. The default of one minute was exceeded by DynamoDB Local on a busy
/// machine. Such a result is slow, but not a failure.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often Murmur and the bare loop run, alternating. The medians are reported.
const ROUNDS: usize = 3;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) scan: Scan,
    pub(super) runs: Vec<Run>,
}

/// Reads a table to its end, decodes the rows and drops them. The bare SDK does the same with its
/// own items.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Scan {
    pub(super) rows: usize,
    pub(super) ours: Speed,
    pub(super) bare: Speed,
    /// Murmur divided by the bare SDK, the median of the rounds: rows per second, and CPU time per
    /// row.
    pub(super) ratio: f64,
    pub(super) cpu_ratio: f64,
}

/// The result of one mode on one table.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) mode: Mode,
    pub(super) keys: Keys,
    pub(super) rows: usize,
    pub(super) ours: Speed,
    pub(super) bare: Speed,
    /// Murmur divided by the bare loop, the median of the rounds.
    pub(super) ratio: f64,
    pub(super) requests_per_row: f64,
    /// For the same rows, read one page after another.
    pub(super) bare_requests_per_row: f64,
    pub(super) write_units_per_row: f64,
    /// The cost if every page wrote the marker of each row and each of its keys once, and nothing
    /// else.
    pub(super) least_write_units_per_row: f64,
}

/// A table on the server that is filled with orders.
pub(super) struct Orders {
    pub(super) table: OrderTable,
    keys: Keys,
    rows: usize,
    total: i64,
}

impl Orders {
    pub(super) async fn put(client: &Client, keys: Keys, rows: usize) -> Result<Self> {
        eprintln!("bench: bootstrap, putting {rows} rows, {keys}");
        let table = OrderTable::create(client, false).await?;
        let mut workload = Workload::new(keys, 31);
        let now = SystemClock::new().now();
        let records = (0..rows).flat_map(|_| workload.batch(1, |_| now).records);
        table.put(client, records.map(orders::row), PUTS).await?;
        Ok(Self {
            table,
            keys,
            rows,
            total: workload.total,
        })
    }
}

pub(super) async fn measure(endpoint: &str, effort: Effort) -> Result<Figures> {
    let (client, requests) = server::client(endpoint);
    server::warm_up(&client, effort).await?;
    let mut tables = Vec::new();
    for keys in Keys::ALL {
        tables.push(Orders::put(&client, keys, effort.of(ROWS)).await?);
    }
    let large = Orders::put(&client, Keys::Zipf, effort.of(MANY_ROWS)).await?;

    let scan = scan(&client, &large, effort).await?;
    large.table.remove(&client).await?;
    let mut runs = Vec::new();
    for orders in tables {
        for mode in [Mode::Ledger, Mode::ExactlyOnce] {
            let cloud = Cloud::over(&Dynamo::at(endpoint), 1, Weather::calm());
            runs.push(run(&client, &requests, &cloud, mode, &orders, effort).await?);
        }
        orders.table.remove(&client).await?;
    }
    Ok(Figures { scan, runs })
}

/// Lets a bootstrap count the table `source`, with `pages` at once. A recount checks the result,
/// because the report lists rows whose answer was lost as counted before.
pub(super) async fn fill(
    mode: Mode,
    client: &Client,
    tables: &Tables,
    source: &str,
    pages: usize,
) -> Result<()> {
    let totals = pipeline::totals(mode, client, tables, &Means::default())?;
    let patient = RetryPolicy::default().budget(PATIENCE);
    let processor = Processor::builder([totals]).retry(patient).build()?;
    let bootstrap = Bootstrap::builder(processor, segments(client, source)?).concurrency(pages);
    bootstrap.build()?.run().await?;
    Ok(())
}

fn segments(client: &Client, source: &str) -> Result<ParallelScan> {
    let scan = ParallelScan::builder(client.clone(), source);
    Ok(scan.segments(SEGMENTS).build()?)
}

fn rounds(effort: Effort) -> usize {
    if effort.quick { 1 } else { ROUNDS }
}

async fn scan(client: &Client, orders: &Orders, effort: Effort) -> Result<Scan> {
    let Orders { table, rows, .. } = orders;
    eprintln!("bench: bootstrap, scan");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    // One extra round before the measurement, so that the server has compiled its code.
    for round in 0..=rounds(effort) {
        let scan = segments(client, &table.name)?;
        // The scan requests the table's key schema before its first page, and only then.
        scan.page(0, None, NonZeroU32::new(1)).await?;
        let watch = Stopwatch::start();
        let chains = (0..SEGMENTS).map(|segment| count(&scan, segment));
        let read: usize = try_join_all(chains).await?.iter().sum();
        let our_speed = Speed::of(*rows, &watch);
        ensure!(read == *rows, "the scan gave {read} rows of {rows}");

        let watch = Stopwatch::start();
        let chains = (0..SEGMENTS).map(|segment| count_bare(client, &table.name, segment));
        let read: usize = try_join_all(chains).await?.iter().sum();
        let bare_speed = Speed::of(*rows, &watch);
        ensure!(read == *rows, "the SDK gave {read} rows of {rows}");
        if round > 0 {
            ours.push(our_speed);
            bare.push(bare_speed);
        }
    }
    Ok(Scan {
        rows: *rows,
        ratio: ratio(&ours, &bare, |speed| speed.events_per_second),
        cpu_ratio: ratio(&ours, &bare, |speed| speed.cpu_per_event),
        ours: Speed::median(&ours),
        bare: Speed::median(&bare),
    })
}

async fn count(scan: &ParallelScan, segment: u32) -> Result<usize> {
    let mut rows = 0;
    each_page(scan, segment, |page| rows += page.rows.len()).await?;
    Ok(rows)
}

async fn each_page(scan: &ParallelScan, segment: u32, mut take: impl FnMut(&Page)) -> Result<()> {
    let mut after = None;
    loop {
        let page = scan.page(segment, after.as_ref(), None).await?;
        take(&page);
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The same requests, sent by the SDK.
async fn count_bare(client: &Client, table: &str, segment: u32) -> Result<usize> {
    let (mut rows, mut start) = (0, None);
    loop {
        let page = client
            .scan()
            .table_name(table)
            .segment(segment.try_into()?)
            .total_segments(SEGMENTS.try_into()?)
            .limit(PAGE)
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .set_exclusive_start_key(start)
            .send()
            .await?;
        rows += page.items().len();
        start = page.last_evaluated_key;
        if start.is_none() {
            return Ok(rows);
        }
    }
}

async fn run(
    client: &Client,
    requests: &Requests,
    cloud: &Cloud,
    mode: Mode,
    orders: &Orders,
    effort: Effort,
) -> Result<Run> {
    let Orders {
        table, keys, rows, ..
    } = orders;
    eprintln!("bench: bootstrap, {mode}, {keys}");
    let script = Script::of_bootstrap(mode, cloud, &table.name).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut sent = 0;
    for _ in 0..rounds(effort) {
        let tables = Tables::create(client).await?;
        let before = requests.count();
        let watch = Stopwatch::start();
        fill(mode, client, &tables, &table.name, PAGES).await?;
        ours.push(Speed::of(*rows, &watch));
        sent = requests.count() - before;
        recount(client, &tables, orders.total).await?;
        tables.remove(client).await?;

        let tables = Tables::create(client).await?;
        let calls = script.for_tables(&tables)?;
        let watch = Stopwatch::start();
        bare::send(client, &calls).await?;
        bare.push(Speed::of(*rows, &watch));
        recount(client, &tables, orders.total).await?;
        tables.remove(client).await?;
    }
    let per_row = |count: f64| count / *rows as f64;
    let keys_per_row = per_row(keys_of_pages(client, &table.name).await? as f64);
    Ok(Run {
        mode,
        keys: *keys,
        rows: *rows,
        ratio: ratio(&ours, &bare, |speed| speed.events_per_second),
        ours: Speed::median(&ours),
        bare: Speed::median(&bare),
        requests_per_row: per_row(sent as f64),
        bare_requests_per_row: per_row(script.usage.total_requests() as f64),
        write_units_per_row: per_row(script.usage.write_units()),
        least_write_units_per_row: match mode {
            Mode::Ledger => 2.0 + 2.0 * keys_per_row,
            Mode::ExactlyOnce | Mode::AtLeastOnce => keys_per_row,
            Mode::ClaimFirst => 1.0 + keys_per_row,
        },
    })
}

/// The number of different keys per page, summed over all pages.
async fn keys_of_pages(client: &Client, table: &str) -> Result<usize> {
    let scan = segments(client, table)?;
    let mut keys = 0;
    for segment in 0..SEGMENTS {
        let take = |page: &Page| {
            let customers = page.rows.iter().filter_map(|row| row.item.get("customer"));
            let customers = customers.filter_map(|customer| match customer {
                AttributeValue::S(name) => Some(name),
                _ => None,
            });
            keys += customers.collect::<HashSet<_>>().len();
        };
        each_page(&scan, segment, take).await?;
    }
    Ok(keys)
}

fn ratio(ours: &[Speed], bare: &[Speed], of: fn(&Speed) -> f64) -> f64 {
    let pairs = ours.iter().zip(bare);
    median(pairs.map(|(ours, bare)| of(ours) / of(bare)).collect())
}
