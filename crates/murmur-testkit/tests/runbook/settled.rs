//! Orders that leave the ledger, and what breaks after that.

use std::time::Duration;

use murmur_core::AttributeValue;
use murmur_snapshot::reconcile::SettledFindings;
use murmur_snapshot::settle::SettleError;

use crate::steps::assert_nothing_given_up;
use crate::world::{
    BuildAndRun, HOUR, Lambda, MINUTE, Off, SETTLING, TABLES, Tables, World, off_by, only,
};
use crate::writes::{Writes, order};

/// A function by whose definition orders settle.
fn enabled(at: Duration) -> Lambda {
    Lambda {
        tables: SETTLING,
        ..Lambda::enabled(at)
    }
}

#[tokio::test(start_paused = true)]
async fn orders_leave_the_ledger_when_the_tables_are_filled_and_totals_stay_right() {
    let writes = Writes::seeded(31).between(Duration::ZERO, 8 * HOUR, 2 * MINUTE);
    let world = World::new(31, writes).await;
    let mut lambda = enabled(HOUR);
    lambda.trouble = murmur_testkit::esm::Trouble::all(0.1);
    let (deliveries, early) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            let filling = world.checking(&lambda, 10 * MINUTE);
            assert!(world.killed_after(15 * MINUTE, filling).await.is_none());
            let early = world.ledger(SETTLING).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            world.time.reached(7 * HOUR).await;
            let reconciled = world.reconcile_of(SETTLING).run().await.unwrap();
            assert!(reconciled.is_clean(), "{reconciled:?}");
            early
        })
        .await;
    assert!(!early.settling && early.settled == 0, "{early:?}");
    let ledger = world.ledger(SETTLING).await;
    assert!(ledger.settling && ledger.settled > 50, "{ledger:?}");
    assert_nothing_given_up(&deliveries);
    world.assert_right_in(SETTLING).await;
    let reconciled = world.reconcile_of(SETTLING).run().await.unwrap();
    let settled = &only(&reconciled).settled;
    assert!(
        matches!(settled, SettledFindings::Recount(_)),
        "{settled:?}"
    );
    assert!(reconciled.is_clean());
}

