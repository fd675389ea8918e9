//! What breaks, and the way back.

use std::collections::BTreeSet;
use std::time::Duration;

use murmur_core::AttributeValue;
use murmur_snapshot::{BootstrapError, Ended};
use murmur_state::Causes;
use murmur_testkit::cloud::Cloud;
use serde_json::{Value, json};

use crate::steps::assert_nothing_given_up;
use crate::world::{BuildAndRun, HOUR, Lambda, MINUTE, Off, TABLE, TABLES, Tables, World, named};
use crate::writes::{Writes, order};

/// Tables made anew, for a pipeline of the same name.
const NEW: Tables = Tables {
    state: "totals-2",
    markers: "markers-2",
    version: 1,
    ..TABLES
};

#[tokio::test(start_paused = true)]
async fn a_bootstrap_that_was_killed_goes_on_where_it_was() {
    let writes = Writes::seeded(11).between(Duration::ZERO, 8 * HOUR, 3 * MINUTE);
    let world = World::new(11, writes).await;
    let lambda = Lambda::enabled(HOUR);
    let (deliveries, report) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            for life in [15 * MINUTE, 24 * MINUTE] {
                let dies = world.checking(&lambda, 10 * MINUTE);
                assert!(world.killed_after(life, dies).await.is_none());
                world.time.sleep(30 * MINUTE).await;
            }
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap()
        })
        .await;
    assert_eq!((report.rerun, report.ended), (true, Ended::Finished));
    assert!(
        report.earlier.counts.rows > 0 && report.counts.rows > 0,
        "{report:?}"
    );
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn resumed_after_23_hours_it_is_refused_and_beside_a_live_that_was_running_it_goes_on() {
    let writes = Writes::seeded(12).between(Duration::ZERO, 30 * HOUR, 15 * MINUTE);
    let world = World::new(12, writes).await;
    let lambda = Lambda::enabled(HOUR);
    let (deliveries, report) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            let dies = world.checking(&lambda, 10 * MINUTE);
            assert!(world.killed_after(25 * MINUTE, dies).await.is_none());
            world.time.reached(25 * HOUR).await;
            let error = world.checking(&lambda, MINUTE).run().await.unwrap_err();
            assert!(
                matches!(error, BootstrapError::TooOld { hours: 23, .. }),
                "{error}"
            );
            assert!(error.to_string().contains("live_is_running"), "{error}");
            let goes_on = world.checking(&lambda, 10 * MINUTE).live_is_running();
            goes_on.run().await.unwrap()
        })
        .await;
    assert!(report.rerun && report.earlier.counts.rows > 0, "{report:?}");
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_function_that_fails_for_three_hours_catches_up_where_retries_have_no_limit() {
    let writes = Writes::seeded(13).between(Duration::ZERO, 9 * HOUR, 3 * MINUTE);
    let world = World::new(13, writes).await;
    let mut lambda = Lambda::enabled(HOUR);
    lambda.failing = vec![2 * HOUR + 5 * MINUTE..5 * HOUR + 5 * MINUTE];
    lambda.settings.maximum_retry_attempts = None;
    let (deliveries, off) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            world.time.reached(5 * HOUR).await;
            world.off().await
        })
        .await;
    assert!(!off.is_empty(), "wrong while it fails");
    assert!(deliveries[0].met.errors > 100);
    assert_nothing_given_up(&deliveries);
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_function_that_fails_for_longer_than_its_retries_last_is_told_of_and_mended() {
    let writes = Writes::seeded(14)
        .between(Duration::ZERO, 6 * HOUR, 3 * MINUTE)
        .between(8 * HOUR, 9 * HOUR, 3 * MINUTE);
    let world = World::new(14, writes).await;
    let mut lambda = Lambda::enabled(HOUR);
    lambda.failing = vec![2 * HOUR + 5 * MINUTE..5 * HOUR + 5 * MINUTE];
    let (deliveries, off) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            world.time.reached(7 * HOUR).await;
            let off = world.off().await;
            let mended = world.reconcile().repair().run().await.unwrap();
            assert_eq!(named(&mended), off);
            assert!(mended.is_clean(), "{mended:?}");
            off
        })
        .await;
    let given_up = deliveries[0].on_failure.len();
    assert!(
        given_up > 0 && !off.is_empty(),
        "{given_up} given up, {off:?}"
    );
    assert!(deliveries[0].trimmed.is_empty());
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_was_off_for_25_hours_leaves_a_gap_that_reconcile_names_and_mends() {
    let writes = Writes::seeded(15)
        .between(Duration::ZERO, 31 * HOUR, 15 * MINUTE)
        .between(32 * HOUR, 36 * HOUR, 15 * MINUTE);
    let world = World::new(15, writes).await;
    let mut lambda = Lambda::enabled(HOUR);
    lambda.off = vec![5 * HOUR..30 * HOUR];
    let (deliveries, off) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 10 * MINUTE).run().await.unwrap();
            world.time.reached(5 * HOUR).await;
            assert_eq!(world.off().await, Off::new());
            world.time.reached(31 * HOUR + 40 * MINUTE).await;
            let off = world.off().await;
            let told = world.reconcile().run().await.unwrap();
            assert_eq!(named(&told), off);
            assert!(!told.is_clean());
            world.time.reached(33 * HOUR).await;
            let mended = world.reconcile().repair().run().await.unwrap();
            assert!(mended.is_clean(), "{mended:?}");
            off
        })
        .await;
    assert!(off.len() > 3, "{off:?}");
    // What was older than the mapping's maximum record age is told of; what left the stream is not.
    assert!(!deliveries[0].on_failure.is_empty());
    assert!(!deliveries[0].trimmed.is_empty());
    world.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_can_never_count_is_given_up_and_named_and_counts_when_it_is_mended() {
    let broken = |id: &str| Some(order(id, "poor", AttributeValue::S("a lot".to_owned())));
    let whole = |id: &str| Some(order(id, "poor", AttributeValue::N("77".to_owned())));
    let writes = Writes::seeded(16)
        .between(Duration::ZERO, 4 * HOUR, 5 * MINUTE)
        .change(4 * HOUR, "new", broken("new"))
        .change(4 * HOUR, "mended", whole("mended"))
        .change(4 * HOUR, "repaired", whole("repaired"))
        .change(4 * HOUR + MINUTE, "mended", broken("mended"))
        .change(4 * HOUR + MINUTE, "repaired", broken("repaired"))
        .between(4 * HOUR + MINUTE, 8 * HOUR, 5 * MINUTE)
        .change(22 * HOUR, "new", whole("new"))
        .change(22 * HOUR, "mended", whole("mended"));
    let world = World::new(16, writes).await;
    let mut lambda = Lambda::enabled(HOUR);
    lambda.trouble = Default::default();
    let (deliveries, ()) = world
        .play(&[&lambda], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&lambda, 5 * MINUTE).run().await.unwrap();
            // Once the retries are over and what waited behind them is done.
            world.time.reached(20 * HOUR).await;
            let off = world.off().await;
            assert_eq!(off["poor"], 2 * 77, "they count what they were: {off:?}");
            let told = world.reconcile().run().await.unwrap();
            assert_eq!(named(&told), off);
            assert_eq!(told.rejected_rows, 3, "{told:?}");
            let listed: Vec<_> = told.rejected.iter().map(|row| row.id.as_str()).collect();
            for id in ["new", "mended", "repaired"] {
                assert!(listed.iter().any(|row| row.contains(id)), "{listed:?}");
            }
            world.time.reached(23 * HOUR).await;
            let off = world.off().await;
            assert_eq!(off["poor"], 77, "what is mended counts: {off:?}");
            let mended = world.reconcile().repair().run().await.unwrap();
            assert_eq!(named(&mended), off);
            assert!(mended.is_clean());
        })
        .await;
    let given_up = deliveries[0].on_failure.iter();
    let given_up: BTreeSet<_> = given_up
        .map(|record| format!("{:?}", record.change.keys["id"]))
        .collect();
    for id in ["new", "mended", "repaired"] {
        assert!(given_up.iter().any(|key| key.contains(id)), "{given_up:?}");
    }
    assert!(
        given_up.len() > 3,
        "what came behind it in its batch: {given_up:?}"
    );
    world.assert_right().await;
}

