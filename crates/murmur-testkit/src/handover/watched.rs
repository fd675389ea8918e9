//! A store on tables whose calls are observed.

use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;
use murmur_core::Sum;
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::intercept::Intercept;
use murmur_state::store::{Add, Binding, Bound, Once, Outcome, Replace};
use murmur_state::{Checkpoints, Deadline, Group, Ledger, StoreError};

use super::body::{Body, Doing};
use crate::runs::lock;

/// A store, or one of its companions, whose outcomes are recorded.
#[derive(Clone, Debug)]
pub(super) struct Watched<S, M = Sum> {
    pub(super) inner: S,
    pub(super) body: Arc<Body>,
    /// The type of the store's values.
    pub(super) of: PhantomData<M>,
}

impl<S, M> Watched<S, M> {
    /// Marks the process as doing `doing` while `work` runs.
    async fn doing<T>(&self, doing: Doing, work: impl Future<Output = T>) -> T {
        let before = self.body.doing();
        self.body.does(doing);
        let answer = work.await;
        self.body.does(before);
        answer
    }
}

impl<M: Group<Value = i64>, S: Ledger<M>> Intercept for Watched<S, M> {
    type Monoid = M;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let work = self.inner.merge(adds, deadline);
        self.doing(Doing::Writing, work).await
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        let bound = self.inner.bind(binding, deadline).await;
        lock(&self.body.shared.log).bound |= bound.is_ok();
        bound
    }

    async fn apply(&self, bound: &Bound, events: &[Once<i64>], deadline: Deadline) -> Vec<Outcome> {
        let work = self.inner.apply(bound, events, deadline);
        self.doing(Doing::Writing, work).await
    }

    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let work = self.inner.replace(bound, items, deadline);
        let outcomes = self.doing(Doing::Writing, work).await;
        for (entry, outcome) in items.iter().zip(&outcomes) {
            self.body.entered(entry, outcome);
        }
        outcomes
    }

    async fn is_settling(&self, bound: &Bound, deadline: Deadline) -> Result<bool, StoreError> {
        if self.body.is_deaf {
            return Ok(false);
        }
        self.inner.is_settling(bound, deadline).await
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
