//! A row as read, and what a process remembers of it between batches.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{Key, Place, StoreError};

use super::ids::{Element, elements};
use super::page::{Level, Sizing, Tops};
use crate::attribute::{CUR, HOT, Item, LED, PER, PREV, integer, wrong_shape};
use crate::recent::Recent;

/// How many rows are remembered at least. At most twice as many are.
const REMEMBERED: usize = 4096;

/// How often a process tries in vain to move the ids on before it leaves that to the process whose
/// turn it is.
const TRIES: u32 = 3;

/// After this many generations of ids, processes that tried in vain before move the ids on as well,
/// because the process whose turn it was has probably ended.
const OVERDUE: usize = 4;

/// A row as one answer returned it, never combined from several answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Image {
    /// How often its ids have moved on.
    pub(crate) per: u64,
    /// Whether the row exists and holds that count. A row that only a ledger has written does not.
    pub(crate) is_begun: bool,
    /// The ids that the next move drops, in order.
    pub(crate) prev: Vec<Element>,
    /// The ids added since the last move, in order.
    pub(crate) cur: Vec<Element>,
    pub(crate) tops: Tops,
    /// Bytes of the row without its ids.
    base: usize,
}

impl Image {
    /// The image of `row`, which is empty for no row. Rows of other modes are refused.
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
        let mut cur = elements(place, row, CUR)?;
        cur.sort_unstable();
        // A row with `per` has ids, and older ids exist only beside newer ones.
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

    /// Whether the row itself has the event.
    pub(crate) fn has(&self, id: &Element) -> bool {
        [&self.cur, &self.prev]
            .iter()
            .any(|ids| ids.binary_search(id).is_ok())
    }

    /// Whether its ids have moved on at most once since they had done so `per` times.
    pub(crate) fn is_within_one_of(&self, per: u64) -> bool {
        self.per == per || self.per == per.saturating_add(1)
    }

    /// The bytes that one generation of ids may take in a row of `budget`: half of the space that
    /// the rest of the row leaves in the least number of budgets that leaves a quarter of one.
    fn half(&self, budget: usize) -> usize {
        let whole = (self.base + budget / 4).next_multiple_of(budget.max(1));
        (whole - self.base) / 2
    }

    /// Whether `ids` more fit into one generation.
    pub(crate) fn has_room(&self, ids: usize, budget: usize) -> bool {
        (self.cur.len() + ids) * Element::BYTES <= self.half(budget)
    }
}

/// Whether a set holds ids without their seconds, as in an earlier layout.
fn has_ids_alone(row: &Item, set: &str) -> bool {
    match row.get(set) {
        Some(AttributeValue::Bs(ids)) => ids.iter().all(|id| id.as_ref().len() == 16),
        _ => false,
    }
}

/// What this process knows about a row.
#[derive(Debug, Default)]
pub(crate) struct KnownRow {
    /// The last answer that returned the whole row.
    image: Option<Arc<Image>>,
    /// How many ids this process has added since then.
    added: usize,
    /// Whether other processes have also written the row since this process's previous turn.
    shared: bool,
    /// Whether it is this process's turn to move the ids on.
    is_due: bool,
    /// How often in succession another process moved the ids on when this one tried to.
    in_vain: u32,
    /// Whether writes based on what was remembered were refused. Then reading first costs less.
    read_first: bool,
    /// How often its ids had moved on when a batch started, until an answer tells it again.
    remembered: Option<u64>,
    /// The part of `prev` that is already in pages.
    pub(crate) paged: Paged,
    pub(crate) sizing: Sizing,
}

/// Ids of a row that are in pages, acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Paged {
    ids: HashSet<Element>,
    /// What the row should record about these pages.
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

impl KnownRow {
    pub(crate) fn image(&self) -> Option<Arc<Image>> {
        self.image.clone()
    }

    /// Starts a batch. Returns whether the batch should read the row first.
    pub(crate) fn begin(&mut self, budget: usize) -> bool {
        self.remembered = self.image.as_ref().map(|image| image.per);
        self.wants_a_read(budget)
    }

    /// Whether the next batch should read the row first. It also should if the ids that other
    /// processes have added may make it time to move the ids on, or too late, because paging out in
    /// vain costs more.
    pub(crate) fn wants_a_read(&self, budget: usize) -> bool {
        let Some(image) = &self.image else {
            return true;
        };
        self.read_first || self.shared && !image.has_room(image.cur.len(), budget)
    }

