//! Pipelines without a ledger: the table is counted once more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use murmur_core::audit::{Difference, RecountFindings};
use murmur_core::definition::Keyed;
use murmur_core::{Last, Max, Pipeline, Set, Sum, Window};
use murmur_snapshot::Reconciled;
use murmur_snapshot::reconcile::Findings;
use murmur_state::store::Add;
use murmur_state::{Deadline, Key, MemoryStore, Monoid, Store, Timestamp};

use crate::world::{BuildAndRun, NOW, Order, Put, World, definition, name, put};

const ORDERS: [(&str, &str, i64); 4] = [
    ("o1", "alice", 100),
    ("o2", "bob", 200),
    ("o3", "bob", 300),
    ("o4", "carol", 400),
];

fn table() -> Arc<World> {
    let world = World::new(1);
    for (id, customer, cents) in ORDERS {
        world.write(id, Some(put(customer, cents)));
    }
    world
}

fn found(reconciled: &Reconciled) -> &RecountFindings {
    let Findings::Recount(found) = &reconciled.pipelines[0].findings else {
        panic!("{reconciled:?}");
    };
    found
}

fn keys(reconciled: &Reconciled) -> Vec<(&str, Difference)> {
    let keys = reconciled.pipelines[0].keys().iter();
    keys.map(|key| (key.key.entity(), key.difference.clone()))
        .collect()
}

fn by(by: i64) -> Difference {
    Difference::By(by.to_string())
}

async fn add<M: Monoid>(store: &MemoryStore<M>, entity: &str, value: M::Value) {
    add_in(store, entity, 0, value).await;
}

async fn add_in<M: Monoid>(store: &MemoryStore<M>, entity: &str, bucket: i64, value: M::Value) {
    let key = Key::new(entity, bucket).unwrap();
    let add = Add {
        key,
        value,
        ttl: None,
    };
    store.merge(&[add], Deadline::NONE).await;
}

async fn counted() -> MemoryStore<Sum> {
    let store = MemoryStore::new(Sum::new());
    for (entity, value) in [("alice", 100), ("all", 1000), ("bob", 500), ("carol", 400)] {
        add(&store, entity, value).await;
    }
    store
}

fn totals(store: &MemoryStore<Sum>) -> Pipeline<Order> {
    definition()
        .retract()
        .store(store.clone())
        .at_least_once()
        .unwrap()
}

fn by_customer() -> Keyed<Order> {
    Pipeline::builder("totals").key(|order: &Order| order.customer.clone())
}

#[tokio::test]
async fn what_is_right_takes_one_scan() {
    let (world, store) = (table(), counted().await);
    let reconciled = world.reconcile_of(totals(&store)).run().await.unwrap();
    assert_eq!((reconciled.rows, found(&reconciled).state_rows), (4, 4));
    assert_eq!(
        (found(&reconciled).suspects, found(&reconciled).differing),
        (0, 0)
    );
    assert_eq!(world.tables().pages, 2);
    assert!(reconciled.is_clean());
}

#[tokio::test]
async fn keys_that_differ_twice_by_the_same_are_named() {
    let (world, store) = (table(), counted().await);
    add(&store, "alice", -30).await;
    add(&store, "bob", 5).await;
    add(&store, "nobody", 7).await;
    world.write("o9", Some(put("dave", 9)));
    add(&store, "all", 9).await;
    let reconciled = world.reconcile_of(totals(&store)).run().await.unwrap();
    let all = [
        ("alice", by(-30)),
        ("bob", by(5)),
        ("dave", by(-9)),
        ("nobody", by(7)),
    ];
    assert_eq!(keys(&reconciled), all);
    assert_eq!(
        (found(&reconciled).suspects, found(&reconciled).differing),
        (4, 4)
    );
    assert_eq!(
        (reconciled.rows, world.tables().pages),
        (5, 4),
        "it was scanned twice"
    );
    assert_eq!(reconciled.pipelines[0].left(), 4);
    let limited = world.reconcile_of(totals(&store)).max_listed(2);
    let limited = limited.run().await.unwrap();
    assert_eq!((found(&limited).differing, keys(&limited).len()), (4, 2));
    // A pipeline that never takes anything back says what is and what should be.
    let adding = definition()
        .every_change()
        .store(store)
        .at_least_once()
        .unwrap();
    let reconciled = world.reconcile_of(adding).run().await.unwrap();
    let (state, should_be) = ("70".to_owned(), "100".to_owned());
    assert_eq!(
        keys(&reconciled)[0],
        ("alice", Difference::Values { state, should_be })
    );
}

