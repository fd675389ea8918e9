//! Key by key: what the state's rows hold beside sums of contributions.

use std::fmt;

use hashbrown::HashMap;
use murmur_state::{Key, Monoid, Overflow, PipelineName, Place, Read, StoreError, Timestamp};

use super::difference::{Difference, KeyDifference};
use super::share::KeyShare;
use crate::answers::all_answered;
use crate::delivery::Context;
use crate::plan::Plan;

/// How many keys one read of the state asks for.
const CHUNK: usize = 1_000;

/// What is contributed to each key of a share, and what its rows hold.
pub(super) struct Sums<V> {
    keys: HashMap<Key, Sum<V>>,
    share: KeyShare,
}

struct Sum<V> {
    /// What is contributed.
    value: V,
    /// What its rows hold together; `None` if there is none.
    state: Option<V>,
    /// What is left of either, mostly nothing.
    spilt: Option<Box<Spilt<V>>>,
    /// The marks of those that contribute, added up.
    marks: u64,
}

/// Values with which a sum would have left its range, in the order in which they came.
struct Spilt<V> {
    contributed: Vec<V>,
    rows: Vec<V>,
}

impl<V> Default for Spilt<V> {
    fn default() -> Self {
        Self {
            contributed: Vec::new(),
            rows: Vec::new(),
        }
    }
}

impl<V: Clone + PartialEq> Sums<V> {
    pub(super) fn new(share: KeyShare) -> Self {
        Self {
            keys: HashMap::new(),
            share,
        }
    }

    /// Of these keys, so far without any contribution.
    pub(super) fn of(keys: &[Key], identity: &V, share: &KeyShare) -> Self {
        let none = |key: &Key| (key.clone(), Sum::none(identity.clone()));
        Self {
            keys: keys.iter().map(none).collect(),
            share: share.clone(),
        }
    }

    /// Adds `value`, contributed by what has this `mark`, unless `key` is none of the share's.
    pub(super) fn add<M: Monoid<Value = V>>(
        &mut self,
        monoid: &M,
        key: &Key,
        value: &V,
        mark: u64,
    ) {
        if !self.share.has(key) {
            return;
        }
        let sum = self.keys.entry_ref(key);
        let sum = sum.or_insert_with(|| Sum::none(monoid.identity()));
        sum.marks = sum.marks.wrapping_add(mark);
        if monoid.combine(&mut sum.value, value).is_err() {
            let spilt = sum.spilt.get_or_insert_default();
            spilt.contributed.push(value.clone());
        }
        self.fit();
    }

    /// Adds what a row of `key` holds, unless `key` is none of the share's. A key may have several
    /// rows, and they are listed anywhere.
    fn add_row<M: Monoid<Value = V>>(&mut self, monoid: &M, key: Key, value: V) {
        // What nothing was added to is as good as no row, and takes no room.
        let nothing = || value == monoid.identity();
        if !self.share.has(&key) || (!self.names(&key) && nothing()) {
            return;
        }
        let sum = self.keys.entry(key);
        let sum = sum.or_insert_with(|| Sum::none(monoid.identity()));
        match &mut sum.state {
            None => sum.state = Some(value),
            Some(state) => {
                if monoid.combine(state, &value).is_err() {
                    sum.spilt.get_or_insert_default().rows.push(value);
                }
            }
        }
        self.fit();
    }

    /// Leaves out what is held too much.
    fn fit(&mut self) {
        while self.share.shrinks(self.keys.len()) {
            let share = &self.share;
            self.keys.retain(|key, _| share.has(key));
        }
    }

    pub(super) fn names(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// `key` beside what its rows were read to hold together.
    fn beside<M: Monoid<Value = V>>(&mut self, monoid: &M, key: &Key, state: Option<V>) -> Seen<V> {
        let sum = self.keys.remove(key);
        let mut sum = sum.unwrap_or_else(|| Sum::none(monoid.identity()));
        sum.settle(monoid);
        Seen {
            state,
            should_be: sum.should_be(),
            marks: sum.marks,
        }
    }
}

impl<V> Sum<V> {
    fn none(identity: V) -> Self {
        Self {
            value: identity,
            state: None,
            spilt: None,
            marks: 0,
        }
    }

    /// Combines what is left as far as it goes: what came in an order that left the range may be
    /// within it all together.
    fn settle<M: Monoid<Value = V>>(&mut self, monoid: &M) {
        let Some(spilt) = &mut self.spilt else {
            return;
        };
        settle(monoid, &mut self.value, &mut spilt.contributed);
        if let Some(state) = &mut self.state {
            settle(monoid, state, &mut spilt.rows);
        }
    }

    /// What its rows should hold; `None` where that leaves the range.
    fn should_be(&self) -> Option<V>
    where
        V: Clone,
    {
        let spilt = self.spilt.as_ref();
        let fits = spilt.is_none_or(|spilt| spilt.contributed.is_empty());
        fits.then(|| self.value.clone())
    }