#[tokio::test(start_paused = true)]
async fn tables_that_were_filled_before_settle_when_they_are_told_to() {
    let writes = Writes::seeded(32).between(Duration::ZERO, 8 * HOUR, 2 * MINUTE);
    let world = World::new(32, writes).await;
    let lambda = Lambda {
        redeployed: Some((4 * HOUR, SETTLING)),
        ..Lambda::enabled(HOUR)
    };
    let (deliveries, ()) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            let early = world.settle(SETTLING).run().await;
            assert!(
                matches!(early, Err(SettleError::NeverBootstrapped { .. })),
                "{early:?}"
            );
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            let other = world.settle(TABLES).build();
            assert!(
                matches!(other, Err(SettleError::NotDefined { .. })),
                "{other:?}"
            );
            world.time.reached(4 * HOUR + 30 * MINUTE).await;
            assert_eq!(world.ledger(SETTLING).await.settled, 0);
            let told = world.settle(SETTLING).run().await.unwrap();
            assert!(told.pipelines.iter().all(|of| !of.already));
        })
        .await;
    let ledger = world.ledger(SETTLING).await;
    assert!(ledger.settling && ledger.settled > 30, "{ledger:?}");
    assert_nothing_given_up(&deliveries);
    world.assert_right_in(SETTLING).await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_were_given_up_count_when_a_second_mapping_reads_the_day_again() {
    let writes = Writes::seeded(33).between(Duration::ZERO, 12 * HOUR, 2 * MINUTE);
    let world = World::new(33, writes).await;
    let mut lambda = enabled(HOUR);
    lambda.failing = vec![6 * HOUR..9 * HOUR];
    // It gives nothing up for its age.
    let mut again = enabled(14 * HOUR);
    again.settings.maximum_record_age = None;
    let (deliveries, off) = world
        .play(&[&lambda, &again], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            world.time.reached(13 * HOUR).await;
            let off = world.off_in(SETTLING).await;
            // It mends what is in the ledger still, and names the rest.
            let mended = world.reconcile_of(SETTLING).repair().run().await.unwrap();
            let left = world.off_in(SETTLING).await;
            let settled = &only(&mended).settled;
            assert_eq!(off_by(settled.keys()), left);
            assert!(!left.is_empty() && !mended.is_clean(), "{left:?}");
            assert!(settled.advice().is_some());
            off
        })
        .await;
    assert!(!deliveries[0].on_failure.is_empty() && !off.is_empty());
    assert_nothing_given_up(&deliveries[1..]);
    world.assert_right_in(SETTLING).await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_of_settled_orders_is_named_and_takes_a_new_version() {
    let writes = Writes::seeded(34)
        .between(Duration::ZERO, 36 * HOUR, 10 * MINUTE)
        .between(40 * HOUR, 44 * HOUR, 10 * MINUTE);
    let world = World::new(34, writes).await;
    let mut lambda = enabled(HOUR);
    lambda.off = vec![8 * HOUR..34 * HOUR];
    let new = Tables {
        state: "totals-2",
        markers: "markers-2",
        version: 2,
        ..SETTLING
    };
    let second = Lambda {
        tables: new,
        ..enabled(39 * HOUR)
    };
    let (_, off) = world
        .play(&[&lambda, &second], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            world.time.reached(38 * HOUR).await;
            let mended = world.reconcile_of(SETTLING).repair().run().await.unwrap();
            let off = world.off_in(SETTLING).await;
            assert_eq!(off_by(only(&mended).settled.keys()), off);
            assert!(!mended.is_clean());
            world.make(new).await;
            world.time.reached(40 * HOUR).await;
            world.bootstrap_into(new, 10 * MINUTE).run().await.unwrap();
            off
        })
        .await;
    assert!(off.len() > 3, "{off:?}");
    assert_ne!(world.off_in(SETTLING).await, Off::new());
    world.assert_right_in(new).await;
}

#[tokio::test(start_paused = true)]
async fn a_settled_order_that_can_never_count_takes_a_callback_and_the_day_read_again() {
    let broken = |id: &str| Some(order(id, "poor", AttributeValue::S("a lot".to_owned())));
    let whole =
        |id: &str, cents: &str| Some(order(id, "poor", AttributeValue::N(cents.to_owned())));
    let writes = Writes::seeded(35)
        .between(Duration::ZERO, 4 * HOUR, 5 * MINUTE)
        .change(4 * HOUR, "mended", whole("mended", "77"))
        .change(4 * HOUR, "left", whole("left", "5"))
        .between(4 * HOUR, 5 * HOUR, 5 * MINUTE)
        .change(5 * HOUR, "mended", broken("mended"))
        .change(5 * HOUR, "left", broken("left"))
        .between(5 * HOUR, 9 * HOUR, 5 * MINUTE)
        .change(10 * HOUR, "mended", whole("mended", "70"));
    let world = World::new(35, writes).await;
    let mut lambda = enabled(HOUR);
    lambda.trouble = Default::default();
    lambda.settings.maximum_retry_attempts = Some(3);
    let mut again = Lambda {
        tables: Tables {
            passes_over: true,
            ..SETTLING
        },
        ..enabled(14 * HOUR)
    };
    again.settings.maximum_record_age = None;
    let (deliveries, off) = world
        .play(&[&lambda, &again], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 5 * MINUTE).run().await.unwrap();
            world.time.reached(12 * HOUR).await;
            world.off_in(SETTLING).await
        })
        .await;
    assert!(!deliveries[0].on_failure.is_empty());
    assert_eq!(off["poor"], 77 + 5, "what they were stays: {off:?}");
    assert_nothing_given_up(&deliveries[1..]);
    world.assert_right_in(SETTLING).await;
}
