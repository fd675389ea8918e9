use std::sync::Arc;

use murmur_state::{
    Add, Binding, Bound, Checkpoints, Deadline, ExactlyOnce, Key, Listed, Monoid, Once, Outcome,
    PipelineName, Place, Read, StateRow, Store, StoreError,
};

use crate::deduper::Deduper;
use crate::owner;
use crate::table::Table;

/// A store together with its marker table, as `markers` of the store makes it: it takes events
/// [exactly once](ExactlyOnce), and of an [`Int64SumStore`](crate::Int64SumStore) keeps a
/// [`Ledger`](murmur_state::Ledger) too.
///
/// Requests for both tables go by the store's client, so that account and region are the same. Reading
/// and plain merges are the store's own. Clones share what the store knows of its rows.
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

    /// The store without its markers.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The marker table, for what else is kept in it: the positions of a stream reader, or claims.
    pub fn deduper(&self) -> &Deduper {
        &self.deduper
    }
}

/// Which marker table a store gets.
///
/// - A **name** (`&str`, `String`, `Arc<str>`): the table of that name, with the options of the store and
///   what a [`Deduper`] has by default.
/// - A **[`Deduper`]**: the same table with the same times, options and limit of writes under way, which
///   several stores can share. Requests go by the store's client, not by the deduper's.
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

/// A store that can take events once, with a marker table beside it.
pub(crate) trait Markable<M: Monoid>: Store<M> {
    /// How its rows are kept, as control rows say it.
    const LAYOUT: &'static str;

    fn table(&self) -> &Table;

    /// As [`ExactlyOnce::apply`].
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

/// By ids in the rows and in pages of the marker table; where a monoid is idempotent, by plain writes,
/// since the same value again changes nothing: every event is [`Applied`](Outcome::Applied) then.
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
