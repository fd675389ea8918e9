//! The delivery modes: how what a batch adds reaches the store.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt};
use murmur_state::{
    Add, Binding, Claim, Deadline, Deduper, EventId, ExactlyOnce, Fault, Group, Key, Ledger,
    Monoid, Once, Outcome, Owner, PipelineName, Random, Recorder, Replace, Retry, Store,
    StoreError,
};

use crate::pipeline::Repeats;
use crate::plan::the_record;
use crate::record::Record;

/// How many claims of one batch are under way at a time.
const CLAIM_CONCURRENCY: usize = 32;

/// What one record adds.
pub(crate) struct Share<'a, V> {
    pub(crate) record: &'a Record,
    pub(crate) id: &'a EventId,
    pub(crate) adds: Vec<Add<V>>,
}

/// What a batch is delivered with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) retry: &'a Retry,
    pub(crate) random: &'a Random,
    pub(crate) recorder: &'a dyn Recorder,
    pub(crate) deadline: Deadline,
}

impl Context<'_> {
    pub(crate) fn count(&self, pipeline: &PipelineName, suffix: &str, by: u64) {
        if by > 0 {
            self.recorder.count(&format!("{pipeline}{suffix}"), by);
        }
    }

    fn retried(&self, pipeline: &PipelineName, error: &StoreError) {
        let name = format!("{pipeline}:retry");
        self.recorder.count(&name, 1);
        self.recorder.error(&name, error);
    }
}

/// A delivery mode.
pub(crate) trait Delivery<M: Monoid>: Send + Sync + 'static {
    /// What it makes of a record that comes again.
    const REPEATS: Repeats;
    /// Whether it remembers what each item contributes, nothing included.
    const LEDGER: bool = false;

    /// One outcome per share.
    fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        shares: Vec<Share<'_, M::Value>>,
        context: &Context<'_>,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

pub(crate) struct AtLeastOnce<S> {
    pub(crate) store: S,
}

impl<M: Monoid, S: Store<M>> Delivery<M> for AtLeastOnce<S> {
    const REPEATS: Repeats = Repeats::Counted;

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        shares: Vec<Share<'_, M::Value>>,
        context: &Context<'_>,
    ) -> Vec<Outcome> {
        let adds = shares.into_iter().map(|share| share.adds).collect();
        merge(&self.store, pipeline, monoid, adds, context).await
    }
}

/// What a claim is called.
pub(crate) enum ClaimNames {
    PipelineAndEvent,
    BareEvent,
}

pub(crate) struct ClaimFirst<S, D> {
    pub(crate) store: S,
    pub(crate) deduper: Arc<D>,
    pub(crate) names: ClaimNames,
}

impl<S, D> ClaimFirst<S, D> {
    fn claim_name(&self, pipeline: &PipelineName, id: &EventId) -> String {
        match self.names {
            ClaimNames::PipelineAndEvent => pipeline.marker("claim", &[id.as_str()]),
            ClaimNames::BareEvent => id.as_str().to_owned(),
        }
    }
}

impl<M: Monoid, S: Store<M>, D: Deduper> Delivery<M> for ClaimFirst<S, D> {
    const REPEATS: Repeats = Repeats::EventOnce;

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        shares: Vec<Share<'_, M::Value>>,
        context: &Context<'_>,
    ) -> Vec<Outcome> {
        // A fifth of the time is kept for releasing: a claim that stays behind loses its event.
        let clock = &**context.retry.clock();
        let work = match context.deadline.remaining(clock) {
            Some(left) => Deadline::within(clock, left * 4 / 5),
            None => Deadline::NONE,
        };
        let (owner, deduper) = (&Owner::new(context.random), &*self.deduper);
        let mut claims = Vec::with_capacity(shares.len());
        for share in shares {
            let name = self.claim_name(pipeline, share.id);
            claims.push(async move {
                // Whether the claim may be held although no answer said so.
                let lost = AtomicBool::new(false);
                let attempt = || async {
                    let claim = deduper.claim(&name, owner, work).await;
                    if let Err(StoreError::Unavailable {
                        may_have_applied: true,
                        ..
                    }) = &claim
                    {
                        lost.store(true, Ordering::Relaxed);
                    }
                    claim
                };
                let retried = |error: &StoreError| context.retried(pipeline, error);
                let claim = context.retry.run(work, retried, attempt).await;
                (name, share.adds, claim, lost.into_inner())
            });
        }
        let claimed: Vec<_> = stream::iter(claims)
            .buffered(CLAIM_CONCURRENCY)
            .collect()
            .await;

        let (mut outcomes, mut undone) = (Vec::with_capacity(claimed.len()), Vec::new());
        let (mut held, mut adds) = (Vec::new(), Vec::new());
        for (place, (name, share, claim, lost)) in claimed.into_iter().enumerate() {
            outcomes.push(match claim {
                Ok(Claim::First) => {
                    held.push((place, name));
                    adds.push(share);
                    Outcome::Applied
                }
                Ok(Claim::Duplicate) => Outcome::Duplicate,
                Err(error) => {
                    undone.extend(lost.then_some(name));
                    Outcome::Failed(error)
                }
            });
        }
        let within_work = Context {
            deadline: work,
            ..*context
        };
        let merged = merge(&self.store, pipeline, monoid, adds, &within_work).await;
        for ((place, name), outcome) in held.into_iter().zip(merged) {
            if !matches!(outcome, Outcome::Applied) {
                undone.push(name);
            }
            outcomes[place] = outcome;
        }
        let mut releases = Vec::with_capacity(undone.len());
        for name in undone {
            releases.push(async move {
                let released = context
                    .retry
                    .run(
                        context.deadline,
                        |error| context.retried(pipeline, error),
                        || deduper.release(&name, owner, context.deadline),
                    )
                    .await;
                if let Err(error) = released {
                    context
                        .recorder
                        .error(&format!("{pipeline}:claim_left"), &error);
                    tracing::error!(
                        pipeline = pipeline.as_str(), claim = name,
                        error = %murmur_state::Causes(&error),
                        "a claim could not be released: when its event comes again it will be \
                         taken for a duplicate and lost; delete this marker row before that",
                    );
                }
            });
        }
        stream::iter(releases)
            .buffer_unordered(CLAIM_CONCURRENCY)
            .collect::<()>()
            .await;
        outcomes
    }
}