    /// `key` beside its rows that were listed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Overflow`] where they hold more than the type can, as reading the key does.
    fn listed<M: Monoid<Value = V>>(
        mut self,
        monoid: &M,
        place: impl FnOnce() -> Place,
    ) -> Result<Seen<V>, StoreError>
    where
        V: Clone,
    {
        self.settle(monoid);
        let spilt = self.spilt.as_ref();
        if spilt.is_some_and(|spilt| !spilt.rows.is_empty()) {
            return Err(StoreError::Overflow { place: place() });
        }
        Ok(Seen {
            should_be: self.should_be(),
            state: self.state,
            marks: self.marks,
        })
    }
}

/// Combines `spilt` into `value` as far as it stays within its range.
fn settle<M: Monoid>(monoid: &M, value: &mut M::Value, spilt: &mut Vec<M::Value>) {
    loop {
        let left = spilt.len();
        spilt.retain(|spilt| monoid.combine(value, spilt).is_err());
        if spilt.len() == left {
            break;
        }
    }
}

/// A key as it was looked at once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen<V> {
    /// What its rows hold; `None` if there is none.
    pub(super) state: Option<V>,
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

/// Adds the keys of `differing`, with how far they are off, to a list that is in their order and has
/// at most `max_listed`.
pub(super) fn list<M: Monoid>(
    list: &mut Vec<KeyDifference>,
    (monoid, differing): (&M, &Differing<M::Value>),
    invert: impl Fn(&M::Value) -> Option<Result<M::Value, Overflow>>,
    max_listed: usize,
) {
    let mut keys: Vec<_> = differing.iter().collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    let keys = keys.into_iter().take(max_listed);
    list.extend(keys.map(|(key, seen)| KeyDifference {
        key: key.clone(),
        difference: seen.difference(monoid, &invert),
    }));
    list.sort_by(|one, other| one.key.cmp(&other.key));
    list.truncate(max_listed);
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

    /// All keys of which the rows are not what `sums` say, how many rows there are, and the share that
    /// this is true of: where there are too many keys, a smaller one. Rows of windows that are over
    /// are left out. `on_part` hears how many rows were listed so far, and what each part cost.
    pub(super) async fn differing(
        &self,
        mut sums: Sums<M::Value>,
        mut on_part: impl FnMut(u64, Option<f64>) + Send,
    ) -> Result<(Differing<M::Value>, u64, KeyShare), StoreError> {
        let Self {
            pipeline,
            plan,
            state,
            context,
        } = self;
        let (mut rows, mut after) = (0, None);
        loop {
            let part = || state.list(after.as_deref());
            let listed = context.list(pipeline, part).await?;
            let now = self.now();
            for row in listed.entries {
                rows += 1;
                if !plan.is_past(&row.key, now) {
                    sums.add_row(&plan.monoid, row.key, row.value);
                }
            }
            on_part(rows, listed.read_units);
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        let now = self.now();
        let mut differing = Differing::new();
        for (key, sum) in sums.keys {
            if plan.is_past(&key, now) {
                continue;
            }
            let seen = sum.listed(&plan.monoid, || state.place().at(&key))?;
            if !seen.agrees(&plan.monoid) {
                differing.insert(key, seen);
            }
        }
        Ok((differing, rows, sums.share))
    }

    /// What the rows of these keys hold, in their order.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sum as Total;

    #[test]
    fn what_fits_all_together_fits_in_whatever_order_it_comes() {
        let monoid = Total::new();
        let key = Key::new("a", 0).unwrap();
        let seen = |values: &[i64]| {
            let mut sums = Sums::new(KeyShare::first(9));
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

    #[test]
    fn rows_of_one_key_are_added_up_in_whatever_order_they_are_listed() {
        let monoid = Total::new();
        let key = Key::new("a", 0).unwrap();
        let listed = |rows: &[i64]| {
            let mut sums = Sums::new(KeyShare::first(9));
            sums.add(&monoid, &key, &7, 1);
            for row in rows {
                sums.add_row(&monoid, key.clone(), *row);
            }
            let sum = sums.keys.remove(&key).unwrap();
            sum.listed(&monoid, || Place::table("test", "t").at(&key))
        };
        assert_eq!(listed(&[]).unwrap().state, None);
        assert!(listed(&[3, 0, 4]).unwrap().agrees(&monoid));
        assert!(!listed(&[3, 3]).unwrap().agrees(&monoid));
        let beyond = listed(&[i64::MAX, 16, i64::MIN, -8]).unwrap();
        assert!(beyond.agrees(&monoid), "{beyond:?}");
        let error = listed(&[i64::MAX, 1]).unwrap_err();
        assert!(matches!(error, StoreError::Overflow { .. }), "{error}");

        // A row of nothing takes no room, until its key has another.
        let mut sums = Sums::new(KeyShare::first(9));
        for (row, held) in [(0, 0), (5, 1), (-5, 1)] {
            sums.add_row(&monoid, key.clone(), row);
            assert_eq!(sums.keys.len(), held);
        }
    }
}
