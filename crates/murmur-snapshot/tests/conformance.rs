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
use murmur_snapshot::{Cursor, Description, Page, Source, SourceError, conformance};
use murmur_state::HandoffToken;
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
