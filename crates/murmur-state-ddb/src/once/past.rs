//! A row and its pages after a sequence of writes, without a table.

use std::collections::{BTreeMap, HashSet};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::error::Place;
use murmur_state::{Key, PipelineName, StoreError, Timestamp};

use super::ids::{Element, set};
use super::page::{Page, Sizing};
use super::row::Image;
use super::rules::Rules;
use crate::attribute::{CUR, IDS, Item, PER, PK, PREV, TOPS, TTL, V, number, row_key};
use crate::options::TableOptions;

/// A row of totals and its pages, written by a single process whose writes all succeed. Benchmarks
/// use it to make tables with days of history without waiting days.
#[derive(Debug)]
pub struct Past<'a> {
    pipeline: &'a PipelineName,
    table: &'a str,
    key: Key,
    rules: Rules,
    budget: usize,
    value: i64,
    image: Image,
    sizing: Sizing,
    pages: BTreeMap<Page, HashSet<Element>>,
}

impl<'a> Past<'a> {
    /// No writes yet, and no row.
    pub fn none(pipeline: &'a PipelineName, table: &'a str, key: Key) -> Self {
        let TableOptions {
            rules, row_budget, ..
        } = TableOptions::default();
        Self {
            pipeline,
            table,
            key,
            rules,
            budget: row_budget,
            value: 0,
            image: Image::default(),
            sizing: Sizing::default(),
            pages: BTreeMap::new(),
        }
    }

    /// Writes the events of one batch, each with its id, its creation time, and the number that it
    /// adds.
    ///
    /// # Errors
    ///
    /// If the row cannot be read back.
    pub fn write(&mut self, events: &[([u8; 16], Timestamp, i64)]) -> Result<(), StoreError> {
        for events in events.chunks(self.rules.ids_per_update) {
            self.value += events.iter().map(|(.., value)| value).sum::<i64>();
            let element = |(id, created, _): &_| Element::new(id, Some(*created));
            let new: Vec<Element> = events.iter().map(element).collect();
            let has_room = self.image.has_room(new.len(), self.budget);
            if !self.image.is_begun || !has_room {
                self.move_on(new)?;
            } else {
                self.image.cur.extend(new);
            }
        }
        Ok(())
    }

    /// Continues as another process, which knows the row but not its pages.
    pub fn forget(&mut self) {
        self.sizing = Sizing::default();
    }

    fn move_on(&mut self, new: Vec<Element>) -> Result<(), StoreError> {
        let mut next = self.image.clone();
        if self.image.is_begun {
            self.page_out();
            next = self.image.clone();
            next.per += 1;
            next.prev = std::mem::take(&mut next.cur);
        }
        next.is_begun = true;
        next.cur = new;
        self.image = next;
        // The size without ids has changed.
        self.image = Image::of(&Place::table("Past", self.table), &self.row())?;
        Ok(())
    }

    fn page_out(&mut self) {
        let Image { prev, tops, .. } = &mut self.image;
        if prev.is_empty() {
            return;
        }
        let level = self.sizing.level(tops, prev, self.rules.page_ids);
        let mut written = BTreeMap::new();
        for element in prev.iter() {
            let page = Page::of(element, level);
            let ids = self.pages.entry(page.clone()).or_default();
            ids.insert(*element);
            written.insert(page, ids.len());
            tops.note(element, level);
        }
        self.sizing.learn(written, self.rules.page_ids);
    }

    /// The total in the row.
    pub fn value(&self) -> i64 {
        self.value
    }

    /// The row.
    pub fn row(&self) -> Item {
        let Image {
            per,
            prev,
            cur,
            tops,
            ..
        } = &self.image;
        let mut row = row_key(&self.key);
        row.insert(V.to_owned(), number(self.value));
        row.insert(PER.to_owned(), number(per));
        for (name, ids) in [(CUR, cur), (PREV, prev)] {
            if !ids.is_empty() {
                row.insert(name.to_owned(), set(ids));
            }
        }
        if *per > 0 {
            row.insert(TOPS.to_owned(), tops.attribute());
        }
        row
    }

    /// The creation time of the oldest event whose id is still in the row.
    pub fn reaches_back_to(&self) -> Option<Timestamp> {
        let ids = self.image.prev.iter().chain(&self.image.cur);
        ids.filter_map(Element::second)
            .min()
            .map(Timestamp::from_secs)
    }

    /// The pages that cover any time from `first` on.
    pub fn pages(&self, first: Timestamp) -> Vec<Item> {
        let page = |(page, ids): (&Page, &HashSet<Element>)| {
            let end = page.end.map(Timestamp::from_secs)?;
            let ttl = end.plus(self.rules.page_life);
            let name = page.key(self.pipeline, self.table, &self.key);
            (end > first).then(|| {
                Item::from([
                    (PK.to_owned(), AttributeValue::S(name)),
                    (IDS.to_owned(), set(ids)),
                    (TTL.to_owned(), number(ttl.as_secs())),
                ])
            })
        };
        self.pages.iter().filter_map(page).collect()
    }
}
