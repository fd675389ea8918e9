use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use murmur_core::Processor;
use murmur_core::audit::InspectionOptions;
use murmur_core::inspection::{Inspection, Pass};
use murmur_state::{Causes, Deadline};

use super::error::ReconcileError;
use super::report::{ReconcileProgress, ReconcileStep, Reconciled};
use super::state::{Spending, State};
use crate::budget::{Account, ReadBudget, ReadPacer};
use crate::lookup::Lookup;
use crate::retried::retried;
use crate::source::Description;

type ProgressFn = dyn Fn(&ReconcileProgress) + Send + Sync;

/// Compares the state of pipelines with their table, and repairs it on request, while the stream
/// consumer keeps running: after a gap in the stream, or as a check.
///
/// Transient failures are retried by [`RetryPolicy::patient`](murmur_state::RetryPolicy::patient),
/// for 30 minutes, unless the processor has another policy. After that the reconcile fails with
/// [`GaveUp`](ReconcileError::GaveUp). The processor's recorder gets `<pipeline>:retry` and
/// `<source>:retry` for what is retried.
///
/// The stream consumer must be past the gap, and at most [`lag`](crate::reconcile::ReconcileBuilder::lag)
/// behind. Changes that are lost *after* the reconcile began are for the next one.
///
/// # With a ledger
///
/// Every item of the table, and every item that the ledger knows, is compared with its ledger row:
/// keys, values and windows by the pipeline's own definition. An item that differs is looked at
/// closely: its ledger row, then the item itself, and both once more after the lag. A difference is
/// reported only if both were the same each time; an item that kept changing is counted as
/// unsettled. [`repair`](crate::reconcile::ReconcileBuilder::repair) makes the item contribute what it should,
/// unless the stream consumer was faster. Missed inserts, changes, moves and deletions are found.
///
/// These are not differences:
///
/// - Contributions to windows whose retention is over, by this process's clock. If that clock is
///   fast, it takes windows for over too early: differences in them are not seen, and the repair of
///   an item takes back its contribution there, until a reconcile with the right clock repairs
///   that. (AWS refuses requests of a machine whose clock is off by more than some minutes.)
/// - An item that is gone, in a pipeline that keeps expired items: Time to Live may have removed
///   it. It is counted as untold, and never repaired. An item that is there again may have expired
///   in between as well, and is taken for a change.
/// - A wrong row of the state itself. Unless items settle, only
///   [`Processor::audit`](murmur_core::Processor::audit) finds it.
///
/// # Where items settle
///
/// The ledger does not say what an item that has [settled](murmur_core::Definition::settle)
/// contributes, so such an item never differs, whether it is in the table or gone. If a pipeline's
/// items settle, or if any settled item is found, all keys of the pipeline are also recounted, as
/// without a ledger; with a repair, the recount comes after it.
/// [`settled`](murmur_core::audit::Inspected::settled) has the result.
///
/// Keys that only the recount reports are not repaired. After a repair they are keys of settled
/// items, whose lost changes no ledger can restore: raise the definition's version, and bootstrap
/// into new tables. If expired items go on counting, no recount is possible, and the findings
/// [say so](murmur_core::audit::SettledFindings::KeepsExpired); the other items are still compared and
/// repaired.
///
/// # Without a ledger
///
/// The table is counted again, in memory, and compared with the state; if anything differs, once
/// more after the lag. With more keys than [`max_keys`](crate::reconcile::ReconcileBuilder::max_keys), the
/// keys are compared in several parts, one after the other. A key is reported if its row, and the
/// contribution of each item to it, were the same both times, so a key that keeps changing is only
/// counted as unsettled. A key that is right in the first recount by chance, because pending
/// changes make up for lost ones, is for the next run. Nothing can be repaired. Without
/// [`retract`](murmur_core::Definition::retract), and for monoids without an inverse (Min, Max,
/// Set), a deletion or a change does not undo what was counted, so such a key differs from then on.
/// For First and Last only the times are compared.
///
/// # Rows that can never count
///
/// They contribute nothing. They are counted, and listed up to the limit. The callback for rejected
/// records is not called for them.
///
/// # Cost
///
/// With a ledger: one scan, and two reads of each ledger row, by the scan's pages and in a listing.
/// An item that the ledger knows is looked up if it differed, or was not among the
/// [remembered](crate::reconcile::ReconcileBuilder::remember) ones.
///
/// Without a ledger, for each part of the keys: one listing of the state, one scan and, if anything
/// differs, a second scan.
///
/// If items settle: the cost of both, with one first scan for both. After a repair the recount
/// starts over, so the table is scanned twice, and a third time if anything differs.
///
/// Memory is bounded for tables of any size:
///
/// | held | option | about |
/// |---|---|---|
/// | items of the scan | [`remember`](crate::reconcile::ReconcileBuilder::remember) | 20 to 40 bytes each, 140 MB by default |
/// | items looked at closely | [`max_suspects`](crate::reconcile::ReconcileBuilder::max_suspects) | 500 bytes each, 50 MB |
/// | items and keys that differ | [`max_differing`](crate::reconcile::ReconcileBuilder::max_differing) | 40 bytes an item until it is repaired, 200 a key, 240 MB at most |
/// | keys of a recount | [`max_keys`](crate::reconcile::ReconcileBuilder::max_keys) | 200 bytes each, 400 MB; for each pipeline without a ledger, or whose items settle |
/// | pages under way | [`concurrency`](crate::reconcile::ReconcileBuilder::concurrency) | 1 MB of the table each, decoded |
#[must_use = "nothing is read before `run`"]
pub struct Reconcile<T, S> {
    pub(super) processor: Processor<T>,
    pub(super) source: S,
    pub(super) inspection: InspectionOptions,
    pub(super) budget: ReadBudget,
    pub(super) concurrency: usize,
    pub(super) max_suspects: usize,
    pub(super) progress: Box<ProgressFn>,
    pub(super) spending: Mutex<Spending>,
}

