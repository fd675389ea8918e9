use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use hashbrown::{HashMap, HashSet};

use super::deduper::Marked;
use super::{Inner, MemoryStore, Mode, Row, Stopped};
use crate::error::{Fault, StoreError};
use crate::ids::{ItemId, Key, PipelineName};
use crate::monoid::{Group, Overflow};
use crate::store::{
    Add, Bound, ItemChange, Ledger, LedgerEntry, ListSegment, Listed, MAX_KEYS, Mend, Once,
    Outcome, Position, Replace,
};
use crate::time::{Clock, Deadline};

impl<M: Group> MemoryStore<M> {
    /// Replaces an item's contributions by those of `entry`. Rows and ledger change together or not
    /// at all.
    fn turn(
        &self,
        inner: &mut Inner<M::Value>,
        entry: &Replace<M::Value>,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let Replace {
            item,
            at,
            now,
            keep,
            change,
            ..
        } = entry;
        let known = inner.ledger.get(item);
        let before = known.map_or(&[][..], |known| &known.now);
        let settles = change.as_ref().is_some_and(|change| change.settles);
        let mut changed: HashMap<Key, Row<M::Value>> = before
            .iter()
            .chain(now)
            .chain(keep)
            .filter_map(|add| Some((add.key.clone(), inner.rows.get(&add.key)?.clone())))
            .collect();
        let mut kept = known.map_or_else(Vec::new, |known| known.kept.clone());
        let today = clock.now().as_secs();
        kept.retain(|add| add.ttl.is_none_or(|ttl| ttl > today));
        for add in before {
            if add.ttl.is_none_or(|ttl| ttl > today) {
                let value = self.monoid.invert(&add.value);
                let value = value.map_err(|Overflow| self.overflow(&add.key))?;
                let add = Add {
                    value,
                    ..add.clone()
                };
                self.add(&mut changed, &add, Mode::Ledger)?;
            }
        }
        for add in now.iter().chain(keep) {
            self.add(&mut changed, add, Mode::Ledger)?;
        }
        for add in keep {
            self.keep(&mut kept, add)?;
        }
        let known = LedgerEntry {
            item: item.clone(),
            version: known.map_or(1, |known| known.version + 1),
            at: at.clone(),
            settled: settles,
            now: if settles { Vec::new() } else { now.clone() },
            kept: if settles { Vec::new() } else { kept },
        };
        inner.rows.extend(changed);
        inner.ledger.insert(item.clone(), known);
        Ok(())
    }

    /// Refuses an entry with more keys than an item may have.
    fn check_keys(&self, entry: &Replace<M::Value>) -> Result<(), StoreError> {
        let keys = entry.now.len() + entry.keep.len();
        match keys > MAX_KEYS {
            true => Err(StoreError::InvalidValue {
                place: self.place.clone(),
                reason: format!(
                    "item {} has {keys} keys, and an item of a ledger can have at most {MAX_KEYS}",
                    entry.item
                ),
                source: None,
            }),
            false => Ok(()),
        }
    }

    /// Settles the item of `entry` just below the entry's position, if it has not settled yet and
    /// its contributions are those before the entry; no row changes. Returns whether the item has
    /// settled.
    fn settles(&self, inner: &mut Inner<M::Value>, entry: &Replace<M::Value>, today: i64) -> bool {
        let known = inner.ledger.get(&entry.item);
        if known.is_some_and(|known| known.settled) {
            return true;
        }
        let (Some(change), Position::Stream(at)) = (&entry.change, &entry.at) else {
            return false;
        };
        let contributes = known.map_or(&[][..], |known| &known.now);
        let (true, Some(below)) = (
            change.settles && self.is_same(contributes, &change.before, today),
            at.predecessor(),
        ) else {
            return false;
        };
        let settled = LedgerEntry {
            item: entry.item.clone(),
            version: known.map_or(1, |known| known.version + 1),
            at: Position::Stream(below),
            settled: true,
            now: Vec::new(),
            kept: Vec::new(),
        };
        inner.ledger.insert(entry.item.clone(), settled);
        true
    }

