//! With a ledger: item by item, in any company of live.
//!
//! Why a difference that is named is one, and why mending it is right: ARCHITECTURE.md,
//! "Reconcile and repair".

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hashbrown::HashMap;
use murmur_state::{
    Add, Causes, Deadline, Group, ItemId, Key, Known, Ledger, ListSegment, Listed, Mend, Monoid,
    Outcome, Overflow, PipelineName, Place, StoreError, Timestamp,
};

use super::status::settled_of;
use super::{
    Difference, Found, InspectionError, InspectionOptions, ItemSet, KeyDifference, LookUp,
    contributes, rejected,
};
use crate::delivery::{Context, InLedger, all_answered, of_keys, settle};
use crate::outcome::Rejected;
use crate::plan::Plan;

/// How many items one look is for.
const BATCH: usize = 100;

/// How often an item that keeps changing is looked at again before it is given up.
const ROUNDS: usize = 3;

/// How often mending an item is tried while live is faster.
const MENDINGS: usize = 5;

/// How old a look may be when it is written, as a ledger that forgets asks for.
const FRESH: Duration = Duration::from_secs(3600);

type Answer<'a, A, E = StoreError> = BoxFuture<'a, Result<A, E>>;

/// A ledger of a monoid, its store erased: one boxed future per batch.
pub(crate) trait LedgerOf<M: Monoid>: Send + Sync {
    fn place(&self) -> Place;

    fn known<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        items: &'a [ItemId],
        deadline: Deadline,
    ) -> Answer<'a, Vec<Option<Known<M::Value>>>>;

    fn list_known<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        segment: ListSegment,
        after: Option<&'a str>,
    ) -> Answer<'a, Listed<Known<M::Value>>>;

    fn mend<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        items: &'a [Mend<M::Value>],
        deadline: Deadline,
    ) -> BoxFuture<'a, Vec<Outcome>>;

    fn invert(&self, monoid: &M, value: &M::Value) -> Result<M::Value, Overflow>;
}

impl<M: Group, S: Ledger<M>> LedgerOf<M> for InLedger<S> {
    fn place(&self) -> Place {
        self.owned.store.place()
    }

    fn known<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        items: &'a [ItemId],
        deadline: Deadline,
    ) -> Answer<'a, Vec<Option<Known<M::Value>>>> {
        Box::pin(async move {
            let bound = self.owned.bound::<M>(pipeline, deadline).await?;
            self.owned.store.known(&bound, items, deadline).await
        })
    }

    fn list_known<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        segment: ListSegment,
        after: Option<&'a str>,
    ) -> Answer<'a, Listed<Known<M::Value>>> {
        Box::pin(async move {
            let bound = self.owned.bound::<M>(pipeline, Deadline::NONE).await?;
            self.owned.store.list_known(&bound, segment, after).await
        })
    }

    fn mend<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        items: &'a [Mend<M::Value>],
        deadline: Deadline,
    ) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            match self.owned.bound::<M>(pipeline, deadline).await {
                Ok(bound) => self.owned.store.mend(&bound, items, deadline).await,
                Err(error) => vec![Outcome::Failed(error); items.len()],
            }
        })
    }

    fn invert(&self, monoid: &M, value: &M::Value) -> Result<M::Value, Overflow> {
        monoid.invert(value)
    }
}

/// Compares what each item contributes with what the ledger says it does.
///
/// Three steps find the items to look at closely: [`compare`](LedgerInspection::compare) every row
/// of a scan, and list [what the ledger knows](LedgerInspection::contributing) that no scan has
/// seen. [`settle`](LedgerInspection::settle) looks at them twice, names what differs both times,
/// and repairs it where asked to. Contributions to windows whose retention is over do not count. Items
/// that have settled never differ here, in the table or gone from it: a
/// [recount](crate::Processor::recount) tells what they contribute.
pub struct LedgerInspection<'a, T>(Box<dyn OfLedger<T> + 'a>);

/// What came of comparing scanned rows with the ledger.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Compared {
    /// The items to be looked at closely.
    pub differing: Vec<ItemId>,
    /// The rows that can never count in this pipeline.
    pub rejected: Vec<Rejected>,
}

