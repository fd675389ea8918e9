//! The contracts of state stores, from reading to knowing what each item contributes.

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

/// How long after its creation an event may still come: a stream's 24 hours of retention, and
/// two hours for the spread of clocks and for stalls.
pub const HORIZON: Duration = Duration::from_secs(26 * 3600);

/// How old an event may be when it is first written: 49/52 of the [`HORIZON`], 24 h 30 min. Older
/// ones are refused as [`TooOld`](StoreError::TooOld), since what they left may be forgotten.
pub const EVENT_LIFE: Duration = Duration::from_secs(24 * 3600 + 30 * 60);

/// How long a row of a window outlives its retention. The last event that counts in it comes within
/// [`EVENT_LIFE`]; nothing is added in the two hours before Time to Live may remove it, so that it is
/// never made anew; the half hour left is for windows that go by the clock.
pub const ROW_LIFE: Duration = Duration::from_secs(27 * 3600);

/// How long a stream keeps its records for sure: 24 hours (Amazon DynamoDB Developer Guide,
/// "Change data capture for DynamoDB Streams") less twice the 45 minutes that a clock may be off,
/// since the clock that wrote a time and the one that reads it may be off to opposite sides.
/// Whoever has not begun to read by then may have missed something.
pub const SURE_LIFE: Duration = Duration::from_secs((24 * 60 - 2 * 45) * 60);

/// Reading the state.
///
/// # Contract
///
/// `get_many` answers every key asked for, in the order asked, also if a key is asked for twice.
///
/// # Missing keys
///
/// `None`. A row of the wrong shape is an error, never a missing value.
///
/// # Consistency
///
/// A read that begins after a write was answered sees it, unless the implementation was told
/// otherwise by name.
///
/// # Cancel safety
///
/// Cancel safe: reading changes nothing.
pub trait Read<V>: Send + Sync + 'static {
    /// Where the rows are, as errors say it: the same in every process that reads the same rows,
    /// another one for other rows as far as names can tell. Two pipelines of one processor whose
    /// places name the same table are refused.
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

    /// A part of all rows, in no order: the first for `None`, then each for the
    /// [`next`](Listed::next) of the one before. A row that is written while the parts are
    /// asked for is listed as it was before or after; one that is there all the while is listed
    /// once. A key that is kept in several rows ([`Spread`](crate::Spread)) has an entry for each,
    /// in any parts of the listing: together they combine to its value.
    ///
    /// # Errors
    ///
    /// As for [`get_many`](Read::get_many); the same part can be asked for again.
    fn list(
        &self,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<StateRow<V>>, StoreError>> + Send;
}

/// Conveniences over [`Read`].
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

/// A state store for a monoid: the least a pipeline needs.
///
/// # Contract
///
/// `merge` combines each entry into its row and answers each, in order. An answer with more or fewer
/// outcomes than entries is a broken store: nothing of it counts as done. Entries of one key are
/// combined in the order given; entries of different keys in any order, concurrently.
///
/// # Atomicity
///
/// Each entry is one atomic read-modify-write of its row. Entries are not atomic together.
///
/// # Delivery
///
/// At least once. An implementation may try again only what it knows was not applied; a failure
/// that [may have been applied](StoreError::Unavailable) is returned, and the caller decides
/// whether to risk counting it twice. For an idempotent monoid there is no such risk.
///
/// # Errors
///
/// One per entry, as [`Outcome::Failed`]. After a failure that is not the entry's own fault
/// ([`Fault::Record`](crate::Fault::Record)), later entries of the same key are
/// [`Outcome::Blocked`] and not tried. Neighbours on other keys are never concerned.
///
/// # Cancel safety
///
/// Not cancel safe: if the future is dropped, each entry may or may not have been applied.
pub trait Store<M: Monoid>: Read<M::Value> {
    /// Combines `adds` into their rows, each as often as it is asked to.
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
