//! Readers that are suspended while their iterators expire, and how starting again is judged.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::Timestamp;
use murmur_streams::{
    Gap, OnGap, StartingPosition, StoreSource, StreamRecord, Summary, Trigger, TriggerBuilder,
    TriggerError,
};

use crate::support::{ARN, Scripted, World, on, put};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How long ago a start may be at most: a day, less the error of two clocks.
const SURE: Duration = Duration::from_secs((22 * 60 + 30) * 60);

type Reader = Trigger<StoreSource, Scripted>;

fn reader(world: &World) -> TriggerBuilder<StoreSource, Scripted> {
    on(world.store.source(ARN), world.handler.clone())
        .positions(Arc::clone(&world.place), "live")
        .owner("one")
        .clock(world.time.clock(0))
        .poll_interval(MINUTE)
}

/// Runs a reader for a while, suspends its process, and lets it continue for ten minutes.
async fn suspended(
    world: &World,
    reader: &mut Reader,
    before: Duration,
    suspended: Duration,
    meanwhile: impl FnOnce(),
) -> Result<Summary, TriggerError> {
    let end = world.time.elapsed() + before + suspended + 10 * MINUTE;
    let time = world.time.clone();
    let mut run = Box::pin(reader.run(async move { time.reached(end).await }));
    tokio::select! {
        biased;
        ended = &mut run => panic!("{ended:?}"),
        () = world.time.sleep(before) => {}
    }
    meanwhile();
    world.time.sleep(suspended).await;
    run.await
}

fn gap(ended: Result<Summary, TriggerError>) -> Gap {
    match ended {
        Err(TriggerError::Gap { gap, .. }) => gap,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_iterator_that_expired_before_its_first_record_is_judged_like_any_beginning() {
    for (away, is_gap) in [
        (16 * MINUTE, false),
        (SURE - MINUTE, false),
        (SURE + MINUTE, true),
        (26 * HOUR, true),
    ] {
        let world = World::new();
        let mut one = reader(&world).build().unwrap();
        let put_one = || drop(put(&world.store, &["a"]));
        let ended = suspended(&world, &mut one, SECOND, away, put_one).await;
        if is_gap {
            let gap = gap(ended);
            assert!(matches!(gap, Gap::Away { .. }), "{away:?}: {gap:?}");
            assert!(world.handler.batches().is_empty());
        } else {
            let summary = ended.unwrap();
            assert_eq!((summary.records, summary.gaps), (1, 0), "{away:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_behind_an_expired_iterator_is_counted_once_where_it_goes_on() {
    let world = World::new();
    let mut one = reader(&world).on_gap(OnGap::Continue).build().unwrap();
    let put_one = || drop(put(&world.store, &["lost"]));
    let ended = suspended(&world, &mut one, SECOND, 26 * HOUR, put_one).await;
    assert_eq!(ended.unwrap().gaps, 1);
    put(&world.store, &["b"]);
    let summary = reader(&world).build().unwrap().drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (1, 0));
    assert_eq!(world.handler.batches(), [["b"]]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_without_a_record_is_begun_again_for_22_h_30_min() {
    for (away, is_gap) in [(SURE - MINUTE, false), (SURE + MINUTE, true)] {
        let world = World::new();
        let mut dies = reader(&world).build().unwrap();
        let died = tokio::time::timeout(SECOND, dies.run(pending())).await;
        assert!(died.is_err());
        drop(dies);
        put(&world.store, &["a"]);
        world.time.sleep(away).await;
        let ended = reader(&world).build().unwrap().drain().await;
        match is_gap {
            true => assert!(matches!(gap(ended), Gap::Away { .. })),
            false => assert_eq!(ended.unwrap().records, 1),
        }
    }
}

/// A reader that has read a record, and then nothing for 30 hours.
async fn idle(world: &World, reader: &mut Reader) {
    put(&world.store, &["a"]);
    reader.run(world.time.sleep(30 * HOUR)).await.unwrap();
    assert_eq!(world.handler.batches(), [["a"]]);
}

#[tokio::test(start_paused = true)]
async fn an_old_number_on_an_idle_shard_is_no_gap_while_nothing_can_be_missed() {
    for (away, is_gap) in [
        (16 * MINUTE, false),
        // The records known to be there were read up to a few minutes before.
        (SURE - 15 * MINUTE, false),
        (SURE + MINUTE, true),
    ] {
        // By the process that was suspended, and by the next one.
        for stays in [true, false] {
            let world = World::new();
            let mut one = reader(&world).build().unwrap();
            idle(&world, &mut one).await;
            let put_one = || drop(put(&world.store, &["b"]));
            let ended = if stays {
                suspended(&world, &mut one, MINUTE, away, put_one).await
            } else {
                put_one();
                world.time.sleep(away).await;
                reader(&world).build().unwrap().drain().await
            };
            if is_gap {
                assert_eq!(gap(ended), Gap::Trimmed, "{away:?} {stays}");
            } else {
                let summary = ended.unwrap();
                assert_eq!((summary.records, summary.gaps), (1, 0), "{away:?} {stays}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn latest_whose_place_is_lost_is_a_gap_and_goes_on_where_it_may() {
    for policy in [OnGap::Fail, OnGap::Continue] {
        let world = World::new();
        put(&world.store, &["before"]);
        let latest = reader(&world).starting_position(StartingPosition::Latest);
        let mut one = latest.on_gap(policy).build().unwrap();
        let put_one = || drop(put(&world.store, &["a"]));
        let ended = suspended(&world, &mut one, MINUTE, 16 * MINUTE, put_one).await;
        if policy == OnGap::Fail {
            assert_eq!(gap(ended), Gap::LatestExpired);
            continue;
        }
        assert_eq!(ended.unwrap().gaps, 1);
        put(&world.store, &["b"]);
        let summary = one.drain().await.unwrap();
        assert_eq!((summary.records, summary.gaps), (1, 0));
        assert_eq!(world.handler.batches(), [["b"]]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_time_in_milliseconds_hides_no_gap() {
    let world = World::new();
    let millis = world.time.now().as_millis();
    let record = StreamRecord {
        stream_arn: ARN.into(),
        created_at: Some(Timestamp::from_secs(millis)),
        ..StreamRecord::default()
    };
    world.store.put_record(record).unwrap();
    world.store.roll_over(ARN).unwrap();
    let summary = reader(&world).build().unwrap().drain().await.unwrap();
    assert_eq!(summary.records, 1);
    put(&world.store, &["lost"]);
    world.time.sleep(25 * HOUR).await;
    let ended = reader(&world).build().unwrap().drain().await;
    assert!(matches!(gap(ended), Gap::Away { .. }));
}
