use futures::future::BoxFuture;
use murmur_state::{Add, Cause, ItemId, MAX_KEYS, Monoid, PipelineName, StoreError, Timestamp};

use crate::outcome::{RecordError, Rejected};
use crate::plan::{Plan, the_record};
use crate::record::{Record, Row};

/// An item as a consistent read finds it in the table.
#[derive(Debug, Clone, PartialEq)]
pub enum ItemNow {
    /// It exists.
    Row(Row),
    /// It exists, but its source cannot read it: it contributes nothing.
    Unreadable,
    /// It does not exist.
    Gone,
}

/// An item found in its table, decoded.
pub(crate) struct Found<T> {
    pub(crate) item: ItemId,
    pub(crate) is_there: bool,
    pub(crate) row: Option<(Record, T)>,
    /// Why it contributes nothing in any pipeline, if it cannot be decoded.
    pub(crate) rejected: Option<Box<Rejected>>,
}

impl<T> Found<T> {
    /// An item that contributes nothing.
    pub(crate) fn nothing(item: ItemId, is_there: bool) -> Self {
        Self {
            item,
            is_there,
            row: None,
            rejected: None,
        }
    }
}

/// Looks items up in their table and decodes them, in their order.
pub(crate) type Find<'a, T> =
    dyn Fn(Vec<ItemId>) -> BoxFuture<'a, Result<Vec<Found<T>>, Cause>> + Send + Sync + 'a;

/// The contributions of an item that was found; empty if it can never count. A ledger limits the
/// number of keys per item.
pub(super) fn contributes<T, M: Monoid>(
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
            reason: format!(
                "it has {keys} keys, and an item of a ledger can have at most {MAX_KEYS}"
            ),
            source: None,
        })),
        _ => Ok(adds),
    }
}

/// The rejection of `record` by `pipeline`.
pub(super) fn rejected(pipeline: &PipelineName, record: &Record, source: StoreError) -> Rejected {
    Rejected {
        record: record.clone(),
        pipeline: Some(pipeline.clone()),
        error: RecordError::Store {
            pipeline: pipeline.clone(),
            source,
        },
    }
}
