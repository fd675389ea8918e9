//! The cost of a change to an item in a ledger: of the change with which the item leaves the
//! ledger, and of later ones. Both are compared with the cost of exactly-once for the same changes.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use fastrand::Rng;
use murmur_core::{Pipeline, Processor, Sum};
use murmur_lambda_ddbstreams::Handler;
use murmur_state::time::Random;
use murmur_state::tokens::Tokens;
use murmur_state::{Deadline, Timestamp};
use murmur_state_ddb::{Int64SumStore, TableOptions};
use serde::Serialize;

use super::Effort;
use super::pipeline::{self, Order};
use super::server::recount;
use super::virtual_time::{Simulation, Spent, in_virtual_time};
use super::workload::{Change, Keys, Workload, order};

const SEED: u64 = 11;
const BATCHES: [usize; 4] = [1, 10, 100, 1_000];

/// Changes per second.
const RATE: f64 = 100.0;

/// The number of changes that a process handles before another one replaces it.
const LIFE: usize = 1_000;

/// The number of items. A process remembers each of them once it has settled.
const ITEMS: usize = 15_000;

/// The number of changes to settled items before the measurement and during it.
const EVENTS: [usize; 2] = [10_000, 5_000];

/// A workload. Workloads differ only in these settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Load {
    pub(super) keys: Keys,
    pub(super) batch: usize,
    /// Whether one process handles all batches and remembers every item. Otherwise each process
    /// handles 1,000 changes, mostly of items that are new to it.
    pub(super) remembers: bool,
}

/// Units per change: write units plus a fifth of the read units.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    #[serde(flatten)]
    pub(super) load: Load,
    /// With exactly-once: one change of each item, and later ones.
    pub(super) once_first: Spent,
    pub(super) exactly_once: Spent,
    /// With a ledger in which items do not settle.
    pub(super) ledger: Spent,
    /// The first change of each item once items settle.
    pub(super) first: Spent,
    /// Later changes.
    pub(super) settled: Spent,
}

impl Run {
    /// How much more the change of a settled item costs than with exactly-once.
    pub(super) fn more(&self) -> f64 {
        self.settled.units() - self.exactly_once.units()
    }

    /// How much more the first change of an item costs than with exactly-once.
    pub(super) fn first_more(&self) -> f64 {
        self.first.units() - self.once_first.units()
    }
}

/// How many more units than with exactly-once a change of a settled item, and the first change of
/// an item, may cost. The first change is a put plus half a read unit each for the row of the
/// ledger and the row of the state: no process knows yet that only ledgers have written the state
/// row. Requests that a process makes once are in the hundredths.
pub(super) const MOST: f64 = 0.2;
pub(super) const MOST_AT_FIRST: f64 = 1.21;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ExactlyOnce,
    Ledger,
    Settling,
}

/// Changing items: the same ones in the same order for the same seed.
struct Items {
    dice: Rng,
    /// The key and amount of each item; `None` before its insert.
    now: Vec<Option<(usize, i64)>>,
    keys: Workload,
    of: Keys,
    made: u64,
}

impl Items {
    fn new(keys: Keys, count: usize) -> Self {
        Self {
            dice: Rng::with_seed(SEED),
            now: vec![None; count],
            keys: Workload::new(keys, SEED),
            of: keys,
            made: 0,
        }
    }

    fn total(&self) -> i64 {
        self.now.iter().flatten().map(|(_, amount)| amount).sum()
    }

    /// A change of each of `items`. The first change of an item is its insert; later ones change
    /// the amount.
    fn event(&mut self, items: impl Iterator<Item = usize>, created: Timestamp) -> Event {
        let mut event = Event::default();
        event.records = items.map(|item| self.change(item, created)).collect();
        event
    }

    fn any(&mut self, count: usize, created: Timestamp) -> Event {
        let drawn: Vec<usize> = (0..count)
            .map(|_| self.dice.usize(..self.now.len()))
            .collect();
        self.event(drawn.into_iter(), created)
    }

