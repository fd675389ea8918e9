//! What a row is read as, and what a process remembers of it between batches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{Key, Place, StoreError, Timestamp};

use super::ids::{Id, ids_in, only_ids};
use super::rules::Rules;
use crate::attribute::{CUR, HOT, HOT_AT, Item, LED, PER, PREV, integer, wrong_shape};

/// How many rows are remembered at least; at most twice as many.
const REMEMBERED: usize = 4096;

/// Ids that have come by writes since the row was last seen as a whole, after which it is looked
/// at again: other processes write it too.
const LOOK_AFTER: usize = 32;

/// What decides how a row is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Face {
    /// Not read yet.
    Unknown,
    /// There is no row.
    Absent,
    /// Its ids are in the row itself.
    Cold {
        /// The period of `cur`.
        per: i64,
        /// Whether it has ids of that period.
        cur: bool,
    },
    /// Its ids are in the marker table.
    Hot {
        /// The flag: which turn made it hot.
        epoch: String,
        /// When it was written last, by the writer's clock.
        stamp: Timestamp,
        /// The ids it had taken before that turn; `None` until they are looked up.
        frozen: Option<Frozen>,
    },
}

/// The ids a row had taken before it turned hot. They never change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frozen(Box<[Id]>);

impl Frozen {
    pub(crate) fn of(place: &Place, row: &Item) -> Result<Self, StoreError> {
        for set in [CUR, PREV] {
            only_ids(place, row, set)?;
        }
        let mut ids: Vec<Id> = [CUR, PREV]
            .into_iter()
            .flat_map(|set| ids_in(row, set))
            .filter_map(|id| id.try_into().ok())
            .collect();
        ids.sort_unstable();
        Ok(Self(ids.into()))
    }

    pub(crate) fn has(&self, id: &Id) -> bool {
        self.0.binary_search(id).is_ok()
    }
}

impl Face {
    /// What `row` is; empty for none. Rows of other modes are refused.
    pub(crate) fn of(place: &Place, row: &Item) -> Result<Self, StoreError> {
        if row.is_empty() {
            return Ok(Self::Absent);
        }
        if !row.contains_key(PER) {
            return Err(StoreError::OtherMode {
                place: place.clone(),
                found: match row.contains_key(LED) {
                    true => "ledger",
                    false => "a mode without ids (at-least-once or claim-first)",
                },
                wanted: "exactly-once",
            });
        }
        let per = integer(place, row, PER, "the number of a period")?;
        for set in [CUR, PREV] {
            only_ids(place, row, set)?;
        }
        if !row.contains_key(HOT) {
            let cur = row.contains_key(CUR);
            return Ok(Self::Cold { per, cur });
        }
        let Some(AttributeValue::S(epoch)) = row.get(HOT) else {
            return Err(wrong_shape(place, row, HOT, "a string"));
        };
        let stamp = integer(place, row, HOT_AT, "a time in milliseconds")?;
        Ok(Self::Hot {
            epoch: epoch.clone(),
            stamp: Timestamp::from_millis(stamp),
            frozen: None,
        })
    }
}

/// What this process knows of a row.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) face: Face,
    /// Bytes of the row without its ids.
    base: usize,
    /// How many ids it holds.
    ids: usize,
    /// How many of them were added since the row was last seen as a whole.
    unseen: usize,
}

impl Known {
    pub(crate) fn nothing() -> Self {
        Self {
            face: Face::Unknown,
            base: 0,
            ids: 0,
            unseen: 0,
        }
    }

    /// The row as a whole. What was looked up for the same turn stays known.
    pub(crate) fn see(&mut self, place: &Place, row: &Item) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut self.face, Face::Unknown);
        let mut face = Face::of(place, row)?;
        if let Face::Hot { epoch, frozen, .. } = &mut face
            && let Face::Hot {
                epoch: known,
                frozen: looked_up,
                ..
            } = before
            && *epoch == known
        {
            *frozen = looked_up;
        }
        self.face = face;
        self.ids = ids_in(row, CUR).count() + ids_in(row, PREV).count();
        self.base = size(row).saturating_sub(self.ids * size_of::<Id>());
        self.unseen = 0;
        Ok(())
    }

    /// `added` ids came to `cur` of period `per` by a write of which only that is known.
    pub(crate) fn added(&mut self, per: i64, added: usize) {
        self.face = Face::Cold { per, cur: true };
        self.ids += added;
        self.unseen += added;
    }

    /// The ids are out of the row.
    pub(crate) fn moved_out(&mut self, face: Face) {
        self.face = face;
        self.ids = 0;
        self.unseen = 0;
    }

    /// Whether the next write should bring the row back whole.
    pub(crate) fn wants_a_look(&self) -> bool {
        matches!(self.face, Face::Unknown | Face::Absent) || self.unseen >= LOOK_AFTER
    }

    /// Whether the row holds ids itself.
    pub(crate) fn holds_ids(&self) -> bool {
        self.ids > 0
    }

    /// Whether a write of `events` more ids costs less if the row turns hot first, `markers`
    /// being the bytes of ids in each of the marker rows it would then take.
    pub(crate) fn should_turn(
        &self,
        rules: &Rules,
        events: usize,
        markers: impl Iterator<Item = usize>,
    ) -> bool {
        if self.ids == 0 {
            return false;
        }
        let bytes = self.base + (self.ids + events.min(rules.ids_per_update)) * size_of::<Id>();
        let chunks = events.div_ceil(rules.ids_per_update.max(1));
        let cold = units(bytes) * chunks;
        // A write within a transaction costs twice that of a plain one.
        let markers: usize = markers.map(|ids| units(MARKER_BASE + ids)).sum();
        let hot = 2 * (units(self.base) * chunks + markers);
        cold > hot || bytes > rules.cold_bytes || self.ids >= rules.cold_ids
    }
}

