//! The delivery modes: how what a batch adds reaches the store.

mod ledger;

use std::collections::{HashMap, HashSet};
use std::future::{Future, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use murmur_state::{
    Add, Binding, Bound, Claim, Deadline, Deduper, EventId, ExactlyOnce, Fault, ItemId, Key,
    Listed, Monoid, Once, Outcome, Owner, PipelineName, Place, Read, Recorder, Repeats, Retry,
    Store, StoreError, Tokens,
};

use crate::audit::{LedgerOf, Pacing};
use crate::batch::{Batch, Share};
use crate::plan::Verdict;
use crate::record::Record;
pub(crate) use ledger::InLedger;

/// How long after a stop the release of a claim is still tried again: a claim that stays behind
/// loses its event.
const RELEASE_GRACE: Duration = Duration::from_secs(30);

/// What to do about a claim that its owner could not give back.
const CLAIM_LEFT: &str = "it could not be released: when its event comes again it will be taken for a \
                          duplicate and lost; delete this row of the marker table before that";

/// How many claims of one batch are under way at a time.
const CLAIM_CONCURRENCY: usize = 32;

/// What a batch is delivered with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) retry: &'a Retry,
    pub(crate) tokens: &'a Tokens,
    pub(crate) recorder: &'a dyn Recorder,
    pub(crate) deadline: Deadline,
    /// What holds listings back.
    pub(crate) pacing: Option<&'a dyn Pacing>,
}

impl Context<'_> {
    pub(crate) fn count(&self, pipeline: &PipelineName, suffix: &str, by: u64) {
        if by > 0 {
            self.recorder.count(&format!("{pipeline}{suffix}"), by);
        }
    }

    /// Calls again what may succeed, until the retries' time is up.
    pub(crate) async fn read<A, Read, Reading>(
        &self,
        pipeline: &PipelineName,
        read: Read,
    ) -> Result<A, StoreError>
    where
        Read: FnMut() -> Reading,
        Reading: Future<Output = Result<A, StoreError>>,
    {
        let again = |error: &StoreError| self.retried(pipeline, error);
        self.retry.run(self.deadline, again, read).await
    }

    /// Until when an operation that begins now may take, its retries included.
    pub(crate) fn operation_deadline(&self) -> Deadline {
        self.retry.batch_deadline(self.deadline)
    }

    /// Reads a part of a listing, when it may be read.
    pub(crate) async fn list<A, Read, Reading>(
        &self,
        pipeline: &PipelineName,
        read: Read,
    ) -> Result<Listed<A>, StoreError>
    where
        Read: FnMut() -> Reading,
        Reading: Future<Output = Result<Listed<A>, StoreError>>,
    {
        if let Some(pacing) = self.pacing {
            pacing.before().await;
        }
        let listed = self.read(pipeline, read).await?;
        if let Some(pacing) = self.pacing {
            pacing.after(listed.read_units);
        }
        Ok(listed)
    }

    fn retried(&self, pipeline: &PipelineName, error: &StoreError) {
        let name = format!("{pipeline}:retry");
        self.recorder.count(&name, 1);
        self.recorder.error(&name, error);
    }
}

/// A delivery mode.
pub(crate) trait Delivery<M: Monoid>: Send + Sync + 'static {
    /// Its name.
    const MODE: &str;
    /// What it makes of a record that comes again.
    const REPEATS: Repeats;
    /// Whether it remembers what each item contributes, nothing included.
    const LEDGER: bool = false;

    /// Where its values are.
    type State: Read<M::Value>;

    /// Where its values are.
    fn state(&self) -> &Self::State;

    /// Its ledger, where it keeps one.
    fn ledger(&self) -> Option<&dyn LedgerOf<M>> {
        None
    }

    /// Makes the store belong to the pipeline where its records come from `stream`, or sees that
    /// it does.
    fn bind(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (pipeline, stream, context);
        ready(Ok(()))
    }

    /// Sees that the store belongs to the pipeline, and writes nothing; the stream it belongs to.
    fn check_binding(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<Option<Arc<str>>, StoreError>> + Send {
        let _ = (pipeline, context);
        ready(Ok(None))
    }

    /// Lets items of a ledger settle from now on.
    fn settle(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (pipeline, context);
        ready(Ok(()))
    }

    /// Whether items of a ledger settle.
    fn is_settling(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (pipeline, context);
        ready(Ok(false))
    }

    /// One verdict per share.
    fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        batch: Batch<'_, M::Value>,
        context: &Context<'_>,
    ) -> impl Future<Output = Vec<Verdict>> + Send;
}