/// What a bootstrap into these tables says that may not begin.
async fn refusal(world: &World, tables: Tables) -> String {
    let error = world.bootstrap_into(tables, MINUTE).run().await;
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            BootstrapError::State { .. } | BootstrapError::OtherDefinition { .. }
        ),
        "{error}"
    );
    Causes(&error).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_new_definition_takes_new_tables_and_is_filled_beside_the_old_one() {
    let writes = Writes::seeded(17).between(Duration::ZERO, 9 * HOUR, 3 * MINUTE);
    let world = World::new(17, writes).await;
    let old = Lambda::enabled(HOUR);
    let new = Tables { version: 2, ..NEW };
    let second = Lambda {
        tables: new,
        ..Lambda::enabled(4 * HOUR)
    };
    let (deliveries, ()) = world
        .play(&[&old, &second], async {
            world.time.reached(2 * HOUR).await;
            world.checking(&old, 10 * MINUTE).run().await.unwrap();
            world.make(new).await;
            // New markers beside the old state, or none of both.
            for markers in [NEW.markers, TABLES.markers] {
                let state = TABLES.state;
                let other = Tables {
                    markers,
                    state,
                    ..new
                };
                let said = refusal(&world, other).await;
                assert!(
                    said.contains("version 1") && said.contains("version 2"),
                    "{said}"
                );
            }
            // The old markers beside a new state, which nothing that was counted before is in.
            for version in [1, 2] {
                let state = NEW.state;
                let other = Tables {
                    version,
                    state,
                    ..TABLES
                };
                let said = refusal(&world, other).await;
                assert!(
                    said.contains(TABLES.state) && said.contains(NEW.state),
                    "{said}"
                );
            }
            world.time.reached(5 * HOUR).await;
            let report = world.bootstrap_into(new, 10 * MINUTE).run().await.unwrap();
            assert!(!report.rerun);
        })
        .await;
    assert_nothing_given_up(&deliveries);
    world.assert_right_in(new).await;
    world.assert_right().await;
}

