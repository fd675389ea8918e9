//! What a row is read as, and what a process remembers of it between batches.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{Key, Place, StoreError};

use super::ids::{Element, elements};
use super::page::{Level, Sizing, Tops};
use crate::attribute::{CUR, HOT, Item, LED, PER, PREV, integer, wrong_shape};

/// How many rows are remembered at least; at most twice as many.
const REMEMBERED: usize = 4096;

/// A row as one answer told it, never pieced together of several.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Image {
    /// How often its ids have moved on.
    pub(crate) per: u64,
    /// Whether that is written in the row: not in one that is not there, or that only a ledger has
    /// written.
    pub(crate) is_begun: bool,
    /// The ids it forgets when they move on the next time, in order.
    pub(crate) prev: Vec<Element>,
    /// The ids that have come since they moved on.
    pub(crate) cur: Vec<Element>,
    pub(crate) tops: Tops,
    /// Bytes of the row without its ids.
    base: usize,
}

impl Image {
    /// What `row` is; empty for none. Rows of other modes are refused.
    pub(crate) fn of(place: &Place, row: &Item) -> Result<Self, StoreError> {
        if row.is_empty() {
            return Ok(Self::default());
        }
        let other = |found| StoreError::OtherMode {
            place: place.clone(),
            found,
            wanted: "exactly-once",
        };
        if row.contains_key(HOT) || [CUR, PREV].iter().any(|set| has_ids_alone(row, set)) {
            return Err(other("exactly-once with ids of an earlier layout"));
        }
        let is_begun = row.contains_key(PER);
        if !is_begun && !row.contains_key(LED) {
            return Err(other("a mode without ids (at-least-once or claim-first)"));
        }
        let per = match is_begun {
            true => integer(place, row, PER, "a count from 0 on")?,
            false => 0,
        };
        let mut prev = elements(place, row, PREV)?;
        prev.sort_unstable();
        let cur = elements(place, row, CUR)?;
        // A row is begun by ids, and ids move on only where there are some.
        if is_begun == cur.is_empty() || !is_begun && !prev.is_empty() {
            let expected = "the ids of the last events, where there is `per` and only there";
            return Err(wrong_shape(place, row, CUR, expected));
        }
        let ids = (prev.len() + cur.len()) * Element::BYTES;
        Ok(Self {
            per,
            is_begun,
            tops: Tops::of(place, row)?,
            base: size(row).saturating_sub(ids),
            prev,
            cur,
        })
    }

    /// The ids that it has itself.
    pub(crate) fn ids(&self) -> HashSet<Element> {
        self.cur.iter().chain(&self.prev).copied().collect()
    }

    /// The bytes that one generation of ids may have in a row of `budget`: half of what the rest of
    /// the row leaves, of as many budgets as leave a quarter of one.
    fn half(&self, budget: usize) -> usize {
        let whole = (self.base + budget / 4).next_multiple_of(budget.max(1));
        (whole - self.base) / 2
    }

    /// Whether `ids` more are not too many for one generation.
    pub(crate) fn has_room(&self, ids: usize, budget: usize) -> bool {
        (self.cur.len() + ids) * Element::BYTES <= self.half(budget)
    }
}

/// Whether a set holds ids without their seconds, as an earlier layout had them.
fn has_ids_alone(row: &Item, set: &str) -> bool {
    match row.get(set) {
        Some(AttributeValue::Bs(ids)) => ids.iter().all(|id| id.as_ref().len() == 16),
        _ => false,
    }
}

/// What this process knows of a row.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The last answer that told it as a whole.
    image: Option<Image>,
    /// How many ids this process has added since.
    added: usize,
    /// Whether others have written it too since this process's turn before.
    shared: bool,
    /// Whether it is this process's turn to move the ids on.
    is_due: bool,
    /// Whether writes by what was remembered were refused: then reading first costs less.
    read_first: bool,
    /// How often its ids had moved on when a batch came, until an answer tells it anew.
    remembered: Option<u64>,
    /// What of `prev` is in pages already.
    pub(crate) paged: Paged,
    pub(crate) sizing: Sizing,
}

/// Ids of a row that are in pages, acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Paged {
    ids: HashSet<Element>,
    /// What the row is to say of these pages.
    pub(crate) tops: Tops,
}

