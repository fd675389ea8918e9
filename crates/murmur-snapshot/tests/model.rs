//! Random runs, cut short in every way, in virtual time: no checkpoint is ahead of what is done,
//! every row counts once, and the run ends.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::{Pipeline, Processor, Row, Sum};
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, ReadBudget, Report, SourceError};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::error::Place;
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::{Add, Bound, Once, Outcome};
use murmur_state::time::Random;
use murmur_state::tokens::Tokens;
use murmur_state::{Checkpoints, Deadline, ExactlyOnce, MemoryDeduper, MemoryStore, StoreError};
use support::*;

/// After so many attempts nothing fails any more.
const PATIENCE: usize = 12;

/// What the runs of all seeds met.
type Met = BTreeMap<&'static str, usize>;

struct World {
    random: Random,
    segments: Vec<Vec<Row>>,
    page_size: usize,
    store: MemoryStore<Sum>,
    markers: MemoryDeduper,
    clock: Virtual,
    /// The event ids of rows that are in the state, or that the callback took.
    done: Mutex<HashSet<String>>,
    met: Mutex<Met>,
    calm: Mutex<bool>,
}

impl World {
    fn below(&self, n: usize) -> usize {
        (self.random.bits() % n as u128) as usize
    }

    /// Whether something of this chance, in percent, goes wrong.
    fn wrong(&self, percent: usize, what: &'static str) -> bool {
        let wrong = !*self.calm.lock().unwrap() && self.below(100) < percent;
        if wrong {
            self.meet(what);
        }
        wrong
    }

    fn meet(&self, what: &'static str) {
        *self.met.lock().unwrap().entry(what).or_default() += 1;
    }

    async fn take_time(&self) {
        tokio::time::sleep(Duration::from_millis(self.below(20) as u64)).await;
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.segments.iter().flatten()
    }

    /// Looks at a segment's checkpoint on its way into the table.
    fn check(&self, name: &str, data: &str) {
        if !name.contains("/segment/") {
            return;
        }
        let segment: usize = name.rsplit(':').next().unwrap().parse().unwrap();
        let row: serde_json::Value = serde_json::from_str(data).unwrap();
        let rows = &self.segments[segment];
        let until = match row["done"].as_bool().unwrap() {
            true => rows.len(),
            false => row["cursor"].as_str().unwrap().parse().unwrap(),
        };
        let done = self.done.lock().unwrap();
        for row in &rows[..until] {
            assert!(
                done.contains(&row.event_id),
                "{} is passed, not done",
                row.event_id
            );
        }
        assert_eq!(row["counts"]["rows"], until, "rows are told of once");
    }
}

fn broken() -> SourceError {
    SourceError::Setup {
        place: "table `orders`".into(),
        advice: "mend it".into(),
        source: None,
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable {
        place: Place::table("test", "totals"),
        may_have_applied: true,
        source: None,
    }
}

/// The world as its checkpoints.
#[derive(Clone)]
struct Marks(Arc<World>);

impl Checkpoints for Marks {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move {
            self.0.take_time().await;
            self.0.markers.load(name).await
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let world = &self.0;
            world.check(name, data);
            world.take_time().await;
            if world.wrong(5, "saves that were not made") {
                return Err(lost());
            }
            let saved = world.markers.save(name, data, over).await;
            world.take_time().await;
            match world.wrong(5, "saves whose answer was lost") {
                true => Err(lost()),
                false => saved,
            }
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            self.0.take_time().await;
            match self.0.wrong(10, "removals that failed") {
                true => Err(lost()),
                false => self.0.markers.remove(name, over).await,
            }
        })
    }
}

/// The world as its store.
struct Totals(Arc<World>);

impl Intercept for Totals {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.0.store
    }

    async fn merge(&self, _: &[Add<i64>], _: Deadline) -> Vec<Outcome> {
        panic!("it is not asked to merge")
    }

    async fn apply(&self, bound: &Bound, events: &[Once<i64>], deadline: Deadline) -> Vec<Outcome> {
        let world = &self.0;
        world.take_time().await;
        if world.wrong(2, "writes that failed for good") {
            let setup = StoreError::Setup {
                place: Place::table("test", "totals"),
                advice: "mend it".into(),
                source: None,
            };
            return events
                .iter()
                .map(|_| Outcome::Failed(setup.clone()))
                .collect();
        }
        let outcomes = world.store.apply(bound, events, deadline).await;
        for (event, outcome) in events.iter().zip(&outcomes) {
            if matches!(outcome, Outcome::Applied | Outcome::Duplicate) {
                world
                    .done
                    .lock()
                    .unwrap()
                    .insert(event.id.as_str().to_owned());
            }
        }
        world.take_time().await;
        match world.wrong(5, "writes whose answer was lost") {
            true => events.iter().map(|_| Outcome::Failed(lost())).collect(),
            false => outcomes,
        }
    }
}

