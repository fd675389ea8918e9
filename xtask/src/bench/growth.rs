//! What exactly-once costs as its tables grow: 100,000 events, created at 1,000 a second.

use std::time::Duration;

use anyhow::Result;
use murmur_state_ddb::Rules;
use murmur_testkit::cloud::{Cloud, START, Weather};
use murmur_testkit::time::Time;
use serde::Serialize;

use super::Effort;
use super::model::{Books, EVERY, Rows, in_virtual_time, process, rows};
use super::pipeline::{self, Tables};
use super::workload::{Keys, Workload};

const EVENTS: usize = 100_000;
const BATCHES: [usize; 2] = [100, 1_000];
const PARTS: usize = 10;

/// One run.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    pub(super) keys: Keys,
    pub(super) batch: usize,
    pub(super) events: usize,
    pub(super) requests_per_event: f64,
    pub(super) write_units_per_event: f64,
    /// Its tenths.
    pub(super) parts: Vec<Part>,
}

/// A tenth of a run, and the tables after it.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) events: usize,
    pub(super) requests_per_event: f64,
    pub(super) write_units_per_event: f64,
    pub(super) state: Rows,
    pub(super) markers: Rows,
}

pub(super) async fn measure(effort: Effort) -> Result<Vec<Growth>> {
    let mut all = Vec::new();
    for keys in Keys::ALL {
        for batch in BATCHES {
            eprintln!("bench: model, tables as they grow, {keys}, batches of {batch}");
            let events = effort.of(EVENTS).next_multiple_of(batch * PARTS);
            all.push(in_virtual_time(move || grow(keys, batch, events)).await?);
        }
    }
    Ok(all)
}

async fn grow(keys: Keys, batch: usize, events: usize) -> Result<Growth> {
    fastrand::seed(5);
    let time = Time::paused(START);
    let cloud = Cloud::in_process_at(&time, 5, Weather::calm());
    let admin = cloud.admin();
    let tables = Tables::create(&admin).await?;
    let handler = process((&cloud, &time), &tables, 1, Rules::default())?;
    let mut workload = Workload::new(keys, 5);

    let begin = Books::of(&cloud);
    let mut parts = Vec::with_capacity(PARTS);
    for _ in 0..PARTS {
        let before = Books::of(&cloud);
        for _ in 0..events / PARTS / batch {
            let first = time.now();
            let created = |nth: usize| first.plus(EVERY * u32::try_from(nth).unwrap_or(u32::MAX));
            let event = workload.batch(batch, created);
            let made: Duration = EVERY * u32::try_from(batch)?;
            time.sleep(made).await;
            pipeline::count(&handler, event).await?;
        }
        let spent = Books::of(&cloud).since(&before);
        let of_part = (events / PARTS) as f64;
        parts.push(Part {
            events: (parts.len() + 1) * events / PARTS,
            requests_per_event: spent.requests as f64 / of_part,
            write_units_per_event: spent.write_units / of_part,
            state: rows(&admin, &tables.state).await?,
            markers: rows(&admin, &tables.markers).await?,
        });
    }
    let spent = Books::of(&cloud).since(&begin);
    Ok(Growth {
        keys,
        batch,
        events,
        requests_per_event: spent.requests as f64 / events as f64,
        write_units_per_event: spent.write_units / events as f64,
        parts,
    })
}
