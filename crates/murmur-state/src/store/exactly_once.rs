use std::sync::Arc;

use super::{Binding, Bound, Once, Outcome, Store};
use crate::checkpoint::Checkpoints;
use crate::error::StoreError;
use crate::monoid::Monoid;
use crate::time::Deadline;

/// A store with a marker table, which knows the events that each row has counted.
///
/// Every call but the first requires the proof that the rows belong to its pipeline ([`Bound`]).
///
/// # Contract
///
/// Each key of an event counts it at most once, no matter how often, in which batches and by how
/// many concurrent callers it is sent. An event is [`Outcome::Applied`] when every key has counted
/// it and at least one of them did so in this call; it is [`Outcome::Duplicate`] if every key had
/// counted it before. After any failure, sending the same events again is safe and finishes the
/// work.
///
/// # Ordering, Atomicity, Errors
///
/// As for [`Store`]. Each key of an event is exact by itself; several keys are not atomic together.
///
/// # Cancel safety
///
/// Dropping the future may leave any part of the batch applied; sending it again is safe.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take events of `{M}` exactly once",
    label = "this store has no marker table, or does not hold values of `{M}`",
    note = "give the store a marker table where it is made: `.markers(\"TABLE\")`"
)]
pub trait ExactlyOnce<M: Monoid>: Store<M> {
    /// The store's marker table as a checkpoint store.
    fn checkpoints(&self) -> Arc<dyn Checkpoints>;

    /// Binds the store's rows to `binding`, or checks that they are bound so, and returns the
    /// proof. A stream that is named for the first time is added to the stored binding.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherOwner`] if the rows belong to [another](Binding::admits) binding;
    /// [`StoreError::Setup`] if the marker table cannot serve this store. Nothing is written then.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    fn bind(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Bound, StoreError>> + Send;

    /// Checks that the store's rows are bound to `binding`, as [`bind`](Self::bind) does, and
    /// writes nothing: for callers that only compare or repair. The proof names the stream of the
    /// rows, if one was ever named.
    ///
    /// # Errors
    ///
    /// As for `bind`; also [`StoreError::Setup`] if they were never bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Bound, StoreError>> + Send;

    /// Applies each event at most once to each of its keys.
    fn apply(
        &self,
        bound: &Bound,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: ExactlyOnce<M>> ExactlyOnce<M> for Arc<S> {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        S::checkpoints(self)
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        S::bind(self, binding, deadline).await
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        S::check_binding(self, binding, deadline).await
    }

    async fn apply(
        &self,
        bound: &Bound,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        S::apply(self, bound, events, deadline).await
    }
}