/// A part of what a ledger knows.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Contributing {
    /// The items that contribute anything; there may be none although more follow.
    pub items: Vec<ItemId>,
    /// How many items were listed.
    pub rows: u64,
    /// What the next part is asked for with; `None` if this is the segment's last.
    pub next: Option<String>,
    /// What it cost in read units, where the store knows.
    pub read_units: Option<f64>,
}

/// What a comparison with the ledger found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LedgerFindings {
    /// How many rows of the ledger were listed.
    pub ledger_rows: u64,
    /// How many of them are of items that have settled. They do not differ here, since the ledger does
    /// not know what they contribute.
    pub settled: u64,
    /// How many items differed when they were first looked at closely.
    pub suspects: u64,
    /// How many items differ.
    pub differing: u64,
    /// The first of them that were found, up to the limit.
    pub items: Vec<ItemDifference>,
    /// How many of them were made to contribute what they should.
    pub mended: u64,
    /// How many keys these items change.
    pub differing_keys: u64,
    /// The first of them, in order of the keys, up to the limit: how far they are off by what the
    /// differing items contribute, before any repair.
    pub keys: Vec<KeyDifference>,
    /// How many items are gone of which nobody can tell whether Time to Live removed them, so that
    /// they go on counting, or a user. They are not repaired.
    pub untold: u64,
    /// How many items differed, and changed whenever they were looked at.
    pub unsettled: u64,
}

/// An item that contributes something else than it should.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ItemDifference {
    /// The item.
    pub item: ItemId,
    /// Its keys, with how far each is off because of it.
    pub keys: Vec<KeyDifference>,
    /// What became of its repair.
    pub mending: Mending,
}

/// What became of the repair of an item.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Mending {
    /// It was not asked for.
    NotAsked,
    /// The item contributes what it should.
    Mended,
    /// Live changed the item faster than it could be mended, again and again.
    Overtaken,
    /// Live settled the item before it could be mended: only a recount tells what it contributes.
    Settled,
    /// Another item of one of its keys could not be mended.
    Blocked,
    /// It could not be written.
    Failed(StoreError),
}

impl fmt::Display for Mending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("differs"),
            Self::Mended => f.write_str("mended"),
            Self::Overtaken => {
                f.write_str("not mended: the stream changed it faster, again and again")
            }
            Self::Settled => {
                f.write_str("not mended: it has settled meanwhile, and only a recount tells")
            }
            Self::Blocked => {
                f.write_str("not mended: another item of one of its keys could not be mended")
            }
            Self::Failed(error) => write!(f, "not mended: {}", Causes(error)),
        }
    }
}

impl<'a, T: Send + Sync + 'static> LedgerInspection<'a, T> {
    pub(super) fn new<M: Monoid>(
        (pipeline, plan): (&'a PipelineName, &'a Plan<T, M>),
        ledger: &'a dyn LedgerOf<M>,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Self {
        Self(Box::new(Comparing {
            pipeline,
            plan,
            ledger,
            options,
            context,
            findings: LedgerFindings::default(),
            ledger_rows: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            off: HashMap::new(),
            told: ItemSet::default(),
        }))
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &PipelineName {
        self.0.pipeline()
    }

    /// The items of these rows that seem to differ, as the ledger is now: a cheap look, since the
    /// items may have changed since they were scanned. Rows that can never count are given back,
    /// and contribute nothing.
    ///
    /// # Errors
    ///
    /// The store's, after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn compare(&self, rows: &[Found<T>]) -> Result<Compared, StoreError> {
        self.0.compare(rows).await
    }

    /// A part of the items that contribute anything, as the ledger knows them in `segment`.
    ///
    /// # Errors
    ///
    /// The store's, after all retries.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn contributing(
        &self,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Contributing, StoreError> {
        self.0.contributing(segment, after).await
    }

    /// Looks at `items` closely: the ledger row, then the item by `look_up`; those that differ once
    /// more after the lag. What is the same both times is named, and with
    /// [`repair`](InspectionOptions::repair) mended at once. An item that changed in between is
    /// looked at again, three times in all.
    ///
    /// # Errors
    ///
    /// [`InspectionError`], after all retries, or because more differs than is held in memory. What was named and mended before stays so. A repair
    /// that fails is no error: it stands in the findings.
    ///
    /// # Cancel safety
    ///
    /// Dropped, each item is mended or is not; what was found is lost.
    pub async fn settle(
        &mut self,
        items: Vec<ItemId>,
        look_up: &LookUp<'_, T>,
    ) -> Result<(), InspectionError> {
        self.0.settle(items, look_up).await
    }

    /// How many items differed when they were first looked at closely, so far.
    pub fn suspects(&self) -> u64 {
        self.0.suspects()
    }

    /// How many items that have settled were listed so far.
    pub fn settled(&self) -> u64 {
        self.0.settled()
    }

    /// How many items were mended so far.
    pub fn mended(&self) -> u64 {
        self.0.mended()
    }

    /// What was found.
    pub fn findings(self) -> LedgerFindings {
        self.0.findings()
    }
}

