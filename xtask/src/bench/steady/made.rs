//! Creates tables as they are after days: each row and its pages as after a history of changes at
//! its key's rate.

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

/// The number of changes in the history of a key: more than a row and its pages remember. How many
/// more determines how full they are.
const PAST: usize = 150;
const MORE: usize = 100;

/// The greatest age, in seconds, of a change that is counted.
const LATELY: f64 = 20.0 * 3_600.0;

/// How many seconds a page outlives the events that it represents.
const PAGE_LIFE: f64 = 48.0 * 3_600.0;

/// The most items of one BatchWriteItem.
const PUTS: usize = 25;

pub(super) struct Made {
    /// The sum over all rows.
    pub(super) total: i64,
    /// For each lane, its last change of each key. These changes are not in the tables yet: the
    /// process that counts one knows its row from then on. Empty if there are more rows than a
    /// process remembers.
    pub(super) known: Vec<Batch>,
}

/// Creates the rows of the feed's keys, and their pages.
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
                // The process has handled many other events since.
                written.forget();
            }
        }
        made.total += written.value();
        rows.push(written.row());
        // Earlier ones are at most looked up, which costs the same if they are absent.
        let first = written.reaches_back_to().unwrap_or(START);
        pages.extend(written.pages(first.max(at(-PAGE_LIFE))));
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
    /// Draws a Poisson process, backwards from its end.
    fn before_the_start(load: Load, feed: &Feed, rate: f64, dice: &mut Rng) -> Self {
        let changes = PAST + dice.usize(..MORE);
        let mut deliveries = Vec::with_capacity(changes);
        let mut made = 0.0;
        while deliveries.len() < changes {
            made += (1.0 - dice.f64()).ln() / rate;
            let lane = dice.usize(..load.lanes);
            let last = feed.lanes[lane].last;
            if made > last {
                // The change waits in the feed.
                continue;
            }
            let batches_ago = ((last - made) / load.period()).floor();
            let at = last - batches_ago * load.period();
            deliveries.push(Delivery { at, lane, made });
        }
        deliveries.sort_by(|a, b| a.at.total_cmp(&b.at).then(a.made.total_cmp(&b.made)));
        Self(deliveries)
    }

    /// The creation times of the changes in each batch. If processes remember the row, the last
    /// batch of each lane goes to `known` instead, unless it is too old to be counted now.
    fn batches(mut self, load: Load, known: &mut [Batch], key: usize) -> Vec<Vec<f64>> {
        if load.keys == Keys::Zipf {
            for (lane, known) in known.iter_mut().enumerate() {
                let last = self.0.iter().rposition(|it| it.lane == lane);
                if let Some(last) = last.filter(|last| self.0[*last].made > -LATELY) {
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

/// Puts items once 25 of them are waiting.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use murmur_state::Timestamp;

    use super::super::super::pipeline;
    use super::*;

    type Row = HashMap<String, AttributeValue>;

    /// The rows by their keys, with their sets in order.
    fn sorted(rows: Vec<Row>) -> Vec<String> {
        let text = |(name, value): (String, AttributeValue)| match value {
            AttributeValue::Bs(mut ids) => {
                ids.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
                format!("{name}: {ids:?}")
            }
            AttributeValue::M(map) => {
                let map: std::collections::BTreeMap<_, _> = map.into_iter().collect();
                format!("{name}: {map:?}")
            }
            value => format!("{name}: {value:?}"),
        };
        let row = |row: Row| {
            let mut attributes: Vec<String> = row.into_iter().map(text).collect();
            attributes.sort();
            attributes.join("\n")
        };
        let mut rows: Vec<String> = rows.into_iter().map(row).collect();
        rows.sort();
        rows
    }

    /// Compares the tables row by row and page by page.
    #[test]
    fn a_past_is_what_the_code_would_have_left() {
        for (rate, batch) in [(0.01, 1), (2.0, 7), (300.0, 45), (300.0, 200)] {
            let run = move || async move {
                let simulation = Simulation::new(1).await?;
                let handler = simulation.process(1)?;
                let mut workload = Workload::new(Keys::Zipf, 1);
                let pipeline = PipelineName::new(PIPELINE)?;
                let key = Key::new(Keys::Zipf.name(3), 0)?;
                let mut past = Past::none(&pipeline, &simulation.tables.state, key);
                for _ in 0..400_usize.div_ceil(batch).max(12) {
                    let span = Duration::from_secs_f64(batch as f64 / rate);
                    simulation.time.sleep(span).await;
                    let now = simulation.time.now();
                    let created = |nth: usize| {
                        Timestamp::from_millis(now.as_millis() - (nth as f64 * 1e3 / rate) as i64)
                    };
                    let event = workload.event(&vec![3; batch], created);
                    let events = event.records.iter().enumerate().map(|(nth, record)| {
                        let id = u128::from_str_radix(&record.event_id, 16)?;
                        let amount = match record.change.new_image.get("amount") {
                            Some(murmur_core::AttributeValue::N(amount)) => amount.parse()?,
                            _ => 0,
                        };
                        Ok((id.to_be_bytes(), created(nth), amount))
                    });
                    let events: Vec<_> = events.collect::<Result<_>>()?;
                    past.write(&events)?;
                    pipeline::count(&handler, event).await?;
                }
                let real = |table: String| {
                    let cloud = simulation.cloud.clone();
                    async move {
                        let mut rows = cloud.rows(&table).await;
                        // Without the row that says who may write to the table.
                        rows.retain(|row| row.contains_key("cur") || row.contains_key("ids"));
                        sorted(rows)
                    }
                };
                let rows = real(simulation.tables.state.clone()).await;
                assert_eq!(rows, sorted(vec![past.row()]), "{rate}, {batch}");
                let pages = real(simulation.tables.markers.clone()).await;
                let made = sorted(past.pages(Timestamp::from_secs(0)));
                assert!(made.len() > 1, "{rate}, {batch}");
                assert_eq!(pages, made, "{rate}, {batch}");
                Ok(())
            };
            futures::executor::block_on(super::super::in_virtual_time(run)).unwrap();
        }
    }
}
