//! The suite accepts a source that keeps the contract, and notices each broken promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's failure message"
)]

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use murmur_snapshot::lookup::{Look, LookedUp};
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{Lookup, Source, SourceError, conformance};
use murmur_state::{HandoffToken, ItemId};
use support::{Table, rows};

/// Changes the pages of a table, by segment and cursor.
struct Bent<F>(Arc<Table>, F);

impl<F: Fn(u32, Option<&Cursor>, &mut Page) + Send + Sync + 'static> Source for Bent<F> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn segments(&self) -> u32 {
        self.0.segments()
    }
    async fn describe(&self) -> Result<Description, SourceError> {
        self.0.describe().await
    }
    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        self.0.capture_handoff().await
    }
    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let mut page = self.0.page(segment, after, limit).await?;
        (self.1)(segment, after, &mut page);
        Ok(page)
    }
    async fn close(&self) -> Result<(), SourceError> {
        self.0.close().await
    }
}

/// The segment that bends of what is looked up are told.
const LOOKED_UP: u32 = u32::MAX;

/// An item is looked up as a page that holds it alone.
impl<F: Fn(u32, Option<&Cursor>, &mut Page) + Send + Sync + 'static> Lookup for Bent<F> {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        Ok(())
    }
    async fn look_up(&self, item: &ItemId) -> Result<Look, SourceError> {
        let mut rows = self.0.segments.iter().flatten();
        let row = rows.find(|row| row.item_id == *item);
        let mut page = Page::new(row.into_iter().cloned().collect(), None);
        (self.1)(LOOKED_UP, None, &mut page);
        let found = page.rows.pop().map_or(LookedUp::Gone, LookedUp::Row);
        Ok(found.into())
    }
}

async fn accepts_lookup(
    bend: impl Fn(u32, Option<&Cursor>, &mut Page) + Send + Sync + 'static,
) -> bool {
    let source = Bent(Arc::new(Table::new(&rows(20, 3), 3, 2)), bend);
    let gone = ItemId::from_parts(["gone"]);
    let suite = std::panic::AssertUnwindSafe(conformance::lookup(&source, &gone));
    suite.catch_unwind().await.is_ok()
}

async fn accepts(
    bend: impl Fn(u32, Option<&Cursor>, &mut Page) + Clone + Send + Sync + 'static,
) -> bool {
    let make = || {
        let (table, bend) = (Table::new(&rows(20, 3), 3, 2), bend.clone());
        async move { Bent(Arc::new(table), bend) }
    };
    let suite = std::panic::AssertUnwindSafe(conformance::source(make, 20));
    suite.catch_unwind().await.is_ok()
}

#[tokio::test]
async fn a_sound_source_is_accepted() {
    assert!(accepts(|_, _, _| ()).await);
}

#[tokio::test]
async fn every_broken_promise_is_noticed() {
    let made = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&made);
    assert!(
        !accepts(move |_, _, page| {
            let n = calls.fetch_add(1, Ordering::SeqCst);
            page.rows
                .iter_mut()
                .for_each(|row| row.event_id += &n.to_string());
        })
        .await,
        "ids that change from run to run"
    );
    assert!(
        !accepts(|_, _, page| page
            .rows
            .iter_mut()
            .for_each(|row| row.event_id = "same".into()))
        .await,
        "an id for two items"
    );
    assert!(
        !accepts(|_, _, page| page.rows.truncate(1)).await,
        "rows left out"
    );
    let first = rows(20, 3)[0].clone();
    assert!(
        !accepts(move |segment, _, page| if segment == 1 {
            page.rows.push(first.clone())
        })
        .await,
        "a row of two segments"
    );
    assert!(
        !accepts(|_, _, page| page.examined = 0).await,
        "rows not examined"
    );
    assert!(
        !accepts(|_, after, page| {
            if after.is_some() && page.next.is_some() {
                page.next = after.cloned();
            }
        })
        .await,
        "a cursor that leads to itself"
    );
    let asked = Arc::new(AtomicUsize::new(0));
    assert!(
        !accepts(move |_, after, page| {
            // The first run is sound, whatever resumes is not.
            if after.is_some() && asked.fetch_add(1, Ordering::SeqCst) > 9 {
                page.rows.clear();
            }
        })
        .await,
        "a cursor that loses rows"
    );
}

#[tokio::test]
async fn every_broken_promise_of_a_lookup_is_noticed() {
    assert!(accepts_lookup(|_, _, _| ()).await, "a sound one");
    let of_looked_up = |bend: fn(&mut Page)| {
        accepts_lookup(move |segment, _, page| {
            if segment == LOOKED_UP {
                bend(page);
            }
        })
    };
    assert!(
        !of_looked_up(|page| page.rows.clear()).await,
        "an item that is there is gone"
    );
    assert!(
        !of_looked_up(|page| page.rows = vec![rows(20, 3)[0].clone()]).await,
        "always the same item"
    );
    assert!(
        !of_looked_up(|page| page.rows.iter_mut().for_each(|row| row.event_id.clear())).await,
        "another event id than the page's"
    );
    let before = rows(1, 1)[0].item.clone();
    assert!(
        !accepts_lookup(move |segment, _, page| {
            if segment == LOOKED_UP {
                let rows = page.rows.iter_mut();
                rows.for_each(|row| row.item = before.clone());
            }
        })
        .await,
        "older contents than the page's"
    );
    assert!(
        !accepts_lookup(|_, _, page| page.rows.clear()).await,
        "nothing to look up"
    );
}
