//! The life of one process that reads.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_state::HandoffToken;
use murmur_state::time::Random;
use murmur_streams::{OnGap, Trigger};
use murmur_testkit::time::{Suspensions, Time};

use crate::doubles::{FEIGNED, Places, Process, Source, Wrapped};
use crate::plan::{Life, Trims, Way};
use crate::world::{ARN, NAME, World};

type Live = Trigger<Source, Wrapped>;

/// A shutdown takes no longer than calls, saves and what they wait for.
const STOPPED_WITHIN: Duration = Duration::from_secs(900);

/// The trigger of one process.
fn trigger(world: &Arc<World>, life: &Life, token: Option<&HandoffToken>) -> Live {
    let suspended = Suspensions::default();
    if sleeps_as_a_whole(life) {
        for (from, until) in &life.freezes {
            suspended.add(*from, *until);
        }
    }
    let clock = world.time.clock_of_machine(life.skew, &suspended);
    let inner = world.handler(Arc::clone(&clock));
    let process = Process::new(Arc::clone(world), life.clone());
    let source = Source {
        process: process.clone(),
        inner: world.store.source(ARN),
        feigned: Mutex::default(),
    };
    let places = Places {
        process: process.clone(),
    };
    let handler = Wrapped {
        process: process.clone(),
        inner: inner.clone(),
    };
    let mut builder = Trigger::builder(source, handler)
        .batch_size(life.batch_size)
        .maximum_batching_window(life.window)
        .parallelization_factor(life.factor)
        .bisect_batch_on_error(life.bisect)
        .on_gap(match world.plan.trims {
            Trims::Continue => OnGap::Continue,
            _ => OnGap::Fail,
        })
        .positions(places, NAME)
        .owner(life.owner.as_str())
        .lease(life.lease)
        .maximum_shards(life.maximum_shards)
        .retry_budget(life.budget)
        .poll_interval(life.poll)
        .drain_empty_reads(FEIGNED + 1)
        .random(Random::seeded(world.plan.seed ^ life.number << 32))
        .clock(clock);
    if let Some(attempts) = life.attempts {
        builder = builder.maximum_retry_attempts(attempts);
    }
    if life.on_failure {
        builder = builder.on_failure(move |batch| process.clone().take(inner.clone(), batch));
    }
    if let Some(token) = token {
        builder = builder.handoff(token.clone()).table_at_rest();
    }
    builder.build().unwrap()
}

/// Lives and ends as planned.
pub(crate) async fn live(world: Arc<World>, life: Life, token: Option<HandoffToken>) {
    let time = &world.time;
    time.reached(life.begin).await;
    world.met("processes");
    let mut trigger = trigger(&world, &life, token.as_ref());
    let monitor = trigger.monitor();
    let told = AtomicBool::new(true);
    let stops = life.way == Way::Stop;
    let attempt = async {
        loop {
            let stop = async {
                match stops {
                    true => time.reached(life.end).await,
                    false => pending().await,
                }
            };
            told.store(false, Ordering::Relaxed);
            let ended = match life.way {
                Way::Drain => trigger.drain().await,
                _ => trigger.run(stop).await,
            };
            told.store(true, Ordering::Relaxed);
            let summary = trigger.monitor().status().summary;
            world.ran(&life, &summary, Some(ended.map(drop)));
            if stops && time.elapsed() >= life.end {
                world.met("stops");
                return;
            }
            time.sleep(life.poll).await;
        }
    };
    let watch = async {
        loop {
            time.sleep(life.poll / 2).await;
            world.watched(&life, &monitor.status());
        }
    };
    let dropped_at = match stops {
        true => life.end + STOPPED_WITHIN,
        false => life.end,
    };
    tokio::select! {
        biased;
        () = frozen(&world, &life, attempt) => {}
        () = watch => {}
        () = time.reached(dropped_at) => {
            world.met("crashes");
            if stops {
                world.wrong("a run that was stopped goes on", &life.owner);
            }
        }
    }
    if !told.load(Ordering::Relaxed) {
        world.ran(&life, &monitor.status().summary, None);
    }
}

/// Of the machines that sleep some count that time by monotonic time and some do not.
fn sleeps_as_a_whole(life: &Life) -> bool {
    life.number.is_multiple_of(2)
}

/// Nothing moves in the process while it is frozen.
async fn frozen<T>(world: &World, life: &Life, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    for (from, to) in &life.freezes {
        tokio::select! {
            biased;
            answer = &mut work => return answer,
            () = world.time.reached(*from) => {}
        }
        world.met("freezes");
        if sleeps_as_a_whole(life) {
            world.met("machines suspended");
        }
        world.time.reached(*to).await;
    }
    work.await
}

/// Reads, without any trouble, until all is done; answers the greatest lag shown then.
pub(crate) async fn heal(world: Arc<World>, token: Option<HandoffToken>) -> Option<Duration> {
    let life = Life {
        way: Way::Stop,
        maximum_shards: usize::MAX,
        ..world.plan.healthy.clone()
    };
    let time: &Time = &world.time;
    time.reached(life.begin).await;
    let mut trigger = trigger(&world, &life, token.as_ref());
    let monitor = trigger.monitor();
    let mut lag = None;
    let caught_up = async {
        loop {
            time.sleep(5 * life.poll).await;
            world.watched(&life, &monitor.status());
            let shards = monitor.status().shards;
            let none = |lag: Option<Duration>| lag == Some(Duration::ZERO);
            let clear = !shards.is_empty() && shards.iter().all(|shard| none(shard.lag));
            if world.is_over() && clear {
                lag = Some(Duration::ZERO);
                return;
            }
        }
    };
    let run = trigger.run(caught_up);
    let ended = time.within(life.end - life.begin, run).await;
    let outcome = ended.map(|ended| ended.map(drop));
    world.ran(&life, &monitor.status().summary, outcome);
    lag
}