/// What a pipeline of an exact mode claims its state table for, stream by stream.
pub(crate) struct Owning {
    version: u32,
    mode: &'static str,
    /// Streams for which the store has agreed in this process.
    agreed: Mutex<HashSet<Option<Arc<str>>>>,
}

impl Owning {
    pub(crate) fn new(version: u32, mode: &'static str) -> Self {
        Self {
            version,
            mode,
            agreed: Mutex::default(),
        }
    }

    /// Parts the shares of streams to which the store belongs from those of streams to which it
    /// does not, whose outcome is the store's refusal.
    async fn bind<'a, M: Monoid, S: ExactlyOnce<M>>(
        &self,
        (store, markers): (&S, &S::Markers),
        pipeline: &PipelineName,
        shares: Vec<Share<'a, M::Value>>,
        context: &Context<'_>,
    ) -> Bound<'a, M::Value> {
        let mut refused: HashMap<Option<&str>, StoreError> = HashMap::new();
        let mut bound = Bound {
            outcomes: Vec::with_capacity(shares.len()),
            places: Vec::with_capacity(shares.len()),
            shares: Vec::with_capacity(shares.len()),
        };
        let mut last = None;
        for (place, share) in shares.into_iter().enumerate() {
            let stream = share.record.stream_arn();
            if last != Some(stream) && !refused.contains_key(&stream) {
                match self
                    .agree((store, markers), pipeline, stream, context)
                    .await
                {
                    Ok(()) => last = Some(stream),
                    Err(error) => {
                        refused.insert(stream, error);
                    }
                }
            }
            bound.outcomes.push(match refused.get(&stream) {
                Some(error) => Outcome::Failed(error.clone()),
                None => {
                    bound.places.push(place);
                    bound.shares.push(share);
                    Outcome::Applied
                }
            });
        }
        bound
    }

    async fn agree<M: Monoid, S: ExactlyOnce<M>>(
        &self,
        (store, markers): (&S, &S::Markers),
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<(), StoreError> {
        let stream: Option<Arc<str>> = stream.map(Into::into);
        let agreed = || self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        if agreed().contains(&stream) {
            return Ok(());
        }
        let binding = Binding {
            pipeline: pipeline.clone(),
            version: self.version,
            mode: self.mode.into(),
            stream: stream.clone(),
        };
        context
            .retry
            .run(
                context.deadline,
                |error| context.retried(pipeline, error),
                || store.bind(&binding, markers, context.deadline),
            )
            .await?;
        agreed().insert(stream);
        Ok(())
    }
}

/// The shares that may be delivered, each with its place among all.
struct Bound<'a, V> {
    outcomes: Vec<Outcome>,
    places: Vec<usize>,
    shares: Vec<Share<'a, V>>,
}

impl<V> Bound<'_, V> {
    fn outcomes(mut self, delivered: Vec<Outcome>) -> Vec<Outcome> {
        for (place, outcome) in self.places.into_iter().zip(delivered) {
            self.outcomes[place] = outcome;
        }
        self.outcomes
    }
}

