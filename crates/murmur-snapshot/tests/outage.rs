//! Everything fails for a while, in virtual time: it ends nothing, and is told once.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::{Pipeline, Processor, Row, Sum};
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, Progress, Report, SourceError};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::{Add, Binding, Bound, Once, Outcome};
use murmur_state::time::Random;
use murmur_state::{
    Checkpoints, Deadline, ExactlyOnce, MemoryDeduper, MemoryStore, RetryPolicy, StoreError,
};
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Counts requests of all kinds; from the `begin`-th on all fail until the outage is over.
struct Weather {
    clock: Virtual,
    begin: usize,
    lasts: Duration,
    requests: AtomicUsize,
    begun: Mutex<Option<Duration>>,
    failed: Mutex<Vec<&'static str>>,
    store: MemoryStore<Sum>,
    rows: Vec<Row>,
}

impl Weather {
    fn fails(&self, what: &'static str) -> bool {
        let n = self.requests.fetch_add(1, Ordering::SeqCst);
        let mut begun = self.begun.lock().unwrap();
        if n >= self.begin {
            begun.get_or_insert(self.clock.elapsed());
        }
        let fails = begun.is_some_and(|begun| self.clock.elapsed() < begun + self.lasts);
        if fails {
            self.failed.lock().unwrap().push(what);
        }
        fails
    }

    async fn request(&self, what: &'static str) -> Result<(), StoreError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        match self.fails(what) {
            true => Err(lost()),
            false => Ok(()),
        }
    }
}

#[derive(Clone)]
struct World(Arc<Weather>);

impl World {
    fn new(begin: usize, lasts: Duration) -> Self {
        Self(Arc::new(Weather {
            clock: Virtual::new(),
            begin,
            lasts,
            requests: AtomicUsize::new(0),
            begun: Mutex::default(),
            failed: Mutex::default(),
            store: store(),
            rows: rows(40, 5),
        }))
    }

    /// A bootstrap in it, and what it told of the outage.
    fn bootstrap(
        &self,
        policy: Option<RetryPolicy>,
    ) -> (BootstrapBuilder<Order, Table>, Arc<Mutex<Vec<String>>>) {
        let pipeline = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(Intercepted(self.clone()))
            .exactly_once()
            .unwrap();
        let (pages, captures, checks) = (self.clone(), self.clone(), self.clone());
        let passing = |failed: Result<(), StoreError>| failed.map_err(|_| unavailable());
        let table = Table::new(&self.0.rows, 3, 4)
            .before_page(move |_| {
                let world = pages.clone();
                async move { passing(world.0.request("page").await) }
            })
            .before_capture(move |_| {
                let world = captures.clone();
                async move { passing(world.0.request("capture").await) }
            });
        let told = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&told);
        let mut processor = Processor::builder([pipeline])
            .clock(Arc::new(self.0.clock.clone()))
            .random(Random::seeded(self.0.begin as u64));
        if let Some(policy) = policy {
            processor = processor.retry(policy);
        }
        let run = Bootstrap::builder(processor.build().unwrap(), table)
            .checkpoints(self.clone())
            .on_token(move |_| {
                let world = checks.clone();
                async move {
                    let asked = world.0.request("token").await;
                    asked.map_err(Into::into)
                }
            })
            .on_progress(move |progress| {
                if let Progress::Outage { outage } = progress {
                    to.lock().unwrap().push(outage.to_string());
                }
            });
        (run, told)
    }
}

impl Checkpoints for World {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move {
            self.0.request("load").await?;
            self.0.store.checkpoints().load(name).await
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            self.0.request("save").await?;
            self.0.store.checkpoints().save(name, data, over).await
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            self.0.request("remove").await?;
            self.0.store.checkpoints().remove(name, over).await
        })
    }
}

impl Intercept for World {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.0.store
    }

    async fn merge(&self, _: &[Add<i64>], _: Deadline) -> Vec<Outcome> {
        panic!("it is not asked to merge")
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        self.0.request("bind").await?;
        self.0.store.bind(binding, deadline).await
    }

    async fn apply(&self, bound: &Bound, events: &[Once<i64>], deadline: Deadline) -> Vec<Outcome> {
        match self.0.request("write").await {
            Ok(()) => {
                let store = &self.0.store;
                store.apply(bound, events, deadline).await
            }
            Err(error) => events
                .iter()
                .map(|_| Outcome::Failed(error.clone()))
                .collect(),
        }
    }
}

