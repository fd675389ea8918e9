//! The contract of a snapshot source.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;

use murmur_core::{Item, Row};
use murmur_state::HandoffToken;
use murmur_state::error::Cause;
use serde::{Deserialize, Serialize};

use crate::error::SourceError;

/// A table or file that can be read from beginning to end, page by page.
///
/// Rows come undecoded. The pipeline's own decoder reads them, as it reads the images of stream
/// records. All six methods are required; implement `fn … -> impl Future` by `async fn`. The module
/// `conformance` (feature of the same name) tests a source.
///
/// # Contract
///
/// The pages of one segment form a chain: `page(s, None)` is the first page, `page(s, Some(next))`
/// the page after it, and a page without `next` the last. An empty page can have a `next`. A page
/// never returns the cursor that it was read from.
///
/// The segments are disjoint. Together they hold every row that existed during the whole scan. A
/// row that appears or disappears during the scan may or may not be seen.
///
/// A cursor also continues its chain in another process, on a source of the same settings, and
/// returns exactly the rest of the segment.
///
/// # Identity
///
/// A row's event id and item id are made of its primary key and of nothing else, so that they are
/// the same in every run. [`murmur_core::item_id`] and
/// [`ItemId::scan_event`](murmur_state::ItemId::scan_event) make them. Another event id works if it
/// is stable and unique in the source; a position, a page or a time is not.
///
/// # Bad rows
///
/// An entry that cannot be read as a row goes into [`Page::bad`], and the page goes on. Only a
/// failure of the reading itself is an error.
///
/// # Errors
///
/// [`SourceError`] says whether trying again can help. A failed `page` can be called again.
///
/// # Cancel safety
///
/// Every method is cancel safe: after a call of `page` was dropped, finished or not, the same call
/// returns the page again.
///
/// # Wrappers
///
/// `Arc<S>` is a source too.
pub trait Source: Send + Sync + 'static {
    /// The source's name. It is part of the name of a run's record, so it must stay the same
    /// between runs.
    fn name(&self) -> &str;

    /// The number of segments, at least 1. They are numbered `0..segments()`.
    fn segments(&self) -> u32;

    /// Describes what is to be read. Called in every attempt at a run, before anything is read or
    /// written. Problems that the source can find by itself (a table that is being deleted, a
    /// filter that cannot work) are errors here.
    fn describe(&self) -> impl Future<Output = Result<Description, SourceError>> + Send;

    /// Captures where the stream consumer has to begin so that no change is missed between scan and
    /// stream. Called once in a run's life, before its first page. `None` if there is no stream.
    fn capture_handoff(
        &self,
    ) -> impl Future<Output = Result<Option<HandoffToken>, SourceError>> + Send;

    /// Reads the page of `segment` after `after`, or its first page for `None`. It examines at most
    /// `limit` rows, if the source can limit that, and at most the source's own page size.
    fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// Closes what the source holds open. `page` is not called afterwards.
    fn close(&self) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// What a [`Source`] reads, as it stands now.
///
/// Made by [`new`](Description::new); set the fields that the source knows.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// In words, what the cursors and the set of rows depend on: the table, the number of segments,
    /// the filter. Two processes that read the same rows give the same text. A run does not go on
    /// under another text.
    pub settings: String,
    /// An estimate of the number of rows. Default: not known.
    pub rows: Option<u64>,
    /// The table's provisioned read units a second; `None` if it is billed by request, or if that
    /// is not known. Default: `None`.
    pub provisioned_read_units: Option<f64>,
    /// Whether a page shows everything that was written before the call. A ledger needs that.
    /// Default: no.
    pub consistent: bool,
    /// The attributes outside the primary key by which the source leaves rows out. A ledger allows
    /// none: after a change of such an attribute it would depend on the time of the scan whether
    /// the item counts. Default: none.
    pub leaves_out_by: Vec<String>,
    /// The ARN of the table that is read; `None` if the source reads something else, or does not
    /// know the ARN. A reconcile refuses state that was filled from another table. Default: `None`.
    pub table_arn: Option<String>,
    /// The stream that the stream consumer will read; `None` if there is none, or the source does
    /// not know it. Default: `None`.
    pub stream: Option<StreamView>,
}

impl Description {
    /// Describes a source by its [`settings`](Description::settings) alone.
    pub fn new(settings: impl Into<String>) -> Self {
        Self {
            settings: settings.into(),
            ..Self::default()
        }
    }
}

/// A stream, and which images of an item its records carry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamView {
    /// The stream's ARN.
    pub arn: String,
    /// Whether records carry the item as it is after the change.
    pub new_images: bool,
    /// Whether records carry the item as it was before the change.
    pub old_images: bool,
}

impl StreamView {
    /// The stream of this ARN, and whether its records carry the item as it is after and before the
    /// change.
    pub fn new(arn: impl Into<String>, new_images: bool, old_images: bool) -> Self {
        Self {
            arn: arn.into(),
            new_images,
            old_images,
        }
    }
}

/// The result of one request to a source. Made by [`new`](Page::new); set the other fields.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// The entries that cannot be read as rows.
    pub bad: Vec<BadRow>,
    /// Where the next page begins; `None` at the end of the segment.
    pub next: Option<Cursor>,
    /// How many rows the source examined, filtered rows included.
    pub examined: u64,
    /// The cost of the page in read units, if the source knows it.
    pub read_units: Option<f64>,
}

impl Page {
    /// A page of these rows, all that were examined, and where the next one begins.
    pub fn new(rows: Vec<Row>, next: Option<Cursor>) -> Self {
        Self {
            examined: rows.len() as u64,
            rows,
            next,
            ..Self::default()
        }
    }
}

/// An entry that cannot be read as a row. Made by [`new`](BadRow::new).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BadRow {
    /// Its place, such as `line 17`; the same in every run.
    pub id: String,
    /// As much of it as could be read; may be empty.
    pub item: Item,
    /// What is wrong with it.
    pub error: Cause,
}

impl BadRow {
    /// The entry at the place `id`, of which nothing could be read because of `error`.
    pub fn new(id: impl Into<String>, error: Cause) -> Self {
        Self {
            id: id.into(),
            item: Item::default(),
            error,
        }
    }
}

impl PartialEq for BadRow {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.item == other.item
    }
}

/// A place in a segment, as its source wrote it. Opaque to all other code, and can be stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor of this text. Only its source can interpret it.
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