pub(crate) struct AtLeastOnce<S> {
    pub(crate) store: S,
}

impl<M: Monoid, S: Store<M>> Delivery<M> for AtLeastOnce<S> {
    type State = S;
    const MODE: &str = "at-least-once";
    const REPEATS: Repeats = Repeats::Counted;

    fn state(&self) -> &S {
        &self.store
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        batch: Batch<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        merge(&self.store, pipeline, monoid, &batch, context).await
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
    fn claim_name(&self, pipeline: &PipelineName, record: &Record) -> String {
        let id = record.event_id();
        match self.names {
            ClaimNames::PipelineAndEvent => pipeline.marker("claim", &[id]),
            ClaimNames::BareEvent => id.to_owned(),
        }
    }
}

impl<M: Monoid, S: Store<M>, D: Deduper> Delivery<M> for ClaimFirst<S, D> {
    type State = S;
    const MODE: &str = "claim-first";
    const REPEATS: Repeats = Repeats::EventOnce;

    fn state(&self) -> &S {
        &self.store
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        Batch { rows, shares }: Batch<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        // A fifth of the time is kept for releasing: a claim that stays behind loses its event.
        let clock = &**context.retry.clock();
        let work = match context.deadline.remaining(clock) {
            Some(left) => Deadline::within(clock, left * 4 / 5),
            None => Deadline::NONE,
        };
        let owner = &match Owner::new(context.tokens) {
            Ok(owner) => owner,
            Err(error) => {
                let error = error.at(self.store.place());
                let failed = |_| Verdict::Failed(Box::new(error.clone()));
                return shares.into_iter().map(failed).collect();
            }
        };
        let deduper = &*self.deduper;
        let mut claims = Vec::with_capacity(shares.len());
        for share in shares {
            let name = self.claim_name(pipeline, share.record);
            claims.push(async move {
                // Whether the claim may be held although no answer said so.
                let lost = AtomicBool::new(false);
                let attempt = || async {
                    let until = context.retry.batch_deadline(work);
                    let claim = deduper.claim(&name, owner, until).await;
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
                (name, share, claim, lost.into_inner())
            });
        }
        let claimed: Vec<_> = stream::iter(claims)
            .buffered(CLAIM_CONCURRENCY)
            .collect()
            .await;

        let (mut verdicts, mut undone) = (Vec::with_capacity(claimed.len()), Vec::new());
        let (mut held, mut shares) = (Vec::new(), Vec::new());
        for (place, (name, share, claim, lost)) in claimed.into_iter().enumerate() {
            verdicts.push(match claim {
                Ok(Claim::First) => {
                    held.push((place, name));
                    shares.push(share);
                    Verdict::Applied
                }
                Ok(Claim::Duplicate) => Verdict::Duplicate,
                Err(error) => {
                    undone.extend(lost.then_some((place, name)));
                    Verdict::Failed(Box::new(error))
                }
            });
        }
        let within_work = Context {
            deadline: work,
            ..*context
        };
        let first = Batch { rows, shares };
        let merged = merge(&self.store, pipeline, monoid, &first, &within_work).await;
        for ((place, name), verdict) in held.into_iter().zip(merged) {
            if !matches!(verdict, Verdict::Applied) {
                undone.push((place, name));
            }
            verdicts[place] = verdict;
        }
        let retry = &context.retry.with_grace(RELEASE_GRACE);
        let mut releases = Vec::with_capacity(undone.len());
        for (place, name) in undone {
            releases.push(async move {
                let released = retry
                    .run(
                        context.deadline,
                        |error| context.retried(pipeline, error),
                        || deduper.release(&name, owner, context.operation_deadline()),
                    )
                    .await;
                let error = released.err()?;
                context
                    .recorder
                    .error(&format!("{pipeline}:claim_left"), &error);
                tracing::error!(
                    pipeline = pipeline.as_str(), claim = name,
                    error = %murmur_state::Causes(&error),
                    "{CLAIM_LEFT}",
                );
                let error = StoreError::Setup {
                    place: self.store.place(),
                    advice: format!("claim `{name}`: {CLAIM_LEFT}"),
                    source: Some(Arc::new(error)),
                };
                Some((place, error))
            });
        }
        let left: Vec<_> = stream::iter(releases)
            .buffer_unordered(CLAIM_CONCURRENCY)
            .filter_map(ready)
            .collect()
            .await;
        for (place, error) in left {
            // What can never count is handed over all the same, and then does not come again.
            let never = matches!(&verdicts[place], Verdict::Failed(error) if error.fault() == Fault::Record);
            if !never {
                verdicts[place] = Verdict::Failed(Box::new(error));
            }
        }
        verdicts
    }
}

/// A store that belongs to one pipeline in an exact mode, and to streams one by one.
pub(crate) struct Owned<S> {
    pub(crate) store: S,
    version: u32,
    mode: &'static str,
    definition: Arc<str>,
    agreed: Mutex<Agreed>,
}

/// What the store has agreed to in this process.
#[derive(Default)]
struct Agreed {
    streams: HashMap<Option<Arc<str>>, Bound>,
    /// What it answered last, be it that it was bound or only looked at.
    last: Option<Bound>,
}

impl<S> Owned<S> {
    pub(crate) fn new(store: S, version: u32, mode: &'static str, definition: Arc<str>) -> Self {
        Self {
            store,
            version,
            mode,
            definition,
            agreed: Mutex::default(),
        }
    }

    fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parts the shares of streams to which the store belongs from those of streams to which it
    /// does not, whose outcome is the store's refusal. `None` if it belongs to none of the streams.
    async fn of_own_streams<'a, M: Monoid>(
        &self,
        pipeline: &PipelineName,
        shares: Vec<Share<'a, M::Value>>,
        context: &Context<'_>,
    ) -> (Answered, Option<Bound>, Vec<Share<'a, M::Value>>)
    where
        S: ExactlyOnce<M>,
    {
        let mut refused: HashMap<Option<&str>, StoreError> = HashMap::new();
        let (mut last, mut proof) = (None, None);
        for share in &shares {
            let stream = share.record.stream_arn();
            if last == Some(stream) || refused.contains_key(&stream) {
                continue;
            }
            last = Some(stream);
            match self.bind::<M>(pipeline, stream, context).await {
                Ok(bound) => proof = Some(bound),
                Err(error) => {
                    refused.insert(stream, error);
                }
            }
        }
        let (answered, shares) = part(shares, |share| {
            match refused.get(&share.record.stream_arn()) {
                Some(error) => Err(error.clone()),
                None => Ok(share),
            }
        });
        (answered, proof, shares)
    }

    async fn bind<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let stream: Option<Arc<str>> = stream.map(Into::into);
        if let Some(bound) = self.agreed().streams.get(&stream) {
            return Ok(bound.clone());
        }
        let binding = self.binding(pipeline, stream.clone());
        let bind = || self.store.bind(&binding, context.operation_deadline());
        let bound = context.read(pipeline, bind).await;
        // It carries no record.
        let bound = bound.map_err(|error| error.blameless(self.store.place()))?;
        let mut agreed = self.agreed();
        agreed.streams.insert(stream, bound.clone());
        agreed.last = Some(bound.clone());
        Ok(bound)
    }

    async fn check_binding<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let check = || self.look::<M>(pipeline, context.operation_deadline());
        let checked = context.read(pipeline, check).await;
        checked.map_err(|error| error.blameless(self.store.place()))
    }

    /// The proof that the store belongs to the pipeline, as it was given before; asked for once if it
    /// was not.
    pub(crate) async fn bound<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        deadline: Deadline,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let last = self.agreed().last.clone();
        match last {
            Some(bound) => Ok(bound),
            None => self.look::<M>(pipeline, deadline).await,
        }
    }

    async fn look<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        deadline: Deadline,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let binding = self.binding(pipeline, None);
        let bound = self.store.check_binding(&binding, deadline).await?;
        self.agreed().last = Some(bound.clone());
        Ok(bound)
    }

    fn binding(&self, pipeline: &PipelineName, stream: Option<Arc<str>>) -> Binding {
        Binding {
            pipeline: pipeline.clone(),
            version: self.version,
            mode: self.mode.into(),
            definition: Arc::clone(&self.definition),
            stream,
        }
    }
}