    /// Takes over the row from an answer; `mine` is the number of ids that this process wrote with
    /// it. If `is_newest` is false the answer may be outdated, and is then ignored if it is.
    pub(crate) fn see(&mut self, image: Arc<Image>, mine: usize, is_newest: bool) {
        let Some(before) = &self.image else {
            // The process that began the row may still be writing it.
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

    /// Takes over the row from the answer to a write that moved its ids on.
    pub(crate) fn moved_on(&mut self, image: Arc<Image>) {
        self.paged = Paged::default();
        self.is_due = false;
        self.in_vain = 0;
        self.added = 0;
        self.image = Some(image);
    }

    /// Records that a write added `ids`, when nothing else is known of it.
    pub(crate) fn added(&mut self, ids: usize) {
        self.added += ids;
    }

    /// Among several writers, the process whose `ids` took the row over three quarters of a
    /// generation moves them on, so that not all of them try. If it does not, the process that
    /// takes the row over a whole generation more does, and so on.
    pub(crate) fn look_whose_turn(&mut self, ids: usize, budget: usize) {
        let Some(image) = &self.image else { return };
        let half = image.half(budget).max(1);
        let lines = |ids: usize| (ids * Element::BYTES + half / 4) / half;
        let before = image.cur.len().saturating_sub(ids);
        self.is_due |= self.shared && lines(image.cur.len()) > lines(before);
    }

    /// Whether the next write, of `ids` more, should move the ids on.
    pub(crate) fn should_move_on(&self, ids: usize, budget: usize) -> bool {
        let Some(image) = &self.image else {
            return false;
        };
        let cur = image.cur.len() + self.added;
        let generations = match self.in_vain {
            ..TRIES => 1,
            _ => OVERDUE,
        };
        let is_over = (cur + ids) * Element::BYTES > generations * image.half(budget);
        image.is_begun && (self.is_due || is_over)
    }

    /// Records that another process moved the ids on while this one tried to. If this happens
    /// repeatedly, this process waits until it is its turn.
    pub(crate) fn tried_in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// Whether the next write, of `ids`, should return the whole row.
    pub(crate) fn wants_a_look(&self, ids: usize, budget: usize) -> bool {
        let Some(image) = &self.image else {
            return true;
        };
        let unseen = (self.added + ids) * Element::BYTES;
        !image.is_begun || self.shared || unseen > image.half(budget) / 4
    }
}

/// The size of an item: names and values (Amazon DynamoDB Developer Guide, "DynamoDB item sizes and
/// formats"). Attributes of types that Murmur does not write count by their name only.
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

/// What is known about a row, and the right to write it. One batch of this process holds it at a
/// time, in the order in which they came.
pub(crate) type Slot = Arc<tokio::sync::Mutex<KnownRow>>;

/// The rows this process has written lately. If a row is dropped while it is being written, two
/// batches may write it at the same time. That is safe: the conditions of the writes ensure
/// exactness, not this map.
#[derive(Debug)]
pub(crate) struct Slots {
    rows: Mutex<Recent<Key, Slot>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            rows: Mutex::new(Recent::new(REMEMBERED)),
        }
    }
}

