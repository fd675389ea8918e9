//! Tables as they are after days: each row and its pages as a past at its key's rate leaves them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use fastrand::Rng;
use murmur_state::{Key, PipelineName};
use murmur_state_ddb::Past;
use murmur_testkit::cloud::START;

use super::super::pipeline::PIPELINE;
use super::super::virtual_time::Simulation;
use super::super::workload::{Keys, Workload};
use super::{Batch, Change, Feed, Load, SEED, at};

/// How many changes of a key its past has: more than row and pages remember; how many more decides
/// how full they are.
const PAST: usize = 300;
const MORE: usize = 100;

/// The most items of one BatchWriteItem.
const PUTS: usize = 25;

pub(super) struct Made {
    /// What all rows have counted.
    pub(super) total: i64,
    /// Of each lane its last change of each key, which is not in the tables yet: whoever counts it
    /// knows the row from then on. None where there are more rows than a process remembers.
    pub(super) known: Vec<Batch>,
}

/// Makes the rows, with their pages, that the feed is about.
pub(super) async fn tables(simulation: &Simulation, load: Load, feed: &Feed) -> Result<Made> {
    let workload = Workload::new(load.keys, SEED);
    let pipeline = PipelineName::new(PIPELINE)?;
    let mut dice = Rng::with_seed(SEED);
    let mut made = Made {
        total: 0,
        known: vec![Batch::new(); load.lanes],
    };
    let admin = simulation.cloud.admin();
    let (mut rows, mut pages) = (Vec::new(), Vec::new());
    let keys: BTreeSet<usize> = match load.keys {
        Keys::Zipf => (0..load.keys.count()).collect(),
        Keys::Uniform => feed.changes().map(|change| change.key).collect(),
    };
    for key in keys {
        let rate = f64::from(load.rate) * workload.share(key);
        let past = Deliveries::before_the_start(load, feed, rate, &mut dice);
        let row = Key::new(load.keys.name(key), 0)?;
        let mut written = Past::none(&pipeline, &simulation.tables.state, row);
        for batch in past.batches(load, &mut made.known, key) {
            let events: Vec<_> = batch
                .into_iter()
                .map(|second| (dice.u128(..).to_be_bytes(), at(second), 500))
                .collect();
            written.write(&events)?;
            if load.keys == Keys::Uniform {
                // Its process has had many others since.
                written.forget();
            }
        }
        made.total += written.value();
        rows.push(written.row());
        pages.extend(written.pages(START));
        put(&admin, &simulation.tables.state, &mut rows, PUTS).await?;
        put(&admin, &simulation.tables.markers, &mut pages, PUTS).await?;
    }
    put(&admin, &simulation.tables.state, &mut rows, 1).await?;
    put(&admin, &simulation.tables.markers, &mut pages, 1).await?;
    Ok(made)
}

/// The changes of one key that were delivered before the start, in the order of delivery.
struct Deliveries(Vec<Delivery>);

struct Delivery {
    at: f64,
    lane: usize,
    made: f64,
}

impl Deliveries {
    /// As a Poisson process, seen from its end.
    fn before_the_start(load: Load, feed: &Feed, rate: f64, dice: &mut Rng) -> Self {
        let changes = PAST + dice.usize(..MORE);
        let mut deliveries = Vec::with_capacity(changes);
        let mut made = 0.0;
        while deliveries.len() < changes {
            made += (1.0 - dice.f64()).ln() / rate;
            let lane = dice.usize(..load.lanes);
            let last = feed.lanes[lane].last;
            if made > last {
                // It waits, as one of the feed's.
                continue;
            }
            let batches_ago = ((last - made) / load.period()).floor();
            let at = last - batches_ago * load.period();
            deliveries.push(Delivery { at, lane, made });
        }
        deliveries.sort_by(|a, b| a.at.total_cmp(&b.at).then(a.made.total_cmp(&b.made)));
        Self(deliveries)
    }

    /// When the changes of each batch were made. Where processes remember the row, the last of each
    /// lane goes to `known` instead.
    fn batches(mut self, load: Load, known: &mut [Batch], key: usize) -> Vec<Vec<f64>> {
        if load.keys == Keys::Zipf {
            for (lane, known) in known.iter_mut().enumerate() {
                if let Some(last) = self.0.iter().rposition(|it| it.lane == lane) {
                    let made = self.0.remove(last).made;
                    known.push(Change { key, made });
                }
            }
        }
        let same = |a: &Delivery, b: &Delivery| a.at == b.at && a.lane == b.lane;
        let batches = self.0.chunk_by(same);
        batches
            .map(|batch| batch.iter().map(|it| it.made).collect())
            .collect()
    }
}

/// Puts items, 25 at a time, once there are so many.
async fn put(
    admin: &Client,
    table: &str,
    items: &mut Vec<HashMap<String, AttributeValue>>,
    at_least: usize,
) -> Result<()> {
    while items.len() >= at_least.max(1) {
        let part = items.drain(..items.len().min(PUTS));
        let put = |item| {
            let put = PutRequest::builder().set_item(Some(item)).build()?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let puts: Vec<WriteRequest> = part.map(put).collect::<Result<_>>()?;
        let write = admin.batch_write_item().request_items(table, puts);
        let left = write.send().await?.unprocessed_items;
        let left = left.context("an answer without what is left")?;
        ensure!(left.is_empty(), "the tables did not take all rows");
    }
    Ok(())
}