#[tokio::test]
async fn what_live_catches_up_with_is_no_difference_and_what_moves_is_not_settled() {
    let (world, store) = (table(), counted().await);
    world.write("o1", Some(put("alice", 150)));
    world.write("o3", None);
    world.write("o4", Some(put("carol", 401)));
    let late = store.clone();
    world.tables().on_wait.push_back(Box::new(move |_| {
        use futures::FutureExt;
        // alice is right now, and so is all; bob moves, by as much on both sides.
        add(&late, "alice", 50).now_or_never().unwrap();
        add(&late, "all", 50 - 300 + 1).now_or_never().unwrap();
        add(&late, "bob", -10).now_or_never().unwrap();
    }));
    let reconciled = world.reconcile_of(totals(&store)).run().await.unwrap();
    assert_eq!(keys(&reconciled), [("carol", by(-1))]);
    let found = found(&reconciled);
    assert_eq!(
        (found.suspects, found.differing, found.unsettled),
        (4, 1, 1)
    );
}

#[tokio::test]
async fn rows_that_can_never_count_are_told_once() {
    let (world, store) = (table(), counted().await);
    let bad = Put {
        cents: "a lot".into(),
        ..put("bob", 0)
    };
    world.write("o9", Some(bad));
    world.write("o8", Some(put("", 0)));
    add(&store, "bob", 1).await;
    let reconciled = world.reconcile_of(totals(&store)).run().await.unwrap();
    assert_eq!(keys(&reconciled), [("bob", by(1))]);
    assert_eq!(
        (reconciled.rejected_rows, reconciled.rejected.len()),
        (2, 2)
    );
}

#[tokio::test]
async fn idempotent_monoids_compare_and_a_deletion_does_not_undo() {
    let world = table();
    let largest = MemoryStore::new(Max::new());
    for (entity, value) in [("alice", 100), ("bob", 300), ("carol", 400)] {
        add(&largest, entity, value).await;
    }
    let pipeline = by_customer()
        .value(|order| order.cents)
        .aggregate(Max::new());
    let pipeline = pipeline.store(largest).at_least_once().unwrap();
    let run = || world.reconcile_of(pipeline.clone()).run();
    assert_eq!(found(&run().await.unwrap()).differing, 0);
    world.write("o3", None);
    let (state, should_be) = ("300".to_owned(), "200".to_owned());
    let values = Difference::Values { state, should_be };
    assert_eq!(keys(&run().await.unwrap()), [("bob", values)]);

    let amounts = MemoryStore::new(Set::new());
    for (entity, value) in [("alice", 100), ("bob", 200), ("carol", 400), ("carol", 4)] {
        add(&amounts, entity, BTreeSet::from([value])).await;
    }
    let pipeline = by_customer()
        .value(|order| order.cents)
        .aggregate(Set::new());
    let pipeline = pipeline.store(amounts).at_least_once().unwrap();
    let reconciled = world.reconcile_of(pipeline).run().await.unwrap();
    assert_eq!(keys(&reconciled).len(), 1, "{reconciled:?}");
    assert_eq!(keys(&reconciled)[0].0, "carol");
}

#[tokio::test]
async fn of_first_and_last_the_times_are_compared() {
    let world = table();
    let store = MemoryStore::new(Last::<i64>::new());
    let last = Last::<i64>::new();
    let at = |secs: i64| (Timestamp::from_secs(secs), 5);
    for entity in ["alice", "bob", "carol"] {
        add(&store, entity, last.lift(at(NOW.as_secs()))).await;
    }
    let pipeline = by_customer()
        .value(|order| (Timestamp::from_secs(order.placed_at), order.cents))
        .aggregate(last);
    let pipeline = pipeline.store(store.clone()).at_least_once().unwrap();
    let run = || world.reconcile_of(pipeline.clone()).run();
    // Live knows sequence numbers, a scan does not.
    assert_eq!(found(&run().await.unwrap()).differing, 0);
    add(&store, "bob", last.lift(at(NOW.as_secs() + 1))).await;
    let reconciled = run().await.unwrap();
    assert_eq!(keys(&reconciled).len(), 1);
    assert_eq!(keys(&reconciled)[0].0, "bob", "{}", name("o1"));
}

#[tokio::test]
async fn rows_of_windows_that_are_over_are_left_out() {
    let world = World::new(1);
    let store = MemoryStore::new(Sum::new());
    let window = Window::daily().retention(Duration::from_secs(3600));
    let day = window.bucket(NOW);
    for (n, cents) in [(0, 1), (-1, 2), (-2, 4)] {
        let placed_at = window.start(day + n).as_secs();
        world.write(
            &format!("o{n}"),
            Some(Put {
                placed_at,
                ..put("alice", cents)
            }),
        );
        add_in(&store, "alice", day + n, 8).await;
    }
    let pipeline = by_customer()
        .value(|order| order.cents)
        .aggregate(Sum::new())
        .window(window, |order| Timestamp::from_secs(order.placed_at))
        .retract();
    let pipeline = pipeline.store(store).at_least_once().unwrap();
    let reconciled = world.reconcile_of(pipeline).run().await.unwrap();
    assert_eq!(keys(&reconciled), [("alice", by(7))], "of today alone");
}
