//! The same with a trigger in a process of its own.

use std::time::Duration;

use murmur_state::Causes;
use murmur_streams::{OnGap, TriggerError};

use crate::world::{BuildAndRun, HOUR, MINUTE, Off, World, named};
use crate::writes::Writes;

#[tokio::test(start_paused = true)]
async fn a_trigger_that_begins_at_the_token_misses_nothing() {
    let writes = Writes::seeded(31).between(Duration::ZERO, 6 * HOUR, 4 * MINUTE);
    let world = World::new(31, writes).await;
    let (_, off) = world
        .play(&[], async {
            world.time.reached(2 * HOUR).await;
            let report = world.bootstrap(10 * MINUTE).run().await.unwrap();
            world.time.reached(5 * HOUR).await;
            let off = world.off().await;
            let trigger = world.trigger().handoff(report.token.unwrap());
            let stop = world.time.reached(7 * HOUR);
            trigger.build().unwrap().run(stop).await.unwrap();
            off
        })
        .await;
    assert!(!off.is_empty(), "wrong until it reads");
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_was_away_for_29_hours_stops_at_the_gap_and_reconcile_mends_it() {
    let writes = Writes::seeded(32)
        .between(Duration::ZERO, 35 * HOUR, 15 * MINUTE)
        .between(37 * HOUR, 39 * HOUR, 15 * MINUTE);
    let world = World::new(32, writes).await;
    let (_, off) = world
        .play(&[], async {
            world.time.reached(2 * HOUR).await;
            let report = world.bootstrap(MINUTE).run().await.unwrap();
            let token = report.token.unwrap();
            let trigger = || world.trigger().handoff(token.clone());
            let first = trigger()
                .build()
                .unwrap()
                .run(world.time.reached(5 * HOUR))
                .await;
            first.unwrap();
            assert_eq!(world.off().await, Off::new());

            world.time.reached(34 * HOUR).await;
            let error = trigger().build().unwrap().run(std::future::pending()).await;
            let error = error.unwrap_err();
            assert!(
                matches!(error, TriggerError::Gap { .. }),
                "{}",
                Causes(&error)
            );

            let mut goes_on = trigger().on_gap(OnGap::Continue).build().unwrap();
            let summary = goes_on.run(world.time.reached(36 * HOUR)).await.unwrap();
            assert!(summary.gaps > 0);
            let off = world.off().await;
            let mended = world.reconcile().repair().run().await.unwrap();
            assert_eq!(named(&mended), off);
            assert!(mended.is_clean());
            let last = trigger()
                .build()
                .unwrap()
                .run(world.time.reached(40 * HOUR))
                .await;
            last.unwrap();
            off
        })
        .await;
    assert!(off.len() > 3, "{off:?}");
    world.assert_right().await;
}
