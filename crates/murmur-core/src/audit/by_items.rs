//! Comparison with a ledger: item by item, while stream processing goes on.
//!
//! ARCHITECTURE.md, "Reconcile and repair", explains why a reported difference is real, and why
//! repairing it is right.

use std::time::Duration;

use futures::future::BoxFuture;
use hashbrown::HashMap;
use murmur_state::error::Cause;
use murmur_state::store::{Add, LedgerEntry, ListSegment, Listed, Mend, Outcome};
use murmur_state::{Deadline, ItemId, Key, Monoid, PipelineName, StoreError, Timestamp};

use super::difference::{KeyDifference, shown};
use super::findings::{ItemDifference, LedgerFindings, Mending};
use super::found::{Find, Found, contributes, rejected};
use super::inspecting::{InspectionError, InspectionOptions};
use super::item_set::ItemSet;
use super::status::settled_of;
use crate::answers::all_answered;
use crate::delivery::{Context, LedgerOf, of_keys, until_done};
use crate::outcome::Rejected;
use crate::plan::Plan;

/// Items per look-up.
const BATCH: usize = 100;

/// How often an item that keeps changing is looked at before it is given up.
const ROUNDS: usize = 3;

/// How often repairing an item is tried while stream processing is faster.
const MENDINGS: usize = 5;

/// The age up to which a look may be written, as a ledger that removes old rows requires.
const FRESH: Duration = Duration::from_secs(3600);

/// Compares what each item contributes with what the ledger says it does, with monoid and store
/// erased.
///
/// Items to look at closely come from two steps: every scanned row is [compared](Self::compare),
/// and the ledger's items are [listed](Self::contributing) to find those that no scan has seen.
/// [`look`](Self::look) then looks at these items twice, lists what differs both times, and repairs
/// it if asked to.
///
/// Contributions to windows whose retention has ended do not count. Settled items never differ
/// here, whether they are in the table or gone from it: a recount tells what they contribute.
pub(crate) trait ByItems<T>: Send + Sync {
    /// The items of these rows that seem to differ from the ledger. This look is cheap and not
    /// conclusive, since the items may have changed after the scan. Rows that can never count
    /// contribute nothing.
    fn compare<'s>(&'s self, rows: &'s [Found<T>]) -> Answer<'s, Compared>;

    /// A part of the items in `segment` that contribute anything according to the ledger.
    fn contributing<'s>(
        &'s self,
        segment: ListSegment,
        after: Option<&'s str>,
    ) -> Answer<'s, Contributing>;

    /// Looks at `items` closely: at the ledger row, then at the item by `find`, and after the lag
    /// once more at those that differ. A difference that is the same both times is listed, and with
    /// `repair` repaired at once. An item that changed in between is looked at again, three times
    /// in all.
    ///
    /// Dropped, each item is either repaired or not.
    fn look<'s>(&'s mut self, items: Vec<ItemId>, find: &'s Find<'_, T>) -> Answer<'s, ()>;

    /// The number of items that differed at the first close look, so far.
    fn suspects(&self) -> u64;

    /// The number of items repaired so far.
    fn mended(&self) -> u64;

    /// The findings.
    fn findings(self: Box<Self>) -> LedgerFindings;
}

type Answer<'a, A> = BoxFuture<'a, Result<A, InspectionError>>;

/// The result of comparing scanned rows with the ledger.
#[derive(Default)]
pub(crate) struct Compared {
    /// The items to look at closely.
    pub(crate) differing: Vec<ItemId>,
    /// The rows that can never count in this pipeline.
    pub(crate) rejected: Vec<Rejected>,
}

/// A part of a ledger's items.
pub(crate) struct Contributing {
    /// The items that contribute anything. The list may be empty although more parts follow.
    pub(crate) items: Vec<ItemId>,
    /// The number of items listed.
    pub(crate) rows: u64,
    /// The number of them that have settled.
    pub(crate) settled: u64,
    /// Continues the listing; `None` at the end of the segment.
    pub(crate) next: Option<String>,
}