    /// Whether two contributions are equal in all rows that still exist.
    fn is_same(&self, one: &[Add<M::Value>], other: &[Add<M::Value>], today: i64) -> bool {
        let identity = self.monoid.identity();
        let counts =
            |add: &&Add<M::Value>| add.value != identity && add.ttl.is_none_or(|ttl| ttl > today);
        let one: HashMap<_, _> = one
            .iter()
            .filter(counts)
            .map(|add| (&add.key, &add.value))
            .collect();
        let mut other = other.iter().filter(counts);
        let len = other.clone().count();
        len == one.len() && other.all(|add| one.get(&add.key) == Some(&&add.value))
    }

    /// A change of a settled item, as an event.
    fn event(
        &self,
        entry: &Replace<M::Value>,
        change: &ItemChange<M::Value>,
    ) -> Result<Once<M::Value>, StoreError> {
        let mut adds: Vec<Add<M::Value>> = Vec::new();
        let mut add = |one: &Add<M::Value>, value: M::Value| {
            match adds.iter_mut().find(|add| add.key == one.key) {
                Some(add) => self.monoid.combine(&mut add.value, &value),
                None => {
                    adds.push(Add {
                        value,
                        ..one.clone()
                    });
                    Ok(())
                }
            }
            .map_err(|Overflow| self.overflow(&one.key))
        };
        for one in entry.now.iter().chain(&entry.keep) {
            add(one, one.value.clone())?;
        }
        for one in &change.before {
            let value = self.monoid.invert(&one.value);
            add(one, value.map_err(|Overflow| self.overflow(&one.key))?)?;
        }
        // Values that were taken away and put back.
        let identity = self.monoid.identity();
        let was_there = |key: &Key| change.before.iter().any(|add| add.key == *key);
        adds.retain(|add| add.value != identity || !was_there(&add.key));
        Ok(Once {
            id: change.id.clone(),
            created: entry.created,
            handed_over: change.handed_over,
            adds,
        })
    }

    /// Counts a change of a settled item by its event id.
    fn by_id(
        &self,
        inner: &mut Inner<M::Value>,
        marked: &mut Marked,
        pipeline: &PipelineName,
        entry: &Replace<M::Value>,
    ) -> Result<Outcome, StoreError> {
        let Some(change) = &entry.change else {
            return Err(StoreError::unknown_before(self.place.clone(), &entry.item));
        };
        let taken = self
            .event(entry, change)
            .and_then(|event| self.take(&mut inner.rows, marked, pipeline, &event, Mode::Ledger));
        taken.map_err(|error| error.of_settled(self.place.clone(), &entry.item))
    }

    fn keep(&self, kept: &mut Vec<Add<M::Value>>, add: &Add<M::Value>) -> Result<(), StoreError> {
        match kept.iter_mut().find(|kept| kept.key == add.key) {
            Some(kept) => self
                .monoid
                .combine(&mut kept.value, &add.value)
                .map_err(|Overflow| self.overflow(&add.key)),
            None => {
                kept.push(add.clone());
                Ok(())
            }
        }
    }

    fn overflow(&self, key: &Key) -> StoreError {
        StoreError::Overflow {
            place: self.place.at(key),
        }
    }

    /// The answer to an entry that changes nothing; `None` to continue.
    fn unchanged(known: Option<&LedgerEntry<M::Value>>, at: &Position) -> Option<Outcome> {
        match (known.map(|known| &known.at), at) {
            (Some(Position::Scan), Position::Scan) => Some(Outcome::Duplicate),
            (Some(Position::Stream(_)), Position::Scan) => Some(Outcome::Superseded),
            (Some(Position::Stream(seen)), Position::Stream(at)) if at == seen => {
                Some(Outcome::Duplicate)
            }
            (Some(Position::Stream(seen)), Position::Stream(at)) if at < seen => {
                Some(Outcome::Superseded)
            }
            _ => None,
        }
    }