impl<T> fmt::Debug for LedgerInspection<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LedgerInspection")
            .field(&self.0.pipeline().as_str())
            .finish()
    }
}

/// A comparison with monoid and store erased.
trait OfLedger<T>: Send + Sync {
    fn pipeline(&self) -> &PipelineName;
    fn compare<'s>(&'s self, rows: &'s [Found<T>]) -> Answer<'s, Compared>;
    fn contributing<'s>(
        &'s self,
        segment: ListSegment,
        after: Option<&'s str>,
    ) -> Answer<'s, Contributing>;
    fn settle<'s>(
        &'s mut self,
        items: Vec<ItemId>,
        look_up: &'s LookUp<'_, T>,
    ) -> Answer<'s, (), InspectionError>;
    fn suspects(&self) -> u64;
    fn settled(&self) -> u64;
    fn mended(&self) -> u64;
    fn findings(self: Box<Self>) -> LedgerFindings;
}

struct Comparing<'a, T, M: Monoid> {
    pipeline: &'a PipelineName,
    plan: &'a Plan<T, M>,
    ledger: &'a dyn LedgerOf<M>,
    options: InspectionOptions,
    context: Context<'a>,
    findings: LedgerFindings,
    ledger_rows: AtomicU64,
    /// How many of them have settled.
    settled: AtomicU64,
    /// By how much each key is off; `None` where that leaves the range of its type.
    off: HashMap<Key, Option<M::Value>>,
    /// Items that the findings tell of, and that differ still.
    told: ItemSet,
}

/// An item as it was looked at: what the ledger knew of it, then what it was.
struct Look<V> {
    item: ItemId,
    /// The version of its ledger row; `None` if there was none.
    over: Option<u64>,
    /// What the ledger says it contributes, in order of the keys.
    known: Vec<Add<V>>,
    /// What it contributes, in order of the keys.
    found: Vec<Add<V>>,
    is_gone: bool,
    /// Whether the ledger does not know what it contributes.
    has_settled: bool,
}

impl<V: PartialEq> Look<V> {
    fn differs(&self, identity: &V) -> bool {
        if self.has_settled {
            return false;
        }
        let counts = |add: &&Add<V>| add.value != *identity;
        let known = self.known.iter().filter(counts);
        let found = self.found.iter().filter(counts);
        !known
            .map(|add| (&add.key, &add.value))
            .eq(found.map(|add| (&add.key, &add.value)))
    }

    /// Whether neither ledger row nor item changed between the two looks.
    fn is_as(&self, earlier: &Self) -> bool {
        self.over == earlier.over && self.found == earlier.found && self.is_gone == earlier.is_gone
    }
}

