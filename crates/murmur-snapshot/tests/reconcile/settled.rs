//! Items that have settled: what the ledger cannot tell of them, and a recount can.

use std::sync::Arc;

use murmur_core::audit::{
    AuditError, AuditOptions, Difference, LedgerFindings, Mending, RecountFindings,
};
use murmur_core::{Definition, Pipeline, Processor, Sum};
use murmur_snapshot::Reconciled;
use murmur_snapshot::reconcile::{Findings, SettledFindings};
use murmur_state::error::Place;
use murmur_state::{Key, StoreError};

use crate::world::{BuildAndRun, Order, Put, World, definition, name, put};

fn settling() -> Definition<Order, Sum> {
    definition().settle()
}

fn items(reconciled: &Reconciled) -> &LedgerFindings {
    let Findings::Ledger(found) = &reconciled.pipelines[0].findings else {
        panic!("{reconciled:?}");
    };
    found
}

fn recounted(reconciled: &Reconciled) -> &RecountFindings {
    let SettledFindings::Recount(found) = &reconciled.pipelines[0].settled else {
        panic!("{reconciled:?}");
    };
    found
}

/// The keys that the recount names, and by how much they are off.
fn off(reconciled: &Reconciled) -> Vec<(String, Difference)> {
    let keys = reconciled.pipelines[0].settled.keys().iter();
    keys.map(|key| (key.key.entity().to_owned(), key.difference.clone()))
        .collect()
}

fn by(key: &str, by: i64) -> (String, Difference) {
    (key.to_owned(), Difference::By(by.to_string()))
}

/// A world in which `s1` to `s3` have settled, and `t1` and `t2` have not.
fn partly(definition: Definition<Order, Sum>) -> Arc<World> {
    let world = World::with(1, None, definition);
    let write = |id: &str, cents| world.write(id, Some(put("alice", cents)));
    for id in ["s1", "s2", "s3", "t1", "t2"] {
        write(id, 1);
    }
    world.deliver_all();
    world.let_settle();
    for (id, cents) in [("s1", 100), ("s2", 200), ("s3", 300)] {
        write(id, cents);
    }
    world.deliver_all();
    assert_eq!(world.totals(), world.recount());
    world
}

fn pipeline(world: &Arc<World>) -> Pipeline<Order> {
    world.by_ledger(settling())
}

fn processor(world: &World, pipeline: Pipeline<Order>) -> Processor<Order> {
    let processor = Processor::builder([pipeline]).clock(Arc::new(world.clock.clone()));
    processor.build().unwrap()
}

#[tokio::test]
async fn settled_items_do_not_differ_in_the_table_or_gone_from_it() {
    let world = partly(settling());
    world.write("s2", None);
    world.write("s3", Some(put("bob", 1)));
    world.deliver_all();
    let before = world.tables().pages;
    let reconciled = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    let found = items(&reconciled);
    assert_eq!((found.settled, found.ledger_rows), (3, 5));
    assert_eq!(
        (
            found.suspects,
            found.differing,
            found.untold,
            found.unsettled
        ),
        (0, 0, 0, 0)
    );
    let keys = recounted(&reconciled);
    assert_eq!((keys.suspects, keys.differing, keys.state_rows), (0, 0, 3));
    assert!(reconciled.is_clean());
    assert_eq!(reconciled.pipelines[0].settled.advice(), None);
    let tables = world.tables();
    assert_eq!(
        tables.pages - before,
        2,
        "the recount takes the scan that there is"
    );
    assert_eq!(tables.look_ups, 0);
}

#[tokio::test]
async fn a_lost_change_of_a_settled_item_is_named_by_key_and_not_mended() {
    for repair in [false, true] {
        let world = partly(settling());
        world.write("s1", Some(put("bob", 100)));
        world.write("s2", None);
        world.lose_all();
        let wrong = world.totals();
        let reconcile = world.reconcile_of(pipeline(&world));
        let reconcile = if repair {
            reconcile.repair()
        } else {
            reconcile
        };
        let reconciled = reconcile.run().await.unwrap();
        assert_eq!(items(&reconciled).differing, 0);
        assert_eq!(
            off(&reconciled),
            [by("alice", 300), by("all", 200), by("bob", -100)]
        );
        let of = &reconciled.pipelines[0];
        assert_eq!(
            (of.left(), of.keys().len(), of.settled.differing()),
            (3, 0, 3)
        );
        assert!(!reconciled.is_clean());
        let advice = of.settled.advice().unwrap();
        assert!(advice.contains("`version`") && advice.contains("new state"));
        assert_eq!(world.totals(), wrong, "nothing was mended");

        // The next change of such an item does not heal it.
        world.write("s1", Some(put("bob", 101)));
        world.deliver_all();
        let again = world.reconcile_of(pipeline(&world)).run().await.unwrap();
        assert_eq!(off(&again), off(&reconciled));
    }
}

