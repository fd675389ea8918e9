//! Every kind of difference that a ledger can show, and what is none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::audit::{AuditOptions, Difference, LedgerFindings, Mending};
use murmur_core::{Definition, Pipeline, Processor, Sum, Window};
use murmur_snapshot::reconcile::{Findings, ReconcileStep};
use murmur_snapshot::{ReconcileError, Reconciled};
use murmur_state::error::Place;
use murmur_state::{Clock, Key, RetryPolicy, StoreError, Timestamp};

use crate::world::{BuildAndRun, NOW, Order, Put, World, definition, name, put};

fn found(reconciled: &Reconciled) -> &LedgerFindings {
    let Findings::Ledger(found) = &reconciled.pipelines[0].findings else {
        panic!("{reconciled:?}");
    };
    found
}

/// The keys and by how much they are off.
fn off(reconciled: &Reconciled) -> Vec<(String, Difference)> {
    let keys = reconciled.pipelines[0].keys().iter();
    keys.map(|key| (key.key.entity().to_owned(), key.difference.clone()))
        .collect()
}

fn by(key: &str, by: i64) -> (String, Difference) {
    (key.to_owned(), Difference::By(by.to_string()))
}

/// A world whose live side has done this and is at rest.
fn with(orders: &[(&str, &'static str, i64)]) -> Arc<World> {
    let world = World::new(1);
    fill(&world, orders);
    world
}

fn fill(world: &World, orders: &[(&str, &'static str, i64)]) {
    for (id, customer, cents) in orders {
        world.write(id, Some(put(customer, *cents)));
    }
    world.deliver_all();
}

const ORDERS: [(&str, &str, i64); 4] = [
    ("o1", "alice", 100),
    ("o2", "bob", 200),
    ("o3", "bob", 300),
    ("o4", "carol", 400),
];

async fn assert_right(world: &Arc<World>) {
    assert_eq!(world.totals(), world.recount());
    let audited = world.audit().await;
    assert_eq!(
        (audited.differing, audited.unsettled),
        (0, 0),
        "{audited:?}"
    );
    let again = world.reconcile().run().await.unwrap();
    assert_eq!(found(&again).differing, 0, "{again:?}");
}

#[tokio::test]
async fn every_kind_of_missed_change_is_named_and_mended() {
    /// What it is called, how it comes about, its item, and how far which keys are off.
    type Kind = (
        &'static str,
        fn(&World),
        &'static str,
        &'static [(&'static str, i64)],
    );
    let kinds: [Kind; 5] = [
        (
            "insert",
            |world| world.write("o9", Some(put("bob", 50))),
            "o9",
            &[("all", -50), ("bob", -50)],
        ),
        (
            "change",
            |world| world.write("o3", Some(put("bob", 1))),
            "o3",
            &[("all", 299), ("bob", 299)],
        ),
        (
            "move",
            |world| world.write("o3", Some(put("alice", 300))),
            "o3",
            &[("alice", -300), ("bob", 300)],
        ),
        (
            "delete",
            |world| world.write("o3", None),
            "o3",
            &[("all", 300), ("bob", 300)],
        ),
        (
            "removal by Time to Live",
            |world| world.expire("o3"),
            "o3",
            &[("all", 300), ("bob", 300)],
        ),
    ];
    for (kind, missed, item, keys) in kinds {
        let world = with(&ORDERS);
        missed(&world);
        world.lose_all();
        let keys: Vec<_> = keys.iter().map(|(key, of)| by(key, *of)).collect();

        let told = world.reconcile().run().await.unwrap();
        assert_eq!(off(&told), keys, "{kind}");
        let differing = found(&told);
        assert_eq!(
            (differing.differing, differing.differing_keys),
            (1, keys.len() as u64),
            "{kind}"
        );
        assert_eq!(differing.items[0].item, name(item), "{kind}");
        assert!(
            matches!(differing.items[0].mending, Mending::NotAsked),
            "{kind}"
        );
        assert!(!told.is_clean(), "{kind}");
        assert_ne!(
            world.totals(),
            world.recount(),
            "{kind}: nothing was asked to be mended"
        );
        // The ledger has missed it as well, so that the state is what the ledger says.
        assert_eq!(world.audit().await.differing, 0, "{kind}");

        let mended = world.reconcile().repair().run().await.unwrap();
        assert_eq!(off(&mended), keys, "{kind}");
        assert_eq!(found(&mended).mended, 1, "{kind}");
        assert!(
            matches!(found(&mended).items[0].mending, Mending::Mended),
            "{kind}"
        );
        assert!(mended.is_clean(), "{kind}");
        assert_right(&world).await;
    }
}

#[tokio::test]
async fn what_live_does_after_a_repair_replaces_it() {
    let world = with(&ORDERS);
    world.write("o1", Some(put("bob", 1)));
    world.write("o2", None);
    world.write("o9", Some(put("carol", 7)));
    world.lose_all();
    // Written before the repair, and done by live after it.
    world.write("o1", Some(put("carol", 2)));
    let reconcile = world.reconcile().repair().lag(Duration::ZERO);
    assert_eq!(found(&reconcile.run().await.unwrap()).mended, 3);
    world.write("o2", Some(put("alice", 11)));
    world.write("o9", None);
    world.deliver_all();
    assert_right(&world).await;
}

#[tokio::test]
async fn nothing_differs_where_nothing_was_missed() {
    let world = with(&ORDERS);
    // Nor does what contributes nothing.
    fill(&world, &[("o5", "dave", 0)]);
    world.write("o6", Some(put("dave", 0)));
    world.lose_all();
    let reconciled = world.reconcile().run().await.unwrap();
    let found = found(&reconciled);
    assert_eq!((reconciled.rows, found.ledger_rows), (6, 5));
    assert_eq!(
        (
            found.suspects,
            found.differing,
            found.untold,
            found.unsettled
        ),
        (0, 0, 0, 0)
    );
    assert!((reconciled.read_units - 1.0).abs() < 1e-9);
    assert_eq!(
        world.tables().look_ups,
        0,
        "what the scan has seen is not looked up"
    );
}

#[tokio::test]
async fn what_is_not_remembered_is_looked_up() {
    for (remembered, look_ups) in [(0, 4), (1, 3), (4, 0)] {
        let world = with(&ORDERS);
        let reconcile = world.reconcile().remember(remembered);
        assert_eq!(found(&reconcile.run().await.unwrap()).differing, 0);
        assert_eq!(world.tables().look_ups, look_ups);
    }
    // An item that was named when it was scanned is not named again.
    let world = with(&ORDERS);
    world.write("o1", Some(put("bob", 5)));
    world.lose_all();
    let reconcile = world.reconcile().remember(0).max_suspects(1);
    assert_eq!(found(&reconcile.run().await.unwrap()).differing, 1);
}

fn keeping() -> Definition<Order, Sum> {
    definition().keep_expired_items()
}

#[tokio::test]
async fn an_item_that_may_have_expired_is_told_and_never_mended() {
    let world = World::with(1, None, keeping());
    fill(&world, &ORDERS);
    world.expire("o1");
    world.deliver_all();
    let before = world.totals();
    world.expire("o2");
    world.write("o3", Some(put("alice", 3)));
    world.lose_all();
    let reconcile = world.reconcile_of(world.by_ledger(keeping())).repair();
    let reconciled = reconcile.run().await.unwrap();
    let found = found(&reconciled);
    assert_eq!(
        (found.untold, found.differing, found.mended),
        (1, 1, 1),
        "{found:?}"
    );
    assert_eq!(found.items[0].item, name("o3"));
    assert!(reconciled.is_clean());
    let totals = world.totals();
    assert_eq!(
        (totals["bob"], totals["carol"]),
        (200, before["carol"]),
        "o2 goes on counting"
    );
    assert_eq!(totals["alice"], 100 + 3, "so does what is kept of o1");
    let audited = world.audit_of(world.by_ledger(keeping())).await;
    assert_eq!(audited.differing, 0, "what is kept is part of the sum");
}

#[tokio::test]
async fn what_can_never_count_contributes_nothing_and_is_listed() {
    let world = with(&ORDERS);
    let bad = Put {
        cents: "a lot".into(),
        ..put("bob", 0)
    };
    world.write("o2", Some(bad.clone()));
    world.write("o3", Some(put("", 3)));
    world.write("o9", Some(bad));
    world.lose_all();
    let reconciled = world.reconcile().repair().run().await.unwrap();
    assert_eq!(off(&reconciled), [by("all", 500), by("bob", 500)]);
    assert_eq!(found(&reconciled).mended, 2);
    assert_eq!((reconciled.rows, reconciled.rejected_rows), (5, 3));
    let mut listed: Vec<_> = reconciled
        .rejected
        .iter()
        .map(|row| (row.id.as_str(), row.pipeline.is_some()))
        .collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        [
            ("scan/2:id1:S2:o2", false),
            ("scan/2:id1:S2:o3", true),
            ("scan/2:id1:S2:o9", false)
        ]
    );
    assert!(
        reconciled
            .rejected
            .iter()
            .any(|row| row.reason.contains("empty")),
        "{reconciled:?}"
    );

    let limited = world.reconcile().max_listed(1).run().await.unwrap();
    assert_eq!((limited.rejected_rows, limited.rejected.len()), (3, 1));
}

#[tokio::test]
async fn an_item_of_too_many_keys_contributes_nothing() {
    let many = || {
        let keys = |order: &Order, out: &mut dyn FnMut(&str)| {
            let keys = if order.cents > 10 { 50 } else { 2 };
            (0..keys).for_each(|n| out(&format!("k{n}")));
        };
        let definition = Pipeline::builder("totals").keys(keys);
        definition.value(|order| order.cents).aggregate(Sum::new())
    };
    let world = World::with(1, None, many());
    fill(&world, &[("o1", "alice", 5)]);
    world.write("o1", Some(put("alice", 11)));
    world.lose_all();
    let reconcile = world.reconcile_of(world.by_ledger(many())).repair();
    let reconciled = reconcile.run().await.unwrap();
    assert_eq!(off(&reconciled), [by("k0", 5), by("k1", 5)]);
    assert!(reconciled.is_clean());
    assert!(
        reconciled.rejected[0].reason.contains("50 keys"),
        "{reconciled:?}"
    );
}

fn daily() -> Definition<Order, Sum> {
    let window = Window::daily().retention(Duration::from_secs(3600));
    definition().window(window, |order| Timestamp::from_secs(order.placed_at))
}

#[tokio::test]
async fn windows_whose_retention_is_over_do_not_differ() {
    const DAY: i64 = 24 * 3600;
    let world = World::with(1, None, daily());
    let at = |cents, day: i64| {
        Some(Put {
            placed_at: NOW.as_secs() + day * DAY,
            ..put("alice", cents)
        })
    };
    for (id, cents) in [("gone", 1), ("moved", 2), ("changed", 4)] {
        world.write(id, at(cents, 0));
    }
    world.deliver_all();
    world.write("gone", None);
    world.write("moved", at(2, 2));
    world.write("changed", at(3, 0));
    world.write("missed", at(9, 0));
    world.lose_all();
    let reconcile = |world: &Arc<World>| world.reconcile_of(world.by_ledger(daily()));
    assert_eq!(found(&reconcile(&world).run().await.unwrap()).differing, 4);

    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    let reconciled = reconcile(&world).repair().run().await.unwrap();
    assert_eq!(found(&reconciled).items[0].item, name("moved"));
    assert_eq!(
        off(&reconciled),
        [by("alice", -2), by("all", -2)],
        "in its new window alone"
    );
    assert_eq!(found(&reconciled).mended, 1);
    let processor = Processor::builder([world.by_ledger(daily())])
        .clock(Arc::new(world.clock.clone()))
        .build()
        .unwrap();
    world.tables().forged = Some((Key::new("all", Window::daily().bucket(NOW)).unwrap(), 5));
    let audited = processor
        .audit(&AuditOptions::default().max_listed(10))
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (audited.differing, audited.state_rows),
        (0, 4),
        "{audited:?}"
    );
    let newest = Window::daily().bucket(NOW.plus(Duration::from_secs(2 * 24 * 3600)));
    world.tables().forged = Some((Key::new("all", newest).unwrap(), 5));
    assert_eq!(
        processor
            .audit(&AuditOptions::default().max_listed(10))
            .await
            .unwrap()[0]
            .differing,
        1
    );
}

