//! The contracts of state stores: reading, combining, exactly-once events, and the ledger.

mod binding;
mod entries;
mod exactly_once;
mod ledger;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Place, StoreError};
use crate::ids::Key;
use crate::monoid::Monoid;
use crate::time::Deadline;
pub use binding::{Binding, Bound, LEDGER_MODE};
pub use entries::{
    Add, ItemChange, LedgerEntry, ListSegment, Listed, Mend, Once, Outcome, Position, Replace,
    StateRow,
};
pub use exactly_once::ExactlyOnce;
pub use ledger::{Ledger, MAX_KEYS};

/// How long after its creation an event may still be delivered: a stream's 24 hours of retention,
/// plus two hours for clock differences and stalls.
pub const HORIZON: Duration = Duration::from_secs(26 * 3600);

/// How old an event may be when it is first written: 49/52 of the [`HORIZON`], 24 h 30 min. Older
/// events are refused as [`TooOld`](StoreError::TooOld), since their markers may have expired.
pub const EVENT_LIFE: Duration = Duration::from_secs(24 * 3600 + 30 * 60);

/// How long the row of a window outlives its retention. The last event that counts in it is written
/// within [`EVENT_LIFE`]. Nothing is added in the two hours before Time to Live may remove the row,
/// so it is never created again. The remaining half hour is for windows that go by the clock.
pub const ROW_LIFE: Duration = Duration::from_secs(27 * 3600);

/// How long a stream certainly keeps its records: 24 hours (Amazon DynamoDB Developer Guide,
/// "Change data capture for DynamoDB Streams") minus twice the 45 minutes that a clock may be off,
/// since the clock that wrote a time and the one that reads it may be off in opposite directions. A
/// reader that has not begun by then may have missed records.
pub const SURE_LIFE: Duration = Duration::from_secs((24 * 60 - 2 * 45) * 60);

/// Reading the state.
///
/// # Contract
///
/// `get_many` answers every key, in the order of the keys, also if a key is given twice.
///
/// # Missing keys
///
/// `None`. A row of the wrong shape is an error, never a missing value.
///
/// # Consistency
///
/// A read that begins after a write was answered sees the write, unless an explicit option of the
/// implementation says otherwise.
///
/// # Cancel safety
///
/// Cancel safe: reading changes nothing.
pub trait Read<V>: Send + Sync + 'static {
    /// Where the rows are, as errors name it. The place is the same in every process that reads the
    /// same rows, and different for other rows as far as names can tell. A processor refuses two
    /// pipelines whose places name the same table.
    fn place(&self) -> Place;

    /// The values of `keys`, one answer each.
    ///
    /// # Errors
    ///
    /// The first failure; there is no partial answer.
    fn get_many(
        &self,
        keys: &[Key],
    ) -> impl Future<Output = Result<Vec<Option<V>>, StoreError>> + Send;

    /// Lists all rows in parts, in no order. `None` asks for the first part, and the
    /// [`next`](Listed::next) of a part for the one after it.
    ///
    /// A row that exists throughout the listing is listed once. A row that is written meanwhile is
    /// listed as it was before or after the write. A key that is kept in several rows
    /// ([`Spread`](crate::Spread)) has an entry for each of them, possibly in different parts;
    /// together they combine to its value.
    ///
    /// # Errors
    ///
    /// As for [`get_many`](Read::get_many); the same part can be asked for again.
    fn list(
        &self,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<StateRow<V>>, StoreError>> + Send;
}

/// Convenience methods for [`Read`].
pub trait ReadExt<V>: Read<V> {
    /// The value of one key.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<V>, StoreError>> + Send {
        async move {
            Ok(self
                .get_many(std::slice::from_ref(key))
                .await?
                .pop()
                .flatten())
        }
    }
}

impl<V, R: Read<V> + ?Sized> ReadExt<V> for R {}

/// A state store for a monoid: the minimum that a pipeline needs.
///
/// # Contract
///
/// `merge` combines each entry into its row, and answers each, in order. A store that answers with
/// more or fewer outcomes than entries is broken: none of its answers counts as done. Entries of
/// one key are combined in the order given; entries of different keys concurrently, in any order.
///
/// # Atomicity
///
/// Each entry is one atomic read-modify-write of its row. Several entries are not atomic together.
///
/// # Delivery
///
/// At least once. An implementation may retry only writes that it knows were not applied. A failure
/// that [may have been applied](StoreError::Unavailable) is returned, and the caller decides
/// whether to risk counting it twice. An idempotent monoid has no such risk.
///
/// # Errors
///
/// One per entry, as [`Outcome::Failed`]. After a failure that is not the entry's own fault
/// ([`Fault::Record`]), later entries of the same key are [`Outcome::Blocked`] and not tried.
/// Entries of other keys are not affected.
///
/// [`Fault::Record`]: crate::Fault::Record
///
/// # Cancel safety
///
/// Not cancel safe: if the future is dropped, each entry may or may not have been applied.
pub trait Store<M: Monoid>: Read<M::Value> {
    /// Combines `adds` into their rows, once per call.
    fn merge(
        &self,
        adds: &[Add<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

#[deny(clippy::missing_trait_methods)]
impl<V, R: Read<V>> Read<V> for Arc<R> {
    fn place(&self) -> Place {
        R::place(self)
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<V>>, StoreError> {
        R::get_many(self, keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<V>>, StoreError> {
        R::list(self, after).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: Store<M>> Store<M> for Arc<S> {
    async fn merge(&self, adds: &[Add<M::Value>], deadline: Deadline) -> Vec<Outcome> {
        S::merge(self, adds, deadline).await
    }
}