    fn change(&mut self, item: usize, created: Timestamp) -> EventRecord {
        self.made += 1;
        let before = self.now[item];
        let key = before.map_or_else(|| self.keys.draw(), |(key, _)| key);
        let after = (key, self.dice.i64(1..1_000));
        self.now[item] = Some(after);
        let id = format!("order-{item}");
        let image = |(key, amount): (usize, i64)| order(&id, &self.of.name(key), amount);
        let change = Change {
            event_id: format!("{:032x}", self.dice.u128(..)),
            number: self.made,
            created,
            before: before.map(image),
            after: image(after),
        };
        change.record(&id)
    }
}

fn totals(simulation: &Simulation, way: Way, random: &Random) -> Result<Pipeline<Order>> {
    let options = TableOptions::default()
        .clock(simulation.time.clock(0))
        .random(random.clone())
        .tokens(Tokens::repeatable(random.clone()));
    let client = simulation.cloud.process().client();
    let (state, markers) = (
        simulation.tables.state.as_str(),
        simulation.tables.markers.as_str(),
    );
    let store = Int64SumStore::with_options(client, state, options)?.markers(markers);
    let definition = Pipeline::builder(pipeline::PIPELINE)
        .key(Order::customer)
        .value(Order::amount)
        .aggregate(Sum::new());
    Ok(match way {
        Way::ExactlyOnce => definition.retract().store(store).exactly_once(),
        Way::Ledger => definition.store(store).ledger(),
        Way::Settling => definition.settle().store(store).ledger(),
    }?)
}

fn process(simulation: &Simulation, way: Way, number: u64) -> Result<Handler<Order>> {
    let random = Random::seeded(number);
    Ok(Handler::new(
        Processor::builder([totals(simulation, way, &random)?])
            .clock(simulation.time.clock(0))
            .random(random.clone())
            .tokens(Tokens::repeatable(random))
            .build()?,
    ))
}

/// A pipeline and its items, for one way of counting.
struct World {
    simulation: Simulation,
    way: Way,
    load: Load,
    items: Items,
    handler: Handler<Order>,
    processes: u64,
    /// The number of changes that this process has handled.
    done: usize,
}

impl World {
    /// Inserts all items.
    async fn new(way: Way, load: Load, items: usize) -> Result<Self> {
        let simulation = Simulation::new(SEED).await?;
        let handler = process(&simulation, way, 1)?;
        let mut world = Self {
            items: Items::new(load.keys, items),
            simulation,
            way,
            load,
            handler,
            processes: 1,
            done: 0,
        };
        let all: Vec<usize> = (0..items).collect();
        for part in all.chunks(1_000) {
            world.of(part).await?;
        }
        Ok(world)
    }

    /// Makes one change to each of `items`, in batches.
    async fn of(&mut self, items: &[usize]) -> Result<()> {
        for batch in items.chunks(self.load.batch) {
            let now = self.next(batch.len()).await?;
            let event = self.items.event(batch.iter().copied(), now);
            pipeline::count(&self.handler, event).await?;
        }
        Ok(())
    }

    /// Makes `events` changes to random items.
    async fn any(&mut self, events: usize) -> Result<()> {
        for _ in 0..events.div_ceil(self.load.batch) {
            let now = self.next(self.load.batch).await?;
            let event = self.items.any(self.load.batch, now);
            pipeline::count(&self.handler, event).await?;
        }
        Ok(())
    }

    /// Returns the time of the next batch, and replaces the process if it is due.
    async fn next(&mut self, events: usize) -> Result<Timestamp> {
        let pause = Duration::from_secs_f64(events as f64 / RATE);
        self.simulation.time.sleep(pause).await;
        self.done += events;
        if !self.load.remembers && self.done >= LIFE {
            self.done = 0;
            self.processes += 1;
            self.handler = process(&self.simulation, self.way, self.processes)?;
        }
        Ok(self.simulation.time.now())
    }

    async fn right(&self) -> Result<()> {
        let total = self.items.total();
        recount(
            &self.simulation.cloud.admin(),
            &self.simulation.tables,
            total,
        )
        .await
    }
}