pub(crate) struct OncePerKey<S>(pub(crate) Owned<S>);

impl<M: Monoid, S: ExactlyOnce<M>> Delivery<M> for OncePerKey<S> {
    type State = S;
    const MODE: &str = "exactly-once";
    const REPEATS: Repeats = Repeats::EventOnce;

    fn state(&self) -> &S {
        &self.0.store
    }

    async fn bind(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<(), StoreError> {
        self.0.bind::<M>(pipeline, stream, context).await?;
        Ok(())
    }

    async fn check_binding(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<Option<Arc<str>>, StoreError> {
        let bound = self.0.check_binding::<M>(pipeline, context).await?;
        Ok(bound.stream().cloned())
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        Batch { rows, shares }: Batch<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        let own = self.0.of_own_streams::<M>(pipeline, shares, context);
        let (answered, bound, shares) = own.await;
        let Some(bound) = bound else {
            return answered.verdicts;
        };
        let batch = Batch { rows, shares };
        let delivered = if M::IDEMPOTENT {
            // The same value again changes nothing: no ids are needed.
            merge(&self.0.store, pipeline, monoid, &batch, context).await
        } else {
            self.apply(&bound, batch, context).await
        };
        answered.with(delivered)
    }
}

impl<S> OncePerKey<S> {
    async fn apply<M: Monoid>(
        &self,
        bound: &Bound,
        Batch { rows, shares }: Batch<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict>
    where
        S: ExactlyOnce<M>,
    {
        let handed_over = context.retry.clock().now();
        let (answered, events) = part(shares, |share| {
            Ok(Once {
                id: EventId::new(share.record.event_id()).map_err(StoreError::InvalidId)?,
                created: share.record.created(),
                handed_over,
                adds: share.adds.iter().map(|add| rows.add(add)).collect(),
            })
        });
        let outcomes = settle(
            bound.pipeline(),
            self.0.store.place(),
            context,
            events,
            |event: &Once<_>| of_keys(&event.adds).collect(),
            |events: Vec<_>, until| async move {
                let outcomes = self.0.store.apply(bound, &events, until).await;
                (events, outcomes)
            },
        );
        answered.with(outcomes.await)
    }
}

/// The shares of a batch whose verdict is known before delivery, and the places of the others.
struct Answered {
    verdicts: Vec<Verdict>,
    open: Vec<usize>,
}

impl Answered {
    /// All verdicts, with `delivered` for those that were open.
    fn with<V: Into<Verdict>>(mut self, delivered: Vec<V>) -> Vec<Verdict> {
        for (place, verdict) in self.open.into_iter().zip(delivered) {
            self.verdicts[place] = verdict.into();
        }
        self.verdicts
    }
}

/// Parts what `deliverable` makes something to deliver of from what it refuses.
fn part<S, E>(
    shares: Vec<S>,
    mut deliverable: impl FnMut(S) -> Result<E, StoreError>,
) -> (Answered, Vec<E>) {
    let mut answered = Answered {
        verdicts: Vec::with_capacity(shares.len()),
        open: Vec::with_capacity(shares.len()),
    };
    let mut entries = Vec::with_capacity(shares.len());
    for (place, share) in shares.into_iter().enumerate() {
        answered.verdicts.push(match deliverable(share) {
            Ok(entry) => {
                answered.open.push(place);
                entries.push(entry);
                Verdict::Applied
            }
            Err(error) => Verdict::Failed(Box::new(error)),
        });
    }
    (answered, entries)
}

/// Combines what the records add to each key, merges it, and gives each record the worst outcome
/// of its additions. Where a combined write is refused for its value, it is sent again record by
/// record, so that the one to blame does not take its neighbours along.
async fn merge<M: Monoid, S: Store<M>>(
    store: &S,
    pipeline: &PipelineName,
    monoid: &M,
    batch: &Batch<'_, M::Value>,
    context: &Context<'_>,
) -> Vec<Verdict> {
    let mut lanes = Lanes::of(monoid, batch);
    let mut outcomes = settle_adds(store, pipeline, lanes.writes, context).await;
    let mut alone = Vec::new();
    for (write, addition) in lanes.of_additions.iter_mut().zip(batch.additions()) {
        if lanes.shared[*write]
            && let Outcome::Failed(error) = &outcomes[*write]
            && error.fault() == Fault::Record
        {
            *write = outcomes.len() + alone.len();
            alone.push(batch.rows.add(addition));
        }
    }
    outcomes.extend(settle_adds(store, pipeline, alone, context).await);

    if outcomes
        .iter()
        .all(|outcome| matches!(outcome, Outcome::Applied))
    {
        return batch.shares.iter().map(|_| Verdict::Applied).collect();
    }
    let mut writes = lanes.of_additions.into_iter();
    let verdict = |share: &Share<'_, _>| {
        let mut worst = Outcome::Applied;
        for write in writes.by_ref().take(share.adds.len()) {
            worst.worsen(&outcomes[write]);
        }
        worst.into()
    };
    batch.shares.iter().map(verdict).collect()
}

/// The lanes of a batch: for each key the additions of all records, combined as far as they do
/// not overflow.
struct Lanes<V> {
    writes: Vec<Add<V>>,
    /// Whether a write combines several additions.
    shared: Vec<bool>,
    /// Which write each addition went into.
    of_additions: Vec<usize>,
}

impl<V: Clone> Lanes<V> {
    fn of<M: Monoid<Value = V>>(monoid: &M, batch: &Batch<'_, V>) -> Self {
        let rows = batch.rows.len();
        let mut lanes = Self {
            writes: Vec::with_capacity(rows),
            shared: Vec::with_capacity(rows),
            of_additions: Vec::with_capacity(batch.shares.len()),
        };
        let mut newest: Vec<Option<usize>> = vec![None; rows];
        for addition in batch.additions() {
            let newest = &mut newest[addition.row];
            let takes_more = newest.filter(|&write| {
                let into = &mut lanes.writes[write].value;
                monoid.combine(into, &addition.value).is_ok()
            });
            let write = match takes_more {
                Some(write) => {
                    lanes.shared[write] = true;
                    write
                }
                None => {
                    lanes.writes.push(batch.rows.add(addition));
                    lanes.shared.push(false);
                    *newest.insert(lanes.writes.len() - 1)
                }
            };
            lanes.of_additions.push(write);
        }
        lanes
    }
}

async fn settle_adds<M: Monoid, S: Store<M>>(
    store: &S,
    pipeline: &PipelineName,
    adds: Vec<Add<M::Value>>,
    context: &Context<'_>,
) -> Vec<Outcome> {
    if adds.is_empty() {
        return Vec::new();
    }
    settle(
        pipeline,
        store.place(),
        context,
        adds,
        |add| of_keys(std::slice::from_ref(add)).collect(),
        |adds: Vec<_>, until| async move {
            let outcomes = store.merge(&adds, until).await;
            (adds, outcomes)
        },
    )
    .await
}

/// What entries share whose order matters.
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Key(Key),
    Item(ItemId),
}

pub(crate) fn of_keys<V>(adds: &[Add<V>]) -> impl Iterator<Item = Lane> {
    adds.iter().map(|add| Lane::Key(add.key.clone()))
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Applied | Outcome::Duplicate | Outcome::Superseded
    )
}