fn pipeline(world: &Arc<World>) -> Pipeline<Order> {
    Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(Intercepted(Totals(Arc::clone(world))))
        .exactly_once()
        .unwrap()
}

fn is_good(row: &Row) -> bool {
    let murmur_core::AttributeValue::N(cents) = &row.item["cents"] else {
        panic!("{row:?}");
    };
    cents != "many"
}

/// One process, from its start to its end, or to when it is stopped.
fn process(
    world: &Arc<World>,
    part: Option<std::ops::Range<u32>>,
) -> BoxFuture<'static, Result<Report, BootstrapError>> {
    let hook = Arc::clone(world);
    let mut table = Table::new(&[], 1, world.page_size).before_page(move |_| {
        let world = Arc::clone(&hook);
        async move {
            world.take_time().await;
            if world.wrong(5, "reads that failed for a moment") {
                return Err(unavailable());
            }
            match world.wrong(1, "reads that failed for good") {
                true => Err(broken()),
                false => Ok(()),
            }
        }
    });
    table.segments = world.segments.clone();
    table.described = described(world.segments.len());
    table.row_cost = Some(0.5);
    let takes = Arc::clone(world);
    let random = Random::seeded(world.random.bits() as u64);
    let mut run = Bootstrap::builder(
        Processor::builder([pipeline(world)])
            .clock(Arc::new(world.clock.clone()))
            .random(random.clone())
            .tokens(Tokens::repeatable(random))
            .on_rejected(move |rejected| {
                let world = Arc::clone(&takes);
                async move {
                    world.take_time().await;
                    if world.wrong(2, "callbacks that failed") {
                        return Err("queue full".into());
                    }
                    let id = rejected.record.event_id().to_owned();
                    world.done.lock().unwrap().insert(id);
                    Ok(())
                }
            })
            .build()
            .unwrap(),
        table,
    )
    .checkpoints(Marks(Arc::clone(world)))
    .concurrency(1 + world.below(5));
    if !world.rows().any(is_good) {
        run = run.accept_all_rejected();
    }
    if world.below(3) == 0 {
        run = run.read_budget(ReadBudget::UnitsPerSecond(50.0));
    }
    if let Some(part) = part {
        run = run.worker("model", part);
    }
    let stop = match world.wrong(15, "processes told to stop") {
        true => Duration::from_millis(world.below(600) as u64),
        false => Duration::MAX,
    };
    Box::pin(run.run_until(tokio::time::sleep(stop)))
}

fn world(seed: u64, clock: Virtual) -> World {
    let random = Random::seeded(seed);
    let below = |n: u128| random.bits() % n;
    let mut number = 0;
    let segments = (0..1 + below(6)).map(|_| {
        let rows = (0..below(25)).map(|_| {
            number += 1;
            let cents = match below(20) {
                0 => "many".to_owned(),
                _ => below(1000).to_string(),
            };
            row(&format!("o{number}"), &format!("c{}", below(4)), &cents)
        });
        rows.collect::<Vec<_>>()
    });
    World {
        segments: segments.collect(),
        page_size: 1 + below(4) as usize,
        random,
        store: store(),
        markers: MemoryDeduper::new(),
        clock,
        done: Mutex::default(),
        met: Mutex::default(),
        calm: Mutex::new(false),
    }
}

/// The parts of one attempt: whole, or divided among workers.
fn parts(world: &World, workers: bool) -> Vec<Option<std::ops::Range<u32>>> {
    let segments = world.segments.len() as u32;
    if !workers {
        return vec![None];
    }
    let (mut parts, mut from) = (Vec::new(), 0);
    while from < segments {
        let to = from + 1 + world.below((segments - from) as usize) as u32;
        parts.push(Some(from..to));
        from = to;
    }
    parts
}

