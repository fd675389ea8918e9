//! What happens where the runbook is followed, and where it is not.

use std::time::Duration;

use murmur_snapshot::{BootstrapError, Ended};
use murmur_state::Causes;
use murmur_testkit::esm::{Delivery, Trouble};

use crate::world::{BuildAndRun, HOUR, Lambda, MINUTE, Off, TABLES, World, named};
use crate::writes::Writes;

/// What the mapping told of nobody.
pub(crate) fn assert_nothing_given_up(deliveries: &[Delivery]) {
    for delivery in deliveries {
        assert_eq!(delivery.on_failure.len(), 0, "{:?}", delivery.last_error);
        assert_eq!(delivery.trimmed.len(), 0, "{:?}", delivery.last_error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_reads_before_the_scan_and_during_it_misses_nothing() {
    let writes = Writes::seeded(1).between(Duration::ZERO, 6 * HOUR, 2 * MINUTE);
    writes.assert_all_kinds(2 * HOUR, 3 * HOUR);
    let world = World::new(1, writes).await;
    let lambda = Lambda {
        trouble: Trouble::all(0.1),
        ..Lambda::enabled(HOUR)
    };
    let (deliveries, report) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap()
        })
        .await;
    assert_eq!(report.ended, Ended::Finished);
    let counts = report.counts;
    assert!(counts.applied > 10 && counts.superseded > 10, "{counts:?}");
    assert_nothing_given_up(&deliveries);
    let met = deliveries[0].met;
    assert!(met.redelivered > 0 && met.killed > 0, "{met:?}");
    world.assert_right().await;

    let reconciled = world.reconcile().run().await.unwrap();
    assert!(reconciled.is_clean() && named(&reconciled).is_empty());
    let again = world.checking(&lambda, MINUTE).run().await.unwrap();
    assert!(matches!(again.ended, Ended::FinishedBefore { .. }));
    assert_eq!(again.token, report.token);
}

#[tokio::test(start_paused = true)]
async fn totals_step_back_while_older_changes_are_worked_off_and_come_forward_again() {
    let writes = Writes::seeded(2).between(Duration::ZERO, 2 * HOUR, MINUTE);
    let world = World::new(2, writes).await;
    let mut lambda = Lambda::enabled(2 * HOUR);
    lambda.backlog = 2 * MINUTE;
    let (deliveries, samples) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR + MINUTE).await;
            let report = world.bootstrap(MINUTE).run().await.unwrap();
            assert_eq!(report.ended, Ended::Finished);
            let mut samples = Vec::new();
            while world.time.elapsed() < 8 * HOUR {
                samples.push(world.off().await);
                world.time.sleep(2 * MINUTE).await;
            }
            samples
        })
        .await;
    let stepped_back = |pair: &[Off]| pair[1].keys().any(|key| !pair[0].contains_key(key));
    assert!(samples.windows(2).any(stepped_back));
    assert_eq!(samples.last(), Some(&Off::new()));
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

/// The reasons for which a bootstrap beside this mapping, begun at 2 h, is refused.
async fn refused(world: &World, lambda: &Lambda) -> String {
    let error = world.checking(lambda, MINUTE).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::TokenRefused { .. }),
        "{error}"
    );
    Causes(&error).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_would_miss_changes_is_refused_before_anything_is_written() {
    let writes = Writes::seeded(3).between(Duration::ZERO, 6 * HOUR, 3 * MINUTE);
    let world = World::new(3, writes).await;
    let right = Lambda::enabled(3 * HOUR);
    let (deliveries, ()) = world
        .play(&[&right], async {
            world.time.reached(2 * HOUR).await;
            let good = Lambda::enabled(HOUR);
            let latest = Lambda {
                starting_position: "LATEST",
                ..good.clone()
            };
            assert!(refused(&world, &latest).await.contains("LATEST"));
            let disabled = Lambda {
                off: vec![HOUR + MINUTE..5 * HOUR],
                ..good.clone()
            };
            assert!(refused(&world, &disabled).await.contains("Disabled"));
            let other = {
                let elsewhere = good.described("arn:of:another/stream", 2 * HOUR);
                world.bootstrap(MINUTE).on_token(move |token| {
                    std::future::ready(elsewhere.check(&token).map_err(Into::into))
                })
            };
            let error = other.run().await.unwrap_err();
            assert!(Causes(&error).to_string().contains("another/stream"));
            // Enabled only after the token: it is not yet, when it is asked.
            assert!(refused(&world, &right).await.contains("Disabled"));
            // Nothing is kept and nothing was written, so the next attempt is a new run.
            assert!(world.totals(TABLES).await.is_empty());

            world.time.reached(4 * HOUR).await;
            let report = world.checking(&right, MINUTE).run().await.unwrap();
            assert!(!report.rerun);
        })
        .await;
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_was_edited_since_the_first_attempt_is_refused_when_the_run_goes_on() {
    let writes = Writes::seeded(4).between(Duration::ZERO, 6 * HOUR, 3 * MINUTE);
    let world = World::new(4, writes).await;
    let mut lambda = Lambda::enabled(HOUR);
    lambda.edited = vec![2 * HOUR + 40 * MINUTE];
    let (deliveries, ()) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            let first = world.checking(&lambda, 10 * MINUTE);
            assert!(world.killed_after(30 * MINUTE, first).await.is_none());
            world.time.reached(3 * HOUR).await;
            assert!(refused(&world, &lambda).await.contains("was changed after"));
            // Whoever knows that it was not off meanwhile goes on without the check.
            let report = world.bootstrap(10 * MINUTE).run().await.unwrap();
            assert!(report.rerun && report.earlier.counts.rows > 0);
        })
        .await;
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_mapping_made_at_trim_horizon_after_the_scan_misses_nothing_of_a_day() {
    let writes = Writes::seeded(5).between(Duration::ZERO, 12 * HOUR, 4 * MINUTE);
    writes.assert_all_kinds(HOUR, 2 * HOUR);
    let world = World::new(5, writes).await;
    let late = Lambda::enabled(10 * HOUR);
    let (deliveries, off) = world
        .play(&[&late], async {
            world.time.reached(HOUR).await;
            // The check would not let it begin.
            assert!(refused(&world, &late).await.contains("Disabled"));
            world.bootstrap(10 * MINUTE).run().await.unwrap();
            world.time.reached(10 * HOUR - MINUTE).await;
            world.off().await
        })
        .await;
    assert!(!off.is_empty(), "wrong as long as nobody reads the stream");
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_mapping_made_at_latest_misses_what_was_written_before_it_was_ready() {
    let writes = Writes::seeded(6)
        .between(Duration::ZERO, 4 * HOUR, 3 * MINUTE)
        .between(6 * HOUR, 9 * HOUR, 3 * MINUTE);
    let world = World::new(6, writes).await;
    let latest = Lambda {
        starting_position: "LATEST",
        ..Lambda::enabled(3 * HOUR)
    };
    let (deliveries, off) = world
        .play(&[&latest], async {
            world.time.reached(HOUR).await;
            world.bootstrap(10 * MINUTE).run().await.unwrap();
            world.time.reached(5 * HOUR).await;
            let off = world.off().await;
            let told = world.reconcile().run().await.unwrap();
            assert_eq!(named(&told), off);
            assert_eq!(world.off().await, off, "it only tells");
            world.time.reached(7 * HOUR).await;
            let mended = world.reconcile().repair().run().await.unwrap();
            assert!(mended.is_clean(), "{mended:?}");
            off
        })
        .await;
    assert!(off.len() > 3, "{off:?}");
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}