pub(crate) struct OncePerKey<S, K> {
    pub(crate) store: S,
    pub(crate) markers: Arc<K>,
    pub(crate) owning: Owning,
}

impl<M: Monoid, S: ExactlyOnce<M>> Delivery<M> for OncePerKey<S, S::Markers> {
    const REPEATS: Repeats = Repeats::EventOnce;

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        shares: Vec<Share<'_, M::Value>>,
        context: &Context<'_>,
    ) -> Vec<Outcome> {
        let target = (&self.store, &*self.markers);
        let mut bound = self.owning.bind(target, pipeline, shares, context).await;
        let shares = std::mem::take(&mut bound.shares);
        let delivered = if M::IDEMPOTENT {
            // The same value again changes nothing: no ids are needed.
            let adds = shares.into_iter().map(|share| share.adds).collect();
            merge(&self.store, pipeline, monoid, adds, context).await
        } else {
            self.apply(pipeline, shares, context).await
        };
        bound.outcomes(delivered)
    }
}

impl<S, K> OncePerKey<S, K> {
    async fn apply<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        shares: Vec<Share<'_, M::Value>>,
        context: &Context<'_>,
    ) -> Vec<Outcome>
    where
        S: ExactlyOnce<M, Markers = K>,
    {
        let events = shares
            .into_iter()
            .map(|share| Once {
                id: share.id.clone(),
                created: share.record.created(),
                adds: share.adds,
            })
            .collect();
        settle(
            pipeline,
            context,
            events,
            |event: &Once<_>| &event.adds,
            |events: Vec<_>| async move {
                let outcomes = self
                    .store
                    .apply(pipeline, &self.markers, &events, context.deadline)
                    .await;
                (events, outcomes)
            },
        )
        .await
    }
}

pub(crate) struct InLedger<S, K> {
    pub(crate) store: S,
    pub(crate) markers: Arc<K>,
    pub(crate) owning: Owning,
}

impl<M: Group, S: Ledger<M>> Delivery<M> for InLedger<S, S::Markers> {
    const REPEATS: Repeats = Repeats::ItemOnce;
    const LEDGER: bool = true;

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        _monoid: &M,
        shares: Vec<Share<'_, M::Value>>,
        context: &Context<'_>,
    ) -> Vec<Outcome> {
        let target = (&self.store, &*self.markers);
        let mut bound = self.owning.bind(target, pipeline, shares, context).await;
        let shares = std::mem::take(&mut bound.shares);
        let (mut outcomes, mut places, mut items) = (Vec::new(), Vec::new(), Vec::new());
        for (place, share) in shares.into_iter().enumerate() {
            match share.record.position() {
                Some(at) => {
                    places.push(place);
                    items.push(Replace {
                        item: share.record.item_id(),
                        at,
                        now: share.adds,
                    });
                    outcomes.push(Outcome::Applied);
                }
                None => outcomes.push(Outcome::Failed(StoreError::InvalidValue {
                    place: the_record(),
                    reason: "it has no sequence number, and a ledger goes by it".into(),
                    source: None,
                })),
            }
        }
        let settled = settle(
            pipeline,
            context,
            items,
            |item: &Replace<_>| &item.now,
            |items: Vec<_>| async move {
                let outcomes = self
                    .store
                    .replace(pipeline, &self.markers, &items, context.deadline)
                    .await;
                (items, outcomes)
            },
        );
        for (place, outcome) in places.into_iter().zip(settled.await) {
            outcomes[place] = outcome;
        }
        bound.outcomes(outcomes)
    }
}

/// One write to one row: the additions of some records, combined.
#[derive(Clone)]
struct Chunk<V> {
    add: Add<V>,
    members: Vec<usize>,
}

/// Combines what the records add to each key, merges it, and gives each record the worst outcome
/// of its additions. Where a combined write is refused for its value, it is sent again record by
/// record, so that the one to blame does not take its neighbours along.
async fn merge<M: Monoid, S: Store<M>>(
    store: &S,
    pipeline: &PipelineName,
    monoid: &M,
    shares: Vec<Vec<Add<M::Value>>>,
    context: &Context<'_>,
) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Applied; shares.len()];
    let chunks = lanes(monoid, &shares);
    let settled = settle_chunks(store, pipeline, chunks, context).await;
    let mut alone = Vec::new();
    for (chunk, outcome) in settled {
        match outcome {
            Outcome::Failed(error) if error.fault() == Fault::Record && chunk.members.len() > 1 => {
                for member in chunk.members {
                    let own = shares[member].iter().find(|add| add.key == chunk.add.key);
                    alone.extend(own.map(|add| Chunk {
                        add: add.clone(),
                        members: vec![member],
                    }));
                }
            }
            outcome => chunk
                .members
                .iter()
                .for_each(|at| outcomes[*at].worsen(&outcome)),
        }
    }
    for (chunk, outcome) in settle_chunks(store, pipeline, alone, context).await {
        chunk
            .members
            .iter()
            .for_each(|at| outcomes[*at].worsen(&outcome));
    }
    outcomes
}

