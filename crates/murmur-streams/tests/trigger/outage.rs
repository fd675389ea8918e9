//! Everything fails for a while, which ends nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{
    Checkpoint, Checkpoints, EventHandler, HandlerError, MemoryDeduper, Place, Random, Removed,
    Saved, StoreError, Timestamp,
};
use murmur_streams::source::{Cursor, ReadBatch, StreamDescription};
use murmur_streams::{
    DynamoDbEventResponse, Event, StoreSource, StreamError, StreamInfo, StreamSource, StreamStore,
    StreamViewType, Trigger,
};
use murmur_testkit::time::Time;

use crate::support::{ARN, Fake, Scripted, on, put};

const MINUTE: Duration = Duration::from_secs(60);

/// From the `begin`-th request on, all requests fail until the outage is over.
struct Weather {
    time: Time,
    begin: usize,
    lasts: Duration,
    requests: AtomicUsize,
    begun: Mutex<Option<Duration>>,
}

impl Weather {
    fn fails(&self) -> bool {
        let n = self.requests.fetch_add(1, Ordering::SeqCst);
        let mut begun = self.begun.lock().unwrap();
        if n >= self.begin {
            begun.get_or_insert(self.time.elapsed());
        }
        begun.is_some_and(|begun| self.time.elapsed() < begun + self.lasts)
    }
}

#[derive(Clone)]
struct World {
    weather: Arc<Weather>,
    stream: Arc<StoreSource>,
    place: Arc<MemoryDeduper>,
    handler: Scripted,
}

impl World {
    fn new(begin: usize, lasts: Duration) -> Self {
        let time = Time::paused(Timestamp::from_secs(1_800_000_000));
        let store = StreamStore::with_clock(time.clock(0));
        store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
        put(&store, &["a", "b", "c", "d", "e"]);
        Self {
            stream: Arc::new(store.source(ARN)),
            weather: Arc::new(Weather {
                time,
                begin,
                lasts,
                requests: AtomicUsize::new(0),
                begun: Mutex::default(),
            }),
            place: Arc::default(),
            handler: Scripted::default(),
        }
    }

    fn trigger(&self) -> Trigger<World, World> {
        let trigger = Trigger::builder(self.clone(), self.clone());
        let trigger = trigger.positions(self.clone(), "live").batch_size(2);
        let trigger = trigger.clock(self.weather.time.clock(0));
        trigger.random(Random::seeded(1)).build().unwrap()
    }

    fn unavailable(&self) -> Result<(), StoreError> {
        match self.weather.fails() {
            true => Err(StoreError::Unavailable {
                place: Place::table("test", "markers"),
                may_have_applied: false,
                source: None,
            }),
            false => Ok(()),
        }
    }

    fn throttled(&self) -> Result<(), StreamError> {
        match self.weather.fails() {
            true => Err(StreamError::Throttled {
                arn: ARN.into(),
                source: None,
            }),
            false => Ok(()),
        }
    }
}

impl StreamSource for World {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.throttled()?;
        self.stream.describe().await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        self.throttled()?;
        self.stream.read(shard, from, limit).await
    }
}

impl EventHandler<Event> for World {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        self.unavailable()?;
        self.handler.handle(event, shard).await
    }
}

impl Checkpoints for World {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move {
            self.unavailable()?;
            self.place.load(name).await
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            self.unavailable()?;
            self.place.save(name, data, over).await
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            self.unavailable()?;
            self.place.remove(name, over).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn twenty_minutes_in_which_all_fails_end_nothing_whenever_they_begin() {
    let calm = World::new(usize::MAX, Duration::ZERO);
    calm.trigger().drain().await.unwrap();
    let requests = calm.weather.requests.load(Ordering::SeqCst);
    assert!(requests > 10, "{requests}");
    for begin in 0..requests {
        let world = World::new(begin, 20 * MINUTE);
        let summary = world.trigger().drain().await;
        let summary = summary.unwrap_or_else(|error| panic!("{begin}: {error}"));
        assert_eq!(summary.records, 5, "{begin}");
        let mut delivered: Vec<_> = world.handler.batches().concat();
        delivered.dedup();
        assert_eq!(delivered, ["a", "b", "c", "d", "e"], "{begin}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_an_outage_is_obeyed_within_seconds() {
    for begin in 0..10 {
        let world = World::new(begin, 20 * MINUTE);
        let stop = world.weather.time.sleep(5 * MINUTE);
        // Records not saved as done are delivered again.
        let _ = world.trigger().run(stop).await;
        let late = world.weather.time.elapsed() - 5 * MINUTE;
        assert!(late <= Duration::from_secs(3), "{begin}: {late:?}");
    }
}

static MANY: [&str; 1_000] = ["many"; 1_000];

fn throttles() -> StreamError {
    StreamError::Throttled {
        arn: ARN.into(),
        source: None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_does_not_wait_for_a_read_that_fails() {
    let mut script = vec![Ok(&MANY[..])];
    script.extend((0..5).map(|_| Err(throttles())));
    script.push(Ok(&["after"]));
    let handler = Scripted::default();
    let trigger = on(Fake::open(script), handler.clone()).batch_size(600);
    trigger.build().unwrap().drain().await.unwrap();
    let sizes: Vec<_> = handler.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [600, 400, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_leaves_its_room_to_others_meanwhile() {
    let failing = (0..40).map(|_| Err(throttles())).collect();
    let source = Fake::new(vec![failing, vec![Ok(&["other"])]]);
    let handler = Scripted::default();
    // Room for one read at a time.
    let trigger = on(source, handler.clone()).read_ahead(4 * 1024 * 1024);
    let stop = tokio::time::sleep(Duration::from_secs(5));
    trigger.build().unwrap().run(stop).await.unwrap();
    assert_eq!(handler.batches(), [["other"]]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_waits_for_its_lane_meanwhile_does_not_use_up_its_budget() {
    // Throttled once. Then the batch read before that fails for eleven minutes.
    let mut script = vec![Ok(&["first"][..]), Err(throttles()), Err(throttles())];
    script.push(Ok(&["second"]));
    let handler = Scripted::default();
    for _ in 0..290 {
        handler.fail();
    }
    let trigger = on(Fake::open(script), handler.clone())
        .batch_size(2)
        .maximum_batching_window(Duration::from_millis(100));
    let trigger = trigger.retry_budget(10 * MINUTE);
    trigger.build().unwrap().drain().await.unwrap();
    assert_eq!(handler.batches().last().unwrap(), &["second"]);
}