impl<T: Send + Sync, M: Monoid> Comparing<'_, T, M> {
    fn now(&self) -> Timestamp {
        self.context.retry.clock().now()
    }

    fn differs(&self, look: &Look<M::Value>) -> bool {
        look.differs(&self.plan.monoid.identity())
    }

    async fn known(&self, items: &[ItemId]) -> Result<Vec<Option<Known<M::Value>>>, StoreError> {
        let (ledger, pipeline) = (self.ledger, self.pipeline);
        let read = || ledger.known(pipeline, items, self.context.operation_deadline());
        let known = self.context.read(pipeline, read).await?;
        all_answered(|| ledger.place(), items.len(), known)
    }

    /// What `found` contributes; nothing if it can never count.
    fn of(&self, found: &Found<T>, now: Timestamp) -> Result<Vec<Add<M::Value>>, Box<StoreError>> {
        contributes(self.plan, found, true, now)
    }

    /// Puts together what the ledger knew and what was found.
    fn look(
        &self,
        known: Option<Known<M::Value>>,
        found: &Found<T>,
        contributes: Vec<Add<M::Value>>,
        now: Timestamp,
    ) -> Look<M::Value> {
        let over = known.as_ref().map(|known| known.version);
        let has_settled = known.as_ref().is_some_and(|known| known.settled);
        let mut known = known.map_or_else(Vec::new, |known| known.now);
        known.retain(|add| !self.plan.is_past(&add.key, now));
        known.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Look {
            item: found.item.clone(),
            over,
            known,
            found: contributes,
            is_gone: !found.is_there,
            has_settled,
        }
    }

    async fn compare(&self, rows: &[Found<T>]) -> Result<Compared, StoreError> {
        let items: Vec<ItemId> = rows.iter().map(|found| found.item.clone()).collect();
        let mut compared = Compared::default();
        let known = self.known(&items).await?;
        let now = self.now();
        for (found, known) in rows.iter().zip(known) {
            let contributes = self.of(found, now).unwrap_or_else(|error| {
                let record = found.row.as_ref().map(|(record, _)| record);
                compared
                    .rejected
                    .extend(record.map(|record| rejected(self.pipeline, record, *error)));
                Vec::new()
            });
            let look = self.look(known, found, contributes, now);
            if self.differs(&look) {
                compared.differing.push(look.item);
            }
        }
        Ok(compared)
    }

    async fn contributing(
        &self,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Contributing, StoreError> {
        let (ledger, pipeline) = (self.ledger, self.pipeline);
        let part = || ledger.list_known(pipeline, segment, after);
        let Listed {
            entries,
            next,
            read_units,
        } = self.context.list(pipeline, part).await?;
        let rows = entries.len() as u64;
        self.ledger_rows.fetch_add(rows, Ordering::Relaxed);
        self.settled
            .fetch_add(settled_of(&entries), Ordering::Relaxed);
        let now = self.now();
        let counts = |known: &Known<_>| {
            let mut keys = known.now.iter().map(|add| &add.key);
            keys.any(|key| !self.plan.is_past(key, now))
        };
        let entries = entries.into_iter().filter(counts);
        Ok(Contributing {
            items: entries.map(|known| known.item).collect(),
            rows,
            next,
            read_units,
        })
    }

    /// Looks at `items`: the ledger row first, then the item. What changes an item after it was
    /// looked up changes its ledger row after that was read, so that nobody takes it for missed
    /// and nothing is mended over it.
    async fn look_at(
        &self,
        items: Vec<ItemId>,
        look_up: &LookUp<'_, T>,
    ) -> Result<Vec<Look<M::Value>>, InspectionError> {
        let known = self.known(&items).await?;
        let found = look_up(items).await.map_err(InspectionError::LookUp)?;
        let now = self.now();
        let looks = known.into_iter().zip(&found).map(|(known, found)| {
            // What can never count was given back when it was scanned.
            let contributes = self.of(found, now).unwrap_or_default();
            self.look(known, found, contributes, now)
        });
        Ok(looks.collect())
    }

    async fn settle(
        &mut self,
        items: Vec<ItemId>,
        look_up: &LookUp<'_, T>,
    ) -> Result<(), InspectionError> {
        let mut first = Vec::new();
        for batch in items.chunks(BATCH) {
            let open = batch.iter().filter(|item| !self.told.contains(item));
            let looks = self.look_at(open.cloned().collect(), look_up).await?;
            first.extend(looks.into_iter().filter(|look| self.differs(look)));
        }
        self.findings.suspects += first.len() as u64;
        for _ in 0..ROUNDS {
            if first.is_empty() {
                return Ok(());
            }
            self.context.retry.clock().sleep(self.options.lag).await;
            let mut moved = Vec::new();
            for batch in first.chunks(BATCH) {
                let fresh = self.fresh();
                let items = batch.iter().map(|look| look.item.clone()).collect();
                let second = self.look_at(items, look_up).await?;
                let mut named = Vec::new();
                for (first, second) in batch.iter().zip(second) {
                    // What does not differ any more was only late.
                    if self.differs(&second) {
                        let same = second.is_as(first);
                        if same { &mut named } else { &mut moved }.push(second);
                    }
                }
                self.name(named, fresh, look_up).await?;
            }
            first = moved;
        }
        self.findings.unsettled += first.len() as u64;
        first.iter().for_each(|look| self.told.insert(&look.item));
        self.check_room()
    }

    /// Until when what is looked at from now on may be written.
    fn fresh(&self) -> Deadline {
        Deadline::within(&**self.context.retry.clock(), FRESH)
    }

    /// Notes differences that stand, and mends them if asked to.
    async fn name(
        &mut self,
        named: Vec<Look<M::Value>>,
        fresh: Deadline,
        look_up: &LookUp<'_, T>,
    ) -> Result<(), InspectionError> {
        let mut open = Vec::with_capacity(named.len());
        for look in named {
            self.told.insert(&look.item);
            if look.is_gone && self.plan.keeps_expired {
                self.findings.untold += 1;
                continue;
            }
            let keys = self.count_off(&look);
            self.findings.differing += 1;
            let place = self.findings.items.len();
            let listed = (place < self.options.max_listed).then_some(place);
            if listed.is_some() {
                self.findings.items.push(ItemDifference {
                    item: look.item.clone(),
                    keys,
                    mending: Mending::NotAsked,
                });
            }
            open.push((listed, look));
        }
        if self.options.repair {
            self.mend(open, fresh, look_up).await?;
        }
        self.check_room()
    }

    fn check_room(&self) -> Result<(), InspectionError> {
        let most = self.options.max_differing;
        // What has expired or does not rest is no difference that a repair could end.
        let others = self.findings.untold.saturating_add(self.findings.unsettled);
        let others = usize::try_from(others).unwrap_or(usize::MAX);
        let items = self.told.len().saturating_sub(others);
        match items.max(self.off.len()) > most {
            true => Err(InspectionError::TooManyDiffer { most }),
            false => Ok(()),
        }
    }

    /// By how much the item puts its keys off.
    fn count_off(&mut self, look: &Look<M::Value>) -> Vec<KeyDifference> {
        let monoid = &self.plan.monoid;
        let mut keys: Vec<&Key> = look
            .known
            .iter()
            .chain(&look.found)
            .map(|add| &add.key)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut differences = Vec::with_capacity(keys.len());
        for key in keys {
            let value = |adds: &[Add<M::Value>]| {
                let add = adds.iter().find(|add| add.key == *key);
                add.map_or_else(|| monoid.identity(), |add| add.value.clone())
            };
            let (known, found) = (value(&look.known), value(&look.found));
            if known == found {
                continue;
            }
            let by = self.ledger.invert(monoid, &found).and_then(|mut by| {
                monoid.combine(&mut by, &known)?;
                Ok(by)
            });
            let sum = self
                .off
                .entry_ref(key)
                .or_insert_with(|| Some(monoid.identity()));
            let added = match (sum.as_mut(), &by) {
                (Some(sum), Ok(by)) => monoid.combine(sum, by).is_ok(),
                _ => false,
            };
            if !added {
                *sum = None;
            }
            differences.push(KeyDifference {
                key: key.clone(),
                difference: shown(by.ok().as_ref()),
            });
        }
        differences
    }

    /// Makes each item contribute what it was found to; one that live changes meanwhile is looked
    /// at again.
    async fn mend(
        &mut self,
        mut open: Vec<(Option<usize>, Look<M::Value>)>,
        mut fresh: Deadline,
        look_up: &LookUp<'_, T>,
    ) -> Result<(), InspectionError> {
        for attempt in 0..MENDINGS {
            if attempt > 0 {
                fresh = self.fresh();
                let items = open.iter().map(|(_, look)| look.item.clone()).collect();
                let looks = self.look_at(items, look_up).await?;
                let places: Vec<_> = open.into_iter().map(|(listed, _)| listed).collect();
                open = Vec::new();
                for (listed, look) in places.into_iter().zip(looks) {
                    if look.has_settled {
                        self.ended(&look.item, listed, Mending::Settled);
                    } else if !self.differs(&look) {
                        // Live did it, or a mending whose answer was lost.
                        self.ended(&look.item, listed, Mending::Mended);
                    } else if look.is_gone && self.plan.keeps_expired {
                        self.ended(&look.item, listed, Mending::Overtaken);
                    } else {
                        open.push((listed, look));
                    }
                }
            }
            if open.is_empty() {
                return Ok(());
            }
            if fresh.passed(&**self.context.retry.clock()) {
                continue;
            }
            let outcomes = self.write(&open, fresh).await;
            let mut again = Vec::new();
            for ((listed, look), outcome) in open.into_iter().zip(outcomes) {
                let mending = match outcome {
                    Outcome::Applied | Outcome::Duplicate => Mending::Mended,
                    Outcome::Superseded => {
                        again.push((listed, look));
                        continue;
                    }
                    Outcome::Blocked => Mending::Blocked,
                    Outcome::Failed(error) => Mending::Failed(error),
                };
                self.ended(&look.item, listed, mending);
            }
            open = again;
        }
        for (listed, look) in open {
            self.ended(&look.item, listed, Mending::Overtaken);
        }
        Ok(())
    }

    /// Writes what was found over what the ledger knew *before* that.
    async fn write(
        &self,
        open: &[(Option<usize>, Look<M::Value>)],
        fresh: Deadline,
    ) -> Vec<Outcome> {
        let context = Context {
            deadline: fresh,
            ..self.context
        };
        let mends = open.iter().map(|(_, look)| Mend {
            item: look.item.clone(),
            over: look.over,
            now: look.found.clone(),
        });
        let (ledger, pipeline) = (self.ledger, self.pipeline);
        settle(
            pipeline,
            ledger.place(),
            &context,
            mends.collect(),
            |mend: &Mend<_>| of_keys(&mend.now).collect(),
            |mends: Vec<_>, until| async move {
                let outcomes = ledger.mend(pipeline, &mends, until).await;
                (mends, outcomes)
            },
        )
        .await
    }

    fn ended(&mut self, item: &ItemId, listed: Option<usize>, mending: Mending) {
        if matches!(mending, Mending::Mended) {
            self.told.remove(item);
            self.findings.mended += 1;
        }
        if let Some(item) = listed.and_then(|place| self.findings.items.get_mut(place)) {
            item.mending = mending;
        }
    }
}

