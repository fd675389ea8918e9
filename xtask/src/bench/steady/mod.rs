//! The cost of exactly-once in its steady state: on tables as they are after days, written by one
//! lane or by ten, as with a mapping of as many shards.

mod made;
mod tables;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::Timestamp;
use murmur_testkit::cloud::START;
use serde::Serialize;

use super::Effort;
use super::pipeline::{self, Order};
use super::server::recount;
use super::virtual_time::{Simulation, Spent, in_virtual_time, round_trips};
use super::workload::{Keys, Workload};

pub(super) use tables::Tables;

const SEED: u64 = 5;
const RATES: [u32; 4] = [1_000, 100, 10, 1];
const LANES: [usize; 2] = [1, 10];
const BATCHES: [usize; 4] = [1, 10, 100, 1_000];

/// Dollars per million write and read request units, on demand in us-east-1, for standard tables
/// (<https://aws.amazon.com/dynamodb/pricing/on-demand/>). Storage costs extra: some KB per key,
/// and two days of pages.
const WRITE_PRICE: f64 = 0.625;
const READ_PRICE: f64 = 0.125;

/// A month of 730 hours.
const MONTH: f64 = 730.0 * 3_600.0;

/// A stream of changes, and its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Load {
    pub(super) keys: Keys,
    /// Events per second.
    pub(super) rate: u32,
    /// The number of processes. Each handles a part of the items; all share the keys.
    pub(super) lanes: usize,
    /// Events in a batch of one lane.
    pub(super) batch: usize,
}

/// The cost of a load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    #[serde(flatten)]
    pub(super) load: Load,
    pub(super) events: usize,
    #[serde(flatten)]
    pub(super) spent: Spent,
    pub(super) units: f64,
    /// How many requests of a batch run one after another.
    pub(super) round_trips: f64,
    pub(super) dollars_a_month: f64,
}

