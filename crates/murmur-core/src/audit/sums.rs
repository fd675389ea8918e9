//! Compares the rows of the state with sums of contributions, key by key.

use std::fmt;

use hashbrown::HashMap;
use murmur_state::error::Place;
use murmur_state::monoid::Overflow;
use murmur_state::{Key, Monoid, PipelineName, Read, StoreError, Timestamp};

use super::difference::{Difference, KeyDifference};
use super::share::KeyShare;
use crate::answers::all_answered;
use crate::delivery::Context;
use crate::plan::Plan;

/// Keys per read of the state.
const CHUNK: usize = 1_000;

/// The contributions to each key of a share, and the values of its rows.
pub(super) struct Sums<V> {
    keys: HashMap<Key, Sum<V>>,
    share: KeyShare,
}

struct Sum<V> {
    /// The sum of contributions.
    value: V,
    /// The combined value of its rows; `None` if there is none.
    state: Option<V>,
    /// Values of either that did not fit into their sum; mostly none.
    spilt: Option<Box<Spilt<V>>>,
    /// The sum of the contributions' hashes.
    marks: u64,
}

/// Values that would have taken a sum out of its range, in the order in which they came.
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

    /// Sums for these keys, without any contribution.
    pub(super) fn of(keys: &[Key], identity: &V, share: &KeyShare) -> Self {
        let none = |key: &Key| (key.clone(), Sum::none(identity.clone()));
        Self {
            keys: keys.iter().map(none).collect(),
            share: share.clone(),
        }
    }

    /// Adds `value`, a contribution with this `mark`, if `key` is in the share.
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

    /// Adds the value of a row of `key`, if `key` is in the share. A key may have several rows,
    /// which are listed in any order.
    fn add_row<M: Monoid<Value = V>>(&mut self, monoid: &M, key: Key, value: V) {
        // A row without additions is equal to no row, and need not take memory.
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

    /// Drops what is held beyond the limit.
    fn fit(&mut self) {
        while self.share.shrinks(self.keys.len()) {
            let share = &self.share;
            self.keys.retain(|key, _| share.has(key));
        }
    }

    pub(super) fn names(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// Compares `key` with the combined value read from its rows.
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

    /// Combines the left-over values as far as they fit: values that left the range in one order
    /// may be within it in another.
    fn settle<M: Monoid<Value = V>>(&mut self, monoid: &M) {
        let Some(spilt) = &mut self.spilt else {
            return;
        };
        settle(monoid, &mut self.value, &mut spilt.contributed);
        if let Some(state) = &mut self.state {
            settle(monoid, state, &mut spilt.rows);
        }
    }

    /// The correct value of its rows; `None` if it is outside the range.
    fn should_be(&self) -> Option<V>
    where
        V: Clone,
    {
        let spilt = self.spilt.as_ref();
        let fits = spilt.is_none_or(|spilt| spilt.contributed.is_empty());
        fits.then(|| self.value.clone())
    }

    /// Compares `key` with its listed rows.
    ///
    /// # Errors
    ///
    /// [`StoreError::Overflow`] if they hold more than the type can, as in a read of the key.
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

/// Combines `spilt` into `value` as far as the result stays in range.
fn settle<M: Monoid>(monoid: &M, value: &mut M::Value, spilt: &mut Vec<M::Value>) {
    loop {
        let left = spilt.len();
        spilt.retain(|spilt| monoid.combine(value, spilt).is_err());
        if spilt.len() == left {
            break;
        }
    }
}

/// One look at a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen<V> {
    /// The combined value of its rows; `None` if there is none.
    pub(super) state: Option<V>,
    /// The correct value; `None` if it is outside the range of its type.
    should_be: Option<V>,
    /// Identifies the contributions: as in [`Sum::marks`].
    marks: u64,
}

impl<V: Clone + PartialEq + fmt::Debug> Seen<V> {
    /// Whether row and contributions are equal. No row is equal to a row without additions.
    pub(super) fn agrees<M: Monoid<Value = V>>(&self, monoid: &M) -> bool {
        let identity = monoid.identity();
        let state = self.state.as_ref().unwrap_or(&identity);
        let should_be = self.should_be.as_ref();
        should_be.is_some_and(|should_be| monoid.agrees(state, should_be))
    }

    /// The difference of the two, by `invert` if values have an inverse.
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

/// Keys that differ, or may differ.
pub(super) type Differing<V> = HashMap<Key, Seen<V>>;

/// Adds the keys of `differing`, and how far they are off, to a list that is in their order and has
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

    /// All keys whose rows differ from `sums`, the number of rows, and the share that this is true
    /// of, which is smaller if there are too many keys. Rows of windows whose retention has ended
    /// are left out. `on_part` is called with the number of rows listed so far, and the cost of
    /// each part.
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

    /// The combined values of the rows of these keys, in their order.
    async fn rows(&self, keys: &[Key]) -> Result<Vec<Option<M::Value>>, StoreError> {
        let mut rows = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let read = || self.state.get_many(chunk);
            let answers = self.context.read(self.pipeline, read).await?;
            rows.extend(all_answered(|| self.state.place(), chunk.len(), answers)?);
        }
        Ok(rows)
    }

    /// Each key of `before` as it is now, with its sum, unless its window's retention has ended
    /// meanwhile.
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