#[tokio::test]
async fn live_that_is_faster_than_a_repair_wins() {
    let world = with(&ORDERS);
    world.write("o1", Some(put("bob", 1)));
    world.lose_all();
    // After its ledger row was read for the second time, live moves it to and fro.
    world.tables().on_look_up.extend([
        Box::new(|_: &World| ()) as Box<dyn FnOnce(&World) + Send>,
        Box::new(to_and_fro),
    ]);
    let reconciled = world.reconcile().repair().run().await.unwrap();
    assert_eq!(
        (found(&reconciled).differing, found(&reconciled).mended),
        (1, 1)
    );
    assert_eq!(world.tables().superseded, 1);
    world.deliver_all();
    assert_right(&world).await;
}

/// Live does what is left, then a change; the way back is for later.
fn to_and_fro(world: &World) {
    world.deliver_all();
    world.write("o1", Some(put("carol", 9)));
    world.deliver_all();
    world.write("o1", Some(put("bob", 1)));
}

#[tokio::test]
async fn an_item_that_live_never_leaves_alone_is_told() {
    let world = with(&ORDERS);
    world.write("o1", Some(put("bob", 1)));
    world.lose_all();
    world.tables().on_look_up.push_back(Box::new(|_| ()));
    for _ in 0..5 {
        world.tables().on_look_up.push_back(Box::new(to_and_fro));
    }
    let reconciled = world.reconcile().repair().run().await.unwrap();
    assert!(
        matches!(found(&reconciled).items[0].mending, Mending::Overtaken),
        "{reconciled:?}"
    );
    assert_eq!(
        (found(&reconciled).mended, reconciled.pipelines[0].left()),
        (0, 1)
    );
    world.deliver_all();
    assert_eq!(world.totals(), world.recount());

    // Without a moment's rest it is not even named.
    world.write("o1", Some(put("bob", 5)));
    world.lose_all();
    for n in 0..3 {
        let order = put("bob", 10 + n);
        let event = move |world: &World| {
            world.write("o1", Some(order));
            world.lose_all();
        };
        world.tables().on_wait.push_back(Box::new(event));
    }
    let reconciled = world.reconcile().repair().run().await.unwrap();
    assert_eq!(
        (found(&reconciled).differing, found(&reconciled).unsettled),
        (0, 1)
    );
    assert!(reconciled.is_clean());
}