/// Begins a comparison of `plan`'s items with `ledger`.
pub(crate) fn by_items<'a, T: Send + Sync, M: Monoid>(
    (pipeline, plan): (&'a PipelineName, &'a Plan<T, M>),
    ledger: &'a dyn LedgerOf<M>,
    options: InspectionOptions,
    context: Context<'a>,
) -> Box<dyn ByItems<T> + 'a> {
    Box::new(Comparing {
        pipeline,
        plan,
        ledger,
        options,
        context,
        findings: LedgerFindings::default(),
        off: HashMap::new(),
        told: ItemSet::default(),
    })
}

struct Comparing<'a, T, M: Monoid> {
    pipeline: &'a PipelineName,
    plan: &'a Plan<T, M>,
    ledger: &'a dyn LedgerOf<M>,
    options: InspectionOptions,
    context: Context<'a>,
    findings: LedgerFindings,
    /// By how much each key is off; `None` if that leaves the range of its type.
    off: HashMap<Key, Option<M::Value>>,
    /// Items that the findings list, and that still differ.
    told: ItemSet,
}

/// One look at an item: first the ledger's contributions, then the item itself.
struct Look<V> {
    item: ItemId,
    /// The version of its ledger row; `None` if there was none.
    over: Option<u64>,
    /// The contributions according to the ledger, in order of the keys.
    known: Vec<Add<V>>,
    /// The contributions of the item that was found, in order of the keys.
    found: Vec<Add<V>>,
    is_gone: bool,
    /// Whether the item has settled, so that the ledger does not know its contributions.
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

    async fn known(
        &self,
        items: &[ItemId],
    ) -> Result<Vec<Option<LedgerEntry<M::Value>>>, StoreError> {
        let (ledger, pipeline) = (self.ledger, self.pipeline);
        let read = || ledger.known(items, self.context.operation_deadline());
        let known = self.context.read(pipeline, read).await?;
        all_answered(|| ledger.place(), items.len(), known)
    }

    /// The contributions of `found`; empty if it can never count.
    fn of(&self, found: &Found<T>, now: Timestamp) -> Result<Vec<Add<M::Value>>, Box<StoreError>> {
        contributes(self.plan, found, true, now)
    }

    /// Combines the ledger's contributions with the item that was found.
    fn seen(
        &self,
        known: Option<LedgerEntry<M::Value>>,
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

    fn failed(&self, source: StoreError) -> InspectionError {
        InspectionError::Store {
            pipeline: self.pipeline.clone(),
            source: Box::new(source),
        }
    }

    fn not_found(&self, source: Cause) -> InspectionError {
        InspectionError::LookUp {
            pipeline: self.pipeline.clone(),
            source,
        }
    }

    async fn compare(&self, rows: &[Found<T>]) -> Result<Compared, InspectionError> {
        let items: Vec<ItemId> = rows.iter().map(|found| found.item.clone()).collect();
        let mut compared = Compared::default();
        let known = self.known(&items).await.map_err(|e| self.failed(e))?;
        let now = self.now();
        for (found, known) in rows.iter().zip(known) {
            let contributes = self.of(found, now).unwrap_or_else(|error| {
                let record = found.row.as_ref().map(|(record, _)| record);
                compared
                    .rejected
                    .extend(record.map(|record| rejected(self.pipeline, record, *error)));
                Vec::new()
            });
            let look = self.seen(known, found, contributes, now);
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
    ) -> Result<Contributing, InspectionError> {
        let (ledger, pipeline) = (self.ledger, self.pipeline);
        let part = || ledger.list_known(segment, after);
        let listed = self.context.list(pipeline, part).await;
        let Listed { entries, next, .. } = listed.map_err(|e| self.failed(e))?;
        let rows = entries.len() as u64;
        let settled = settled_of(&entries);
        let now = self.now();
        let counts = |known: &LedgerEntry<_>| {
            let mut keys = known.now.iter().map(|add| &add.key);
            keys.any(|key| !self.plan.is_past(key, now))
        };
        let entries = entries.into_iter().filter(counts);
        Ok(Contributing {
            items: entries.map(|known| known.item).collect(),
            rows,
            settled,
            next,
        })
    }

    /// Looks at `items`: the ledger row first, then the item. A change that comes after an item was
    /// looked up also changes its ledger row after that was read, so the change is never taken for
    /// a lost one, and no repair overwrites it.
    async fn look_at(
        &self,
        items: Vec<ItemId>,
        find: &Find<'_, T>,
    ) -> Result<Vec<Look<M::Value>>, InspectionError> {
        let known = self.known(&items).await.map_err(|e| self.failed(e))?;
        let found = find(items).await.map_err(|source| self.not_found(source))?;
        let now = self.now();
        let looks = known.into_iter().zip(&found).map(|(known, found)| {
            // Rows that can never count were returned when they were scanned.
            let contributes = self.of(found, now).unwrap_or_default();
            self.seen(known, found, contributes, now)
        });
        Ok(looks.collect())
    }

    async fn look(
        &mut self,
        items: Vec<ItemId>,
        find: &Find<'_, T>,
    ) -> Result<(), InspectionError> {
        let mut first = Vec::new();
        for batch in items.chunks(BATCH) {
            let open = batch.iter().filter(|item| !self.told.contains(item));
            let looks = self.look_at(open.cloned().collect(), find).await?;
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
                let second = self.look_at(items, find).await?;
                let mut named = Vec::new();
                for (first, second) in batch.iter().zip(second) {
                    // An item that no longer differs was only processed late.
                    if self.differs(&second) {
                        let same = second.is_as(first);
                        if same { &mut named } else { &mut moved }.push(second);
                    }
                }
                self.name(named, fresh, find).await?;
            }
            first = moved;
        }
        self.findings.unsettled += first.len() as u64;
        first.iter().for_each(|look| self.told.insert(&look.item));
        self.check_room()
    }

    /// The deadline for writing what is looked at from now on.
    fn fresh(&self) -> Deadline {
        Deadline::within(&**self.context.retry.clock(), FRESH)
    }

    /// Lists differences that persist, and repairs them if asked to.
    async fn name(
        &mut self,
        named: Vec<Look<M::Value>>,
        fresh: Deadline,
        find: &Find<'_, T>,
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
            self.mend(open, fresh, find).await?;
        }
        self.check_room()
    }