#[tokio::test]
async fn items_of_the_ledger_are_mended_first_and_then_the_keys_are_recounted() {
    let world = partly(settling());
    world.write("s1", Some(put("alice", 107)));
    world.write("t1", Some(put("alice", 51)));
    world.write("t2", None);
    world.lose_all();
    let told = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    let sum = -7 - 50 + 1;
    assert_eq!(items(&told).differing, 2);
    assert_eq!(
        off(&told),
        [by("alice", sum), by("all", sum)],
        "of both kinds"
    );
    assert_eq!(told.pipelines[0].left(), 4);

    let before = world.tables().pages;
    let reconcile = world.reconcile_of(pipeline(&world)).repair();
    let mended = reconcile.run().await.unwrap();
    assert_eq!((items(&mended).differing, items(&mended).mended), (2, 2));
    assert_eq!(off(&mended), [by("alice", -7), by("all", -7)]);
    assert_eq!(
        recounted(&mended).unsettled,
        0,
        "they rest, once they are mended"
    );
    assert_eq!(mended.pipelines[0].left(), 2);
    assert_eq!(world.tables().pages - before, 3 * 2, "scanned three times");
    assert_eq!(mended.rows, 4);

    // What nothing was mended for takes no third scan, and none that is right a second one.
    let reconcile = world.reconcile_of(pipeline(&world)).repair();
    let again = reconcile.run().await.unwrap();
    assert_eq!(items(&again).differing, 0);
    assert_eq!(off(&again), off(&mended));
    assert_eq!(world.tables().pages - before, (3 + 2) * 2);
}

#[tokio::test]
async fn a_repair_that_unbalances_keys_is_seen() {
    // Of a settled item as much is missing as of another there is too much: the first recount agrees.
    let world = partly(settling());
    world.write("s1", Some(put("alice", 107)));
    world.write("t1", Some(put("alice", 1 - 7)));
    world.lose_all();
    let reconcile = world.reconcile_of(pipeline(&world)).repair();
    let reconciled = reconcile.run().await.unwrap();
    assert_eq!(items(&reconciled).mended, 1);
    assert_eq!(off(&reconciled), [by("alice", -7), by("all", -7)]);
}

#[tokio::test]
async fn where_none_was_let_settle_and_none_has_nothing_is_recounted() {
    let world = World::with(1, None, settling());
    world.write("t1", Some(put("alice", 1)));
    world.deliver_all();
    let reconciled = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    assert_eq!(items(&reconciled).settled, 0);
    assert_eq!(
        reconciled.pipelines[0].settled,
        SettledFindings::NotSettling
    );
    assert!(reconciled.is_clean());

    // Let settle, and none has yet: any may while it is looked at.
    world.let_settle();
    let reconciled = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    assert_eq!(items(&reconciled).settled, 0);
    assert_eq!(recounted(&reconciled).differing, 0);
}

#[tokio::test]
async fn items_that_settle_while_it_runs_are_recounted_all_the_same() {
    let world = World::with(1, None, settling());
    for id in ["o1", "o2", "o3"] {
        world.write(id, Some(put("alice", 1)));
    }
    world.deliver_all();
    // It is asked whether they settle before any item is looked up.
    world
        .tables()
        .on_look_up
        .push_back(Box::new(|world: &World| {
            world.let_settle();
            world.write("o1", Some(put("alice", 2)));
            world.deliver_all();
            world.write("o1", Some(put("alice", 9)));
            world.lose_all();
        }));
    world.write("o3", Some(put("alice", 5)));
    world.lose_all();
    let reconcile = world.reconcile_of(pipeline(&world)).repair();
    // Items are looked up in the midst of the scan.
    let reconciled = reconcile.max_suspects(1).run().await.unwrap();
    assert_eq!(
        (items(&reconciled).mended, items(&reconciled).settled),
        (1, 1)
    );
    assert_eq!(off(&reconciled), [by("alice", -7), by("all", -7)]);
}

