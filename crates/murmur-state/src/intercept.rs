//! Stores for tests, which behave like another store except where a test overrides them.
//!
//! Unstable, like [`conformance`](crate::conformance). A test double implements [`Intercept`],
//! overrides only the calls that it changes, and is used as [`Intercepted`], which has the same
//! store traits as the inner store.
//!
//! ```
//! use murmur_state::intercept::{Intercept, Intercepted};
//! use murmur_state::store::{Add, Outcome};
//! use murmur_state::{Deadline, MemoryStore, Monoid, Store};
//!
//! /// A store that merges nothing.
//! struct Full<M: Monoid>(MemoryStore<M>);
//!
//! impl<M: Monoid> Intercept for Full<M> {
//!     type Monoid = M;
//!     type Inner = MemoryStore<M>;
//!
//!     fn inner(&self) -> &MemoryStore<M> {
//!         &self.0
//!     }
//!
//!     async fn merge(&self, adds: &[Add<M::Value>], _: Deadline) -> Vec<Outcome> {
//!         adds.iter().map(|_| Outcome::Blocked).collect()
//!     }
//! }
//!
//! fn full<M: Monoid>(monoid: M) -> impl Store<M> {
//!     Intercepted(Full(MemoryStore::new(monoid)))
//! }
//! ```

use std::ops::Deref;
use std::sync::Arc;

use crate::error::Place;
use crate::store::{
    Add, Binding, Bound, LedgerEntry, ListSegment, Listed, Mend, Once, Outcome, Replace, StateRow,
};
use crate::{
    Checkpoints, Deadline, ExactlyOnce, Group, ItemId, Key, Ledger, Monoid, Read, Store, StoreError,
};

type Value<I> = <<I as Intercept>::Monoid as Monoid>::Value;

