use std::sync::Arc;

use murmur_state::error::Place;
use murmur_state::store::{Add, Binding, Bound, Listed, Once, Outcome, StateRow};
use murmur_state::{
    Checkpoints, Deadline, ExactlyOnce, Key, Monoid, PipelineName, Read, Store, StoreError,
};

use crate::deduper::Deduper;
use crate::owner;
use crate::table::Table;

/// A store combined with its marker table; made by the store's `markers` method.
///
/// It takes events [exactly once](ExactlyOnce). On an [`Int64SumStore`](crate::Int64SumStore) it
/// also keeps a [`Ledger`](murmur_state::Ledger).
///
/// Requests for both tables go through the store's client, so both tables are in one account and
/// region. Reads and plain merges go to the store unchanged. Clones share what the store knows
/// about its rows.
#[derive(Debug, Clone)]
pub struct Marked<S> {
    pub(crate) store: S,
    pub(crate) deduper: Deduper,
}

impl<S> Marked<S> {
    pub(crate) fn new(store: S, table: &Table, markers: MarkerTable) -> Self {
        let deduper = match markers.0 {
            Given::Name(name) => Deduper::beside(table, name),
            Given::Deduper(deduper) => deduper.by(&table.client),
        };
        Self { store, deduper }
    }

    /// The store without its marker table.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The marker table, for other uses of it: the positions of a stream reader, or claims.
    pub fn deduper(&self) -> &Deduper {
        &self.deduper
    }
}

/// The marker table for a store.
///
/// - A **name** (`&str`, `String`, `Arc<str>`): the table of that name, with the options of the
///   store and the defaults of a [`Deduper`].
/// - A **[`Deduper`]**: its table, durations, options and limit of concurrent writes, which several
///   stores can share. Requests go through the store's client, not the deduper's.
#[derive(Debug, Clone)]
pub struct MarkerTable(Given);

#[derive(Debug, Clone)]
enum Given {
    Name(Arc<str>),
    Deduper(Box<Deduper>),
}

impl From<Arc<str>> for MarkerTable {
    fn from(name: Arc<str>) -> Self {
        Self(Given::Name(name))
    }
}

impl From<&str> for MarkerTable {
    fn from(name: &str) -> Self {
        Self(Given::Name(name.into()))
    }
}

impl From<String> for MarkerTable {
    fn from(name: String) -> Self {
        Self(Given::Name(name.into()))
    }
}

impl From<Deduper> for MarkerTable {
    fn from(deduper: Deduper) -> Self {
        Self(Given::Deduper(Box::new(deduper)))
    }
}

impl From<&Deduper> for MarkerTable {
    fn from(deduper: &Deduper) -> Self {
        Self(Given::Deduper(Box::new(deduper.clone())))
    }
}

/// A store that can take events exactly once with a marker table beside it.
pub(crate) trait Markable<M: Monoid>: Store<M> {
    /// How the store keeps its rows, as control rows name it.
    const LAYOUT: &'static str;

    fn table(&self) -> &Table;

    /// The same as [`ExactlyOnce::apply`].
    fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Deduper,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

impl<V, S: Read<V>> Read<V> for Marked<S> {
    fn place(&self) -> Place {
        self.store.place()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<V>>, StoreError> {
        self.store.get_many(keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<V>>, StoreError> {
        self.store.list(after).await
    }
}

impl<M: Monoid, S: Store<M>> Store<M> for Marked<S> {
    async fn merge(&self, adds: &[Add<M::Value>], deadline: Deadline) -> Vec<Outcome> {
        self.store.merge(adds, deadline).await
    }
}

/// Uses ids in the rows and in pages of the marker table. An idempotent monoid uses plain writes
/// instead, because applying a value again changes nothing; then every event is
/// [`Applied`](Outcome::Applied).
impl<M: Monoid, S: Markable<M>> ExactlyOnce<M> for Marked<S> {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        Arc::new(self.deduper.clone())
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        let layout = self.deduper.layout(S::LAYOUT);
        owner::bind(
            self.store.table(),
            &self.deduper,
            &layout,
            binding,
            deadline,
        )
        .await?;
        Ok(Bound::new(binding.clone()))
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        let layout = self.deduper.layout(S::LAYOUT);
        let table = self.store.table();
        let stream = owner::check(table, &self.deduper, &layout, binding, deadline).await?;
        Ok(Bound::new(Binding {
            stream,
            ..binding.clone()
        }))
    }

    async fn apply(
        &self,
        bound: &Bound,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let applied = self
            .store
            .apply(bound.pipeline(), &self.deduper, events, deadline);
        applied.await
    }
}