/// The outcomes, if there is one for each of the entries. Otherwise nothing tells which of them are
/// done, so none is: they are reported, and come again.
fn one_for_each(place: &Place, entries: usize, outcomes: Vec<Outcome>) -> Vec<Outcome> {
    match all_answered(|| place.clone(), entries, outcomes) {
        Ok(outcomes) => outcomes,
        Err(error) => vec![Outcome::Failed(error); entries],
    }
}

/// The answers, if there is one for each that was asked for.
///
/// # Errors
///
/// [`StoreError::Setup`] naming the store and both numbers.
pub(crate) fn all_answered<A>(
    place: impl FnOnce() -> Place,
    asked: usize,
    answers: Vec<A>,
) -> Result<Vec<A>, StoreError> {
    match answers.len() == asked {
        true => Ok(answers),
        false => Err(miscounted(place(), asked, answers.len())),
    }
}

fn miscounted(place: Place, asked: usize, answered: usize) -> StoreError {
    StoreError::Setup {
        place,
        advice: format!(
            "it gave {answered} answers to {asked} entries, so that nothing tells which of them \
             are done; mend the store: one answer for each entry, in order"
        ),
        source: None,
    }
}

/// Sends entries until each is settled, or attempts or time are used up: the one retry loop of
/// all modes. Only what failed and may succeed is sent again, in its order. An entry that failed
/// for good (and not by its own fault) stops its lanes: later entries there stay blocked.
///
/// `send` is told until when it may take. The budget is the time in which nothing gets done.
pub(crate) async fn settle<E, Send, Sent>(
    pipeline: &PipelineName,
    place: Place,
    context: &Context<'_>,
    entries: Vec<E>,
    lanes: impl Fn(&E) -> Vec<Lane>,
    send: Send,
) -> Vec<Outcome>
where
    E: std::marker::Send,
    Send: Fn(Vec<E>, Deadline) -> Sent,
    Sent: Future<Output = (Vec<E>, Vec<Outcome>)>,
{
    let send = |entries: Vec<E>, until| {
        let sent = send(entries, until);
        async {
            let (entries, answers) = sent.await;
            let answers = one_for_each(&place, entries.len(), answers);
            (entries, answers)
        }
    };
    let mut attempts = context.retry.attempts(context.deadline);
    let (mut batch, mut answers) = send(entries, attempts.deadline()).await;
    // Mostly that was all.
    if answers.iter().all(is_done) {
        attempts.progressed();
        return answers;
    }
    let max_attempts = context.retry.policy().max_attempts;
    let mut places: Vec<usize> = (0..batch.len()).collect();
    let mut outcomes = vec![Outcome::Blocked; batch.len()];
    let mut transient = vec![0u32; batch.len()];
    loop {
        if answers.iter().any(is_done) {
            attempts.progressed();
        }
        let (mut stopped, mut again) = (HashSet::new(), Vec::new());
        let mut failed: Option<StoreError> = None;
        for ((entry, outcome), place) in batch.into_iter().zip(answers).zip(places) {
            let retry = match &outcome {
                Outcome::Applied | Outcome::Duplicate | Outcome::Superseded => false,
                Outcome::Blocked => {
                    let lanes = lanes(&entry);
                    let blocked = lanes.iter().any(|lane| stopped.contains(lane));
                    if blocked {
                        // It holds up what comes after it in its other lanes.
                        stopped.extend(lanes);
                    }
                    !blocked
                }
                Outcome::Failed(error) => {
                    let fault = error.fault();
                    let retry = match fault {
                        Fault::Contention => true,
                        // It was not sent, so it failed nowhere: time alone ends it.
                        Fault::Transient if matches!(error, StoreError::DeadlinePassed { .. }) => {
                            true
                        }
                        Fault::Transient => {
                            transient[place] = transient[place].saturating_add(1);
                            let may = transient[place] < max_attempts;
                            if !may {
                                attempts.exhausted();
                            }
                            may
                        }
                        Fault::Record | Fault::Setup => false,
                    };
                    if retry {
                        context.retried(pipeline, error);
                        // Where others got in the way of any, the wait is for them.
                        if failed.is_none() || fault == Fault::Contention {
                            failed = Some(error.clone());
                        }
                    } else if fault != Fault::Record {
                        stopped.extend(lanes(&entry));
                    }
                    retry
                }
            };
            outcomes[place] = outcome;
            if retry {
                again.push((entry, place));
            }
        }
        if again.is_empty() {
            return outcomes;
        }
        let wait = match &failed {
            Some(error) => attempts.wait_after(error.fault(), Some(error)),
            None => attempts.wait_after(Fault::Transient, None),
        };
        let Some(wait) = wait else {
            return outcomes;
        };
        if !attempts.rest(wait).await {
            return outcomes;
        }
        let entries;
        (entries, places) = again.into_iter().unzip();
        (batch, answers) = send(entries, attempts.deadline()).await;
    }
}
