//! What a table of any size must not take: memory, more than its budget, or waiting for one slow page.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use murmur_core::Processor;
use murmur_core::audit::{AuditOptions, KeyDifference, LedgerFindings};
use murmur_snapshot::lookup::Look;
use murmur_snapshot::reconcile::{Findings, ReconcileProgress};
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{
    Lookup, ReadBudget, Reconcile, ReconcileError, Reconciled, Source, SourceError,
};
use murmur_state::{Clock, HandoffToken, ItemId, MemoryStore};
use tokio::sync::Notify;

use crate::world::{BuildAndRun, Table, World, definition, put};

const ITEMS: usize = 40;

/// A table of which the stream's consumer has counted all items; each customer has one.
fn counted() -> Arc<World> {
    let world = World::new(1);
    for n in 0..ITEMS {
        world.write(&format!("o{n}"), Some(put(customer(n), 100)));
    }
    world.deliver_all();
    world
}

fn customer(n: usize) -> &'static str {
    Box::leak(format!("customer-{n:02}").into_boxed_str())
}

/// Changes every second item, and loses that.
fn gap(world: &World) {
    for n in (0..ITEMS).step_by(2) {
        world.write(&format!("o{n}"), Some(put(customer(n), 101)));
    }
    world.lose_all();
}

fn by_ledger(reconciled: &Reconciled) -> &LedgerFindings {
    match &reconciled.pipelines[0].findings {
        Findings::Ledger(found) => found,
        other => panic!("{other:?}"),
    }
}

fn keys(reconciled: &Reconciled) -> &[KeyDifference] {
    reconciled.pipelines[0].keys()
}

#[tokio::test]
async fn a_recount_of_more_keys_than_it_may_hold_finds_the_same_in_parts() {
    let world = counted();
    let empty = MemoryStore::new(murmur_core::Sum::new());
    let recount = async |max_keys: usize| {
        let pipeline = definition().retract().store(empty.clone());
        let pipeline = pipeline.at_least_once().unwrap();
        let reconcile = world.reconcile_of(pipeline).max_keys(max_keys);
        let before = world.tables().pages;
        let reconciled = reconcile.max_listed(7).run().await.unwrap();
        let pages = world.tables().pages - before;
        (reconciled, pages)
    };
    let (whole, twice) = recount(1_000).await;
    let (parts, often) = recount(5).await;
    for reconciled in [&whole, &parts] {
        let Findings::Recount(found) = &reconciled.pipelines[0].findings else {
            panic!("{reconciled:?}");
        };
        assert_eq!(found.differing, ITEMS as u64 + 1, "each customer, and all");
        assert_eq!(found.suspects, ITEMS as u64 + 1);
        assert_eq!(found.keys.len(), 7);
    }
    assert_eq!(keys(&whole), keys(&parts));
    assert_eq!((whole.rows, parts.rows), (ITEMS as u64, ITEMS as u64));
    assert!((8 * twice..40 * twice).contains(&often), "{twice} {often}");
}

#[tokio::test]
async fn an_audit_of_more_keys_than_it_may_hold_finds_the_same_in_parts() {
    let world = counted();
    let key = murmur_state::Key::new(customer(3), 0).unwrap();
    world.tables().forged = Some((key, 5));
    let processor = Processor::builder([world.pipeline()])
        .clock(Arc::new(world.clock.clone()))
        .build()
        .unwrap();
    let audit = async |max_keys: usize| {
        let told = Arc::new(Mutex::new(0));
        let heard = Arc::clone(&told);
        let options = AuditOptions::default().max_keys(max_keys).concurrency(3);
        let options = options.on_progress(move |progress| {
            *heard.lock().unwrap() = progress.part;
        });
        let audited = processor.audit(&options).await.unwrap().remove(0);
        assert_eq!(*told.lock().unwrap(), audited.parts);
        audited
    };
    let (whole, parts) = (audit(1_000).await, audit(5).await);
    for audited in [&whole, &parts] {
        assert_eq!((audited.differing, audited.unsettled), (1, 0));
        assert_eq!(audited.ledger_rows, ITEMS as u64);
        assert_eq!(audited.state_rows, ITEMS as u64 + 1);
    }
    assert_eq!(whole.keys, parts.keys);
    assert_eq!(whole.parts, 1);
    assert!((8..30).contains(&parts.parts), "{}", parts.parts);
}

#[tokio::test]
async fn more_differences_than_it_may_hold_end_it_and_are_mended_in_several_runs() {
    let world = counted();
    gap(&world);
    let limited = || world.reconcile().max_differing(15);
    let error = limited().run().await.unwrap_err();
    assert!(
        matches!(error, ReconcileError::Inspection { .. }),
        "{error:?}"
    );
    let text = murmur_state::Causes(&error).to_string();
    assert!(text.contains("max_differing"), "{text}");
    assert!(!error.is_retryable());

    let mut runs = 0;
    let last = loop {
        runs += 1;
        match limited().max_suspects(5).repair().run().await {
            Ok(reconciled) => break reconciled,
            Err(error) => assert!(runs < 10, "{error:?}"),
        }
    };
    assert!(runs > 1 && last.is_clean(), "{runs}");
    assert_eq!(world.totals(), world.recount());
}