    fn check_room(&self) -> Result<(), InspectionError> {
        let most = self.options.max_differing;
        // Expired windows and items that keep changing are not differences that a repair could end.
        let others = self.findings.untold.saturating_add(self.findings.unsettled);
        let others = usize::try_from(others).unwrap_or(usize::MAX);
        let items = self.told.len().saturating_sub(others);
        match items.max(self.off.len()) > most {
            true => Err(InspectionError::TooManyDiffer {
                pipeline: self.pipeline.clone(),
                most,
            }),
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

    /// Makes each item contribute the value that was found. An item that the stream consumer
    /// changes meanwhile is looked at again.
    async fn mend(
        &mut self,
        mut open: Vec<(Option<usize>, Look<M::Value>)>,
        mut fresh: Deadline,
        find: &Find<'_, T>,
    ) -> Result<(), InspectionError> {
        for attempt in 0..MENDINGS {
            if attempt > 0 {
                fresh = self.fresh();
                let items = open.iter().map(|(_, look)| look.item.clone()).collect();
                let looks = self.look_at(items, find).await?;
                let places: Vec<_> = open.into_iter().map(|(listed, _)| listed).collect();
                open = Vec::new();
                for (listed, look) in places.into_iter().zip(looks) {
                    if look.has_settled {
                        self.ended(&look.item, listed, Mending::Settled);
                    } else if !self.differs(&look) {
                        // The stream consumer corrected it, or an earlier repair whose answer was
                        // lost.
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

    /// Writes what was found over the ledger row that was read *before* that.
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
        until_done(
            pipeline,
            ledger.place(),
            &context,
            mends.collect(),
            |mend: &Mend<_>| of_keys(&mend.now).collect(),
            |mends: Vec<_>, until| async move {
                let outcomes = ledger.mend(&mends, until).await;
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

impl<T: Send + Sync, M: Monoid> ByItems<T> for Comparing<'_, T, M> {
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

    fn look<'s>(&'s mut self, items: Vec<ItemId>, find: &'s Find<'_, T>) -> Answer<'s, ()> {
        Box::pin(Comparing::look(self, items, find))
    }

    fn suspects(&self) -> u64 {
        self.findings.suspects
    }

    fn mended(&self) -> u64 {
        self.findings.mended
    }

    fn findings(self: Box<Self>) -> LedgerFindings {
        let Self {
            mut findings,
            off,
            plan,
            options,
            ..
        } = *self;
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
