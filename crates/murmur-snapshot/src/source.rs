use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;

use murmur_core::{Item, Row};
use murmur_state::{Cause, HandoffToken};
use serde::{Deserialize, Serialize};

use crate::error::SourceError;

/// A table or file that can be read from beginning to end, page by page.
///
/// Rows come undecoded: the pipeline's own decoder reads them, the same that reads the images of
/// live changes. All six methods are required; `fn … -> impl Future` is implemented by
/// `async fn`. The module `conformance` (feature of the same name) puts a source to the
/// proof.
///
/// # Contract
///
/// The pages of one segment form a chain: `page(s, None)` is its first, `page(s, Some(next))`
/// the one after, and a page without `next` its last. An empty page can still have a `next`.
/// A `next` is never the cursor that led to it.
///
/// The segments are disjoint, and together they hold every row that was there during the whole
/// scan. A row that comes or goes meanwhile may or may not be seen.
///
/// A cursor continues its chain in another process too, on a source of the same settings, and
/// gives exactly what is left of the segment.
///
/// # Identity
///
/// A row's event id and item id are made of its primary key and of nothing else, so that they
/// are the same in every run. [`murmur_core::item_id`] and
/// [`ItemId::scan_event`](murmur_state::ItemId::scan_event) make them; another event id is right
/// as long as it is stable and unique in the source. A position, a page or a time is neither.
///
/// # Bad rows
///
/// What cannot be made a row goes into [`Page::bad`], and the page goes on. Only what stops the
/// reading itself is an error.
///
/// # Errors
///
/// [`SourceError`], which says whether trying again can help. A failed `page` can be asked for
/// again.
///
/// # Cancel safety
///
/// Every method is cancel safe: a page that was dropped, finished or not, is given again when it
/// is asked for again.
///
/// # Wrappers
///
/// `Arc<S>` is a source too.
pub trait Source: Send + Sync + 'static {
    /// The source's name: part of the name of a run's record, so it stays the same between runs.
    fn name(&self) -> &str;

    /// How many segments there are, at least 1; they are called `0..segments()`.
    fn segments(&self) -> u32;

    /// What is to be read. Called in every attempt at a run, before anything is read or written,
    /// so what the source can find to be wrong by itself (a table that is being deleted, a filter
    /// that cannot work) is an error here.
    fn describe(&self) -> impl Future<Output = Result<Description, SourceError>> + Send;

    /// Where live has to begin so that nothing is missed between the scan and the stream. Called
    /// once in a run's life, before its first page; `None` where there is no stream.
    fn capture_handoff(
        &self,
    ) -> impl Future<Output = Result<Option<HandoffToken>, SourceError>> + Send;

    /// The page of `segment` after `after`; its first page for `None`. It looks at no more than
    /// `limit` rows, where the source can tell, and at no more than is its own habit.
    fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// Gives back what the source holds open. No page is asked for afterwards.
    fn close(&self) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// What a [`Source`] reads, as it stands now.
///
/// Made by [`new`](Description::new); what a source knows beyond that it sets.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// What the cursors and the set of rows depend on, in words: the table, the number of
    /// segments, the filter. The same text in every process that reads the same; a run is not
    /// continued under another one.
    pub settings: String,
    /// About how many rows there are: an estimate. Default: not known.
    pub rows: Option<u64>,
    /// How many read units a second the table was given; `None` where it is billed by request, or
    /// nobody knows. Default: `None`.
    pub provisioned_read_units: Option<f64>,
    /// Whether a page shows everything that was written before it was asked for. A ledger needs
    /// that. Default: no.
    pub consistent: bool,
    /// The attributes outside the primary key by which the source leaves rows out. A ledger
    /// allows none: an item that changes in one of them would have to be counted and forgotten by
    /// whether it was scanned before or after. Default: none.
    pub leaves_out_by: Vec<String>,
    /// The ARN of the table that is read; `None` if the source reads something else, or does not
    /// know. A reconcile refuses state that was filled from another one. Default: `None`.
    pub table_arn: Option<String>,
    /// The stream that live will read; `None` if there is none, or the source does not know.
    /// Default: `None`.
    pub stream: Option<StreamView>,
}

impl Description {
    /// A source of these [`settings`](Description::settings), of which nothing else is known.
    pub fn new(settings: impl Into<String>) -> Self {
        Self {
            settings: settings.into(),
            ..Self::default()
        }
    }
}

/// A stream, and which images of an item its records carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// The stream's ARN.
    pub arn: String,
    /// Whether they carry the item as it is after the change.
    pub new_images: bool,
    /// Whether they carry the item as it was before the change.
    pub old_images: bool,
}

/// What one request to a source brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// What stood where a row should, and cannot be made one.
    pub bad: Vec<BadRow>,
    /// Where the next page begins; `None` if the segment ends here.
    pub next: Option<Cursor>,
    /// How many rows the source looked at, filtered ones included.
    pub examined: u64,
    /// What the page cost in read units, where the source says.
    pub read_units: Option<f64>,
}

/// Something that stood where a row should, and cannot be made one.
#[derive(Debug, Clone)]
pub struct BadRow {
    /// Where it stands, such as `line 17`; the same in every run.
    pub id: String,
    /// As much of it as could be read; may be empty.
    pub item: Item,
    /// What is wrong with it.
    pub error: Cause,
}

impl PartialEq for BadRow {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.item == other.item
    }
}

/// A place in a segment, as its source wrote it: opaque to everybody else, made to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor whose text is `text`; only a source makes sense of it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Source> Source for Arc<S> {
    fn name(&self) -> &str {
        S::name(self)
    }

    fn segments(&self) -> u32 {
        S::segments(self)
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        S::describe(self).await
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        S::capture_handoff(self).await
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        S::page(self, segment, after, limit).await
    }

    async fn close(&self) -> Result<(), SourceError> {
        S::close(self).await
    }
}
