//! Random runs: a writer, a live side that lags, a gap, and a reconcile in the midst of it.

use std::sync::Arc;
use std::time::Duration;

use murmur_snapshot::Reconciled;
use murmur_snapshot::reconcile::Findings;

use crate::world::{BuildAndRun, Flaw, LAG, World, definition};

const SEEDS: u64 = 300;

/// A world in which live has lost `gap` of what was written, and everybody goes on.
fn with_gap(seed: u64, flaw: Option<Flaw>, gap: bool) -> (Arc<World>, usize) {
    let world = World::with(seed, flaw, definition());
    for _ in 0..60 {
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

fn ledger(reconciled: &Reconciled) -> &murmur_core::audit::LedgerFindings {
    let Findings::Ledger(found) = &reconciled.pipelines[0].findings else {
        panic!("{reconciled:?}");
    };
    found
}

/// Lets everybody finish.
fn rest(world: &World) {
    world.tables().busy = false;
    world.deliver_all();
}

#[tokio::test]
async fn after_a_repair_in_the_midst_of_it_totals_are_the_recount() {
    let (mut lost, mut named, mut mended, mut superseded, mut unsettled) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let (world, gap) = with_gap(seed, None, true);
        // Small numbers, so that every path is taken: settled in the midst of a scan, and items
        // that nobody remembers.
        let reconcile = world.reconcile().repair().concurrency(1);
        let reconciled = match seed % 2 {
            0 => reconcile.max_suspects(2).remember(3),
            _ => reconcile,
        };
        let reconciled = reconciled.run().await.unwrap();
        rest(&world);
        let found = ledger(&reconciled);
        // Whatever was not settled was under the hands of live, or is for another run.
        let clean = found.differing == found.mended && found.unsettled == 0;
        if clean {
            assert_eq!(world.totals(), world.recount(), "seed {seed}: {found:#?}");
        }
        let audited = world.audit().await;
        assert_eq!(
            (audited.differing, audited.unsettled),
            (0, 0),
            "seed {seed}: {audited:?}"
        );

        // Again, at rest: then it is all right, clean or not.
        let again = world.reconcile().repair().run().await.unwrap();
        assert!(again.is_clean(), "seed {seed}");
        assert_eq!(world.totals(), world.recount(), "seed {seed}");
        lost += gap;
        named += found.differing;
        mended += found.mended;
        unsettled += found.unsettled;
        superseded += world.tables().superseded;
    }
    println!(
        "{lost} records lost, {named} differences, {mended} mended, {superseded} superseded, {unsettled} unsettled"
    );
    assert!(lost > 1000 && named > 500 && mended > 500 && superseded > 50 && unsettled > 0);
}

#[tokio::test]
async fn nothing_is_named_while_live_only_lags() {
    let (mut suspects, mut unsettled) = (0, 0);
    for seed in 0..SEEDS {
        let (world, _) = with_gap(seed, None, false);
        let reconciled = world.reconcile().concurrency(1).run().await.unwrap();
        let found = ledger(&reconciled);
        assert_eq!(found.differing, 0, "seed {seed}: {found:#?}");
        suspects += found.suspects;
        let audited = world.audit().await;
        assert_eq!(audited.differing, 0, "seed {seed}: {audited:?}");
        unsettled += audited.unsettled;
    }
    println!("{suspects} suspects, {unsettled} keys unsettled in audits");
    assert!(suspects > SEEDS && unsettled > 0);
}

/// In how many runs something goes wrong that must not: a difference is named that is none, where
/// nothing was lost; or, where something was, totals are wrong although all is said to be mended.
async fn wrong(flaw: Option<Flaw>, lag: Duration) -> (u64, u64) {
    let (mut named, mut totals) = (0, 0);
    for seed in 0..SEEDS {
        for gap in [false, true] {
            let (world, _) = with_gap(seed, flaw, gap);
            let reconcile = world.reconcile().repair().lag(lag).concurrency(1);
            let reconciled = reconcile.run().await.unwrap();
            let found = ledger(&reconciled);
            rest(&world);
            named += u64::from(!gap && found.differing > 0);
            let said = found.differing == found.mended && found.unsettled == 0;
            totals += u64::from(said && world.totals() != world.recount());
        }
    }
    (named, totals)
}

#[tokio::test]
async fn every_rule_that_is_broken_is_noticed() {
    assert_eq!(wrong(None, LAG).await, (0, 0));
    let (_, totals) = wrong(Some(Flaw::ItemBeforeLedger), LAG).await;
    assert!(totals > 0, "what is mended was read before the ledger row");
    let (_, totals) = wrong(Some(Flaw::MendOverAnything), LAG).await;
    assert!(totals > 0, "mending goes by no version");
    let (named, totals) = wrong(None, Duration::ZERO).await;
    assert!(named > 0, "there is no wait before the second look");
    assert_eq!(totals, 0, "mending is right all the same");
}