impl<T: Send + Sync + 'static, S: Lookup> Reconcile<T, S> {
    /// Reads the whole table, compares it with the state, and repairs differences on request.
    ///
    /// # Errors
    ///
    /// [`ReconcileError`]: it was refused (no row was read), or a read failed after all retries. A
    /// failed repair of an item is not an error; the report has it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each item is either repaired or not. The findings are lost; run it again.
    pub async fn run(self) -> Result<Reconciled, ReconcileError> {
        let result = self.to_end().await;
        let result = result.map_err(|error| match self.processor.retry().gave_up_after() {
            Some(tried) if error.is_retryable() => ReconcileError::GaveUp {
                tried,
                source: Box::new(error),
            },
            _ => error,
        });
        if let Err(error) = self.source.close().await {
            tracing::warn!(source = self.source.name(), error = %Causes(&error), "the source was not closed");
        }
        result
    }

    async fn to_end(&self) -> Result<Reconciled, ReconcileError> {
        let whole = self.source.holds_every_item();
        whole?;
        let checked = self.processor.check_binding(Deadline::NONE).await;
        let streams = checked.map_err(|error| ReconcileError::Refused(Box::new(error)))?;
        let description = self.describe().await?;
        self.check_table(&streams, &description)?;
        let listings = self.begin_spending(&description)?;
        let inspection = self.processor.inspect(self.inspection, Some(&listings));
        let inspection = inspection.await;
        let mut inspection =
            inspection.map_err(|error| ReconcileError::Refused(Box::new(error)))?;
        let mut state = State {
            scans: 0,
            rows: 0,
            first_rows: 0,
            rows_expected: description.rows,
            rejected_rows: 0,
            rejected: Vec::new(),
            ledger_rows: 0,
            begun: self.now(),
        };
        loop {
            match inspection.next().await? {
                Pass::Table => self.scan(&mut inspection, &mut state).await?,
                Pass::TableAgain => {
                    self.tell(&inspection, &state, ReconcileStep::Wait);
                    self.processor
                        .retry()
                        .clock()
                        .sleep(self.inspection.lag)
                        .await;
                    self.scan(&mut inspection, &mut state).await?;
                }
                Pass::Ledgers => self.list(&mut inspection, &mut state).await?,
                Pass::Done => break,
            }
        }
        Ok(Reconciled {
            rows: state.first_rows,
            rejected_rows: state.rejected_rows,
            rejected: state.rejected,
            read_units: self.spending().units,
            pipelines: inspection.findings(),
        })
    }

    /// Refuses a table that the state does not come from: everything would seem lost. The table may
    /// have another stream by now.
    fn check_table(
        &self,
        streams: &[Option<Arc<str>>],
        description: &Description,
    ) -> Result<(), ReconcileError> {
        let Some(table) = &description.table_arn else {
            return Ok(());
        };
        for (pipeline, stream) in self.processor.pipelines().iter().zip(streams) {
            if let Some(stream) = stream
                && !stream
                    .strip_prefix(&**table)
                    .is_some_and(|rest| rest.starts_with("/stream/"))
            {
                return Err(ReconcileError::OtherTable {
                    pipeline: pipeline.name().clone(),
                    stream: stream.to_string(),
                    table: table.clone(),
                });
            }
        }
        Ok(())
    }

    async fn describe(&self) -> Result<Description, ReconcileError> {
        let recorder = &**self.processor.recorder();
        let (retry, name) = (self.processor.retry(), self.source.name());
        let described = retried(retry, recorder, name, Deadline::NONE, || {
            self.source.describe()
        });
        Ok(described.await?)
    }

    /// Begins to keep the budget. Returns the account for listings of ledgers and states.
    fn begin_spending(&self, description: &Description) -> Result<Account, ReconcileError> {
        let pace = ReadPacer::new(self.budget, self.source.name(), description)?;
        let listings = Account::new(
            pace.per_second(),
            Arc::clone(self.processor.retry().clock()),
        );
        self.spending().pace = Some(pace);
        Ok(listings)
    }

    pub(super) fn spending(&self) -> MutexGuard<'_, Spending> {
        self.spending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Duration {
        self.processor.retry().clock().monotonic()
    }

    pub(super) fn tell(&self, inspection: &Inspection<'_, T>, state: &State, step: ReconcileStep) {
        let read_units = self.spending().units;
        (self.progress)(&ReconcileProgress {
            step,
            rows: state.rows,
            rows_expected: state.rows_expected,
            ledger_rows: state.ledger_rows,
            suspects: inspection.suspects(),
            read_units,
            elapsed: self.now().saturating_sub(state.begun),
        });
    }
}

impl<T, S: Lookup> fmt::Debug for Reconcile<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconcile")
            .field("source", &self.source.name())
            .field("processor", &self.processor)
            .field("inspection", &self.inspection)
            .finish_non_exhaustive()
    }
}
