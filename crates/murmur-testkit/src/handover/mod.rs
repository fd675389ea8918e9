//! Random runs of the cut-over from a bootstrap to live, over a table that keeps changing, each
//! held against a recount.
//!
//! A [`Scenario`] is derived from one number. [`run`] plays it in virtual time inside this process:
//! a writer changes a source table before, during and after its scan; bootstraps read it, alone or
//! divided among workers, are killed, suspended, run again and beside each other; and all the while
//! its stream comes to the same pipeline, through the simulated mapping of a Lambda function or
//! through triggers, with all that goes wrong around those. Repairs run beside all of it, and where
//! changes never come, one more in the end, which must mend just those. In many worlds items settle from
//! some moment on, of which some processes never hear. The processes run what they
//! run in production: `Bootstrap`, `Reconcile` and `ParallelScan`, `Handler` or `Trigger`, and a
//! pipeline with a ledger. In the end every total must equal a recount of the table, every item that
//! has not settled be known as the table holds it, every state row, where none has, be the sum of what
//! the ledger says its items contribute, and one more bootstrap must change nothing.
//!
//! The source table is one of a [`Cloud`](crate::cloud::Cloud), read through its weather. The state
//! is [kept](Keeping) on tables of the same cloud, or in memory behind weather of the same kind, which
//! is cheaper: requests that fail, are throttled, lose their answers, or come up to 15 minutes late, when
//! whoever sent them may be long dead. For a while a process has no credentials or is refused for
//! them, or the set-up is wrong for all: what that stops is started again, and no row is rejected for it.
//!
//! What the runs prove is only worth as much as what they meet and what they notice. So a
//! [`Summary`] counts what was met, and a [`Rule`] of the cut-over can be left out, which the runs
//! must notice; and the same seeds in [modes](Mode) without a ledger must go wrong.
//!
//! # What is not asked for
//!
//! Windows that are over by any clock are not compared, since what comes for them is dropped by some
//! processes and taken by others. Where removed items go on counting, one whose removal came before live
//! is told of every change may count or not. A mapping's second poller that begins in the middle of
//! what another has under way is left out there, since it brings a change before the removal it follows;
//! and no change is lost there, since nobody could tell how an item went. Nor is one lost where items
//! settle, since nothing mends what a settled item contributes.

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
