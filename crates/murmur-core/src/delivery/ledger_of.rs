use futures::future::BoxFuture;
use murmur_state::error::Place;
use murmur_state::monoid::Overflow;
use murmur_state::store::{LedgerEntry, ListSegment, Listed, Mend, Outcome};
use murmur_state::{Deadline, ItemId, Monoid, StoreError};

pub(super) type Answer<'a, A> = BoxFuture<'a, Result<A, StoreError>>;

/// A ledger of a monoid with its store erased: one boxed future per batch.
pub(crate) trait LedgerOf<M: Monoid>: Send + Sync {
    fn place(&self) -> Place;

    fn known<'a>(
        &'a self,
        items: &'a [ItemId],
        deadline: Deadline,
    ) -> Answer<'a, Vec<Option<LedgerEntry<M::Value>>>>;

    fn list_known<'a>(
        &'a self,
        segment: ListSegment,
        after: Option<&'a str>,
    ) -> Answer<'a, Listed<LedgerEntry<M::Value>>>;

    fn mend<'a>(
        &'a self,
        items: &'a [Mend<M::Value>],
        deadline: Deadline,
    ) -> BoxFuture<'a, Vec<Outcome>>;

    fn invert(&self, monoid: &M, value: &M::Value) -> Result<M::Value, Overflow>;
}