impl Paged {
    pub(crate) fn has(&self, id: &Element) -> bool {
        self.ids.contains(id)
    }

    pub(crate) fn note(&mut self, ids: &[Element], level: Level) {
        for id in ids {
            self.tops.note(id, level);
            self.ids.insert(*id);
        }
    }
}

impl Known {
    pub(crate) fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// A batch begins: whether it should read the row first.
    pub(crate) fn begin(&mut self, budget: usize) -> bool {
        self.remembered = self.image.as_ref().map(|image| image.per);
        self.wants_a_read(budget)
    }

    /// Whether who comes next should read the row first: also where it may be time to move its ids
    /// on, or too late, by what others have added. To page out for nothing costs more.
    pub(crate) fn wants_a_read(&self, budget: usize) -> bool {
        let Some(image) = &self.image else {
            return true;
        };
        self.read_first || self.shared && !image.has_room(image.cur.len(), budget)
    }

    /// The row as an answer tells it, after a write of `mine` ids where it is a write's. An answer
    /// that may be older than what is known (`is_newest` is false) is passed over if it is.
    pub(crate) fn see(&mut self, image: Image, mine: usize, is_newest: bool) {
        let Some(before) = &self.image else {
            // Who began it may write it still.
            self.shared = image.is_begun;
            self.image = Some(image);
            return;
        };
        if image.per < before.per && !is_newest {
            return;
        }
        if image.per != before.per {
            self.paged = Paged::default();
            self.is_due = false;
        }
        let expected = before.cur.len() + self.added + mine;
        let is_changed = image.per != before.per || image.cur.len() != expected;
        match self.remembered.take() {
            Some(remembered) => {
                self.read_first = image.per > remembered + 1;
                self.shared = is_changed;
            }
            None => self.shared |= is_changed,
        }
        self.added = 0;
        self.image = Some(image);
    }

    /// The row as the answer to a write that moved its ids on tells it.
    pub(crate) fn moved_on(&mut self, image: Image) {
        self.paged = Paged::default();
        self.is_due = false;
        self.added = 0;
        self.image = Some(image);
    }

    /// `ids` came by a write of which only that is known.
    pub(crate) fn added(&mut self, ids: usize) {
        self.added += ids;
    }

    /// Among several writers the one whose `ids` took the row over three quarters of a generation
    /// moves them on, so that not all of them try.
    pub(crate) fn look_whose_turn(&mut self, ids: usize, budget: usize) {
        let Some(image) = &self.image else { return };
        let line = image.half(budget) / 4 * 3;
        let now = image.cur.len() * Element::BYTES;
        let before = now.saturating_sub(ids * Element::BYTES);
        self.is_due |= self.shared && (before..now).contains(&line);
    }

    /// Whether the ids are to move on by the next write, of `ids` more.
    pub(crate) fn should_move_on(&self, ids: usize, budget: usize) -> bool {
        let Some(image) = &self.image else {
            return false;
        };
        image.is_begun && (self.is_due || !image.has_room(self.added + ids, budget))
    }

    /// Whether the next write, of `ids`, should bring the row back whole.
    pub(crate) fn wants_a_look(&self, ids: usize, budget: usize) -> bool {
        let Some(image) = &self.image else {
            return true;
        };
        let unseen = (self.added + ids) * Element::BYTES;
        !image.is_begun || self.shared || unseen > image.half(budget) / 4
    }
}

/// The size of an item: names and values (Amazon DynamoDB Developer Guide, "DynamoDB item sizes
/// and formats"). Attributes of other types than Murmur's count by their name only.
fn size(row: &Item) -> usize {
    row.iter()
        .map(|(name, value)| name.len() + size_of_value(value))
        .sum()
}

fn size_of_value(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len() / 2 + 2,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Bs(set) => set.iter().map(|bytes| bytes.as_ref().len()).sum(),
        AttributeValue::M(parts) => 3 + size(parts) + parts.len(),
        _ => 1,
    }
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
        let slot = old.remove(key).unwrap_or_default();
        if young.len() >= REMEMBERED {
            *old = std::mem::take(young);
        }
        young.insert(key.clone(), Arc::clone(&slot));
        slot
    }
}