impl Slots {
    pub(crate) fn of(&self, key: &Key) -> Slot {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = rows.get(key) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        rows.insert(key.clone(), Arc::clone(&slot));
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_sdk_dynamodb::primitives::Blob;

    use super::*;
    use crate::any_rows::{holds, look_at};
    use crate::attribute::{PK, SK, TOPS, V, number};

    fn ids(first: u8, count: u8) -> AttributeValue {
        let ids = first..first + count;
        AttributeValue::Bs(ids.map(|id| Blob::new([id; Element::BYTES])).collect())
    }

    fn row(attributes: &[(&str, AttributeValue)]) -> Item {
        let common = [
            (PK, AttributeValue::S("a".into())),
            (SK, number(0)),
            (V, number(5)),
        ];
        let all = common.iter().chain(attributes).cloned();
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn place() -> Place {
        Place::table("Int64SumStore", "totals")
    }

    #[test]
    fn no_row_is_taken_for_another() {
        let tops = AttributeValue::M(HashMap::from([("3".to_owned(), number(1_800_000_000))]));
        let good = [
            Item::new(),
            row(&[(LED, AttributeValue::Bool(true))]),
            row(&[(PER, number(0)), (CUR, ids(1, 2))]),
            row(&[
                (PER, number(7)),
                (CUR, ids(1, 2)),
                (PREV, ids(3, 3)),
                (TOPS, tops),
            ]),
        ];
        look_at(&good, &[CUR, PREV, PER, TOPS, HOT, LED], |row| {
            let Ok(image) = Image::of(&place(), row) else {
                return false;
            };
            assert!(row.is_empty() || image.is_begun || row.contains_key(LED));
            assert_eq!(image.is_begun, row.contains_key(PER), "{row:?}");
            assert!(!image.is_begun || holds(row, PER, Some(&number(image.per))));
            for (set, ids) in [(CUR, &image.cur), (PREV, &image.prev)] {
                match row.get(set) {
                    None => assert!(ids.is_empty()),
                    Some(AttributeValue::Bs(found)) => {
                        assert_eq!(found.len(), ids.len());
                        assert!(ids.iter().all(|id| image.has(id)), "{row:?}");
                    }
                    Some(_) => panic!("no ids: {row:?}"),
                }
            }
            assert!(!row.contains_key(HOT));
            true
        });
    }

    fn known(cur: u8, prev: u8) -> KnownRow {
        let mut known = KnownRow::default();
        let row = row(&[
            (PER, number(7)),
            (CUR, ids(1, cur)),
            (PREV, ids(100, prev.max(1))),
        ]);
        known.see(Arc::new(Image::of(&place(), &row).unwrap()), 0, true);
        assert!(known.shared, "who began it may write it still");
        known.shared = false;
        known
    }

    #[test]
    fn a_generation_is_half_of_what_the_rest_of_the_row_leaves() {
        let budget = 1024;
        // About 25 bytes of row, and 21 for each id.
        let fits = (0..60)
            .rev()
            .find(|ids| !known(1, 20).should_move_on(*ids, budget));
        assert_eq!(fits, Some(22));
        let mut one = known(1, 20);
        one.added(20);
        assert!(!one.should_move_on(1, budget) && one.should_move_on(3, budget));
        // A row whose value takes a whole budget gets another one.
        let half = |base| {
            Image {
                base,
                ..Image::default()
            }
            .half(budget)
        };
        assert_eq!([half(24), half(768), half(769)], [500, 128, 639]);
        assert!((0..5000).all(|base| half(base) >= budget / 8));
        assert!(half(10) > 0 && Image::default().half(0) == 0);
    }

    #[test]
    fn of_several_writers_the_one_that_crosses_the_line_moves_the_ids_on() {
        let budget = 1024;
        let see = |known: &mut KnownRow, cur, mine| {
            let row = row(&[(PER, number(7)), (CUR, ids(1, cur))]);
            known.see(Arc::new(Image::of(&place(), &row).unwrap()), mine, true);
            known.look_whose_turn(mine, budget);
        };
        let mut alone = known(16, 20);
        see(&mut alone, 18, 2);
        assert!(!alone.should_move_on(1, budget), "nobody else writes it");
        // The threshold is between 17 and 18 ids.
        let mut crosses = known(10, 20);
        see(&mut crosses, 18, 2);
        assert!(crosses.should_move_on(1, budget));
        let mut before = known(10, 20);
        see(&mut before, 16, 2);
        assert!(!before.should_move_on(1, budget));
        let mut after = known(10, 20);
        see(&mut after, 20, 2);
        assert!(!after.should_move_on(1, budget));
        assert!(after.should_move_on(4, budget), "in the end anybody does");
        after.tried_in_vain();
        assert!(after.should_move_on(4, budget));
        (1..TRIES).for_each(|_| after.tried_in_vain());
        assert!(!after.should_move_on(4, budget), "but not in vain for ever");
        see(&mut after, 43, 2);
        assert!(after.should_move_on(1, budget), "until it is its turn");
        let mut late = known(70, 20);
        (0..TRIES).for_each(|_| late.tried_in_vain());
        see(&mut late, 92, 1);
        assert!(!late.should_move_on(2, budget));
        assert!(late.should_move_on(6, budget), "or nobody's");
    }
}
