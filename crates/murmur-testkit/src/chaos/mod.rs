//! Random runs of Murmur's own code on a simulated Lambda and a DynamoDB that fails. Each run is
//! compared with a recount.
//!
//! A [`Scenario`] is derived from one number. [`run`] plays it in virtual time in this process;
//! [`run_over`] plays it against a real server. The [`esm`](crate::esm) simulator delivers a random
//! history of a source table to processes of a Lambda function. Each process has its own clock and
//! its own connection to a [`Cloud`], and runs a `Handler`, a pipeline and its stores as in
//! production. After the last delivery every total must equal the recount.
//!
//! The runs prove only as much as they encounter and detect. A [`Summary`] therefore counts the
//! situations that occurred. A [`Rule`] of the protocol can be left out, and the runs or a scripted
//! [`Stage`] must detect that it is missing.

mod fleet;
mod history;
mod pipeline;
mod report;
mod rule;
mod scenario;
mod stage;
mod totals;
mod wire;
mod world;

use std::collections::HashSet;
use std::time::Duration;

use murmur_state::Timestamp;

pub use fleet::{Fleet, Place};
pub use report::{Report, Summary, Wrong, head, row};
pub use rule::Rule;
pub use scenario::{Aggregate, Ids, Mode, Part, SKEW, Scenario};
pub use stage::{Actor, Stage};

use crate::Dynamo;
use crate::cloud::{Cloud, Weather};
use crate::esm::{Delivery, Simulation};
pub use crate::runs::Met;
use crate::runs::guarded;
use crate::time::Time;
use history::History;
use world::World;

/// The earliest time at which a history starts.
const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// Plays a scenario entirely inside this process.
pub fn run(scenario: &Scenario) -> Report {
    let scenario = scenario.clone();
    judged(scenario, None, async |scenario| {
        let time = Time::paused(start(&scenario));
        let cloud = Cloud::in_process_at(&time, scenario.seed, Weather::calm());
        play(World::new(scenario, time, cloud, "chaos").await).await
    })
}

/// Plays a scenario against the DynamoDB at `endpoint`, in stepped time.
///
/// Requests take no time there. The parts of the weather that need time are left out: held items
/// and the write limit of an item.
pub fn run_over(scenario: &Scenario, endpoint: &str) -> Report {
    let mut scenario = scenario.clone();
    scenario.weather = Weather {
        latency: Duration::ZERO..=Duration::ZERO,
        hold: Duration::ZERO,
        service: Duration::ZERO,
        partition_limit: None,
        ..scenario.weather
    };
    judged(scenario, Some(endpoint), async |scenario| {
        let time = Time::stepped(start(&scenario));
        let dynamo = Dynamo::at(endpoint);
        let cloud = Cloud::over_at(&time, &dynamo, scenario.seed, Weather::calm());
        let name = dynamo.table("chaos");
        play(World::new(scenario, time, cloud, &name).await).await
    })
}

/// The start of a run. Seconds, windows and pages begin at different points in each run.
fn start(scenario: &Scenario) -> Timestamp {
    let dice = &mut fastrand::Rng::with_seed(scenario.seed ^ 0x5354_4152);
    START.plus(Duration::from_millis(dice.u64(..200 * 3_600_000)))
}

type Played = (u64, Vec<Wrong>, Met);

/// Runs `work`. A panic in it is reported as a fault of the run.
fn judged(
    scenario: Scenario,
    endpoint: Option<&str>,
    work: impl AsyncFnOnce(Scenario) -> Played,
) -> Report {
    let played = guarded(scenario.seed, endpoint.is_none(), || work(scenario.clone()));
    let (events, wrong, met) =
        played.unwrap_or_else(|message| (0, vec![Wrong::Panicked(message)], Met::default()));
    Report {
        scenario,
        endpoint: endpoint.map(Into::into),
        events,
        wrong,
        met,
    }
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
    // Suspended machines resume, and stalled requests arrive in the end.
    world.wake().await;
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

/// Acts as Time to Live for as long as the future is polled.
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