#[tokio::test]
async fn an_item_that_settles_before_it_is_mended_is_told() {
    let world = partly(settling());
    world.write("t1", Some(put("bob", 1)));
    world.lose_all();
    world.tables().on_look_up.extend([
        Box::new(|_: &World| ()) as Box<dyn FnOnce(&World) + Send>,
        Box::new(|world: &World| {
            world.write("t1", Some(put("bob", 5)));
            world.deliver_all();
            world.write("t1", Some(put("bob", 1)));
        }),
    ]);
    // Live does the way back before the keys are recounted once more.
    world.tables().on_wait.extend([
        Box::new(|_: &World| ()) as Box<dyn FnOnce(&World) + Send>,
        Box::new(World::deliver_all),
    ]);
    let reconcile = world.reconcile_of(pipeline(&world)).repair();
    let reconciled = reconcile.run().await.unwrap();
    let found = items(&reconciled);
    assert_eq!((found.differing, found.mended), (1, 0), "{found:?}");
    assert_eq!(found.items[0].item, name("t1"));
    assert!(matches!(found.items[0].mending, Mending::Settled));
    assert!(found.items[0].mending.to_string().contains("recount"));
    // What settled it has healed it.
    assert_eq!(off(&reconciled), []);
    assert_eq!(world.totals(), world.recount());
    let again = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    assert!(again.is_clean());
}

#[tokio::test]
async fn a_mending_that_fails_leaves_its_keys_to_the_recount_as_well() {
    let world = partly(settling());
    world.write("t1", None);
    world.lose_all();
    world.tables().fail_mends = Some(StoreError::Setup {
        place: Place::table("test", "totals"),
        advice: "allow dynamodb:TransactWriteItems".into(),
        source: None,
    });
    let reconcile = world.reconcile_of(pipeline(&world)).repair();
    let reconciled = reconcile.run().await.unwrap();
    assert_eq!(
        (items(&reconciled).differing, items(&reconciled).mended),
        (1, 0)
    );
    assert_eq!(off(&reconciled), [by("alice", 1), by("all", 1)]);
}

#[tokio::test]
async fn where_expired_items_go_on_counting_settled_ones_are_not_recounted_and_it_says_so() {
    let keeping = || settling().keep_expired_items();
    let world = partly(keeping());
    world.expire("s1");
    world.deliver_all();
    world.write("s2", None);
    world.write("t1", Some(put("alice", 5)));
    world.lose_all();
    let before = world.tables().pages;
    let reconcile = world.reconcile_of(world.by_ledger(keeping())).repair();
    let reconciled = reconcile.run().await.unwrap();
    let of = &reconciled.pipelines[0];
    assert_eq!(of.settled, SettledFindings::KeepsExpired);
    assert!(of.settled.advice().unwrap().contains("Time to Live"));
    let found = items(&reconciled);
    assert_eq!((found.settled, found.differing, found.mended), (3, 1, 1));
    assert_eq!(world.tables().pages - before, 2, "one scan");
    assert_eq!(world.totals()["alice"], 100 + 200 + 300 + 5 + 1);
}

#[tokio::test]
async fn rows_that_can_never_count_are_told_once_and_count_nothing_in_the_recount() {
    let many = || {
        let keys = |order: &Order, out: &mut dyn FnMut(&str)| {
            let keys = if order.cents > 10 { 50 } else { 2 };
            (0..keys).for_each(|n| out(&format!("k{n}")));
        };
        let definition = Pipeline::builder("totals").keys(keys);
        let definition = definition.value(|order: &Order| order.cents);
        definition.aggregate(Sum::new()).settle()
    };
    let world = World::with(1, None, many());
    for id in ["o1", "o2", "o3"] {
        world.write(id, Some(put("alice", 5)));
    }
    world.write("o1", Some(put("alice", 11)));
    world.deliver_all();
    world.let_settle();
    let bad = Put {
        cents: "a lot".into(),
        ..put("bob", 0)
    };
    world.write("o2", Some(bad));
    world.deliver_all();
    let reconcile = world.reconcile_of(world.by_ledger(many()));
    let reconciled = reconcile.run().await.unwrap();
    assert_eq!(items(&reconciled).settled, 1);
    assert_eq!(
        (reconciled.rejected_rows, reconciled.rejected.len()),
        (2, 2)
    );
    assert_eq!(off(&reconciled), []);
    assert_eq!(world.totals()["k0"], 5);
}

