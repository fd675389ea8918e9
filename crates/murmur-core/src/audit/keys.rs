//! Key by key: the state's rows beside sums of contributions.

use std::fmt;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap};
use murmur_state::{Add, Key, Known, Monoid, Overflow, PipelineName, Read, StoreError, Timestamp};

use super::ledger::LedgerOf;
use super::{AuditError, Audited, Difference, KeyDifference};
use crate::delivery::{Context, all_answered};
use crate::plan::Plan;

/// In how many passes over the ledger in a row a key has to be the same, and at odds, to be named.
/// What moves into a key behind one pass and out of it before the next must be taken by another in
/// time, of the same value, for a row to look wrong once more.
const STANDS: u32 = 3;

/// How often an audit goes over the ledger before it gives up on keys that keep changing.
const PASSES: usize = 7;

/// How many keys one read of the state asks for.
const CHUNK: usize = 1_000;

/// What is contributed to each key.
pub(super) struct Sums<V>(HashMap<Key, Sum<V>>);

struct Sum<V> {
    value: V,
    /// Contributions with which it would have left its range, in the order in which they came.
    spilt: Vec<V>,
    /// The marks of those that contribute, added up.
    marks: u64,
}

impl<V: Clone> Sums<V> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Of these keys, so far without any contribution.
    fn of(keys: &[Key], identity: &V) -> Self {
        let none = |key: &Key| (key.clone(), Sum::none(identity.clone()));
        Self(keys.iter().map(none).collect())
    }

    /// Adds `value`, contributed by what has this `mark`.
    pub(super) fn add<M: Monoid<Value = V>>(
        &mut self,
        monoid: &M,
        key: &Key,
        value: &V,
        mark: u64,
    ) {
        let sum = self.0.entry_ref(key);
        let sum = sum.or_insert_with(|| Sum::none(monoid.identity()));
        sum.marks = sum.marks.wrapping_add(mark);
        if monoid.combine(&mut sum.value, value).is_err() {
            sum.spilt.push(value.clone());
        }
    }

    fn names(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    /// `key` beside its row.
    fn beside<M: Monoid<Value = V>>(&mut self, monoid: &M, key: &Key, state: Option<V>) -> Seen<V> {
        let sum = self.0.remove(key);
        sum.unwrap_or_else(|| Sum::none(monoid.identity()))
            .beside(monoid, state)
    }
}

impl<V> Sum<V> {
    fn none(identity: V) -> Self {
        Self {
            value: identity,
            spilt: Vec::new(),
            marks: 0,
        }
    }

    fn beside<M: Monoid<Value = V>>(mut self, monoid: &M, state: Option<V>) -> Seen<V> {
        // What came in an order that left the range may be within it all together.
        loop {
            let left = self.spilt.len();
            let value = &mut self.value;
            self.spilt
                .retain(|spilt| monoid.combine(value, spilt).is_err());
            if self.spilt.len() == left {
                break;
            }
        }
        Seen {
            state,
            should_be: self.spilt.is_empty().then_some(self.value),
            marks: self.marks,
        }
    }
}

/// A key as it was looked at once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen<V> {
    /// Its row; `None` if there is none.
    state: Option<V>,
    /// What its row should be; `None` where that leaves the range of its type.
    should_be: Option<V>,
    /// By whom: as in [`Sum::marks`].
    marks: u64,
}

impl<V: Clone + PartialEq + fmt::Debug> Seen<V> {
    /// Whether row and contributions are the same; no row is as good as one to which nothing was
    /// added.
    pub(super) fn agrees<M: Monoid<Value = V>>(&self, monoid: &M) -> bool {
        let identity = monoid.identity();
        let state = self.state.as_ref().unwrap_or(&identity);
        let should_be = self.should_be.as_ref();
        should_be.is_some_and(|should_be| monoid.agrees(state, should_be))
    }

