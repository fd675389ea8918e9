//! How many items of a ledger have settled.

use std::ops::ControlFlow;

use murmur_state::{Deadline, Known, Monoid, PipelineName};

use super::ledger::LedgerOf;
use super::listing::{Listing, Telling};
use super::{AuditError, AuditOptions};
use crate::delivery::Context;
use crate::processor::Processor;

/// What the ledger of a pipeline has.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LedgerStatus {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Whether its items were [let settle](Processor::settle), by a bootstrap or by a command.
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
    let count = |part: &[Known<_>]| {
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
pub(super) fn settled_of<V>(known: &[Known<V>]) -> u64 {
    known.iter().filter(|known| known.settled).count() as u64
}

impl<T: Send + Sync + 'static> Processor<T> {
    /// How many items each ledger knows, and how many of them have
    /// [settled](crate::Definition::settle), one pipeline after the other, in their order. Pipelines
    /// without a ledger are left out. Live may go on meanwhile: an item that settles while the ledger is
    /// listed may or may not be counted.
    ///
    /// # Cost
    ///
    /// Lists each ledger once: half a read unit for 4 KB, which is some 25 items, as fast as the
    /// [pacing](AuditOptions::pacing) lets it. Memory: one part of the listing, about 1 MB, for each of
    /// [`concurrency`](AuditOptions::concurrency) segments; [`max_keys`](AuditOptions::max_keys) and
    /// [`max_listed`](AuditOptions::max_listed) do not matter.
    ///
    /// # Errors
    ///
    /// [`AuditError`]: an option cannot be used, the state belongs to something else or to none yet (no
    /// row is read then), or a read failed after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn ledgers(&self, options: &AuditOptions) -> Result<Vec<LedgerStatus>, AuditError> {
        options.check()?;
        self.check_audited().await?;
        let settling = self.are_settling(Deadline::NONE).await;
        let settling = settling.map_err(|error| AuditError::Refused(Box::new(error)))?;
        let retry = self.retry().by(options.retry);
        let context = Context {
            retry: &retry,
            ..self.paced(options.pacing.as_deref())
        };
        let mut statuses = Vec::new();
        for (pipeline, settling) in self.pipelines().iter().zip(settling) {
            let status = pipeline.run.ledger_status(settling, options, context);
            statuses.extend(status.await?);
        }
        Ok(statuses)
    }
}
