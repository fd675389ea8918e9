//! Random runs in which items settle: a writer, a live side that lags, a gap, and a reconcile in the
//! midst of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use murmur_core::audit::{Difference, LedgerFindings, RecountFindings};
use murmur_core::{Definition, Sum};
use murmur_snapshot::Reconciled;
use murmur_snapshot::reconcile::{Findings, SettledFindings};

use crate::world::{BuildAndRun, Order, World, definition};

const SEEDS: u64 = 300;

fn settling() -> Definition<Order, Sum> {
    definition().settle()
}

/// A world in which items have settled and others not, live has lost `gap` of what was written, and
/// everybody goes on.
fn with_gap(seed: u64, gap: bool) -> (Arc<World>, usize) {
    let world = World::with(seed, None, settling());
    for _ in 0..60 {
        world.write_at_random();
    }
    world.deliver_all();
    world.let_settle();
    for _ in 0..seed % 25 {
        world.write_at_random();
    }
    world.deliver_all();
    for _ in 0..25 {
        world.write_at_random();
    }
    let lost = if gap { world.lose_at_random() } else { 0 };
    world.tables().busy = true;
    (world, lost)
}

fn found(reconciled: &Reconciled) -> (&LedgerFindings, &RecountFindings) {
    let pipeline = &reconciled.pipelines[0];
    match (&pipeline.findings, &pipeline.settled) {
        (Findings::Ledger(items), SettledFindings::Recount(keys)) => (items, keys),
        _ => panic!("{reconciled:?}"),
    }
}

/// The keys that the recount names, and by how much they are off.
fn named(keys: &RecountFindings) -> BTreeMap<String, i64> {
    let off = |difference: &Difference| match difference {
        Difference::By(by) => by.parse().unwrap(),
        other => panic!("{other:?}"),
    };
    keys.keys
        .iter()
        .map(|key| (key.key.entity().to_owned(), off(&key.difference)))
        .collect()
}

/// How far each key is off.
fn off(world: &World) -> BTreeMap<String, i64> {
    let mut off = world.totals();
    for (key, total) in world.recount() {
        *off.entry(key).or_default() -= total;
    }
    off.retain(|_, by| *by != 0);
    off
}

/// Lets everybody finish.
fn rest(world: &World) {
    world.tables().busy = false;
    world.deliver_all();
}

#[tokio::test]
async fn what_settled_items_lost_is_named_by_key_and_what_others_lost_is_mended() {
    #[derive(Debug, Default)]
    struct Met {
        lost: usize,
        settled: u64,
        mended: u64,
        settled_meanwhile: u64,
        unsettled: u64,
        named: usize,
        clean: u64,
        whole: u64,
        off: usize,
    }
    let mut met = Met::default();
    for seed in 0..SEEDS {
        let (world, lost) = with_gap(seed, true);
        // Four keys hardly ever rest while somebody writes.
        let quiet = seed % 3 == 0;
        if quiet {
            world.tables().busy = false;
            let catch_up = |world: &World| world.deliver_all();
            world.tables().on_wait.push_back(Box::new(catch_up));
        }
        let reconcile = world.reconcile_of(world.by_ledger(settling()));
        let reconcile = reconcile.repair().concurrency(1);
        let reconciled = match seed % 2 {
            0 => reconcile.max_suspects(2).remember(3),
            _ => reconcile,
        };
        let reconciled = reconciled.run().await.unwrap();
        rest(&world);
        let (items, keys) = found(&reconciled);
        let mended = items.differing == items.mended && items.unsettled == 0;
        if mended {
            // What was not mended may have healed since.
            let off = off(&world);
            for (key, by) in named(keys) {
                assert_eq!(off.get(&key), Some(&by), "seed {seed}: {key}: {keys:#?}");
            }
            if quiet && items.mended > 0 {
                // Live is done before the keys are recounted after that.
                assert_eq!(named(keys), off, "seed {seed}");
                met.whole += 1;
            }
            met.clean += 1;
            met.off += off.len();
            met.named += named(keys).len();
        }

        // Again, at rest: all that can be mended is, and all else is named.
        let repair = world.reconcile_of(world.by_ledger(settling())).repair();
        let again = repair.run().await.unwrap();
        let (left, recounted) = found(&again);
        assert_eq!(
            (left.differing - left.mended, left.unsettled),
            (0, 0),
            "seed {seed}"
        );
        assert_eq!(recounted.unsettled, 0, "seed {seed}");
        let wrong = off(&world);
        assert_eq!(named(recounted), wrong, "seed {seed}");
        assert_eq!(again.is_clean(), wrong.is_empty(), "seed {seed}");

        // What settled items lost stays lost.
        for _ in 0..20 {
            world.write_at_random();
        }
        world.deliver_all();
        assert_eq!(off(&world), wrong, "seed {seed}");
        met.lost += lost;
        met.settled += items.settled;
        met.mended += items.mended;
        met.settled_meanwhile += items.differing - items.mended;
        met.unsettled += keys.unsettled;
    }
    println!("{met:?}");
    assert!(
        met.lost > 1000 && met.settled > 1000 && met.mended > 200,
        "{met:?}"
    );
    assert!(
        met.clean > 100 && met.whole > 20 && met.settled_meanwhile > 0,
        "{met:?}"
    );
    assert!(met.unsettled > 100 && met.named > 100, "{met:?}");
    // What moves, or is made up for by what live has yet to do, is for the next run.
    assert!(met.off > met.named, "{met:?}");
}

#[tokio::test]
async fn nothing_is_named_where_nothing_was_lost() {
    let (mut settled, mut suspects, mut unsettled) = (0, 0, 0);
    for seed in 0..2 * SEEDS {
        let (world, _) = with_gap(seed, false);
        let reconcile = world.reconcile_of(world.by_ledger(settling()));
        let reconciled = reconcile.concurrency(1).run().await.unwrap();
        let (items, keys) = found(&reconciled);
        assert_eq!(items.differing, 0, "seed {seed}: {items:#?}");
        assert_eq!(keys.differing, 0, "seed {seed}: {keys:#?}");
        settled += items.settled;
        suspects += keys.suspects;
        unsettled += keys.unsettled;
        rest(&world);
        assert_eq!(off(&world), BTreeMap::new(), "seed {seed}");
    }
    println!("{settled} settled, {suspects} suspects, {unsettled} unsettled");
    assert!(settled > SEEDS && suspects > SEEDS && unsettled > 0);
}
