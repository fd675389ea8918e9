//! A store in memory as one process reaches it: through weather, with a rule left out where asked.

use std::collections::HashSet;
use std::sync::Arc;

use fastrand::Rng;
use futures::future::BoxFuture;
use murmur_state::{
    Add, Binding, Checkpoint, Checkpoints, Claim, Deadline, Deduper, ExactlyOnce, Group, ItemId,
    Key, Known, Ledger, ListSegment, Listed, MemoryDeduper, Mend, Monoid, Once, Outcome, Owner,
    PipelineName, Place, Position, Read, Removed, Replace, Saved, StateRow, Store, StoreError,
};

use super::body::{Body, Doing, Fate};
use super::rule;
use crate::cloud::Fault;
use crate::runs::lock;

/// A store, or what is kept beside it, in one process.
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
    /// One request that does `work`, whenever it arrives.
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
            // As the stores on tables say it; some refused credentials are only past their time.
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

    /// Writes entries one after the other; what failed holds up what shares a key or item.
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

/// The one answer to one entry.
fn only(outcomes: Vec<Outcome>) -> Outcome {
    let nothing = || Outcome::Failed(unavailable(true));
    outcomes.into_iter().next().unwrap_or_else(nothing)
}

impl<S: Read<i64>> Read<i64> for Reached<S> {
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

impl<M, S> Store<M> for Reached<S>
where
    M: Monoid<Value = i64>,
    S: Store<M> + Clone,
{
    async fn merge(&self, adds: &[Add<i64>], _: Deadline) -> Vec<Outcome> {
        let write = |store: S, add: Add<i64>| -> BoxFuture<'static, Outcome> {
            Box::pin(async move { only(store.merge(&[add], Deadline::NONE).await) })
        };
        self.each(adds, |add| keys(std::slice::from_ref(add)), write)
            .await
    }
}

impl<M, S> ExactlyOnce<M> for Reached<S>
where
    M: Monoid<Value = i64>,
    S: ExactlyOnce<M, Markers = MemoryDeduper> + Clone,
{
    type Markers = Reached<MemoryDeduper>;

    async fn bind(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let bound = self.inner.bind(binding, &markers.inner, deadline).await;
        lock(&self.body.shared.log).bound |= bound.is_ok();
        bound
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<Option<Arc<str>>, StoreError> {
        let checked = self.inner.check_binding(binding, &markers.inner, deadline);
        checked.await
    }

    async fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        events: &[Once<i64>],
        _: Deadline,
    ) -> Vec<Outcome> {
        let write = |store: S, event: Once<i64>| -> BoxFuture<'static, Outcome> {
            let (pipeline, markers) = (pipeline.clone(), markers.inner.clone());
            Box::pin(async move {
                let events = [event];
                let applied = store.apply(&pipeline, &markers, &events, Deadline::NONE);
                only(applied.await)
            })
        };
        self.each(events, |event| keys(&event.adds), write).await
    }
}

impl<M, S> Ledger<M> for Reached<S>
where
    M: Group<Value = i64>,
    S: Ledger<M, Markers = MemoryDeduper> + Clone,
{
    async fn replace(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Replace<i64>],
        _: Deadline,
    ) -> Vec<Outcome> {
        let touched = |entry: &Replace<i64>| {
            let mut touched = keys(&entry.now);
            touched.push(entry.item.to_string());
            touched
        };
        let write = |store: S, entry: Replace<i64>| -> BoxFuture<'static, Outcome> {
            let (pipeline, markers) = (pipeline.clone(), markers.inner.clone());
            let body = Arc::clone(&self.body);
            Box::pin(async move {
                let done = rule::settle(&store, &pipeline, &markers, entry.clone(), &body);
                let outcome = done.await;
                let items = [entry.item.clone()];
                let known = store.known(&pipeline, &markers, &items, Deadline::NONE);
                if let Ok(
                    [
                        Some(Known {
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

    async fn known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<Known<i64>>>, StoreError> {
        let markers = &markers.inner;
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
            .list_known(pipeline, &markers.inner, segment, after)
            .await
    }

    async fn settle(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        _: Deadline,
    ) -> Result<(), StoreError> {
        let (store, markers) = (self.inner.clone(), markers.inner.clone());
        let binding = binding.clone();
        let work = async move { store.settle(&binding, &markers, Deadline::NONE).await };
        self.request(Doing::Other, Box::pin(work)).await?
    }

    async fn is_settling(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        _: Deadline,
    ) -> Result<bool, StoreError> {
        if self.body.is_deaf {
            return Ok(false);
        }
        let (store, markers) = (self.inner.clone(), markers.inner.clone());
        let pipeline = pipeline.clone();
        let work = async move { store.is_settling(&pipeline, &markers, Deadline::NONE).await };
        self.request(Doing::Other, Box::pin(work)).await?
    }

    async fn mend(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Mend<i64>],
        _: Deadline,
    ) -> Vec<Outcome> {
        let touched = |entry: &Mend<i64>| {
            let mut touched = keys(&entry.now);
            touched.push(entry.item.to_string());
            touched
        };
        let write = |store: S, entry: Mend<i64>| -> BoxFuture<'static, Outcome> {
            let (pipeline, markers) = (pipeline.clone(), markers.inner.clone());
            let body = Arc::clone(&self.body);
            Box::pin(async move { rule::mend(&store, &pipeline, &markers, entry, &body).await })
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

impl Checkpoints for Reached<MemoryDeduper> {
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
