//! Counts the settled items of a ledger.

use std::ops::ControlFlow;

use murmur_state::store::LedgerEntry;
use murmur_state::{Monoid, PipelineName};

use super::error::AuditError;
use super::listing::{Listing, Telling};
use super::options::AuditOptions;
use crate::delivery::{Context, LedgerOf};

/// The status of a pipeline's ledger.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LedgerStatus {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Whether a bootstrap or a command [let its items settle](crate::Processor::settle).
    pub settling: bool,
    /// The number of items that the ledger knows. Some of them are gone from the table: settled
    /// items for good, others for a while.
    pub items: u64,
    /// The number of settled items.
    pub settled: u64,
    /// The cost in read units, if the store knows it.
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

/// The number of settled items among these.
pub(super) fn settled_of<V>(known: &[LedgerEntry<V>]) -> u64 {
    known.iter().filter(|known| known.settled).count() as u64
}
