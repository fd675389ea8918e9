use std::future::Future;
use std::sync::Arc;

use murmur_core::Row;
use murmur_state::ItemId;

use crate::error::SourceError;
use crate::source::{BadRow, Source};

/// A source whose items can be looked up one by one, as they are now.
///
/// # Contract
///
/// [`look_up`](Lookup::look_up) reads consistently: it sees every write that was answered before it
/// was called. It answers for the item itself, whatever the source leaves out of its pages.
///
/// # Errors
///
/// [`SourceError`], which says whether trying again can help.
///
/// # Cancel safety
///
/// Cancel safe: it only reads.
///
/// # Wrappers
///
/// `Arc<S>` is one too.
pub trait Lookup: Source {
    /// Whether the pages hold every item, so that an item that no page has is gone.
    ///
    /// # Errors
    ///
    /// [`SourceError::Setup`] naming what leaves some of them out.
    fn holds_every_item(&self) -> Result<(), SourceError>;

    /// The item as it is now.
    fn look_up(&self, item: &ItemId) -> impl Future<Output = Result<Look, SourceError>> + Send;
}

/// What looking an item up gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// The item.
    pub found: LookedUp,
    /// What it cost in read units, where the source knows.
    pub read_units: Option<f64>,
}

impl From<LookedUp> for Look {
    /// What was found, at a cost that is not known.
    fn from(found: LookedUp) -> Self {
        Self {
            found,
            read_units: None,
        }
    }
}

/// An item as it was looked up.
#[derive(Debug, Clone, PartialEq)]
pub enum LookedUp {
    /// It is there.
    Row(Row),
    /// It is there, and cannot be made a row.
    Bad(BadRow),
    /// It is not there.
    Gone,
}

#[deny(clippy::missing_trait_methods)]
impl<S: Lookup> Lookup for Arc<S> {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        S::holds_every_item(self)
    }

    async fn look_up(&self, item: &ItemId) -> Result<Look, SourceError> {
        S::look_up(self, item).await
    }
}