#[tokio::test]
async fn what_was_looked_up_too_long_ago_is_looked_up_again() {
    let world = with(&ORDERS);
    world.write("o1", Some(put("bob", 1)));
    world.lose_all();
    world.tables().on_look_up.extend([
        Box::new(|_: &World| ()) as Box<dyn FnOnce(&World) + Send>,
        Box::new(|world: &World| world.clock.advance(Duration::from_secs(3600))),
    ]);
    let reconciled = world.reconcile().repair().run().await.unwrap();
    assert_eq!(found(&reconciled).mended, 1);
    let tables = world.tables();
    assert_eq!((tables.look_ups, tables.mends), (3, 1));
}

#[tokio::test]
async fn a_repair_that_fails_stands_in_the_report() {
    let world = with(&ORDERS);
    world.write("o1", None);
    world.write("o4", None);
    world.lose_all();
    world.tables().fail_mends = Some(StoreError::Setup {
        place: Place::table("test", "totals"),
        advice: "allow dynamodb:TransactWriteItems".into(),
        source: None,
    });
    let reconciled = world.reconcile().repair().run().await.unwrap();
    assert_eq!(
        (found(&reconciled).differing, found(&reconciled).mended),
        (2, 0)
    );
    for item in &found(&reconciled).items {
        assert!(
            matches!(&item.mending, Mending::Failed(StoreError::Setup { .. })),
            "{item:?}"
        );
    }
    assert_eq!(reconciled.pipelines[0].left(), 2);
    assert!(!reconciled.is_clean());
    let limited = world.reconcile().max_listed(1).run().await.unwrap();
    assert_eq!(
        (found(&limited).differing, found(&limited).items.len()),
        (2, 1)
    );
    assert_eq!(
        (found(&limited).differing_keys, found(&limited).keys.len()),
        (3, 1)
    );
}