/// A marker row without its ids: about a hundred bytes of key, and the names of its attributes.
const MARKER_BASE: usize = 128;

/// Write units of an item of that size (Amazon DynamoDB Developer Guide, "DynamoDB write
/// capacity").
fn units(bytes: usize) -> usize {
    bytes.div_ceil(1024).max(1)
}

/// The size of an item: names and values (Amazon DynamoDB Developer Guide, "DynamoDB item sizes
/// and formats"). Attributes of other types than Murmur's count by their name only.
fn size(row: &Item) -> usize {
    row.iter()
        .map(|(name, value)| {
            let value = match value {
                AttributeValue::S(text) => text.len(),
                AttributeValue::N(digits) => digits.len() / 2 + 2,
                AttributeValue::B(bytes) => bytes.as_ref().len(),
                AttributeValue::Bs(set) => set.iter().map(|bytes| bytes.as_ref().len()).sum(),
                _ => 0,
            };
            name.len() + value
        })
        .sum()
}

/// What is known of a row, and the right to write it: one batch of this process at a time.
pub(crate) type Slot = Arc<futures::lock::Mutex<Known>>;

/// The rows this process has written lately. Bounded: of two generations the older is forgotten.
/// A row forgotten while it is written is only written by two batches at a time then, and what
/// keeps that right is in its conditions, not here.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    generations: Mutex<[HashMap<Key, Slot>; 2]>,
}

impl Slots {
    pub(crate) fn of(&self, key: &Key) -> Slot {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        if let Some(slot) = young.get(key) {
            return Arc::clone(slot);
        }
        let slot = match old.remove(key) {
            Some(slot) => slot,
            None => Arc::new(futures::lock::Mutex::new(Known::nothing())),
        };
        if young.len() >= REMEMBERED {
            *old = std::mem::take(young);
        }
        young.insert(key.clone(), Arc::clone(&slot));
        slot
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;

    use super::*;
    use crate::any_rows::{holds, look_at};
    use crate::attribute::{PK, SK, V, number};

    fn ids(first: u8) -> AttributeValue {
        AttributeValue::Bs(vec![Blob::new([first; 16]), Blob::new([first + 1; 16])])
    }

    fn row(attributes: &[(&str, AttributeValue)]) -> Item {
        let common = [
            (PK, AttributeValue::S("a".into())),
            (SK, number(0)),
            (V, number(5)),
            (PER, number(-19)),
        ];
        let all = common.iter().chain(attributes).cloned();
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn holds_ids_or_nothing(row: &Item, set: &str) -> bool {
        match row.get(set) {
            None => true,
            Some(AttributeValue::Bs(ids)) => ids.iter().all(|id| id.as_ref().len() == 16),
            Some(_) => false,
        }
    }

    #[test]
    fn no_row_is_taken_for_another() {
        let place = Place::table("Int64SumStore", "totals");
        let hot = AttributeValue::S("epoch".into());
        let good = [
            Item::new(),
            row(&[]),
            row(&[(CUR, ids(1))]),
            row(&[(CUR, ids(1)), (PREV, ids(3))]),
            row(&[(HOT, hot), (HOT_AT, number(1_800_000_000_000_i64))]),
        ];
        look_at(&good, &[CUR, PREV, HOT, HOT_AT, LED], |row| {
            let mut known = Known::nothing();
            if known.see(&place, row).is_err() {
                return false;
            }
            match &known.face {
                Face::Unknown => panic!("seen, and not known: {row:?}"),
                Face::Absent => assert!(row.is_empty(), "{row:?}"),
                Face::Cold { per, cur } => {
                    assert!(holds(row, PER, Some(&number(per))), "{row:?}");
                    assert_eq!(*cur, row.contains_key(CUR), "{row:?}");
                    assert!(!row.contains_key(HOT), "{row:?}");
                }
                Face::Hot { epoch, stamp, .. } => {
                    let epoch = AttributeValue::S(epoch.clone());
                    assert!(holds(row, HOT, Some(&epoch)), "{row:?}");
                    let stamp = number(stamp.as_millis());
                    assert!(holds(row, HOT_AT, Some(&stamp)), "{row:?}");
                }
            }
            assert!([CUR, PREV].iter().all(|set| holds_ids_or_nothing(row, set)));
            true
        });
    }

    #[test]
    fn no_id_of_a_frozen_item_is_passed_over() {
        let place = Place::table("Deduper", "markers");
        let good = [row(&[]), row(&[(CUR, ids(1)), (PREV, ids(3))])];
        look_at(&good, &[CUR, PREV], |row| {
            let Ok(frozen) = Frozen::of(&place, row) else {
                return false;
            };
            for set in [CUR, PREV] {
                assert!(holds_ids_or_nothing(row, set), "{row:?}");
                let found = ids_in(row, set).all(|id| frozen.has(&id.try_into().unwrap()));
                assert!(found, "{row:?}");
            }
            true
        });
    }
}
