//! Many processes that write to one row.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use serde::Serialize;

use super::Effort;
use super::pipeline;
use super::server::recount;
use super::virtual_time::{Simulation, Spent, in_virtual_time};
use super::workload::{Keys, Workload};

const WRITERS: [usize; 4] = [1, 8, 32, 100];
const EVENTS_A_WRITE: [usize; 2] = [1, 10];

/// How long a writer waits between two of its writes.
const PAUSE: Duration = Duration::from_millis(50);

/// The write units per second that AWS allows for one item.
const LIMIT: f64 = 1_000.0;

/// The number of writes by all writers together.
const WRITES: usize = 5_000;

/// The result of several writers on one key.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) writers: usize,
    pub(super) events_a_write: usize,
    /// The share of the row's writes that were refused.
    pub(super) refused: f64,
    #[serde(flatten)]
    pub(super) spent: Spent,
    pub(super) units: f64,
    /// Of all writers together.
    pub(super) events_per_second: f64,
}

pub(super) async fn measure(effort: Effort) -> Result<Vec<Run>> {
    let mut all = Vec::new();
    for events_a_write in EVENTS_A_WRITE {
        for writers in WRITERS {
            eprintln!("bench: writers of one key: {writers}, {events_a_write} events a write");
            all.push(run(writers, events_a_write, effort).await?);
        }
    }
    Ok(all)
}

pub(super) async fn run(writers: usize, events_a_write: usize, effort: Effort) -> Result<Run> {
    let each = effort.of(WRITES).div_ceil(writers);
    in_virtual_time(move || contend(writers, events_a_write, each)).await
}

async fn contend(writers: usize, events_a_write: usize, each: usize) -> Result<Run> {
    let simulation = Simulation::new(3).await?;
    simulation.be_far_away(Some(LIMIT));
    let mut all = (1..)
        .take(writers)
        .map(|number| {
            let workload = Workload::new(Keys::Zipf, number);
            Ok((simulation.process(number)?, workload))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut total = 0;
    // The first part brings the row to its steady state.
    let mut measured = None;
    for writes in [each.div_ceil(5), each] {
        let before = simulation.books();
        let begun = simulation.time.elapsed();
        let work = all
            .iter_mut()
            .zip(1_u32..)
            .map(|((handler, workload), number)| {
                let simulation = &simulation;
                async move {
                    // The writers do not start at the same moment.
                    let time = &simulation.time;
                    time.sleep(PAUSE * number / u32::try_from(writers)?).await;
                    for _ in 0..writes {
                        let now = time.now();
                        let event = workload.event(&vec![0; events_a_write], |_| now);
                        pipeline::count(handler, event).await?;
                        time.sleep(PAUSE).await;
                    }
                    anyhow::Ok(())
                }
            });
        try_join_all(work).await?;
        let events = writers * writes * events_a_write;
        let spent = Spent::between(&before, &simulation.books(), events);
        measured = Some((spent, events, simulation.time.elapsed() - begun));
        total = all.iter().map(|(_, workload)| workload.total).sum();
    }
    recount(&simulation.cloud.admin(), &simulation.tables, total).await?;
    let (spent, events, took) = measured.unwrap_or_else(|| unreachable!("there are two parts"));
    Ok(Run {
        writers,
        events_a_write,
        refused: 1.0 - 1.0 / (spent.row_writes * events_a_write as f64),
        units: spent.units(),
        spent,
        events_per_second: events as f64 / took.as_secs_f64(),
    })
}