    /// How far they are from each other, by `invert` where values have an inverse.
    fn difference<M: Monoid<Value = V>>(
        &self,
        monoid: &M,
        invert: impl Fn(&V) -> Option<Result<V, Overflow>>,
    ) -> Difference {
        let Some(should_be) = &self.should_be else {
            return Difference::Overflow;
        };
        let state = self.state.clone().unwrap_or_else(|| monoid.identity());
        if let Some(Ok(taken)) = invert(should_be) {
            let mut by = state.clone();
            if monoid.combine(&mut by, &taken).is_ok() {
                return Difference::By(format!("{by:?}"));
            }
        }
        Difference::Values {
            state: format!("{state:?}"),
            should_be: format!("{should_be:?}"),
        }
    }
}

/// Keys that differ, or may.
pub(super) type Differing<V> = HashMap<Key, Seen<V>>;

/// The keys of `differing` in their order, up to `max_listed`, with how far they are off.
pub(super) fn listed<M: Monoid>(
    monoid: &M,
    differing: &Differing<M::Value>,
    invert: impl Fn(&M::Value) -> Option<Result<M::Value, Overflow>>,
    max_listed: usize,
) -> Vec<KeyDifference> {
    let mut keys: Vec<_> = differing.iter().collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    let keys = keys.into_iter().take(max_listed);
    keys.map(|(key, seen)| KeyDifference {
        key: key.clone(),
        difference: seen.difference(monoid, &invert),
    })
    .collect()
}

/// A pipeline's state, and what is needed to read it.
pub(super) struct State<'a, T, M: Monoid, S> {
    pub(super) pipeline: &'a PipelineName,
    pub(super) plan: &'a Plan<T, M>,
    pub(super) state: &'a S,
    pub(super) context: Context<'a>,
}

impl<T, M: Monoid, S: Read<M::Value>> State<'_, T, M, S> {
    fn now(&self) -> Timestamp {
        self.context.retry.clock().now()
    }

    /// All keys of which the row is not what `sums` say, and how many rows there are. Rows of
    /// windows that are over are left out.
    pub(super) async fn differing(
        &self,
        mut sums: Sums<M::Value>,
    ) -> Result<(Differing<M::Value>, u64), StoreError> {
        let Self {
            pipeline,
            plan,
            state,
            context,
        } = self;
        let mut differing = Differing::new();
        let (mut rows, mut after) = (0, None);
        loop {
            let part = || state.list(after.as_deref());
            let listed = context.read(pipeline, part).await?;
            let now = self.now();
            for row in listed.entries {
                rows += 1;
                let seen = sums.beside(&plan.monoid, &row.key, Some(row.value));
                if !plan.is_past(&row.key, now) && !seen.agrees(&plan.monoid) {
                    differing.insert(row.key, seen);
                }
            }
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        let now = self.now();
        for (key, sum) in sums.0 {
            let seen = sum.beside(&plan.monoid, None);
            if !plan.is_past(&key, now) && !seen.agrees(&plan.monoid) {
                differing.insert(key, seen);
            }
        }
        Ok((differing, rows))
    }

    /// The rows of these keys, in their order.
    async fn rows(&self, keys: &[Key]) -> Result<Vec<Option<M::Value>>, StoreError> {
        let mut rows = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let read = || self.state.get_many(chunk);
            let answers = self.context.read(self.pipeline, read).await?;
            rows.extend(all_answered(|| self.state.place(), chunk.len(), answers)?);
        }
        Ok(rows)
    }

    /// Each key of `before` as it is now, with its sum, unless its window is over by now.
    pub(super) async fn again(
        &self,
        before: &Differing<M::Value>,
        mut sums: Sums<M::Value>,
    ) -> Result<Differing<M::Value>, StoreError> {
        let keys: Vec<Key> = before.keys().cloned().collect();
        let rows = self.rows(&keys).await?;
        let now = self.now();
        let there = keys.into_iter().zip(rows);
        let there = there.filter(|(key, _)| !self.plan.is_past(key, now));
        let seen = there.map(|(key, state)| {
            let seen = sums.beside(&self.plan.monoid, &key, state);
            (key, seen)
        });
        Ok(seen.collect())
    }
}