#[tokio::test]
async fn mended_items_do_not_count_against_the_limit_and_their_keys_do() {
    for (limit, keys_fit) in [(2, true), (1, false)] {
        let world = World::new(1);
        for n in 0..ITEMS {
            world.write(&format!("o{n}"), Some(put("alice", 100)));
        }
        world.deliver_all();
        for n in 0..ITEMS {
            world.write(&format!("o{n}"), Some(put("alice", 101)));
        }
        world.lose_all();
        // The keys are `alice` and `all`.
        let reconcile = world.reconcile().max_differing(limit);
        let told = reconcile.run().await.unwrap_err().to_string();
        assert!(told.contains("totals"), "{told}");
        let repaired = world.reconcile().max_differing(limit).repair().run().await;
        assert_eq!(repaired.is_ok(), keys_fit, "{repaired:?}");
        // Either way what was mended stays so.
        assert_eq!(world.totals(), world.recount());
    }
}

#[tokio::test]
async fn what_is_not_remembered_is_looked_up_and_named_once() {
    let world = counted();
    gap(&world);
    world.write("o1", None);
    world.lose_all();
    for remember in [0, 10, 1_000] {
        let reconciled = world.reconcile().remember(remember).max_suspects(4);
        let reconciled = reconciled.run().await.unwrap();
        let found = by_ledger(&reconciled);
        assert_eq!(found.differing, ITEMS as u64 / 2 + 1, "{remember}");
        assert_eq!(found.ledger_rows, ITEMS as u64);
    }
}

#[tokio::test]
async fn pages_look_ups_and_listings_keep_to_the_budget() {
    let world = counted();
    gap(&world);
    let run = async |budget: ReadBudget| {
        let begun = world.clock.monotonic();
        let last = Arc::new(Mutex::new(None::<ReconcileProgress>));
        let heard = Arc::clone(&last);
        let reconcile = world.reconcile().lag(Duration::ZERO).read_budget(budget);
        let reconcile = reconcile.on_progress(move |told| *heard.lock().unwrap() = Some(*told));
        let reconciled = reconcile.run().await.unwrap();
        let told = last.lock().unwrap().unwrap();
        assert_eq!(told.ledger_rows, ITEMS as u64);
        let took = world.clock.monotonic() - begun;
        assert!(told.elapsed <= took);
        (reconciled, took.as_secs_f64())
    };
    let (free, at_once) = run(ReadBudget::Unlimited).await;
    let (held, took) = run(ReadBudget::UnitsPerSecond(2.0)).await;
    assert!(at_once < 1.0, "{at_once}");
    // Twenty items are looked up twice, and about fourteen pages of half a unit are read.
    assert!(free.read_units >= 45.0, "{}", free.read_units);
    assert_eq!(free.read_units, held.read_units);
    // The listing's twenty parts or so are paid for as well, from an account of their own.
    let least = held.read_units / 2.0;
    assert!((least..least + 80.0).contains(&took), "{took} of {least}");
    assert_eq!(
        by_ledger(&held).differing,
        by_ledger(&free).differing,
        "the budget changes no finding"
    );
    let error = world
        .reconcile()
        .read_budget(ReadBudget::PercentOfProvisioned(50.0))
        .run()
        .await;
    assert!(matches!(error, Err(ReconcileError::Option(_))), "{error:?}");
}

/// The first page of segment 0 comes only when segment 1 is read to its end.
struct OneSlow {
    table: Table,
    other_is_read: Notify,
}

impl Source for OneSlow {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn segments(&self) -> u32 {
        2
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        self.table.describe().await
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        Ok(None)
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        if segment == 0 && after.is_none() {
            self.other_is_read.notified().await;
        }
        let page = self.table.page(segment, after, limit).await?;
        if segment == 1 && page.next.is_none() {
            self.other_is_read.notify_one();
        }
        Ok(page)
    }

    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl Lookup for OneSlow {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        Ok(())
    }

    async fn look_up(&self, item: &ItemId) -> Result<Look, SourceError> {
        self.table.look_up(item).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_page_does_not_hold_up_the_other_segments() {
    let world = counted();
    let source = OneSlow {
        table: Table(Arc::clone(&world)),
        other_is_read: Notify::new(),
    };
    let reconcile = Reconcile::builder(Processor::new([world.pipeline()]).unwrap(), source);
    let run = reconcile.run();
    let reconciled = tokio::time::timeout(Duration::from_secs(3600), run).await;
    let reconciled = reconciled.expect("it waits for the slow page").unwrap();
    assert_eq!(reconciled.rows, ITEMS as u64);
    assert!(reconciled.is_clean());
}
