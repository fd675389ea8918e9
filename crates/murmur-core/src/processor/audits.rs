//! Audits of a processor's pipelines.

use murmur_state::Deadline;

use crate::audit::{AuditError, AuditOptions, Audited, LedgerStatus};
use crate::delivery::{Context, Pacing};
use crate::processor::Processor;

impl<T: Send + Sync + 'static> Processor<T> {
    /// Compares every row of the state with the contributions that the ledger knows, one pipeline
    /// after the other. Stream processing may go on meanwhile; the table is not read. Nothing is
    /// written.
    ///
    /// A key is listed as differing if row and contributions were the same, and unequal, in three
    /// passes over the ledger in a row. A key that still differs after seven passes in any other
    /// way is counted as unsettled. Keys that agreed in the first pass are not looked at again.
    /// Rows of windows whose retention has ended by this process's clock are left out.
    ///
    /// Two states are refused: one that neither a bootstrap nor the stream consumer ever bound, and
    /// a ledger with an item that has [settled](crate::Definition::settle), as soon as one is met.
    /// For settled items, run a reconcile.
    ///
    /// # Cost
    ///
    /// Reads ledger and state once, and the ledger once more for every further pass. At most
    /// [`max_keys`](AuditOptions::max_keys) keys are in memory. A state of more keys is audited in
    /// several parts, each of at least half as many keys.
    ///
    /// # Errors
    ///
    /// [`AuditError`] if an option cannot be used, a pipeline has no ledger, its state belongs to
    /// something else (no row is read then), an item has settled, or a read failed after all
    /// retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn audit(&self, options: &AuditOptions) -> Result<Vec<Audited>, AuditError> {
        options.check()?;
        let pipelines = self.pipelines();
        if let Some(pipeline) = pipelines.iter().find(|pipeline| !pipeline.keeps_ledger()) {
            return Err(AuditError::NoLedger {
                pipeline: pipeline.name().clone(),
            });
        }
        self.check_audited().await?;
        let retry = self.retry().by(options.retry);
        let context = Context {
            retry: &retry,
            ..self.paced(options.pacing.as_deref())
        };
        let mut audited = Vec::with_capacity(pipelines.len());
        for pipeline in pipelines {
            audited.push(pipeline.erased.audit(options, context).await?);
        }
        Ok(audited)
    }

    /// Without a deadline; `pacing` limits the rate of listings.
    pub(crate) fn paced<'a>(&'a self, pacing: Option<&'a dyn Pacing>) -> Context<'a> {
        Context {
            pacing,
            ..self.context(Deadline::NONE)
        }
    }

    /// Checks that the state belongs to the pipelines.
    async fn check_audited(&self) -> Result<(), AuditError> {
        let checked = self.check_binding(Deadline::NONE).await;
        checked.map_err(|error| AuditError::Refused(Box::new(error)))?;
        Ok(())
    }

    /// Counts the items of each ledger, and those of them that have
    /// [settled](crate::Definition::settle), one pipeline after the other, in their order.
    /// Pipelines without a ledger are left out. Stream processing may go on meanwhile: an item that
    /// settles while the ledger is listed may or may not be counted.
    ///
    /// # Cost
    ///
    /// Lists each ledger once, at half a read unit for 4 KB, which is some 25 items, as fast as the
    /// [pacing](AuditOptions::pacing) permits. Memory: one part of the listing, about 1 MB, for
    /// each of [`concurrency`](AuditOptions::concurrency) segments.
    /// [`max_keys`](AuditOptions::max_keys) and [`max_listed`](AuditOptions::max_listed) have no
    /// effect.
    ///
    /// # Errors
    ///
    /// [`AuditError`] if an option cannot be used, a state belongs to something else or was never
    /// bound (no row is read then), or a read failed after all retries.
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
            let status = pipeline.erased.ledger_status(settling, options, context);
            statuses.extend(status.await?);
        }
        Ok(statuses)
    }
}