#[tokio::test]
async fn a_recount_beside_the_ledger_goes_in_parts_where_keys_are_many() {
    let world = World::with(1, None, settling());
    let customers = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    for customer in customers {
        world.write(customer, Some(put(customer, 1)));
    }
    world.deliver_all();
    world.let_settle();
    for customer in customers {
        world.write(customer, Some(put(customer, 2)));
    }
    world.deliver_all();
    for customer in customers {
        world.write(customer, Some(put(customer, 3)));
    }
    world.lose_all();
    world.write("u", Some(put("u", 1)));
    world.lose_all();
    let reconcile = world.reconcile_of(pipeline(&world)).repair().max_keys(3);
    let reconciled = reconcile.run().await.unwrap();
    assert_eq!(items(&reconciled).mended, 1);
    let mut wanted: Vec<_> = customers.iter().map(|key| by(key, -1)).collect();
    wanted.insert(1, by("all", -10));
    assert_eq!(off(&reconciled), wanted);
}

#[tokio::test]
async fn an_audit_of_a_partly_settled_ledger_names_no_key() {
    let world = partly(settling());
    world.tables().forged = Some((Key::new("alice", 0).unwrap(), 5));
    let audit = processor(&world, pipeline(&world));
    let error = audit.audit(&AuditOptions::default()).await.unwrap_err();
    assert!(!error.is_retryable());
    let told = error.to_string();
    assert!(
        told.contains("`totals`") && told.contains("reconcile"),
        "{told}"
    );
    let AuditError::Settled {
        pipeline: of,
        items,
    } = error
    else {
        panic!("{told}");
    };
    assert_eq!(of.as_str(), "totals");
    assert!((1..=3).contains(&items), "{items}");
    // What it would have found is found by the recount.
    let reconciled = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    assert_eq!(off(&reconciled), [by("alice", 5)]);

    // It is told by rows that have settled, not by what was let.
    let world = World::with(1, None, settling());
    world.write("t1", Some(put("alice", 1)));
    world.deliver_all();
    world.let_settle();
    let audit = processor(&world, pipeline(&world));
    let audited = audit.audit(&AuditOptions::default()).await.unwrap();
    assert_eq!((audited[0].ledger_rows, audited[0].differing), (1, 0));
}

#[tokio::test]
async fn a_status_counts_items_and_settled_ones() {
    let world = partly(settling());
    world.write("s1", None);
    world.deliver_all();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let options = AuditOptions::default().concurrency(2);
    let options = options.on_progress(move |progress| {
        heard.lock().unwrap().push(progress.ledger_rows);
    });
    let ledgers = processor(&world, pipeline(&world));
    let status = ledgers.ledgers(&options).await.unwrap().remove(0);
    assert_eq!(status.pipeline.as_str(), "totals");
    assert_eq!(
        (status.settling, status.items, status.settled),
        (true, 5, 3)
    );
    assert!(status.read_units >= 1.5, "{status:?}");
    let told = told.lock().unwrap();
    assert!(told.is_sorted() && told.len() > 2, "{told:?}");
    assert_eq!(told.last(), Some(&5));
}

/// What live changes and changes back has the same key at odds twice, and is not named for it where
/// another item took its place.
#[tokio::test]
async fn items_that_change_places_while_it_waits_do_not_make_a_difference() {
    let world = partly(settling());
    // Not done by live at the first recount.
    world.write("s1", Some(put("alice", 107)));
    world.tables().on_wait.push_back(Box::new(|world: &World| {
        world.deliver_all();
        world.write("s2", Some(put("alice", 193)));
        world.deliver_all();
        // Not done at the second one.
        world.write("s3", Some(put("alice", 307)));
    }));
    let reconciled = world.reconcile_of(pipeline(&world)).run().await.unwrap();
    assert_eq!(off(&reconciled), []);
    assert_eq!(recounted(&reconciled).unsettled, 2);
}
