//! Whether the state is what the table says it should be, or what the ledger says.

mod items;
mod keys;
mod ledger;
mod listing;
mod options;
mod recount;
mod share;
mod status;

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{
    Add, Cause, Deadline, ItemId, Key, MAX_KEYS, Monoid, OptionError, PipelineName, StoreError,
    Timestamp,
};

use crate::decode::Side;
use crate::delivery::Context;
use crate::outcome::{RecordError, Rejected};
use crate::plan::{Plan, the_record};
use crate::processor::Processor;
use crate::record::{Record, Row};

pub use items::ItemSet;
pub(crate) use keys::audit;
pub(crate) use ledger::LedgerOf;
pub use ledger::{
    Compared, Contributing, ItemDifference, LedgerFindings, LedgerInspection, Mending,
};
pub use options::{AuditOptions, AuditProgress, Pacing};
pub use recount::{RecountFindings, RecountInspection, Recounted};
pub use status::LedgerStatus;
pub(crate) use status::status;

/// An item as it was found in its table, decoded.
pub struct Found<T> {
    item: ItemId,
    is_there: bool,
    row: Option<(Record, T)>,
    rejected: Option<Box<Rejected>>,
}

impl<T> Found<T> {
    /// An item that is not in its table.
    pub fn gone(item: ItemId) -> Self {
        Self {
            item,
            is_there: false,
            row: None,
            rejected: None,
        }
    }

    /// An item that is there, and that not even its source can read: it contributes nothing.
    pub fn unreadable(item: ItemId) -> Self {
        let is_there = true;
        Self {
            is_there,
            ..Self::gone(item)
        }
    }

    /// The item's name.
    pub fn item(&self) -> &ItemId {
        &self.item
    }

    /// Why it contributes nothing in any pipeline, if it cannot be decoded; told once.
    pub fn take_rejected(&mut self) -> Option<Rejected> {
        self.rejected.take().map(|rejected| *rejected)
    }
}

impl<T> fmt::Debug for Found<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("item", &self.item)
            .field("is_there", &self.is_there)
            .finish_non_exhaustive()
    }
}

/// How far the state of a key is from what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDifference {
    /// The key.
    pub key: Key,
    /// How far.
    pub difference: Difference,
}

impl fmt::Display for KeyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.difference)
    }
}

/// How far a value is from what it should be. Values are shown as their `Debug` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The state less what it should be: `-500` lacks 500, `500` has so much too many.
    By(String),
    /// What it is and what it should be, where one cannot be taken from the other.
    Values {
        /// What the state says.
        state: String,
        /// What it should say.
        should_be: String,
    },
    /// What it should be leaves the range of its type.
    Overflow,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(by) => write!(f, "off by {by}"),
            Self::Values { state, should_be } => write!(f, "is {state}, should be {should_be}"),
            Self::Overflow => f.write_str("should be more than its type can hold"),
        }
    }
}

/// How the state is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectionOptions {
    /// How far live may be behind: a difference is named only if it stands for so long.
    pub lag: Duration,
    /// Whether differing items are made to contribute what they should.
    pub repair: bool,
    /// How many keys and items of each pipeline are listed.
    pub max_listed: usize,
    /// How many keys a recount holds in memory at a time; at least 1. Each takes about 200 bytes.
    /// More are recounted in several parts.
    pub max_keys: usize,
    /// How many items that differ, and how many keys that they change, are held in memory before the
    /// inspection gives up. An item takes up to 40 bytes until it is mended; a key about 200 bytes to
    /// the end, mended or not, since the findings name it.
    pub max_differing: usize,
}

/// What compares one pipeline's state with its table: by the ledger where it keeps one, else by a
/// recount.
#[derive(Debug)]
pub enum Inspection<'a, T> {
    /// Item by item.
    Ledger(LedgerInspection<'a, T>),
    /// Key by key.
    Recount(RecountInspection<'a, T>),
}

impl<'a, T: Send + Sync + 'static> Inspection<'a, T> {
    pub(crate) fn of_ledger<M: Monoid>(
        plan: (&'a PipelineName, &'a Plan<T, M>),
        ledger: &'a dyn LedgerOf<M>,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Self {
        Self::Ledger(LedgerInspection::new(plan, ledger, options, context))
    }
}

/// Looks items up in their table, consistently, and answers each, in their order.
pub type LookUp<'a, T> =
    dyn Fn(Vec<ItemId>) -> BoxFuture<'a, Result<Vec<Found<T>>, Cause>> + Send + Sync + 'a;

/// Why items could not be compared with the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectionError {
    /// The state or the ledger could not be read.
    #[error("the ledger could not be read")]
    Store(#[from] StoreError),
    /// An item could not be looked up in its table.
    #[error("an item could not be looked up in its table")]
    LookUp(#[source] Cause),
    /// More differs than is held in memory.
    #[error(
        "more than {most} items differ, or they change more than {most} keys, which is more than `max_differing` allows; check that state and table belong together; if they do, `repair` and run it again until nothing is left, raise the limit, or bootstrap into new tables"
    )]
    TooManyDiffer {
        /// The limit.
        most: usize,
    },
}