/// The calls of a store that a test overrides. Each call that is not overridden goes to the
/// [inner](Intercept::inner) store.
pub trait Intercept: Sized + Send + Sync + 'static {
    /// The monoid of the store.
    type Monoid: Monoid;
    /// The intercepted store.
    type Inner: Store<Self::Monoid>;

    /// The intercepted store.
    fn inner(&self) -> &Self::Inner;

    /// Replaces [`Read::get_many`].
    fn get_many(
        &self,
        keys: &[Key],
    ) -> impl Future<Output = Result<Vec<Option<Value<Self>>>, StoreError>> + Send {
        self.inner().get_many(keys)
    }

    /// Replaces [`Read::list`].
    fn list(
        &self,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<StateRow<Value<Self>>>, StoreError>> + Send {
        self.inner().list(after)
    }

    /// Replaces [`Store::merge`].
    fn merge(
        &self,
        adds: &[Add<Value<Self>>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send {
        self.inner().merge(adds, deadline)
    }

    /// Replaces [`ExactlyOnce::checkpoints`].
    fn checkpoints(&self) -> Arc<dyn Checkpoints>
    where
        Self::Inner: ExactlyOnce<Self::Monoid>,
    {
        self.inner().checkpoints()
    }

    /// Replaces [`ExactlyOnce::bind`].
    fn bind(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Bound, StoreError>> + Send
    where
        Self::Inner: ExactlyOnce<Self::Monoid>,
    {
        self.inner().bind(binding, deadline)
    }

    /// Replaces [`ExactlyOnce::check_binding`].
    fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Bound, StoreError>> + Send
    where
        Self::Inner: ExactlyOnce<Self::Monoid>,
    {
        self.inner().check_binding(binding, deadline)
    }

    /// Replaces [`ExactlyOnce::apply`].
    fn apply(
        &self,
        bound: &Bound,
        events: &[Once<Value<Self>>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send
    where
        Self::Inner: ExactlyOnce<Self::Monoid>,
    {
        self.inner().apply(bound, events, deadline)
    }

    /// Replaces [`Ledger::replace`].
    fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<Value<Self>>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send
    where
        Self::Monoid: Group,
        Self::Inner: Ledger<Self::Monoid>,
    {
        self.inner().replace(bound, items, deadline)
    }

    /// Replaces [`Ledger::known`].
    fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> impl Future<Output = Result<Vec<Option<LedgerEntry<Value<Self>>>>, StoreError>> + Send
    where
        Self::Monoid: Group,
        Self::Inner: Ledger<Self::Monoid>,
    {
        self.inner().known(bound, items, deadline)
    }

    /// Replaces [`Ledger::list_known`].
    fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<LedgerEntry<Value<Self>>>, StoreError>> + Send
    where
        Self::Monoid: Group,
        Self::Inner: Ledger<Self::Monoid>,
    {
        self.inner().list_known(bound, segment, after)
    }

    /// Replaces [`Ledger::settle`].
    fn settle(
        &self,
        bound: &Bound,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), StoreError>> + Send
    where
        Self::Monoid: Group,
        Self::Inner: Ledger<Self::Monoid>,
    {
        self.inner().settle(bound, deadline)
    }

    /// Replaces [`Ledger::is_settling`].
    fn is_settling(
        &self,
        bound: &Bound,
        deadline: Deadline,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send
    where
        Self::Monoid: Group,
        Self::Inner: Ledger<Self::Monoid>,
    {
        self.inner().is_settling(bound, deadline)
    }

    /// Replaces [`Ledger::mend`].
    fn mend(
        &self,
        bound: &Bound,
        items: &[Mend<Value<Self>>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send
    where
        Self::Monoid: Group,
        Self::Inner: Ledger<Self::Monoid>,
    {
        self.inner().mend(bound, items, deadline)
    }
}

/// A store with the calls that an [`Intercept`] overrides.
#[derive(Debug, Clone)]
pub struct Intercepted<I>(pub I);

impl<I> Deref for Intercepted<I> {
    type Target = I;

    fn deref(&self) -> &I {
        &self.0
    }
}

impl<I: Intercept> Read<Value<I>> for Intercepted<I> {
    fn place(&self) -> Place {
        self.0.inner().place()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Value<I>>>, StoreError> {
        self.0.get_many(keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<Value<I>>>, StoreError> {
        self.0.list(after).await
    }
}

impl<I: Intercept> Store<I::Monoid> for Intercepted<I> {
    async fn merge(&self, adds: &[Add<Value<I>>], deadline: Deadline) -> Vec<Outcome> {
        self.0.merge(adds, deadline).await
    }
}

impl<I: Intercept<Inner: ExactlyOnce<I::Monoid>>> ExactlyOnce<I::Monoid> for Intercepted<I> {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        self.0.checkpoints()
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        self.0.bind(binding, deadline).await
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        self.0.check_binding(binding, deadline).await
    }

    async fn apply(
        &self,
        bound: &Bound,
        events: &[Once<Value<I>>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        self.0.apply(bound, events, deadline).await
    }
}

impl<I> Ledger<I::Monoid> for Intercepted<I>
where
    I: Intercept<Monoid: Group, Inner: Ledger<I::Monoid>>,
{
    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<Value<I>>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        self.0.replace(bound, items, deadline).await
    }

    async fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<Value<I>>>>, StoreError> {
        self.0.known(bound, items, deadline).await
    }

    async fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<Value<I>>>, StoreError> {
        self.0.list_known(bound, segment, after).await
    }

    async fn settle(&self, bound: &Bound, deadline: Deadline) -> Result<(), StoreError> {
        self.0.settle(bound, deadline).await
    }

    async fn is_settling(&self, bound: &Bound, deadline: Deadline) -> Result<bool, StoreError> {
        self.0.is_settling(bound, deadline).await
    }

    async fn mend(
        &self,
        bound: &Bound,
        items: &[Mend<Value<I>>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        self.0.mend(bound, items, deadline).await
    }
}
