//! How many items of a ledger have settled.

use std::ops::ControlFlow;

use murmur_state::{LedgerEntry, Monoid, PipelineName};

use super::error::AuditError;
use super::listing::{Listing, Telling};
use super::options::AuditOptions;
use crate::delivery::{Context, LedgerOf};

/// What the ledger of a pipeline has.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LedgerStatus {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Whether its items were [let settle](crate::Processor::settle), by a bootstrap or by a command.
    pub settling: bool,
    /// How many items the ledger knows. It knows some that are gone from the table as well: those that
    /// have settled, and for a while others.
    pub items: u64,
    /// How many of them have settled.
    pub settled: u64,
    /// What it cost in read units, where the store knows.
    pub read_units: f64,
}

pub(crate) async fn status<M: Monoid>(
    (pipeline, ledger): (&PipelineName, &dyn LedgerOf<M>),
    settling: bool,
    options: &AuditOptions,
    context: Context<'_>,
) -> Result<LedgerStatus, AuditError> {
    let mut telling = Telling::begin(pipeline, options, &context);
    let listing = Listing::new(pipeline, ledger, options, context);
    let mut settled = 0;
    let count = |part: &[LedgerEntry<_>]| {
        settled += settled_of(part);
        ControlFlow::Continue(())
    };
    let items = listing.over(&mut telling, count).await?;
    Ok(LedgerStatus {
        pipeline: pipeline.clone(),
        settling,
        items,
        settled,
        read_units: telling.progress.read_units,
    })
}

/// How many of these items have settled.
pub(super) fn settled_of<V>(known: &[LedgerEntry<V>]) -> u64 {
    known.iter().filter(|known| known.settled).count() as u64
}