async fn run(seed: u64) -> Met {
    let world = Arc::new(world(seed, Virtual::new()));
    let workers = world.below(2) == 0;
    let mut zombies = Vec::new();
    let mut finished = false;
    for attempt in 0.. {
        assert!(attempt < 3 * PATIENCE, "seed {seed}: it does not end");
        *world.calm.lock().unwrap() = attempt >= PATIENCE;
        let processes: Vec<_> = parts(&world, workers)
            .into_iter()
            .map(|part| tokio::spawn(process(&world, part)))
            .collect();
        for mut process in processes {
            let life = match world.wrong(30, "processes cut off") {
                true => Duration::from_millis(world.below(400) as u64),
                false => Duration::from_secs(3600),
            };
            let ended = match tokio::time::timeout(life, &mut process).await {
                Ok(ended) => ended.unwrap(),
                Err(_) if world.below(3) == 0 => {
                    // It is not dead, only thought to be.
                    world.meet("zombies");
                    zombies.push(process);
                    continue;
                }
                Err(_) => {
                    world.meet("kills");
                    process.abort();
                    assert!(process.await.unwrap_err().is_cancelled());
                    continue;
                }
            };
            match ended {
                Ok(report) => {
                    let earlier = report.earlier;
                    if earlier.counts.rows > 0 {
                        world.meet("attempts that went on");
                    }
                    match report.ended {
                        Ended::Finished | Ended::FinishedBefore { .. } => finished = true,
                        Ended::OwnPart => world.meet("parts done before others"),
                        Ended::Stopped => world.meet("stops"),
                    }
                }
                Err(BootstrapError::SegmentTaken { .. }) => world.meet("segments taken"),
                // Of a worker no row of whose part, nor of those done before, is good.
                Err(BootstrapError::AllRejected { .. }) if workers => {
                    world.meet("parts in which no row was accepted");
                }
                Err(BootstrapError::BegunElsewhere { .. }) => world.meet("runs begun elsewhere"),
                Err(
                    BootstrapError::Source { .. }
                    | BootstrapError::Row { .. }
                    | BootstrapError::RowBlocked { .. }
                    | BootstrapError::RecordNotSaved { .. }
                    | BootstrapError::SegmentNotSaved { .. },
                ) => world.meet("failures"),
                Err(error) => panic!("seed {seed}: {}", murmur_state::Causes(&error)),
            }
        }
        if finished {
            break;
        }
    }
    for zombie in zombies {
        zombie.abort();
        let _ = zombie.await;
    }
    let good = world.rows().filter(|row| is_good(row));
    assert_eq!(totals(&world.store), recount(good), "seed {seed}");
    for row in world.rows() {
        assert!(
            world.done.lock().unwrap().contains(&row.event_id),
            "seed {seed}: {row:?}"
        );
    }
    let pipeline = pipeline(&world);
    let record = RunRecord::load(&world.markers, pipeline.name(), "orders").await;
    let record = record.unwrap().unwrap();
    assert!(record.finished_at.is_some(), "seed {seed}");
    assert_eq!(record.token, Some(token(0)), "seed {seed}");
    *world.calm.lock().unwrap() = true;
    let report = process(&world, None).await.unwrap();
    assert!(
        matches!(report.ended, Ended::FinishedBefore { .. }),
        "seed {seed}: {report:?}"
    );
    let left = world
        .markers
        .load(&segment_row(&pipeline, &record.run, 0))
        .await;
    assert_eq!(left.unwrap(), None, "seed {seed}");
    world.met.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn whatever_cuts_a_run_short_it_ends_with_every_row_counted_once() {
    let mut met = Met::new();
    for seed in 0..400 {
        for (what, times) in run(seed).await {
            *met.entry(what).or_default() += times;
        }
    }
    println!("{met:#?}");
    let wanted = [
        "attempts that went on",
        "callbacks that failed",
        "failures",
        "kills",
        "parts done before others",
        "processes told to stop",
        "reads that failed for a moment",
        "reads that failed for good",
        "removals that failed",
        "saves that were not made",
        "saves whose answer was lost",
        "segments taken",
        "stops",
        "writes that failed for good",
        "writes whose answer was lost",
        "zombies",
    ];
    for what in wanted {
        assert!(
            met.get(what).is_some_and(|times| *times > 0),
            "no {what}: {met:#?}"
        );
    }
}
