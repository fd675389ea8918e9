//! A store on tables, watched on its way there.

use std::sync::Arc;

use futures::future::BoxFuture;
use murmur_state::{
    Add, Binding, Checkpoint, Checkpoints, Deadline, ExactlyOnce, Group, ItemId, Key, Known,
    Ledger, ListSegment, Listed, Mend, Monoid, Once, Outcome, PipelineName, Place, Read, Removed,
    Replace, Saved, StateRow, Store, StoreError,
};

use super::body::{Body, Doing};
use crate::runs::lock;

/// A store, or what is kept beside it, of which is told what becomes of what.
#[derive(Clone, Debug)]
pub(super) struct Watched<S> {
    pub(super) inner: S,
    pub(super) body: Arc<Body>,
}

impl<S> Watched<S> {
    /// Does `work`, and what it did before when that is done.
    async fn doing<T>(&self, doing: Doing, work: impl Future<Output = T>) -> T {
        let before = self.body.doing();
        self.body.does(doing);
        let answer = work.await;
        self.body.does(before);
        answer
    }
}

impl<S: Read<i64>> Read<i64> for Watched<S> {
    fn place(&self) -> Place {
        self.inner.place()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
        self.inner.get_many(keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<i64>>, StoreError> {
        self.inner.list(after).await
    }
}

impl<M: Monoid<Value = i64>, S: Store<M>> Store<M> for Watched<S> {
    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let work = self.inner.merge(adds, deadline);
        self.doing(Doing::Writing, work).await
    }
}

impl<M: Monoid<Value = i64>, S: ExactlyOnce<M>> ExactlyOnce<M> for Watched<S> {
    type Markers = S::Markers;

    async fn bind(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let bound = self.inner.bind(binding, markers, deadline).await;
        lock(&self.body.shared.log).bound |= bound.is_ok();
        bound
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<Option<Arc<str>>, StoreError> {
        self.inner.check_binding(binding, markers, deadline).await
    }

    async fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        events: &[Once<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let work = self.inner.apply(pipeline, markers, events, deadline);
        self.doing(Doing::Writing, work).await
    }
}

impl<M: Group<Value = i64>, S: Ledger<M>> Ledger<M> for Watched<S> {
    async fn replace(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Replace<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let work = self.inner.replace(pipeline, markers, items, deadline);
        let outcomes = self.doing(Doing::Writing, work).await;
        for (entry, outcome) in items.iter().zip(&outcomes) {
            self.body.entered(entry, outcome);
        }
        outcomes
    }

    async fn known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<Known<i64>>>, StoreError> {
        self.inner.known(pipeline, markers, items, deadline).await
    }

    async fn list_known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<Known<i64>>, StoreError> {
        self.inner
            .list_known(pipeline, markers, segment, after)
            .await
    }

    async fn settle(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        self.inner.settle(binding, markers, deadline).await
    }

    async fn is_settling(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        if self.body.is_deaf {
            return Ok(false);
        }
        self.inner.is_settling(pipeline, markers, deadline).await
    }

    async fn mend(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Mend<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        self.inner.mend(pipeline, markers, items, deadline).await
    }
}

impl<S: Checkpoints> Checkpoints for Watched<S> {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.inner.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        let work = self.inner.save(name, data, over);
        Box::pin(self.doing(Doing::Saving, work))
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        let work = self.inner.remove(name, over);
        Box::pin(self.doing(Doing::Saving, work))
    }
}
