//! Audits of a processor's pipelines.

use murmur_state::Deadline;

use crate::audit::{AuditError, AuditOptions, Audited, LedgerStatus};
use crate::delivery::{Context, Pacing};
use crate::processor::Processor;

impl<T: Send + Sync + 'static> Processor<T> {
    /// Compares every row of the state with what the items that the ledger knows contribute to
    /// it, one pipeline after the other. Live may go on meanwhile; the table is not read. Rows of
    /// windows whose retention is over by this process's clock are left out.
    ///
    /// A key is named when its row and each contribution to it were the same, and at odds, in three
    /// passes over the ledger in a row. What still differs otherwise after seven is counted as
    /// unsettled. Keys that agreed in the first are not looked at again. Nothing is written, and state
    /// that was never bound, by a bootstrap or by live, is refused. So is a ledger of which any item has
    /// [settled](crate::Definition::settle), as soon as one is met: a reconcile finds what differs there.
    ///
    /// # Cost
    ///
    /// Reads ledger and state once, and the ledger once more for every further pass. In memory are
    /// at most [`max_keys`](AuditOptions::max_keys) keys: where there are more, all of this is done
    /// for a part of the keys after the other, and a part holds at least half as many.
    ///
    /// # Errors
    ///
    /// [`AuditError`]: an option cannot be used, a pipeline keeps no ledger, or its state belongs to
    /// something else (no row is read then), an item has settled, or a read failed after all retries.
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

    /// Without a deadline; `pacing` holds listings back.
    fn paced<'a>(&'a self, pacing: Option<&'a dyn Pacing>) -> Context<'a> {
        Context {
            pacing,
            ..self.context(Deadline::NONE)
        }
    }

    /// Sees that the state is that of the pipelines.
    async fn check_audited(&self) -> Result<(), AuditError> {
        let checked = self.check_binding(Deadline::NONE).await;
        checked.map_err(|error| AuditError::Refused(Box::new(error)))?;
        Ok(())
    }

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
            let status = pipeline.erased.ledger_status(settling, options, context);
            statuses.extend(status.await?);
        }
        Ok(statuses)
    }
}