    /// Processes `entries` in order; `enter` answers each, or fails with the error.
    fn in_order<E>(
        &self,
        entries: &[E],
        parts: impl Fn(&E) -> (&ItemId, &[Add<M::Value>]),
        mut enter: impl FnMut(&E) -> Result<Outcome, StoreError>,
    ) -> Vec<Outcome> {
        let mut stopped = Stopped::default();
        let mut held = HashSet::new();
        entries
            .iter()
            .map(|entry| {
                let (item, now) = parts(entry);
                if held.contains(item) || stopped.blocks(now) {
                    held.insert(item.clone());
                    return Outcome::Blocked;
                }
                enter(entry).unwrap_or_else(|error| {
                    if error.fault() != Fault::Record {
                        held.insert(item.clone());
                    }
                    stopped.note(&error, now);
                    Outcome::Failed(error)
                })
            })
            .collect()
    }
}

impl<M: Group> Ledger<M> for MemoryStore<M> {
    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<M::Value>],
        _deadline: Deadline,
    ) -> Vec<Outcome> {
        // State before markers, as in `apply`.
        let inner = &mut *self.lock();
        let marked = &mut *self.markers.lock();
        let clock = &*self.markers.clock;
        self.in_order(
            items,
            |entry| (&entry.item, &entry.now),
            |entry| {
                self.check_keys(entry)?;
                let known = inner.ledger.get(&entry.item);
                if let Some(outcome) = Self::unchanged(known, &entry.at) {
                    return Ok(outcome);
                }
                if self.settles(inner, entry, clock.now().as_secs()) {
                    // Each change counts by itself, so a failed one blocks no others.
                    let counted = self.by_id(inner, marked, bound.pipeline(), entry);
                    return Ok(counted.unwrap_or_else(Outcome::Failed));
                }
                self.turn(inner, entry, clock)?;
                Ok(Outcome::Applied)
            },
        )
    }

    async fn settle(&self, _bound: &Bound, _deadline: Deadline) -> Result<(), StoreError> {
        self.lock().settling = true;
        Ok(())
    }

    async fn is_settling(&self, _bound: &Bound, _deadline: Deadline) -> Result<bool, StoreError> {
        Ok(self.lock().settling)
    }

    async fn known(
        &self,
        _bound: &Bound,
        items: &[ItemId],
        _deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<M::Value>>>, StoreError> {
        let inner = self.lock();
        let known = items.iter().map(|item| inner.ledger.get(item).cloned());
        Ok(known.collect())
    }

    async fn list_known(
        &self,
        _bound: &Bound,
        segment: ListSegment,
        _after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<M::Value>>, StoreError> {
        let inner = self.lock();
        let of_segment = |known: &&LedgerEntry<M::Value>| {
            // Unseeded, so that every listing divides the items in the same way.
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&known.item);
            hash % u64::from(segment.of().get()) == u64::from(segment.number())
        };
        let entries = inner.ledger.values().filter(of_segment);
        let mut entries: Vec<_> = entries.cloned().collect();
        entries.sort_unstable_by(|one, other| one.item.cmp(&other.item));
        Ok(Listed {
            entries,
            next: None,
            read_units: None,
        })
    }

    async fn mend(
        &self,
        _bound: &Bound,
        items: &[Mend<M::Value>],
        _deadline: Deadline,
    ) -> Vec<Outcome> {
        let inner = &mut *self.lock();
        self.in_order(
            items,
            |entry| (&entry.item, &entry.now),
            |entry| {
                let known = inner.ledger.get(&entry.item);
                let settled = known.is_some_and(|known| known.settled);
                if settled || known.map(|known| known.version) != entry.over {
                    return Ok(Outcome::Superseded);
                }
                let at = known.map_or(Position::Scan, |known| known.at.clone());
                let entry = Replace {
                    item: entry.item.clone(),
                    at,
                    created: None,
                    now: entry.now.clone(),
                    keep: Vec::new(),
                    change: None,
                };
                self.check_keys(&entry)?;
                self.turn(inner, &entry, &*self.markers.clock)?;
                Ok(Outcome::Applied)
            },
        )
    }
}
