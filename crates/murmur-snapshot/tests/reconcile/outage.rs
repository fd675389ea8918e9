//! Everything fails for a while, in virtual time: it ends nothing, and is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::Processor;
use murmur_core::audit::{AuditOptions, Mending};
use murmur_snapshot::ReconcileError;
use murmur_snapshot::reconcile::Findings;

use crate::world::{BuildAndRun, World, put};

const MINUTE: Duration = Duration::from_secs(60);

type Told = Arc<Mutex<Vec<String>>>;

/// A world in which one change was lost, and from the `from`-th request on all fail.
fn world(from: usize, lasts: Duration) -> Arc<World> {
    let world = World::new(1);
    for (id, customer, cents) in [("o1", "alice", 100), ("o2", "bob", 200), ("o3", "bob", 300)] {
        world.write(id, Some(put(customer, cents)));
    }
    world.deliver_all();
    world.write("o2", Some(put("alice", 1)));
    world.lose_all();
    world.tables().outage = Some((from, lasts));
    world
}

fn listener() -> (Told, impl Fn(&murmur_state::Outage<'_>) + Send + Sync) {
    let told = Told::default();
    let to = Arc::clone(&told);
    (told, move |outage| {
        to.lock().unwrap().push(outage.to_string())
    })
}

fn assert_told(told: &Told, from: usize) {
    let told = told.lock().unwrap();
    // After half a minute, and then each minute.
    assert!(told.len() >= 10, "{from}: {told:?}");
    let (last, before) = told.split_last().unwrap();
    assert!(
        last.contains("it succeeds again after 20 min"),
        "{from}: {last}"
    );
    for (n, line) in before.iter().enumerate() {
        assert!(line.contains("still trying"), "{from}, {n}: {line}");
    }
}

#[tokio::test]
async fn twenty_minutes_of_failures_end_no_reconcile_whenever_they_begin() {
    let mut from = 0;
    loop {
        let world = world(from, 20 * MINUTE);
        let (told, tell) = listener();
        let processor = world.processor_of(world.pipeline()).on_outage(tell);
        let reconcile = world.reconcile_by(processor).repair();
        let reconciled = reconcile.run().await.unwrap();
        if world.tables().requests <= from {
            break;
        }
        let Findings::Ledger(found) = &reconciled.pipelines[0].findings else {
            panic!("{reconciled:?}");
        };
        assert_eq!(found.differing, 1, "{from}");
        assert!(matches!(found.items[0].mending, Mending::Mended), "{from}");
        assert_eq!(world.totals(), world.recount(), "{from}");
        assert_told(&told, from);
        // Each attempt at it, however late.
        let had = std::mem::take(&mut world.tables().looks_had);
        assert!(had.iter().all(|had| *had == Some(30 * MINUTE)), "{had:?}");
        from += 1;
    }
    assert!(from > 10, "{from} requests");
}

#[tokio::test]
async fn twenty_minutes_of_failures_end_no_audit_whenever_they_begin() {
    let mut from = 0;
    loop {
        let world = world(from, 20 * MINUTE);
        let (told, tell) = listener();
        let processor = Processor::builder([world.pipeline()])
            .clock(Arc::new(world.clock.clone()))
            .retry(murmur_state::RetryPolicy::patient())
            .on_outage(tell)
            .build()
            .unwrap();
        let audited = processor.audit(&AuditOptions::default()).await.unwrap();
        if world.tables().requests <= from {
            break;
        }
        assert_eq!(
            (audited[0].differing, audited[0].unsettled),
            (0, 0),
            "{from}"
        );
        assert_told(&told, from);
        from += 1;
    }
    assert!(from > 3, "{from} requests");
}

#[tokio::test]
async fn an_outage_beyond_the_budget_says_how_long_it_was_tried() {
    let world = world(3, 40 * MINUTE);
    let error = world.reconcile().run().await.unwrap_err();
    assert!(matches!(error, ReconcileError::GaveUp { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert!(
        error.to_string().contains("given up after 30 min"),
        "{error}"
    );
}