/// Compares the state with the ledger.
///
/// A row and the contributions to it change together, so a row that stayed what it was, at odds with
/// contributions that all stayed what they were, is wrong. Equal sums alone would not say so: what
/// moves to and fro between a few keys makes the same ones again.
pub(crate) async fn audit<T, M: Monoid, S: Read<M::Value>>(
    (pipeline, plan): (&PipelineName, &Plan<T, M>),
    (ledger, state): (&dyn LedgerOf<M>, &S),
    max_listed: usize,
    context: Context<'_>,
) -> Result<Audited, AuditError> {
    let failed = |source| AuditError::Store {
        pipeline: pipeline.clone(),
        source,
    };
    let pass = Pass {
        ledger,
        state: State {
            pipeline,
            plan,
            state,
            context,
        },
    };
    let audit = pass.audit(max_listed);
    audit.await.map_err(failed)
}

struct Pass<'a, T, M: Monoid, S> {
    ledger: &'a dyn LedgerOf<M>,
    state: State<'a, T, M, S>,
}

impl<T, M: Monoid, S: Read<M::Value>> Pass<'_, T, M, S> {
    async fn audit(&self, max_listed: usize) -> Result<Audited, StoreError> {
        let monoid = &self.state.plan.monoid;
        let mut sums = Sums::new();
        let hasher = DefaultHashBuilder::default();
        let mark = |known: &Known<_>| hasher.hash_one((&known.item, known.version));
        let ledger_rows = self
            .over_ledger(|known, add| sums.add(monoid, &add.key, &add.value, mark(known)))
            .await?;
        let (mut open, state_rows) = self.state.differing(sums).await?;
        let (mut stood, mut named) = (HashMap::new(), Differing::new());
        for _ in 1..PASSES {
            if open.is_empty() {
                break;
            }
            let identity = monoid.identity();
            let keys: Vec<Key> = open.keys().cloned().collect();
            let mut sums = Sums::of(&keys, &identity);
            self.over_ledger(|known, add| {
                if sums.names(&add.key) {
                    sums.add(monoid, &add.key, &add.value, mark(known));
                }
            })
            .await?;
            let mut moving = Differing::new();
            for (key, seen) in self.state.again(&open, sums).await? {
                let before = open.get(&key);
                let steady = before.is_some_and(|before| before.state == seen.state);
                if steady && seen.agrees(monoid) {
                    continue;
                }
                let stands = match before == Some(&seen) {
                    true => stood.remove(&key).unwrap_or(1) + 1,
                    false => 1,
                };
                if stands == STANDS {
                    named.insert(key, seen);
                } else {
                    stood.insert(key.clone(), stands);
                    moving.insert(key, seen);
                }
            }
            open = moving;
        }
        let invert = |value: &M::Value| Some(self.ledger.invert(monoid, value));
        Ok(Audited {
            pipeline: self.state.pipeline.clone(),
            ledger_rows,
            state_rows,
            differing: named.len() as u64,
            keys: listed(monoid, &named, invert, max_listed),
            unsettled: open.len() as u64,
        })
    }

    /// Hands every contribution that the ledger knows to `each`; says how many items it knows.
    async fn over_ledger(
        &self,
        mut each: impl FnMut(&Known<M::Value>, &Add<M::Value>),
    ) -> Result<u64, StoreError> {
        let State {
            pipeline, context, ..
        } = &self.state;
        let (mut rows, mut after) = (0, None);
        loop {
            let part = || self.ledger.list_known(pipeline, after.as_deref());
            let listed = context.read(pipeline, part).await?;
            for known in &listed.entries {
                rows += 1;
                let adds = known.now.iter().chain(&known.kept);
                adds.for_each(|add| each(known, add));
            }
            after = listed.next;
            if after.is_none() {
                return Ok(rows);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sum as Total;

    #[test]
    fn what_fits_all_together_fits_in_whatever_order_it_comes() {
        let monoid = Total::new();
        let key = Key::new("a", 0).unwrap();
        let seen = |values: &[i64]| {
            let mut sums = Sums::new();
            for value in values {
                sums.add(&monoid, &key, value, 1);
            }
            sums.beside(&monoid, &key, Some(7))
        };
        let orders = [
            [i64::MAX, 5, -9, i64::MIN, 10],
            [i64::MIN, -9, i64::MAX, 10, 5],
        ];
        for values in orders {
            assert_eq!(seen(&values).should_be, Some(5), "{values:?}");
        }
        assert_eq!(seen(&[i64::MAX, 5, -4]).should_be, None);
    }
}