#[tokio::test]
async fn look_ups_are_tried_again_and_their_failure_is_told() {
    let world = with(&ORDERS);
    world.write("o1", None);
    world.lose_all();
    world.tables().fail_look_ups = 2;
    let reconciled = world.reconcile().run().await.unwrap();
    assert_eq!(found(&reconciled).differing, 1);
    // More than ten minutes of failures.
    world.tables().fail_look_ups = 300;
    let begun = world.clock.now();
    let reconciled = world.reconcile().run().await.unwrap();
    assert_eq!(found(&reconciled).differing, 1);
    let took = world.clock.now().since(begun);
    assert!(took > Duration::from_secs(600), "{took:?}");

    world.tables().fail_look_ups = 3;
    let impatient = world.processor_of(world.pipeline());
    let impatient = world.reconcile_by(impatient.retry(RetryPolicy::default()));
    let error = impatient.run().await.unwrap_err();
    assert!(
        matches!(&error, ReconcileError::Inspection { .. }),
        "{error:?}"
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_wrong_row_of_the_state_is_found_by_the_audit_alone() {
    for (entity, by) in [("bob", -7), ("all", 7), ("nobody", 7)] {
        let world = with(&ORDERS);
        world.tables().forged = Some((Key::new(entity, 0).unwrap(), by));
        let reconciled = world.reconcile().run().await.unwrap();
        assert_eq!(found(&reconciled).differing, 0);
        let audited = world.audit().await;
        assert_eq!(
            (audited.ledger_rows, audited.differing, audited.unsettled),
            (4, 1, 0)
        );
        assert_eq!(audited.keys[0].key.entity(), entity);
        assert_eq!(audited.keys[0].difference, Difference::By(by.to_string()));
    }
}

#[tokio::test]
async fn progress_is_told() {
    let world = with(&ORDERS);
    world.write("o1", None);
    world.lose_all();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let reconcile = world
        .reconcile()
        .on_progress(move |progress| told.lock().unwrap().push(*progress));
    reconcile.run().await.unwrap();
    let steps = steps.lock().unwrap();
    let is = |step: ReconcileStep| steps.iter().any(|progress| progress.step == step);
    assert!(
        is(ReconcileStep::Scan) && is(ReconcileStep::Ledger),
        "{steps:?}"
    );
    assert!(is(ReconcileStep::Settle { items: 1 }), "{steps:?}");
    let last = steps.last().unwrap();
    assert_eq!((last.rows, last.ledger_rows), (3, 4), "{last:?}");
}