fn ended_well(world: &World, report: &Report) {
    assert_eq!(report.ended, Ended::Finished);
    assert_eq!((report.counts.rows, report.counts.applied), (40, 40));
    assert_eq!(totals(&world.0.store), recount(&world.0.rows));
}

#[tokio::test(start_paused = true)]
async fn twenty_minutes_in_which_all_fails_end_nothing_whenever_they_begin() {
    let calm = World::new(usize::MAX, Duration::ZERO);
    ended_well(&calm, &calm.bootstrap(None).0.run().await.unwrap());
    let requests = calm.0.requests.load(Ordering::SeqCst);
    assert!(requests > 40, "{requests}");

    let mut met = std::collections::BTreeSet::new();
    for begin in 0..requests {
        let world = World::new(begin, 20 * MINUTE);
        let (run, told) = world.bootstrap(None);
        ended_well(&world, &run.run().await.unwrap());
        met.extend(world.0.failed.lock().unwrap().iter().copied());
        let told = told.lock().unwrap();
        let lasts = told.iter().filter(|told| told.contains("still trying"));
        let lasts = lasts.count();
        assert!((18..=21).contains(&lasts), "{begin}: {told:?}");
        assert_eq!(lasts + 1, told.len(), "{begin}: {told:?}");
        assert_eq!(told[lasts], "it succeeds again after 20 min", "{begin}");
        assert!(told[3].contains("no success for 3 min"), "{told:?}");
    }
    let all = [
        "bind", "capture", "load", "page", "remove", "save", "token", "write",
    ];
    assert_eq!(met.into_iter().collect::<Vec<_>>(), all);
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_budget_ends_it_and_it_says_after_how_long() {
    for begin in (0..40).step_by(5) {
        let world = World::new(begin, 45 * MINUTE);
        let error = world.bootstrap(None).0.run().await.unwrap_err();
        let BootstrapError::GaveUp { tried, .. } = &error else {
            panic!("{begin}: {error}");
        };
        assert_eq!(*tried, 30 * MINUTE);
        assert!(error.to_string().contains("after 30 min"), "{error}");
        assert!(error.is_retryable());
        assert!(world.0.clock.elapsed() < 32 * MINUTE, "{begin}");

        tokio::time::sleep(20 * MINUTE).await;
        let report = world.bootstrap(None).0.run().await.unwrap();
        assert_eq!(report.ended, Ended::Finished);
        assert_eq!(totals(&world.0.store), recount(&world.0.rows));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_an_outage_is_obeyed_within_seconds() {
    for begin in [0, 2, 4, 8, 20, 30] {
        let world = World::new(begin, 20 * MINUTE);
        let stop = tokio::time::sleep(5 * MINUTE);
        let ended = world.bootstrap(None).0.run_until(stop).await;
        match ended {
            Ok(report) => assert_eq!(report.ended, Ended::Stopped, "{begin}"),
            Err(error) => assert!(
                matches!(error, BootstrapError::Stopped { .. }),
                "{begin}: {error}"
            ),
        }
        let late = world.0.clock.elapsed() - 5 * MINUTE;
        assert!(late <= Duration::from_secs(3), "{begin}: {late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_to_be_mended_ends_it_at_once() {
    let broken = SourceError::Setup {
        place: "table `orders`".into(),
        advice: "mend it".into(),
        source: None,
    };
    let clock = Virtual::new();
    let table = Table::new(&rows(40, 5), 3, 4)
        .before_page(move |n| ready(if n == 5 { Err(broken.clone()) } else { Ok(()) }));
    let pipeline = exactly_once("totals", &store(), &MemoryDeduper::new());
    let run = Bootstrap::builder(
        Processor::builder([pipeline])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        table,
    );
    let error = run.run().await.unwrap_err();
    assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
    assert_eq!(clock.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_are_limited_end_it_without_reading_again() {
    let world = World::new(20, 20 * MINUTE);
    let run = world.bootstrap(Some(RetryPolicy::default())).0;
    let error = run.run().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(!matches!(error, BootstrapError::GaveUp { .. }), "{error}");
    assert!(world.0.clock.elapsed() < MINUTE);
}
