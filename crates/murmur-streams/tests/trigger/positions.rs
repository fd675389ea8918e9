//! Stored positions, leases, takeovers, and readers that return after losing a lease.

use std::future::{pending, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_state::{
    Checkpoints, EventHandler, HandlerError, MemoryDeduper, PipelineName, Repeats, Timestamp,
};
use murmur_streams::{
    DynamoDbEventResponse, Event, Gap, OnGap, StoreSource, StreamInfo, StreamStore, StreamViewType,
    Trigger, TriggerBuilder, TriggerError,
};
use murmur_testkit::time::Time;
use tokio::time::sleep;

use crate::support::{ARN, Scripted, World, on, put, store};

const HOUR: Duration = Duration::from_secs(3600);

fn sharing(
    store: &StreamStore,
    handler: &Scripted,
    place: &Arc<MemoryDeduper>,
    owner: &str,
) -> TriggerBuilder<StoreSource, Scripted> {
    on(store.source(ARN), handler.clone())
        .positions(Arc::clone(place), "live")
        .owner(owner)
        .poll_interval(Duration::from_millis(100))
}

#[tokio::test(start_paused = true)]
async fn a_new_trigger_goes_on_where_another_stopped() {
    let (store, place, handler) = (store(), Arc::new(MemoryDeduper::new()), Scripted::default());
    put(&store, &["a", "b"]);
    let mut first = sharing(&store, &handler, &place, "one").build().unwrap();
    first.drain().await.unwrap();
    store.roll_over(ARN).unwrap();
    put(&store, &["c"]);
    let mut second = sharing(&store, &handler, &place, "two").build().unwrap();
    second.drain().await.unwrap();
    put(&store, &["d"]);
    // The first reader finds its shard further than it left it.
    first.drain().await.unwrap();
    assert_eq!(handler.batches(), [vec!["a", "b"], vec!["c"], vec!["d"]]);
    // Under another name no position is known.
    let other = on(store.source(ARN), handler.clone()).positions(place, "other");
    assert_eq!(other.build().unwrap().drain().await.unwrap().records, 4);
}

#[tokio::test(start_paused = true)]
async fn a_position_is_saved_after_its_records_are_done_and_only_then() {
    let (store, place) = (store(), Arc::new(MemoryDeduper::new()));
    let numbers = put(&store, &["a", "b", "c"]);
    let handler = Scripted::default();
    handler.answer(&[&numbers[1]]);
    handler.fail();
    let mut failing = sharing(&store, &handler, &place, "one")
        .maximum_retry_attempts(1)
        .build()
        .unwrap();
    failing.drain().await.unwrap_err();
    let next = Scripted::default();
    let mut other = sharing(&store, &next, &place, "two").build().unwrap();
    other.drain().await.unwrap();
    assert_eq!(next.batches(), [["b", "c"]]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_under_lease_is_left_alone_until_its_reader_stops_or_the_lease_expires() {
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let store = StreamStore::with_clock(time.clock(0));
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    let place = Arc::new(MemoryDeduper::new());
    let (one, two) = (Scripted::default(), Scripted::default());
    let reader = |handler: &Scripted, owner: &str| {
        let trigger = sharing(&store, handler, &place, owner).clock(time.clock(0));
        trigger.lease(Duration::from_secs(30)).build().unwrap()
    };
    let (mut first, mut second) = (reader(&one, "one"), reader(&two, "two"));
    let mut running = Box::pin(first.run(sleep(HOUR)));
    let mut waiting = Box::pin(second.run(pending()));
    // Far longer than a lease, which is renewed although no record comes.
    let watch = sleep(Duration::from_secs(300));
    tokio::select! {
        biased;
        _ = &mut running => panic!("stopped"),
        _ = &mut waiting => panic!("stopped"),
        () = watch => {}
    }
    put(&store, &["a"]);
    tokio::select! {
        biased;
        _ = &mut running => panic!("stopped"),
        _ = &mut waiting => panic!("stopped"),
        () = sleep(Duration::from_secs(5)) => {}
    }
    assert_eq!((one.batches().len(), two.batches().len()), (1, 0));
    // It dies without releasing its leases.
    drop(running);
    put(&store, &["b"]);
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("stopped"),
        () = sleep(Duration::from_secs(15)) => {}
    }
    assert_eq!(two.batches().len(), 0, "the lease has not expired");
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("stopped"),
        () = sleep(Duration::from_secs(30)) => {}
    }
    assert_eq!(two.batches(), [["b"]]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_gives_its_leases_up() {
    let (store, place) = (store(), Arc::new(MemoryDeduper::new()));
    let (one, two) = (Scripted::default(), Scripted::default());
    let mut first = sharing(&store, &one, &place, "one").build().unwrap();
    first.run(sleep(Duration::from_secs(1))).await.unwrap();
    put(&store, &["a"]);
    let mut second = sharing(&store, &two, &place, "two").build().unwrap();
    second.drain().await.unwrap();
    assert_eq!(two.batches(), [["a"]]);
}

#[tokio::test(start_paused = true)]
async fn a_process_started_again_under_its_name_need_not_wait_for_its_own_lease() {
    let (store, place, handler) = (store(), Arc::new(MemoryDeduper::new()), Scripted::default());
    let mut dead = sharing(&store, &handler, &place, "one").build().unwrap();
    let run = tokio::time::timeout(Duration::from_secs(1), dead.run(pending())).await;
    assert!(run.is_err(), "it died");
    put(&store, &["a"]);
    let mut again = sharing(&store, &handler, &place, "one").build().unwrap();
    again.drain().await.unwrap();
    assert_eq!(handler.batches(), [["a"]]);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_finds_out_with_its_next_save_and_moves_no_position() {
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let store = StreamStore::with_clock(time.clock(0));
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    put(&store, &["a"]);
    let place = Arc::new(MemoryDeduper::new());
    // Its clock is behind by more than a lease, so to the others its lease is always expired.
    let calls: Arc<Mutex<u32>> = Arc::default();
    let counted = Arc::clone(&calls);
    let slow = move |_: Event| {
        *counted.lock().unwrap() += 1;
        async {
            sleep(HOUR).await;
            Ok::<_, HandlerError>(DynamoDbEventResponse::default())
        }
    };
    let mut zombie = Trigger::builder(store.source(ARN), slow)
        .positions(Arc::clone(&place), "live")
        .owner("zombie")
        .clock(time.clock(-60))
        .build()
        .unwrap();
    let handler = Scripted::default();
    let mut living = sharing(&store, &handler, &place, "living").clock(time.clock(0));
    living = living.batch_size(1);
    let mut living = living.build().unwrap();
    let monitor = zombie.monitor();
    let mut held_up = Box::pin(zombie.run(sleep(HOUR + Duration::from_secs(2))));
    tokio::select! {
        biased;
        _ = &mut held_up => panic!("stopped"),
        () = sleep(Duration::from_secs(1)) => {}
    }
    living.drain().await.unwrap();
    let b = put(&store, &["b"]).remove(0);
    living.drain().await.unwrap();
    assert_eq!(handler.batches(), [["a"], ["b"]]);
    assert_eq!(monitor.status().summary.leases_lost, 0);
    let summary = held_up.await.unwrap();
    assert_eq!(summary.leases_lost, 1);
    // The records it was processing count as delivered, and no position moves for them.
    assert_eq!(*calls.lock().unwrap(), 1);
    let shard = store.describe_stream(ARN).unwrap().shards.remove(0).id;
    let row = PipelineName::new("live")
        .unwrap()
        .marker("shard", &[&shard]);
    let saved = place.load(&row).await.unwrap().unwrap().data;
    assert!(saved.contains(b.as_str()), "{saved}");
    let mut after = sharing(&store, &handler, &place, "after")
        .clock(time.clock(0))
        .build()
        .unwrap();
    assert_eq!(after.drain().await.unwrap().records, 0);
}

#[tokio::test(start_paused = true)]
async fn readers_that_leave_room_share_the_shards() {
    let store = StreamStore::new();
    let info = StreamInfo::new(ARN, StreamViewType::KeysOnly);
    store.register_stream_with_shards(info, 4).unwrap();
    let place = Arc::new(MemoryDeduper::new());
    let (one, two) = (Scripted::default(), Scripted::default());
    let reader = |handler: &Scripted, owner: &str| {
        let trigger = sharing(&store, handler, &place, owner);
        trigger.maximum_shards(2).build().unwrap()
    };
    let (mut first, mut second) = (reader(&one, "one"), reader(&two, "two"));
    let (left, right) = (first.monitor(), second.monitor());
    let look = async {
        sleep(Duration::from_secs(60)).await;
        for status in [left.status(), right.status()] {
            assert_eq!((status.shards.len(), status.waiting), (2, 0));
        }
    };
    let (first, second) = (first.run(pending()), second.run(pending()));
    tokio::select! {
        _ = first => panic!("stopped"),
        _ = second => panic!("stopped"),
        () = look => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_positions_of_another_stream_are_refused_by_both_names() {
    let (store, place, handler) = (store(), Arc::new(MemoryDeduper::new()), Scripted::default());
    sharing(&store, &handler, &place, "one")
        .build()
        .unwrap()
        .drain()
        .await
        .unwrap();
    let later = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-02-02T00:00:00.000";
    store.register_stream(StreamInfo::new(later, StreamViewType::KeysOnly));
    let mut other = on(store.source(later), handler)
        .positions(Arc::clone(&place), "live")
        .build()
        .unwrap();
    let error = other.drain().await.unwrap_err();
    assert!(
        matches!(error, TriggerError::OtherStream { .. }),
        "{error:?}"
    );
    for part in [ARN, later, "live", "bootstrap again"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn positions_that_cannot_be_read_stop_the_trigger_by_name() {
    for (data, part) in [("{", "is incomplete"), ("{\"version\":9}", "version 9")] {
        let (store, place) = (store(), Arc::new(MemoryDeduper::new()));
        let name = "live/stream/";
        place.save(name, data, None).await.unwrap();
        let mut trigger = sharing(&store, &Scripted::default(), &place, "one")
            .build()
            .unwrap();
        let error = trigger.drain().await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

impl World {
    fn reader(&self, policy: OnGap) -> Trigger<StoreSource, Scripted> {
        sharing(&self.store, &self.handler, &self.place, "one")
            .clock(self.time.clock(0))
            .poll_interval(Duration::from_secs(60))
            .on_gap(policy)
            .build()
            .unwrap()
    }

    /// Fails by default, and is counted if it may continue.
    async fn gap(&self, wanted: impl Fn(&Gap) -> bool) {
        for _ in 0..2 {
            let error = self.reader(OnGap::Fail).drain().await.unwrap_err();
            let TriggerError::Gap { gap, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(wanted(gap), "{gap:?}");
            assert!(error.to_string().contains("OnGap::Continue"), "{error}");
        }
        let summary = self.reader(OnGap::Continue).drain().await.unwrap();
        assert!(summary.gaps > 0);
        assert_eq!(self.reader(OnGap::Fail).drain().await.unwrap().gaps, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn records_trimmed_while_the_reader_was_away_are_a_gap() {
    let away = World::new();
    put(&away.store, &["a"]);
    away.reader(OnGap::Fail).drain().await.unwrap();
    put(&away.store, &["lost"]);
    away.time.sleep(25 * HOUR).await;
    put(&away.store, &["b"]);
    away.gap(|gap| *gap == Gap::Trimmed).await;
    assert_eq!(away.handler.batches(), [["a"], ["b"]]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_came_and_went_while_the_reader_was_away_is_a_gap() {
    let away = World::new();
    put(&away.store, &["a"]);
    away.reader(OnGap::Fail).drain().await.unwrap();
    away.store.roll_over(ARN).unwrap();
    put(&away.store, &["lost"]);
    away.store.roll_over(ARN).unwrap();
    away.time.sleep(25 * HOUR).await;
    put(&away.store, &["b"]);
    away.gap(|gap| matches!(gap, Gap::ParentGone { .. })).await;
    assert_eq!(away.handler.batches(), [["a"], ["b"]]);
}

#[tokio::test(start_paused = true)]
async fn the_head_of_a_shard_that_gave_no_record_yet_can_be_gone() {
    let away = World::new();
    put(&away.store, &["a"]);
    away.store.roll_over(ARN).unwrap();
    // The child is begun, and has no record yet. The reader dies before it can find that out.
    let mut dies = away.reader(OnGap::Fail);
    let run = dies.run(pending());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), run)
            .await
            .is_err()
    );
    drop(dies);
    put(&away.store, &["lost"]);
    away.time.sleep(23 * HOUR).await;
    put(&away.store, &["b"]);
    away.time.sleep(2 * HOUR).await;
    away.gap(|gap| matches!(gap, Gap::Away { .. })).await;
    assert_eq!(away.handler.batches(), [["a"], ["b"]]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stands_idle_for_days_has_no_gap() {
    let away = World::new();
    put(&away.store, &["a"]);
    let mut reader = away.reader(OnGap::Fail);
    let days = async {
        for _ in 0..12 {
            away.time.sleep(4 * HOUR).await;
            away.store.roll_over(ARN).unwrap();
        }
        away.time.sleep(HOUR).await;
    };
    let summary = reader.run(days).await.unwrap();
    assert_eq!((summary.records, summary.gaps), (1, 0));
    // Nor does a reader that starts again soon after.
    put(&away.store, &["b"]);
    away.time.sleep(HOUR).await;
    let summary = away.reader(OnGap::Fail).drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn positions_of_shards_long_gone_are_removed() {
    let away = World::new();
    let newest = || {
        let listed = away.store.describe_stream(ARN).unwrap();
        let id = &listed.shards.last().unwrap().id;
        PipelineName::new("live").unwrap().marker("shard", &[id])
    };
    let is_there = async |row: &str| away.place.load(row).await.unwrap().is_some();
    put(&away.store, &["a"]);
    let mut rows = vec![newest()];
    // By a reader that continues, and by readers that each see one moment.
    let mut reader = away.reader(OnGap::Fail);
    reader.run(away.time.sleep(HOUR)).await.unwrap();
    for _ in 0..8 {
        away.store.roll_over(ARN).unwrap();
        rows.push(newest());
        away.reader(OnGap::Fail).drain().await.unwrap();
        assert!(is_there(rows.last().unwrap()).await);
        away.time.sleep(9 * HOUR).await;
        put(&away.store, &["b"]);
    }
    let mut left = 0;
    for row in &rows {
        left += usize::from(is_there(row).await);
    }
    // Those of the last day, and the one before them that the last reader saw listed.
    assert!((3..=5).contains(&left), "{left} of {}", rows.len());
    away.store.roll_over(ARN).unwrap();
    reader.run(away.time.sleep(30 * HOUR)).await.unwrap();
    assert!(!is_there(rows.last().unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_function_is_a_handler_that_counts_repeats() {
    let handler = |_: Event| ready(Ok::<_, HandlerError>(DynamoDbEventResponse::default()));
    let repeats = EventHandler::<Event>::repeats(&handler);
    assert_eq!(repeats, Repeats::Counted);
}
