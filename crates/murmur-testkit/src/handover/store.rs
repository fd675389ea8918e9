//! A store in memory as one process reaches it: through weather, and without the left-out rule.

use std::collections::HashSet;
use std::sync::Arc;

use fastrand::Rng;
use futures::future::BoxFuture;
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::dedup::{Claim, Owner};
use murmur_state::error::Place;
use murmur_state::intercept::Intercept;
use murmur_state::store::{
    Add, Binding, Bound, LedgerEntry, Mend, Once, Outcome, Position, Replace,
};
use murmur_state::{
    Checkpoints, Deadline, Deduper, ExactlyOnce, Group, Ledger, MemoryDeduper, MemoryStore, Store,
    StoreError,
};

use super::body::{Body, Doing, Fate};
use super::rule;
use crate::cloud::Fault;
use crate::runs::lock;

/// A store, or one of its companions, in one process.
#[derive(Clone, Debug)]
pub(super) struct Reached<S> {
    pub(super) inner: S,
    pub(super) body: Arc<Body>,
}

fn place() -> Place {
    Place::table("Reached", "memory")
}

fn unavailable(may_have_applied: bool) -> StoreError {
    StoreError::Unavailable {
        place: place(),
        may_have_applied,
        source: None,
    }
}

impl<S: Clone + Send + Sync + 'static> Reached<S> {
    /// Sends a request that runs `work` when it arrives.
    async fn request<T: Send + 'static>(
        &self,
        doing: Doing,
        work: BoxFuture<'static, T>,
    ) -> Result<T, StoreError> {
        let before = self.body.doing();
        self.body.does(doing);
        let answer = self.travel(work).await;
        self.body.does(before);
        answer
    }

    async fn travel<T: Send + 'static>(
        &self,
        work: BoxFuture<'static, T>,
    ) -> Result<T, StoreError> {
        let shared = &self.body.shared;
        let (fate, there, back) = self.body.fate();
        self.body.sleep(there).await;
        let mut work = Some(work);
        self.body
            .request(|| {
                if let Some(work) = work.take() {
                    tokio::spawn(work);
                }
            })
            .await;
        let Some(work) = work else {
            return Err(unavailable(true));
        };
        let source = None;
        let answer = match fate {
            Fate::Done => Ok(work.await),
            Fate::Failed => Err(unavailable(false)),
            Fate::Throttled => {
                shared.met("throttles");
                let place = place();
                Err(StoreError::Throttled { place, source })
            }
            Fate::Conflict => {
                shared.met("conflicts");
                let place = place();
                Err(StoreError::Conflict { place, source })
            }
            // The same error as from the stores on tables. Some refused credentials are only
            // expired.
            Fate::Spell(Fault::Unsigned) => Err(unavailable(false)),
            Fate::Spell(Fault::Refused) if self.body.dice(Rng::bool) => Err(unavailable(false)),
            Fate::Spell(_) => Err(StoreError::Setup {
                place: place(),
                advice: "a spell refuses it; wait for its end".to_owned(),
                source,
            }),
            Fate::Unanswered => {
                shared.met("lost answers");
                work.await;
                Err(unavailable(true))
            }
            Fate::Late(late) => {
                shared.met("requests that came late");
                let time = shared.time.clone();
                tokio::spawn(async move {
                    time.sleep(late).await;
                    work.await;
                });
                Err(unavailable(true))
            }
        };
        self.body.sleep(back).await;
        answer
    }

    /// Writes entries one after another. A failed entry blocks later ones with the same key or
    /// item.
    async fn each<E: Clone>(
        &self,
        entries: &[E],
        touched: impl Fn(&E) -> Vec<String>,
        write: impl Fn(S, E) -> BoxFuture<'static, Outcome>,
    ) -> Vec<Outcome> {
        let mut stopped: HashSet<String> = HashSet::new();
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let touched = touched(entry);
            if touched.iter().any(|one| stopped.contains(one)) {
                stopped.extend(touched);
                outcomes.push(Outcome::Blocked);
                continue;
            }
            let work = write(self.inner.clone(), entry.clone());
            let written = self.request(Doing::Writing, work);
            let outcome = written.await.unwrap_or_else(Outcome::Failed);
            if matches!(outcome, Outcome::Failed(_)) {
                stopped.extend(touched);
            }
            outcomes.push(outcome);
        }
        outcomes
    }
}

fn keys(adds: &[Add<i64>]) -> Vec<String> {
    adds.iter().map(|add| add.key.to_string()).collect()
}

/// The outcome of a single entry.
fn only(outcomes: Vec<Outcome>) -> Outcome {
    let nothing = || Outcome::Failed(unavailable(true));
    outcomes.into_iter().next().unwrap_or_else(nothing)
}

impl<M: Group<Value = i64>> Intercept for Reached<MemoryStore<M>> {
    type Monoid = M;
    type Inner = MemoryStore<M>;