/// The lanes of a batch: for each key the additions of all records, combined as far as they do
/// not overflow.
fn lanes<M: Monoid>(monoid: &M, shares: &[Vec<Add<M::Value>>]) -> Vec<Chunk<M::Value>> {
    let mut chunks: Vec<Chunk<M::Value>> = Vec::new();
    let mut newest: HashMap<&Key, usize> = HashMap::new();
    for (member, adds) in shares.iter().enumerate() {
        for add in adds {
            if let Some(chunk) = newest.get(&add.key).map(|at| &mut chunks[*at])
                && let Ok(()) = monoid.combine(&mut chunk.add.value, &add.value)
            {
                chunk.members.push(member);
                continue;
            }
            newest.insert(&add.key, chunks.len());
            chunks.push(Chunk {
                add: add.clone(),
                members: vec![member],
            });
        }
    }
    chunks
}

async fn settle_chunks<M: Monoid, S: Store<M>>(
    store: &S,
    pipeline: &PipelineName,
    chunks: Vec<Chunk<M::Value>>,
    context: &Context<'_>,
) -> Vec<(Chunk<M::Value>, Outcome)> {
    if chunks.is_empty() {
        return Vec::new();
    }
    let adds = chunks.iter().map(|chunk| chunk.add.clone()).collect();
    let settled = settle(
        pipeline,
        context,
        adds,
        std::slice::from_ref,
        |adds: Vec<_>| async move {
            let outcomes = store.merge(&adds, context.deadline).await;
            (adds, outcomes)
        },
    );
    chunks.into_iter().zip(settled.await).collect()
}

/// What [`settle`] has left to do.
struct Unsettled<E> {
    entries: Vec<E>,
    places: Vec<usize>,
    outcomes: Vec<Outcome>,
    transient: Vec<u32>,
}

/// Sends entries until each is settled, or attempts or time are used up: the one retry loop of
/// all modes. Only what failed and may succeed is sent again, in its order. An entry that failed
/// for good (and not by its own fault) stops its keys: later entries there stay blocked.
async fn settle<E, V, Send, Sent>(
    pipeline: &PipelineName,
    context: &Context<'_>,
    entries: Vec<E>,
    adds: impl Fn(&E) -> &[Add<V>],
    send: Send,
) -> Vec<Outcome>
where
    E: std::marker::Send,
    Send: Fn(Vec<E>) -> Sent,
    Sent: Future<Output = (Vec<E>, Vec<Outcome>)>,
{
    let count = entries.len();
    let unsettled = Mutex::new(Unsettled {
        entries,
        places: (0..count).collect(),
        outcomes: vec![Outcome::Blocked; count],
        transient: vec![0; count],
    });
    let lock = || unsettled.lock().unwrap_or_else(PoisonError::into_inner);
    let max_attempts = context.retry.policy().max_attempts;
    let (adds, send) = (&adds, &send);

    let round = || async move {
        let batch = std::mem::take(&mut lock().entries);
        let (batch, answers) = send(batch).await;

        let mut state = lock();
        let places = std::mem::take(&mut state.places);
        let (mut stopped, mut again) = (HashSet::new(), Vec::new());
        let mut after = Fault::Transient;
        for ((entry, outcome), place) in batch.into_iter().zip(answers).zip(places) {
            let keys = || adds(&entry).iter().map(|add| add.key.clone());
            let retry = match &outcome {
                Outcome::Applied | Outcome::Duplicate | Outcome::Superseded => false,
                Outcome::Blocked => !keys().any(|key| stopped.contains(&key)),
                Outcome::Failed(error) => {
                    let retry = match error.fault() {
                        Fault::Contention => {
                            after = Fault::Contention;
                            true
                        }
                        Fault::Transient => {
                            state.transient[place] += 1;
                            state.transient[place] < max_attempts
                        }
                        Fault::Record | Fault::Setup => false,
                    };
                    if retry {
                        context.retried(pipeline, error);
                    } else if error.fault() != Fault::Record {
                        stopped.extend(keys());
                    }
                    retry
                }
            };
            state.outcomes[place] = outcome;
            if retry {
                again.push((entry, place));
            }
        }
        (state.entries, state.places) = again.into_iter().unzip();
        if state.entries.is_empty() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(after)
        }
    };
    context.retry.rounds(context.deadline, round).await;
    unsettled
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .outcomes
}
