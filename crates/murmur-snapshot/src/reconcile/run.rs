use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use murmur_core::{Inspection, InspectionOptions, Pass, Processor};
use murmur_state::{Causes, Deadline};

use super::error::ReconcileError;
use super::report::{ReconcileProgress, ReconcileStep, Reconciled};
use super::state::{Spending, State};
use crate::budget::{Account, ReadBudget, ReadPacer};
use crate::lookup::Lookup;
use crate::retried::retried;
use crate::source::Description;

type ProgressFn = dyn Fn(&ReconcileProgress) + Send + Sync;

/// Compares the state of pipelines with their table, and repairs it where asked to, with live
/// running all the while: after a gap in the stream, or to be sure.
///
/// What fails in passing is tried again by [`RetryPolicy::patient`](murmur_state::RetryPolicy::patient),
/// 30 minutes, unless the processor was given another policy; after that the reconcile fails with
/// [`GaveUp`](ReconcileError::GaveUp). The processor's recorder gets `<pipeline>:retry` and
/// `<source>:retry` for what is tried again.
///
/// Live must be past the gap, and behind by no more than [`lag`](crate::ReconcileBuilder::lag). Changes that are
/// lost *after* the reconcile has begun are for the next one.
///
/// # With a ledger
///
/// Every item of the table, and every item that the ledger knows, is compared with what the ledger
/// says it contributes: keys, values and windows by the pipeline's own definition. What differs is
/// looked at closely: its ledger row, then the item itself, and both once more after the lag. A
/// difference is named only if both were the same each time; what kept changing is counted as
/// unsettled. [`repair`](crate::ReconcileBuilder::repair) makes the item contribute what it should, unless live
/// was faster. It finds missed inserts, changes, moves and deletions.
///
/// Not a difference: what lies in windows whose retention is over, by this process's clock. One that is
/// fast takes windows for over that are not: what differs in them is not seen, and a repair of an item
/// takes back what it contributed there, until a reconcile by the right clock mends it. (AWS refuses
/// the requests of a machine whose clock is off by more than some minutes.) An item that is gone, in a
/// pipeline that keeps what has expired, may have been removed by Time to Live: it is counted as
/// untold, and never repaired. One that is there again may have expired in between as well, and is
/// taken for a change. A wrong row of the state itself is found by
/// [`Processor::audit`](murmur_core::Processor::audit), not here, unless items settle.
///
/// # Where items settle
///
/// Of an item that has [settled](murmur_core::Definition::settle) the ledger does not say what it
/// contributes, so it never differs there, in the table or gone from it. Where the items of a pipeline
/// settle, or any is met that has, all its keys are recounted as well, as without a ledger: after the
/// repair, if one is asked for. What that finds is [`settled`](murmur_core::Inspected::settled)'s.
///
/// Keys that the recount names are not mended. After a repair they are those of settled items, whose
/// lost changes no ledger can give back: raise the definition's version, and bootstrap into new tables.
/// Where what has expired goes on counting no recount is possible, and the findings
/// [say so](murmur_core::SettledFindings::KeepsExpired); the other items are compared, and mended, all the same.
///
/// # Without a ledger
///
/// The table is counted once more, in memory, and compared with the state; if anything differs,
/// once more after the lag. Where there are more keys than [`max_keys`](crate::ReconcileBuilder::max_keys), this is
/// done for a part of them after the other. A key is named if its row, and what each item contributes to
/// it, were the same both times, so a key that never rests is only ever counted as unsettled. A key that
/// is right in the first recount by chance, since what live has yet to do makes up for what was lost, is
/// for the next run. Nothing can be repaired. Without [`retract`](murmur_core::Definition::retract), and
/// for monoids without an inverse (Min, Max, Set), a deletion or a change does not undo what was counted,
/// so such a key differs from then on. Of First and Last only the times are compared.
///
/// # Rows that can never count
///
/// They contribute nothing: counted, and listed up to the limit. The callback for rejected records
/// is not asked again.
///
/// # What it costs
///
/// One scan, and with a ledger a read of each of its rows twice, by the scan's pages and as a list.
/// An item that the ledger knows is looked up if it differed, or was not among the
/// [remembered](crate::ReconcileBuilder::remember) ones. Without a ledger one listing of the state and, if anything
/// differs, a second scan, for each part of the keys. Where items settle it is both together, and the
/// first scan serves both; if items were mended the recount begins anew after that, so that the table is
/// scanned twice, and a third time if anything differs.
///
/// Memory is bounded, whatever the size of the table:
///
/// | held | option | about |
/// |---|---|---|
/// | items of the scan | [`remember`](crate::ReconcileBuilder::remember) | 20 to 40 bytes each, 140 MB by default |
/// | items looked at closely | [`max_suspects`](crate::ReconcileBuilder::max_suspects) | 500 bytes each, 50 MB |
/// | items and keys that differ | [`max_differing`](crate::ReconcileBuilder::max_differing) | 40 bytes an item until it is mended, 200 a key, 240 MB at most |
/// | keys of a recount | [`max_keys`](crate::ReconcileBuilder::max_keys) | 200 bytes each, 400 MB; for each pipeline without a ledger, or whose items settle |
/// | pages under way | [`concurrency`](crate::ReconcileBuilder::concurrency) | 1 MB of the table each, decoded |
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
    /// Reads the table to its end, compares, and repairs where asked to.
    ///
    /// # Errors
    ///
    /// [`ReconcileError`]: it was refused (no row was read then), or a read failed after all
    /// retries. A repair that fails is no error: it stands in the report.
    ///
    /// # Cancel safety
    ///
    /// Dropped, each item is mended or is not; what was found is lost. Run it again.
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
            tracing::warn!(source = self.source.name(), error = %Causes(&error), "not closed");
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

    /// Refuses a table that none of the state came from: all of it would be taken for lost. The
    /// table's stream may be another by now.
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

    /// Begins to keep the budget; what keeps it for listings of ledgers and states.
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