/// What an audit found of one pipeline.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Audited {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// How many items its ledger knows.
    pub ledger_rows: u64,
    /// How many rows its state has.
    pub state_rows: u64,
    /// How many keys differ.
    pub differing: u64,
    /// The first of them, in order of the keys, up to the limit.
    pub keys: Vec<KeyDifference>,
    /// How many keys may differ, and kept changing while they were looked at.
    pub unsettled: u64,
    /// In how many parts the keys were audited.
    pub parts: u32,
    /// What it cost in read units, where the store knows.
    pub read_units: f64,
}

/// Why an audit did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// An option cannot be used.
    #[error("the audit cannot be begun")]
    Option(#[from] OptionError),
    /// There is nothing to compare the state with.
    #[error(
        "pipeline `{pipeline}` keeps no ledger, so there is nothing to audit its state by; recount its table instead, or define it with `.ledger()` and bootstrap it into new tables"
    )]
    NoLedger {
        /// The pipeline.
        pipeline: PipelineName,
    },
    /// The state belongs to something else or to none yet, or could not be asked whom it belongs to.
    #[error("the state cannot be audited")]
    Refused(#[source] Box<RecordError>),
    /// What items contribute that have settled is in no ledger.
    #[error(
        "{items} items or more of the ledger of pipeline `{pipeline}` have settled, and it does not say what they contribute, so the state cannot be audited by it; reconcile the pipeline with its table instead, which recounts the keys of settled items"
    )]
    Settled {
        /// The pipeline.
        pipeline: PipelineName,
        /// How many had been met when it gave up; there may be more.
        items: u64,
    },
    /// State or ledger could not be read.
    #[error("the audit of pipeline `{pipeline}` did not come to its end; run it again")]
    Store {
        /// The pipeline.
        pipeline: PipelineName,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl AuditError {
    /// Whether the same again can help without anything being changed first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Option(_) | Self::NoLedger { .. } | Self::Settled { .. } => false,
            Self::Refused(source) => source.is_retryable(),
            Self::Store { source, .. } => source.is_retryable(),
        }
    }
}

impl<T: Send + Sync + 'static> Processor<T> {
    /// Decodes a row as a scan or a look into the table found it.
    pub fn find(&self, row: Row) -> Found<T> {
        let item = row.item_id.clone();
        let record = Record::Scanned(row);
        let (row, rejected) = match self.decode(&record, Side::New) {
            Ok(value) => (value.map(|value| (record, value)), None),
            Err(error) => {
                let rejected = Rejected {
                    record,
                    pipeline: None,
                    error: *error,
                };
                (None, Some(Box::new(rejected)))
            }
        };
        Found {
            item,
            is_there: true,
            row,
            rejected,
        }
    }

    /// What compares each pipeline's state with its table, in their order; `pacing` holds the
    /// listings of ledgers and states back.
    pub fn inspections<'a>(
        &'a self,
        options: InspectionOptions,
        pacing: Option<&'a dyn Pacing>,
    ) -> Vec<Inspection<'a, T>> {
        let context = self.paced(pacing);
        let pipelines = self.pipelines().iter();
        pipelines
            .map(|pipeline| pipeline.run.inspection(options, context))
            .collect()
    }

    /// What counts the table once more for the pipeline at this place, whether or not it keeps a ledger:
    /// of items that have settled, the ledger does not know what they contribute. `None` if there is no
    /// such pipeline. Options and `pacing` as for [`inspections`](Self::inspections).
    pub fn recount<'a>(
        &'a self,
        place: usize,
        options: InspectionOptions,
        pacing: Option<&'a dyn Pacing>,
    ) -> Option<RecountInspection<'a, T>> {
        let context = self.paced(pacing);
        let pipeline = self.pipelines().get(place)?;
        Some(pipeline.run.recount(options, context))
    }

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
            audited.push(pipeline.run.audit(options, context).await?);
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
}

/// What an item contributes as it was found; nothing if it can never count. In a ledger an item has so
/// many keys at most.
fn contributes<T, M: Monoid>(
    plan: &Plan<T, M>,
    found: &Found<T>,
    ledger: bool,
    now: Timestamp,
) -> Result<Vec<Add<M::Value>>, Box<StoreError>> {
    let Some((record, row)) = &found.row else {
        return Ok(Vec::new());
    };
    let adds = plan.of_row(record, row, now)?;
    match adds.len() {
        keys if ledger && keys > MAX_KEYS => Err(Box::new(StoreError::InvalidValue {
            place: the_record(),
            reason: format!("it has {keys} keys, and an item of a ledger can have {MAX_KEYS}"),
            source: None,
        })),
        _ => Ok(adds),
    }
}

/// What makes `row` of no use to `pipeline`.
fn rejected(pipeline: &PipelineName, record: &Record, source: StoreError) -> Rejected {
    Rejected {
        record: record.clone(),
        pipeline: Some(pipeline.clone()),
        error: RecordError::Store {
            pipeline: pipeline.clone(),
            source,
        },
    }
}