fn shown<V: fmt::Debug>(by: Option<&V>) -> Difference {
    match by {
        Some(by) => Difference::By(format!("{by:?}")),
        None => Difference::Overflow,
    }
}

impl<T: Send + Sync, M: Monoid> OfLedger<T> for Comparing<'_, T, M> {
    fn pipeline(&self) -> &PipelineName {
        self.pipeline
    }

    fn compare<'s>(&'s self, rows: &'s [Found<T>]) -> Answer<'s, Compared> {
        Box::pin(Comparing::compare(self, rows))
    }

    fn contributing<'s>(
        &'s self,
        segment: ListSegment,
        after: Option<&'s str>,
    ) -> Answer<'s, Contributing> {
        Box::pin(Comparing::contributing(self, segment, after))
    }

    fn settle<'s>(
        &'s mut self,
        items: Vec<ItemId>,
        look_up: &'s LookUp<'_, T>,
    ) -> Answer<'s, (), InspectionError> {
        Box::pin(Comparing::settle(self, items, look_up))
    }

    fn suspects(&self) -> u64 {
        self.findings.suspects
    }

    fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    fn mended(&self) -> u64 {
        self.findings.mended
    }

    fn findings(self: Box<Self>) -> LedgerFindings {
        let Self {
            mut findings,
            ledger_rows,
            settled,
            off,
            plan,
            options,
            ..
        } = *self;
        findings.ledger_rows = ledger_rows.into_inner();
        findings.settled = settled.into_inner();
        let identity = plan.monoid.identity();
        let mut off: Vec<_> = off
            .into_iter()
            .filter(|(_, by)| by.as_ref() != Some(&identity))
            .collect();
        off.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        findings.differing_keys = off.len() as u64;
        let keys = off.into_iter().take(options.max_listed);
        findings.keys = keys
            .map(|(key, by)| KeyDifference {
                key,
                difference: shown(by.as_ref()),
            })
            .collect();
        findings
    }
}
