//! How a lane uses pages: it looks events up in them, and writes into them the ids that its row is
//! about to drop.

use std::collections::{BTreeMap, HashMap, HashSet};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use futures::{StreamExt, stream};
use murmur_state::{StoreError, Timestamp};

use super::{OnceBatch, RowLane, Step};
use crate::attribute::{IDS, PK};
use crate::change::Change;
use crate::error::Written;
use crate::once::cell::Cell;
use crate::once::ids::{Element, elements, set};
use crate::once::page::{Level, Page};
use crate::once::row::{Image, KnownRow};

/// Some ids on their way into a page.
struct Write {
    page: Page,
    ids: Vec<Element>,
    filled: Result<Filled, StoreError>,
}

/// The result of adding to a page.
enum Filled {
    /// The page has so many ids now.
    With(usize),
    /// The page would be larger than an item can be.
    TooLarge(StoreError),
}

impl<V: Sync, C: Cell<V>> RowLane<'_, V, C> {
    /// Takes out the events that are in the row or in any page that it may have.
    pub(super) async fn look_up(&mut self, image: &Image) -> Step {
        self.take_out(|id| image.has(id));
        let events = self.todo.iter();
        let pages = events.flat_map(|event| image.tops.pages(&event.element));
        let keys: Vec<String> = pages.map(|page| self.page_key(&page)).collect();
        if !keys.is_empty() {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let markers = self.batch.markers;
            let mut taken = HashSet::new();
            for page in markers.get_many(&keys, true, self.batch.deadline).await? {
                taken.extend(elements(&markers.table.place(), &page, IDS)?);
            }
            self.take_out(|id| taken.contains(id));
        }
        self.clear = Some(image.per);
        Ok(())
    }

    fn page_key(&self, page: &Page) -> String {
        let OnceBatch {
            pipeline, table, ..
        } = self.batch;
        page.key(pipeline, &table.name, self.key)
    }

    /// Writes the ids that `image` drops next to pages, until all are acknowledged. Pages written
    /// before an error stay written.
    pub(super) async fn page_out(&mut self, known: &mut KnownRow, image: &Image) -> Step {
        loop {
            let prev = image.prev.iter().copied();
            let left: Vec<Element> = prev.filter(|id| !known.paged.has(id)).collect();
            if left.is_empty() {
                return Ok(());
            }
            let target = self.batch.rules().page_ids;
            let level = known.sizing.level(&image.tops, &left, target);
            let mut pages: BTreeMap<Page, Vec<Element>> = BTreeMap::new();
            for element in left {
                let page = Page::of(&element, level);
                pages.entry(page).or_default().push(element);
            }
            let writes: Vec<_> = pages
                .into_iter()
                .map(async |(page, ids)| Write {
                    filled: self.fill(&page, &ids).await,
                    page,
                    ids,
                })
                .collect();
            let written = stream::iter(writes)
                .buffer_unordered(self.batch.markers.table.options.concurrency)
                .collect();
            self.acknowledge(known, level, written.await)?;
        }
    }

    /// Records which ids are in pages now.
    fn acknowledge(&self, known: &mut KnownRow, level: Level, written: Vec<Write>) -> Step {
        let mut sizes = BTreeMap::new();
        let mut too_large = None;
        let mut failed = Ok(());
        for Write { page, ids, filled } in written {
            match filled {
                Ok(Filled::With(count)) => {
                    known.paged.note(&ids, level);
                    if page.end.is_some() {
                        sizes.insert(page, count);
                    }
                }
                Ok(Filled::TooLarge(error)) => too_large = Some(error),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        if let Some(error) = too_large {
            let finer = level.moved(-1);
            if finer == level {
                return Err(error);
            }
            tracing::warn!(
                key = %self.key, table = %self.batch.markers.table.name,
                "a page of ids reached the item size limit; the other ids go to finer pages",
            );
            known.sizing.finer(1);
        } else if !sizes.is_empty() {
            known.sizing.learn(sizes, self.batch.rules().page_ids);
        }
        failed
    }

    /// Adds `ids` to a page. Repeating it changes nothing.
    async fn fill(&self, page: &Page, ids: &[Element]) -> Result<Filled, StoreError> {
        let markers = self.batch.markers;
        let life = self.batch.rules().page_life;
        let end = page.end.map(Timestamp::from_secs);
        let end = end.unwrap_or_else(|| self.batch.now());
        let change = Change::default()
            .add("ids :ids")
            .value(":ids", set(ids))
            .ttl(Some(end.plus(life).as_secs()));
        let name = self.page_key(page);
        let place = markers.place(&name)?;
        let key = HashMap::from([(PK.to_owned(), AttributeValue::S(name))]);
        let back = Some(ReturnValue::AllNew);
        let written = markers
            .table
            .write(&place, key, change, back, self.batch.deadline);
        match written.await {
            Ok(Written::Done(answer)) => {
                let page = answer.attributes.unwrap_or_default();
                Ok(Filled::With(elements(&place, &page, IDS)?.len()))
            }
            // The update has no condition.
            Ok(Written::Refused(_)) => Err(self.conflict()),
            Err(error @ StoreError::RowTooLarge { .. }) => Ok(Filled::TooLarge(error)),
            Err(error) => Err(error),
        }
    }
}
