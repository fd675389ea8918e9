use std::sync::Arc;

use super::{Binding, Bound, Once, Outcome, Store};
use crate::checkpoint::Checkpoints;
use crate::error::StoreError;
use crate::monoid::Monoid;
use crate::time::Deadline;

/// A store that knows which events a row has taken, by a marker table of its own.
///
/// Every call but the first names the proof that the rows belong to its pipeline ([`Bound`]).
///
/// # Contract
///
/// Each key of an event takes it at most once, however often, in whatever company and from
/// however many callers at a time it is sent. An event is [`Outcome::Applied`] once every key
/// has it and at least one took it now, [`Outcome::Duplicate`] if every key had it before.
/// Sending the same events again after any failure is safe and finishes what was begun.
///
/// # Ordering, Atomicity, Errors
///
/// As for [`Store`]. Keys of one event are exact each by itself, not atomic together.
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
    /// The store's marker table as a place for checkpoints.
    fn checkpoints(&self) -> Arc<dyn Checkpoints>;

    /// Makes the store's rows belong to `binding`, or sees that they do, and answers the proof. A stream
    /// named for the first time is added to what is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherOwner`] if they belong to something [else](Binding::admits);
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

    /// Sees that the store's rows belong to `binding`, as [`bind`](Self::bind) does, and writes
    /// nothing: for callers that only compare, or mend what a pipeline has written. The proof names the
    /// stream that they belong to, if one was ever named.
    ///
    /// # Errors
    ///
    /// As `bind`; and [`StoreError::Setup`] if they were never bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Bound, StoreError>> + Send;

    /// Applies each event to each of its keys at most once.
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
