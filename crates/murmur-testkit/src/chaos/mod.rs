//! Random runs of Murmur's own code over a simulated Lambda and a DynamoDB that fails, each held
//! against a recount.
//!
//! A [`Scenario`] is derived from one number. [`run`] plays it in virtual time, inside this process
//! or over a real server: the [`esm`](crate::esm) simulator delivers a random history of a source
//! table to processes of a Lambda function, each with a clock of its own and a connection to a
//! [`Cloud`]; in each a `Handler`, a pipeline and its stores do what they do in production. When
//! all is delivered, every total must equal the recount.
//!
//! What the runs prove is only worth as much as what they meet and what they notice. So a
//! [`Summary`] counts what was met, and a [`Rule`] of the protocol can be left out, which the runs or
//! a scripted [`Stage`] must notice.

mod fleet;
mod history;
mod pipeline;
mod report;
mod rule;
mod scenario;
mod stage;
mod totals;
mod world;

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use murmur_state::Timestamp;
use tokio::runtime::{Builder, Runtime};

pub use fleet::{Fleet, Place};
pub use report::{Met, Report, Summary, Wrong, head, row};
pub use rule::Rule;
pub use scenario::{Aggregate, Ids, Mode, Part, SKEW, Scenario};
pub use stage::{Actor, Stage};

use crate::Dynamo;
use crate::cloud::{Cloud, Weather};
use crate::esm::{Delivery, Simulation};
use crate::time::Time;
use history::History;
use world::World;

/// When histories begin at the earliest.
const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// Plays a scenario with everything inside this process.
pub fn run(scenario: &Scenario) -> Report {
    let scenario = scenario.clone();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    guarded(scenario, None, runtime, async |scenario| {
        let time = Time::paused(start(&scenario));
        let cloud = Cloud::in_process_at(&time, scenario.seed, Weather::calm());
        play(World::new(scenario, time, cloud, "chaos").await).await
    })
}

/// Plays a scenario against the DynamoDB at `endpoint`, in stepped time.
///
/// Requests take no time there, so of the weather what needs some is left out: held items, and how
/// much an item takes in a second.
pub fn run_over(scenario: &Scenario, endpoint: &str) -> Report {
    let mut scenario = scenario.clone();
    scenario.weather = Weather {
        latency: Duration::ZERO..=Duration::ZERO,
        hold: Duration::ZERO,
        service: Duration::ZERO,
        partition_limit: None,
        ..scenario.weather
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    guarded(scenario, Some(endpoint), runtime, async |scenario| {
        let time = Time::stepped(start(&scenario));
        let dynamo = Dynamo::at(endpoint);
        let cloud = Cloud::over_at(&time, &dynamo, scenario.seed, Weather::calm());
        let name = dynamo.table("chaos");
        play(World::new(scenario, time, cloud, &name).await).await
    })
}

/// Periods begin at other points of each run.
fn start(scenario: &Scenario) -> Timestamp {
    let dice = &mut fastrand::Rng::with_seed(scenario.seed ^ 0x5354_4152);
    START.plus(Duration::from_millis(dice.u64(..200 * 3_600_000)))
}

type Played = (u64, Vec<Wrong>, Met);

/// Runs `work`; a panic in it is something wrong with the run.
fn guarded(
    scenario: Scenario,
    endpoint: Option<&str>,
    runtime: std::io::Result<Runtime>,
    work: impl AsyncFnOnce(Scenario) -> Played,
) -> Report {
    // The SDK's own jitter comes from here.
    fastrand::seed(scenario.seed);
    let played = catch_unwind(AssertUnwindSafe(|| {
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        runtime.block_on(work(scenario.clone()))
    }));
    let (events, wrong, met) =
        played.unwrap_or_else(|panic| (0, vec![Wrong::Panicked(message(&*panic))], Met::default()));
    Report {
        scenario,
        endpoint: endpoint.map(Into::into),
        events,
        wrong,
        met,
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}

async fn play(world: World) -> Played {
    let scenario = world.scenario.clone();
    let History {
        shards,
        contributions,
        ..
    } = History::of(&scenario, world.time.now());
    world.cloud.set_weather(scenario.weather.clone());
    let simulation = Simulation {
        mapping: scenario.mapping.clone(),
        trouble: scenario.trouble,
        seed: scenario.seed,
        time: world.time.clone(),
    };
    let delivery = {
        let deliver = simulation.deliver(shards, || world.start());
        tokio::select! {
            biased;
            delivery = deliver => delivery,
            () = sweep(&world) => panic!("Time to Live never ends"),
        }
    };
    // Requests that stall arrive in the end.
    world.time.sleep(*scenario.weather.stall_for.end()).await;
    if scenario.sweep.is_some() {
        world.sweep().await;
    }
    let forgotten = delivery
        .trimmed
        .iter()
        .map(|record| record.event_id.clone());
    let forgotten: HashSet<String> = forgotten.collect();
    let wrong = world.judge(&contributions, &forgotten, scenario.late).await;
    let mut met = world.met();
    note(&delivery, &mut met);
    (contributions.len() as u64, wrong, met)
}

/// Time to Live at work, for as long as it is awaited.
async fn sweep(world: &World) {
    let mut next = world.time.elapsed();
    loop {
        let Some(every) = world.scenario.sweep else {
            return std::future::pending().await;
        };
        next += every;
        world.time.reached(next).await;
        world.sweep().await;
    }
}

fn note(delivery: &Delivery, met: &mut Met) {
    let esm = &delivery.met;
    for (kind, count) in [
        ("redelivered records", esm.redelivered),
        ("batches again", esm.again),
        ("regroupings", esm.regrouped),
        ("races", esm.raced),
        ("kills", esm.killed),
        ("timeouts", esm.timed_out),
        ("lost responses", esm.lost_answers),
        ("partial failures", esm.partial),
        ("bisections", esm.bisected),
    ] {
        met.add(kind, count);
    }
}