impl Load {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of = |keys, rate, lanes| {
            BATCHES.map(|batch| Self {
                keys,
                rate,
                lanes,
                batch,
            })
        };
        let rates = Keys::ALL
            .into_iter()
            .flat_map(|keys| RATES.map(|rate| (keys, rate)));
        rates.flat_map(move |(keys, rate)| {
            LANES
                .into_iter()
                .flat_map(move |lanes| of(keys, rate, lanes))
        })
    }

    /// The most units per event.
    pub(super) fn target(self) -> f64 {
        match (self.keys, self.batch) {
            (Keys::Uniform, _) | (Keys::Zipf, ..10) => 1.3,
            (Keys::Zipf, ..100) => 1.15,
            (Keys::Zipf, ..1_000) => 0.85,
            (Keys::Zipf, _) => 0.7,
        }
    }

    /// The units per event of the earlier protocol (hot rows and transactions), for loads that its
    /// model covers.
    pub(super) fn before(self) -> Option<f64> {
        Some(match (self.keys, self.rate, self.batch) {
            (Keys::Zipf, 1_000, 1) => 4.43,
            (Keys::Zipf, 1_000, 10) => 3.60,
            (Keys::Zipf, 1_000, 100) => 2.22,
            (Keys::Zipf, 1_000, 1_000) => 1.25,
            (Keys::Zipf, 10, 1) => 3.97,
            (Keys::Zipf, 10, 10) => 3.44,
            (Keys::Zipf, 10, 100) => 2.75,
            (Keys::Zipf, 10, 1_000) => 2.21,
            (Keys::Uniform, 1_000, _) => 4.00,
            (Keys::Uniform, 100, _) => 2.80,
            (Keys::Uniform, ..=10, _) => 1.00,
            _ => return None,
        })
    }

    /// The monthly price of these units per event.
    fn dollars_a_month(self, write_units: f64, read_units: f64) -> f64 {
        let millions = f64::from(self.rate) * MONTH / 1e6;
        millions * (write_units * WRITE_PRICE + read_units * READ_PRICE)
    }

    /// How long a lane takes to fill a batch.
    fn period(self) -> f64 {
        (self.batch * self.lanes) as f64 / f64::from(self.rate)
    }

    /// The number of events before the measurement and during it: enough for figures within 2 %.
    /// Before the measurement each process learns a part of the rows.
    fn events(self, effort: Effort) -> (usize, usize) {
        let round = self.batch * self.lanes;
        let (before, measured) = match (self.keys, self.lanes) {
            (Keys::Zipf, _) => (10_000.max(2 * round), 5_000.max(5 * round)),
            (Keys::Uniform, 1) => (5_000, 5_000),
            (Keys::Uniform, lanes) => (1_500 * lanes, 5_000.max(round)),
        };
        (effort.of(before), effort.of(measured))
    }

    /// Counts `before` events, then measures `measured` events.
    async fn run(self, before: usize, measured: usize) -> Result<Run> {
        let simulation = Simulation::new(SEED).await?;
        let feed = Feed::of(self, before, measured);
        let made = made::tables(&simulation, self, &feed).await?;
        simulation.be_far_away(None);
        let lanes = feed.lanes.into_iter().zip(made.known).zip(1..);
        let mut lanes = lanes
            .map(|((lane, known), number)| {
                Ok(Lane {
                    handler: simulation.process(number)?,
                    workload: Workload::new(self.keys, SEED + number),
                    known,
                    early: lane.early,
                    late: lane.late,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        // Each process knows its rows from its last write to each.
        for lane in &mut lanes {
            let known = std::mem::take(&mut lane.known);
            for batch in known.chunks(1_000) {
                lane.count(batch).await?;
            }
        }
        try_join_all(lanes.iter_mut().map(|lane| lane.work(&simulation, false))).await?;
        let before = simulation.books();
        let took = try_join_all(lanes.iter_mut().map(|lane| lane.work(&simulation, true))).await?;
        let after = simulation.books();

        let total: i64 = lanes.iter().map(|lane| lane.workload.total).sum();
        recount(
            &simulation.cloud.admin(),
            &simulation.tables,
            made.total + total,
        )
        .await?;
        let late = || lanes.iter().flat_map(|lane| &lane.late);
        let events: usize = late().map(Vec::len).sum();
        let spent = Spent::between(&before, &after, events);
        Ok(Run {
            load: self,
            events,
            spent,
            units: spent.units(),
            round_trips: round_trips(took.into_iter().sum()) / late().count() as f64,
            dollars_a_month: self.dollars_a_month(spent.write_units, spent.read_units),
        })
    }
}

/// A change: its key, and its creation time in seconds from the start.
#[derive(Debug, Clone, Copy)]
struct Change {
    key: usize,
    made: f64,
}

type Batch = Vec<Change>;

impl Change {
    fn created(self) -> Timestamp {
        at(self.made)
    }
}

/// The time `seconds` after the start.
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + (seconds * 1e3) as i64)
}

/// The changes of a load, beginning some time before the start. Each lane has changes that wait
/// until its batch is full.
struct Feed {
    lanes: Vec<Fed>,
}

struct Fed {
    /// When its last batch before the start was full.
    last: f64,
    /// Its batches before the measurement, and those during it.
    early: Vec<Batch>,
    late: Vec<Batch>,
}

impl Feed {
    fn of(load: Load, before: usize, measured: usize) -> Self {
        let mut dice = Rng::with_seed(SEED);
        let mut workload = Workload::new(load.keys, SEED);
        let period = load.period();
        let lasts: Vec<f64> = (0..load.lanes).map(|_| -dice.f64() * period).collect();
        let mut waiting: Vec<Batch> = vec![Batch::new(); load.lanes];
        let mut full: Vec<Vec<Batch>> = vec![Vec::new(); load.lanes];
        let every = 1.0 / f64::from(load.rate);
        let whole = (period / every) as usize + before + measured;
        for nth in 0..whole {
            let made = nth as f64 * every - period;
            let (key, lane) = (workload.draw(), dice.usize(..load.lanes));
            if made <= lasts[lane] {
                continue;
            }
            waiting[lane].push(Change { key, made });
            if waiting[lane].len() == load.batch {
                full[lane].push(std::mem::take(&mut waiting[lane]));
            }
        }
        let begins = before as f64 * every;
        let is_early = |batch: &Batch| batch.last().is_some_and(|last| last.made < begins);
        let lanes = lasts.into_iter().zip(full).map(|(last, full)| {
            let (early, late) = full.into_iter().partition(is_early);
            Fed { last, early, late }
        });
        Self {
            lanes: lanes.collect(),
        }
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        let batches = self
            .lanes
            .iter()
            .flat_map(|lane| lane.early.iter().chain(&lane.late));
        batches.flatten()
    }
}

/// A process and its part of the stream.
struct Lane {
    handler: Handler<Order>,
    workload: Workload,
    known: Batch,
    early: Vec<Batch>,
    late: Vec<Batch>,
}

impl Lane {
    /// Counts its batches, each one when it is full. Returns the total time.
    async fn work(&mut self, simulation: &Simulation, late: bool) -> Result<Duration> {
        let batches = std::mem::take(if late {
            &mut self.late
        } else {
            &mut self.early
        });
        let mut took = Duration::ZERO;
        for batch in &batches {
            let full = batch.last().map_or(0.0, |last| last.made).max(0.0);
            simulation.time.reached(Duration::from_secs_f64(full)).await;
            let begun = simulation.time.elapsed();
            self.count(batch).await?;
            took += simulation.time.elapsed() - begun;
        }
        if late {
            self.late = batches;
        }
        Ok(took)
    }

    async fn count(&mut self, batch: &[Change]) -> Result<()> {
        let keys: Vec<usize> = batch.iter().map(|change| change.key).collect();
        let event = self.workload.event(&keys, |nth| batch[nth].created());
        pipeline::count(&self.handler, event).await
    }
}

pub(super) async fn measure(effort: Effort) -> Result<Vec<Run>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runs = Load::all().map(|load| async move {
        let (before, measured) = load.events(effort);
        let run = in_virtual_time(move || load.run(before, measured)).await?;
        eprintln!("bench: steady state, {load}: {:.3} units", run.units);
        Ok(run)
    });
    let runs: Vec<Result<Run>> = stream::iter(runs).buffered(cores).collect().await;
    runs.into_iter().collect()
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            rate,
            lanes,
            batch,
        } = self;
        write!(f, "{keys}, {rate}/s, lanes: {lanes}, batches of {batch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(load: Load) -> Run {
        let measured = 2_000.max(2 * load.batch * load.lanes);
        in_virtual_time(move || load.run(2_000, measured))
            .await
            .unwrap()
    }

    /// Some loads of each kind. The bench runs all of them, with more events.
    #[tokio::test]
    async fn an_event_costs_no_more_than_it_should() {
        for (keys, rate, lanes, batch) in [
            (Keys::Zipf, 1_000, 1, 1),
            (Keys::Zipf, 100, 4, 10),
            (Keys::Zipf, 10, 1, 100),
            (Keys::Zipf, 1_000, 1, 1_000),
            (Keys::Uniform, 100, 1, 100),
        ] {
            let load = Load {
                keys,
                rate,
                lanes,
                batch,
            };
            let Run { units, spent, .. } = run(load).await;
            assert!(units <= load.target(), "{load}: {units}, {spent:?}");
            // Nothing is free, either.
            assert!(units > 0.2 && spent.page_writes > 0.0, "{load}: {spent:?}");
        }
    }

    /// One round trip if rows are known and no page is written.
    #[tokio::test]
    async fn a_batch_takes_hardly_more_than_a_round_trip() {
        let load = Load {
            keys: Keys::Zipf,
            rate: 10,
            lanes: 1,
            batch: 1,
        };
        let Run { round_trips, .. } = run(load).await;
        assert!((1.0..1.2).contains(&round_trips), "{round_trips}");
    }
}
