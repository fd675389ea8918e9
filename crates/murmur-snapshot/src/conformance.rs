//! The promises of [`Source`] and [`Lookup`] as code: run your own source through it.
//!
//! Unstable by design: a new release may check more. A broken promise is a panic that names it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a broken promise is a panic here"
)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::num::NonZeroU32;

use futures::FutureExt;
use murmur_state::ItemId;

use crate::lookup::{LookedUp, Lookup};
use crate::source::{Cursor, Page, Source};

/// Checks every promise of [`Source`], on a source that does not change and holds `rows` rows.
///
/// `make` makes the same source again, as another process would. Its pages must be so small that
/// some segment has at least two, so that resuming is tested; that is checked too.
pub async fn source<S, Fut>(make: impl Fn() -> Fut, rows: usize)
where
    S: Source,
    Fut: Future<Output = S>,
{
    let source = make().await;
    assert!(!source.name().is_empty(), "a source has a name");
    assert!(source.segments() >= 1, "a source has a segment");
    let description = source.describe().await.expect("it describes itself");
    assert!(!description.settings.is_empty(), "it has settings");
    source
        .capture_handoff()
        .await
        .expect("the handoff is captured");

    let chains = all_chains(&source).await;
    let pages = || chains.iter().flatten();
    assert!(
        rows < 2 || chains.iter().any(|chain| chain.len() > 1),
        "give the source smaller pages: none has a cursor to resume from"
    );
    complete_and_disjoint(pages(), rows);
    for page in pages() {
        let given = (page.rows.len() + page.bad.len()) as u64;
        assert!(
            page.examined >= given,
            "a row was given without being examined"
        );
    }
    source.close().await.expect("it closes");

    let again = make().await;
    assert_eq!(
        again.name(),
        source.name(),
        "the name is the same in every run"
    );
    assert_eq!(again.segments(), source.segments(), "so are the segments");
    assert_eq!(
        again.describe().await.expect("again").settings,
        description.settings,
        "and the settings"
    );
    assert_eq!(
        ids(all_chains(&again).await.iter().flatten()),
        ids(pages()),
        "the ids are the same in every run"
    );

    every_cursor_resumes(&make, &chains).await;
    dropped_pages_come_again(&make, &chains).await;
    small_pages_hold_the_same(&make, &chains).await;
}

/// Checks every promise of [`Lookup`], on a source that does not change, holds at least one row,
/// and says that it holds every item. `gone` is the id of an item that does not exist.
pub async fn lookup<S: Lookup>(source: &S, gone: &ItemId) {
    let whole = source.holds_every_item();
    whole.expect("the suite is for a source whose pages hold every item");
    let chains = all_chains(source).await;
    let rows: Vec<_> = chains
        .iter()
        .flatten()
        .flat_map(|page| &page.rows)
        .collect();
    assert!(!rows.is_empty(), "give the source a row to look up");
    for row in rows {
        let found = source
            .look_up(&row.item_id)
            .await
            .expect("it is looked up")
            .found;
        let LookedUp::Row(found) = found else {
            panic!(
                "item `{}` is in a page, and looked up {found:?}",
                row.item_id
            );
        };
        assert_eq!(&found, row, "an item is looked up as its page has it");
    }
    let found = source.look_up(gone).await.expect("it is looked up").found;
    assert_eq!(found, LookedUp::Gone, "item `{gone}` is not there");
}

/// The pages of each segment.
async fn all_chains<S: Source>(source: &S) -> Vec<Vec<Page>> {
    let mut chains = Vec::new();
    for segment in 0..source.segments() {
        chains.push(chain(source, segment, None, None).await);
    }
    chains
}

async fn chain<S: Source>(
    source: &S,
    segment: u32,
    after: Option<Cursor>,
    limit: Option<NonZeroU32>,
) -> Vec<Page> {
    let (mut pages, mut after, mut seen) = (Vec::new(), after, HashSet::new());
    loop {
        let page = source.page(segment, after.as_ref(), limit).await;
        let page = page.expect("a page");
        after = page.next.clone();
        pages.push(page);
        match &after {
            None => return pages,
            Some(next) => assert!(seen.insert(next.clone()), "cursor `{next}` comes twice"),
        }
    }
}

/// Item id → event id.
fn ids<'a>(pages: impl IntoIterator<Item = &'a Page>) -> BTreeMap<String, String> {
    let rows = pages.into_iter().flat_map(|page| &page.rows);
    rows.map(|row| (row.item_id.to_string(), row.event_id.clone()))
        .collect()
}

fn complete_and_disjoint<'a>(pages: impl Iterator<Item = &'a Page>, rows: usize) {
    let (mut items, mut events) = (BTreeSet::new(), BTreeSet::new());
    for row in pages.flat_map(|page| &page.rows) {
        assert!(
            items.insert(&row.item_id),
            "item `{}` is given twice",
            row.item_id
        );
        assert!(
            !row.event_id.is_empty(),
            "item `{}` has no event id",
            row.item_id
        );
        assert!(
            events.insert(&row.event_id),
            "event `{}` stands for two items",
            row.event_id
        );
    }
    assert_eq!(items.len(), rows, "every row is given");
}

async fn every_cursor_resumes<S, Fut>(make: &impl Fn() -> Fut, chains: &[Vec<Page>])
where
    S: Source,
    Fut: Future<Output = S>,
{
    for (segment, pages) in chains.iter().enumerate() {
        for (n, page) in pages.iter().enumerate() {
            let Some(cursor) = &page.next else { continue };
            let source = make().await;
            let rest = chain(&source, segment as u32, Some(cursor.clone()), None).await;
            assert_eq!(
                ids(&rest),
                ids(&pages[n + 1..]),
                "segment {segment}, resumed at `{cursor}`, gives exactly the rest"
            );
        }
    }
}

async fn dropped_pages_come_again<S, Fut>(make: &impl Fn() -> Fut, chains: &[Vec<Page>])
where
    S: Source,
    Fut: Future<Output = S>,
{
    let source = make().await;
    for (segment, pages) in chains.iter().enumerate() {
        let (segment, mut after) = (segment as u32, None);
        for page in pages {
            // Begun and dropped, finished and dropped, and then taken.
            let _ = source.page(segment, after, None).now_or_never();
            let unused = source.page(segment, after, None).await.expect("a page");
            let taken = source.page(segment, after, None).await.expect("a page");
            for again in [unused, taken] {
                assert_eq!(ids([&again]), ids([page]), "a dropped page is given again");
                assert_eq!(again.next, page.next, "with the same cursor");
            }
            after = page.next.as_ref();
        }
    }
}

async fn small_pages_hold_the_same<S, Fut>(make: &impl Fn() -> Fut, chains: &[Vec<Page>])
where
    S: Source,
    Fut: Future<Output = S>,
{
    let source = make().await;
    for (segment, pages) in chains.iter().enumerate() {
        let small = chain(&source, segment as u32, None, Some(NonZeroU32::MIN)).await;
        assert!(
            small.iter().all(|page| page.examined <= 1),
            "a page looks at more rows than it may"
        );
        assert_eq!(ids(&small), ids(pages), "small pages hold the same rows");
    }
}