async fn made_anew(world: &World, lost: &str) {
    let request = json!({ "TableName": lost });
    world.cloud.at_once("DeleteTable", request);
    let admin = world.cloud.admin();
    if lost == TABLES.state {
        let made = murmur_state_ddb::create_int64_table(&admin, lost).await;
        made.unwrap();
    } else {
        let made = murmur_state_ddb::create_dedup_table(&admin, lost).await;
        made.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_or_marker_table_that_was_lost_takes_both_anew() {
    for (seed, lost) in [(18, TABLES.state), (19, TABLES.markers)] {
        let writes = Writes::seeded(seed).between(Duration::ZERO, 9 * HOUR, 4 * MINUTE);
        let world = World::new(seed, writes).await;
        let first = Lambda::enabled(HOUR);
        let second = Lambda {
            tables: NEW,
            ..Lambda::enabled(5 * HOUR)
        };
        let (_, ()) = world
            .play(&[&first, &second], async {
                world.time.reached(2 * HOUR).await;
                world.checking(&first, 10 * MINUTE).run().await.unwrap();
                world.time.reached(4 * HOUR).await;
                made_anew(&world, lost).await;
                let again = world.bootstrap(MINUTE).run().await;
                let anew = world.bootstrap(MINUTE).restart().run().await;
                for error in [again.unwrap_err(), anew.unwrap_err()] {
                    assert!(matches!(error, BootstrapError::State { .. }), "{error}");
                    let said = Causes(&error).to_string();
                    assert!(said.contains(TABLES.markers), "{said}");
                }
                world.make(NEW).await;
                world.time.reached(6 * HOUR).await;
                world.bootstrap_into(NEW, 10 * MINUTE).run().await.unwrap();
            })
            .await;
        world.assert_right_in(NEW).await;
    }
}

/// The ARN of the table's stream, after it was switched off and on again.
fn switched(cloud: &Cloud) -> String {
    for specification in [
        json!({ "StreamEnabled": false }),
        json!({ "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" }),
    ] {
        let request = json!({ "TableName": TABLE, "StreamSpecification": specification });
        cloud.at_once("UpdateTable", request);
    }
    let described: Value = cloud.at_once("DescribeTable", json!({ "TableName": TABLE }));
    let arn = described["Table"]["LatestStreamArn"].as_str();
    arn.unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_switched_off_and_on_is_refused_and_takes_new_tables() {
    let writes = Writes::seeded(20).between(Duration::ZERO, 6 * HOUR, 4 * MINUTE);
    let mut world = World::new(20, writes).await;
    let first = Lambda::enabled(HOUR);
    world
        .play(&[&first], async {
            world.time.reached(2 * HOUR).await;
            let dies = world.checking(&first, 10 * MINUTE);
            assert!(world.killed_after(25 * MINUTE, dies).await.is_none());
        })
        .await;
    let arn = switched(&world.cloud);
    assert_ne!(arn, world.arn);
    world.register(&arn);
    let error = world.bootstrap(MINUTE).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::OtherStream { .. }),
        "{error}"
    );

    // From here on the changes come by the new stream.
    world.arn = arn;
    let world = world.go_on(|writes| writes.between(7 * HOUR, 12 * HOUR, 4 * MINUTE));
    let mut second = Lambda {
        tables: NEW,
        ..Lambda::enabled(8 * HOUR)
    };
    second.trouble = Default::default();
    let old_tables = Lambda {
        tables: TABLES,
        ..second.clone()
    };
    let (deliveries, ()) = world
        .play(&[&second, &old_tables], async {
            world.make(NEW).await;
            world.time.reached(9 * HOUR).await;
            world.bootstrap_into(NEW, 10 * MINUTE).run().await.unwrap();
        })
        .await;
    assert_nothing_given_up(&deliveries[..1]);
    assert!(
        !deliveries[1].on_failure.is_empty(),
        "the old ledger is of the old stream"
    );
    world.assert_right_in(NEW).await;
}

#[tokio::test(start_paused = true)]
async fn state_of_another_mode_is_refused_and_takes_new_tables() {
    let writes = Writes::seeded(21).between(Duration::ZERO, 6 * HOUR, 4 * MINUTE);
    let world = World::new(21, writes).await;
    let lambda = Lambda {
        tables: NEW,
        ..Lambda::enabled(3 * HOUR)
    };
    let (deliveries, ()) = world
        .play(&[&lambda], async {
            world.time.reached(HOUR).await;
            world.bootstrap_exactly_once().run().await.unwrap();
            let again = world.bootstrap(MINUTE).run().await.unwrap_err();
            let anew = world.bootstrap(MINUTE).restart().run().await.unwrap_err();
            assert!(matches!(anew, BootstrapError::State { .. }), "{anew}");
            for said in [Causes(&again).to_string(), Causes(&anew).to_string()] {
                assert!(
                    said.contains("exactly-once") && said.contains("ledger"),
                    "{said}"
                );
            }
            world.make(NEW).await;
            world.time.reached(4 * HOUR).await;
            world.bootstrap_into(NEW, 10 * MINUTE).run().await.unwrap();
        })
        .await;
    assert_nothing_given_up(&deliveries);
    world.assert_right_in(NEW).await;
}
