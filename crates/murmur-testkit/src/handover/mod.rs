//! Random runs of the cut-over from a bootstrap to the stream, over a table that keeps changing.
//! Each run is compared with a recount.
//!
//! A [`Scenario`] is derived from one number. [`run`] plays it in virtual time inside this process:
//!
//! - A writer changes a source table before, during and after its scan.
//! - Bootstraps read the table, alone or divided among workers. They are killed, suspended,
//!   restarted and run side by side.
//! - At the same time the table's stream reaches the same pipeline, through the simulated mapping
//!   of a Lambda function or through triggers, with the faults that occur around those.
//! - Repairs run beside all of it. If some changes are never delivered, one more repair runs at the
//!   end and must correct exactly those.
//! - In many scenarios items settle from some moment on, and some processes never learn of it.
//!
//! The processes run production code: `Bootstrap`, `Reconcile` and `ParallelScan`, `Handler` or
//! `Trigger`, and a pipeline with a ledger. At the end:
//!
//! - Every total must equal a recount of the table.
//! - For every item that has not settled, the ledger must agree with the table.
//! - If no item has settled, every state row must be the sum of the contributions in the ledger.
//! - One more bootstrap must change nothing.
//!
//! The source table belongs to a [`Cloud`](crate::cloud::Cloud) and is read through its weather.
//! The state is [kept](Keeping) on tables of the same cloud, or in memory behind similar weather,
//! which is cheaper. Requests fail, are throttled, lose their answers, or arrive up to 15 minutes
//! late, possibly after their sender has died. For a while a process has no credentials or its
//! credentials are refused, or the set-up is wrong for all processes. A process stopped by that is
//! started again, and no row may be rejected because of it.
//!
//! The runs prove only as much as they encounter and detect. A [`Summary`] therefore counts the
//! situations that occurred. A [`Rule`] of the cut-over can be left out, and the runs must detect
//! that it is missing; the same seeds in [modes](Mode) without a ledger must fail.
//!
//! # Exceptions
//!
//! - Windows that are over by any clock are not compared: some processes drop late changes to them
//!   and others count them.
//! - Where removed items continue to count, an item may count or not if it was removed before the
//!   stream consumer sees every change.
//! - Where removed items continue to count, no second poller starts in the middle of a running
//!   batch, because it delivers a change before the removal that the change follows.
//! - Where removed items continue to count, no change is lost, because nothing could tell how an
//!   item was removed.
//! - No change is lost where items settle, because nothing corrects the contribution of a settled
//!   item.

mod body;
mod history;
mod live;
mod pipeline;
mod report;
mod rule;
mod scenario;
mod settling;
mod source;
mod store;
mod watched;
mod world;

use std::sync::{Mutex, PoisonError};

pub use report::{Report, Summary, Wrong, head, row};
pub use rule::Rule;
pub use scenario::{Aggregate, Keeping, Life, Live, Mode, Scenario};
pub use settling::Settling;

pub use crate::runs::Met;

use crate::runs::{guarded, lock, on_all_cores};

/// Plays a scenario.
pub fn run(scenario: &Scenario) -> Report {
    let played = guarded(scenario.seed, true, async || {
        world::World::new(scenario.clone()).await.play().await
    });
    let (wrong, met) = played.unwrap_or_else(|panic| (vec![Wrong::Other(panic)], Met::default()));
    Report {
        scenario: scenario.clone(),
        wrong,
        met,
    }
}

/// Plays the scenarios of `seeds` on all cores, each changed by `change`.
pub fn run_all(
    seeds: impl IntoIterator<Item = u64>,
    mode: Mode,
    keeping: Keeping,
    change: impl Fn(Scenario) -> Scenario + Sync,
) -> Summary {
    let summary = Mutex::new(Summary::default());
    on_all_cores(seeds, |seed| {
        let report = run(&change(Scenario::new(seed, mode, keeping)));
        lock(&summary).add(report);
        true
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}