    fn inner(&self) -> &MemoryStore<M> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], _: Deadline) -> Vec<Outcome> {
        let write = |store: MemoryStore<M>, add: Add<i64>| -> BoxFuture<'static, Outcome> {
            Box::pin(async move { only(store.merge(&[add], Deadline::NONE).await) })
        };
        self.each(adds, |add| keys(std::slice::from_ref(add)), write)
            .await
    }

    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        let (inner, body) = (self.inner.checkpoints(), Arc::clone(&self.body));
        Arc::new(Reached { inner, body })
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        let bound = self.inner.bind(binding, deadline).await;
        lock(&self.body.shared.log).bound |= bound.is_ok();
        bound
    }

    async fn apply(&self, bound: &Bound, events: &[Once<i64>], _: Deadline) -> Vec<Outcome> {
        let write = |store: MemoryStore<M>, event: Once<i64>| -> BoxFuture<'static, Outcome> {
            let bound = bound.clone();
            Box::pin(async move {
                let events = [event];
                let applied = store.apply(&bound, &events, Deadline::NONE);
                only(applied.await)
            })
        };
        self.each(events, |event| keys(&event.adds), write).await
    }

    async fn replace(&self, bound: &Bound, items: &[Replace<i64>], _: Deadline) -> Vec<Outcome> {
        let touched = |entry: &Replace<i64>| {
            let mut touched = keys(&entry.now);
            touched.push(entry.item.to_string());
            touched
        };
        let write = |store: MemoryStore<M>, entry: Replace<i64>| -> BoxFuture<'static, Outcome> {
            let bound = bound.clone();
            let body = Arc::clone(&self.body);
            Box::pin(async move {
                let done = rule::settle(&store, &bound, entry.clone(), &body);
                let outcome = done.await;
                let items = [entry.item.clone()];
                let known = store.known(&bound, &items, Deadline::NONE);
                if let Ok(
                    [
                        Some(LedgerEntry {
                            at: Position::Stream(at),
                            settled: true,
                            ..
                        }),
                    ],
                ) = known.await.as_deref()
                {
                    let alone = entry.at != Position::Stream(at.clone());
                    body.shared.has_settled(entry.item.as_str(), at, alone);
                }
                body.entered(&entry, &outcome);
                outcome
            })
        };
        self.each(items, touched, write).await
    }

    async fn settle(&self, bound: &Bound, _: Deadline) -> Result<(), StoreError> {
        let (store, bound) = (self.inner.clone(), bound.clone());
        let work = async move { store.settle(&bound, Deadline::NONE).await };
        self.request(Doing::Other, Box::pin(work)).await?
    }

    async fn is_settling(&self, bound: &Bound, _: Deadline) -> Result<bool, StoreError> {
        if self.body.is_deaf {
            return Ok(false);
        }
        let (store, bound) = (self.inner.clone(), bound.clone());
        let work = async move { store.is_settling(&bound, Deadline::NONE).await };
        self.request(Doing::Other, Box::pin(work)).await?
    }

    async fn mend(&self, bound: &Bound, items: &[Mend<i64>], _: Deadline) -> Vec<Outcome> {
        let touched = |entry: &Mend<i64>| {
            let mut touched = keys(&entry.now);
            touched.push(entry.item.to_string());
            touched
        };
        let write = |store: MemoryStore<M>, entry: Mend<i64>| -> BoxFuture<'static, Outcome> {
            let bound = bound.clone();
            let body = Arc::clone(&self.body);
            Box::pin(async move { rule::mend(&store, &bound, entry, &body).await })
        };
        self.each(items, touched, write).await
    }
}

impl Deduper for Reached<MemoryDeduper> {
    async fn claim(&self, id: &str, owner: &Owner, _: Deadline) -> Result<Claim, StoreError> {
        let (id, owner) = (id.to_owned(), owner.clone());
        let markers = self.inner.clone();
        self.request(
            Doing::Writing,
            Box::pin(async move { markers.claim(&id, &owner, Deadline::NONE).await }),
        )
        .await?
    }

    async fn release(&self, id: &str, owner: &Owner, _: Deadline) -> Result<(), StoreError> {
        let (id, owner) = (id.to_owned(), owner.clone());
        let markers = self.inner.clone();
        self.request(
            Doing::Writing,
            Box::pin(async move { markers.release(&id, &owner, Deadline::NONE).await }),
        )
        .await?
    }
}

impl<C: Checkpoints + Clone> Checkpoints for Reached<C> {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        let name = name.to_owned();
        Box::pin(async move {
            let markers = self.inner.clone();
            self.request(
                Doing::Other,
                Box::pin(async move { markers.load(&name).await }),
            )
            .await?
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        let (name, data) = (name.to_owned(), data.to_owned());
        Box::pin(async move {
            let markers = self.inner.clone();
            self.request(
                Doing::Saving,
                Box::pin(async move { markers.save(&name, &data, over).await }),
            )
            .await?
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        let name = name.to_owned();
        Box::pin(async move {
            let markers = self.inner.clone();
            self.request(
                Doing::Saving,
                Box::pin(async move { markers.remove(&name, over).await }),
            )
            .await?
        })
    }
}