/// The cost of each change to settled items, or to items in the other ways, in the steady state.
async fn later(world: &mut World, events: [usize; 2]) -> Result<Spent> {
    world.any(events[0]).await?;
    let before = world.simulation.books();
    world.any(events[1]).await?;
    let whole = events[1].div_ceil(world.load.batch) * world.load.batch;
    Ok(Spent::between(&before, &world.simulation.books(), whole))
}

/// The cost of one change of each item, and of later ones.
async fn both(way: Way, load: Load, items: usize, events: [usize; 2]) -> Result<(Spent, Spent)> {
    let mut world = World::new(way, load, items).await?;
    if way == Way::Settling {
        let pipeline = totals(&world.simulation, way, &Random::seeded(0))?;
        let clock = world.simulation.time.clock(0);
        let says = Processor::builder([pipeline]).clock(clock).build()?;
        says.settle(Deadline::NONE).await?;
        // Other processes check after a minute.
        world.simulation.time.sleep(Duration::from_secs(61)).await;
    }
    let before = world.simulation.books();
    let all: Vec<usize> = (0..items).collect();
    world.of(&all).await?;
    let first = Spent::between(&before, &world.simulation.books(), items);
    let later = later(&mut world, events).await?;
    world.right().await?;
    Ok((first, later))
}

pub(super) async fn run(load: Load, items: usize, events: [usize; 2]) -> Result<Run> {
    let of = |way| in_virtual_time(move || both(way, load, items, events));
    let (once_first, exactly_once) = of(Way::ExactlyOnce).await?;
    let (_, ledger) = of(Way::Ledger).await?;
    let (first, settled) = of(Way::Settling).await?;
    Ok(Run {
        load,
        once_first,
        exactly_once,
        ledger,
        first,
        settled,
    })
}

pub(super) async fn measure(effort: Effort) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for keys in Keys::ALL {
        for batch in BATCHES {
            for remembers in [true, false] {
                let load = Load {
                    keys,
                    batch,
                    remembers,
                };
                let run = run(
                    load,
                    effort.of(ITEMS),
                    EVENTS.map(|events| effort.of(events)),
                )
                .await?;
                eprintln!(
                    "bench: settling, {load}: {:.3} more than exactly-once",
                    run.more()
                );
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            batch,
            remembers,
        } = self;
        let remembers = if *remembers {
            "remembered"
        } else {
            "not remembered"
        };
        write!(f, "{keys}, batches of {batch}, {remembers}")
    }
}

/// Formats the runs as a table.
pub(super) struct Table<'a>(pub(super) &'a [Run]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nChanges of items in a ledger that settles, in virtual time; units a change (write units, \
             read units)\n\n| changes | exactly-once | ledger | an item's first | later ones |\n|---|---|---|---|---|"
        )?;
        let cell = |spent: &Spent| {
            format!(
                "{:.2} ({:.2}, {:.2})",
                spent.units(),
                spent.write_units,
                spent.read_units
            )
        };
        for run in self.0 {
            let Run {
                load,
                exactly_once,
                ledger,
                first,
                settled,
                ..
            } = run;
            let [once, ledger, first, later] = [exactly_once, ledger, first, settled].map(cell);
            writeln!(f, "| {load} | {once} | {ledger} | {first} | {later} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_settled_item_costs_what_exactly_once_costs_and_a_read() {
        for (keys, batch, remembers) in [
            (Keys::Zipf, 10, true),
            (Keys::Uniform, 1, true),
            (Keys::Uniform, 100, false),
        ] {
            let load = Load {
                keys,
                batch,
                remembers,
            };
            let run = run(load, 400, [400, 800]).await.unwrap();
            assert!(run.more() <= MOST, "{load}: {run:?}");
            assert!(run.first_more() <= MOST_AT_FIRST, "{load}: {run:?}");
            assert!(
                run.ledger.units() > run.settled.units() + 1.0,
                "{load}: {run:?}"
            );
        }
    }
}
