//! Sources whose items can be looked up one by one.

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
/// [`look_up`](Lookup::look_up) reads consistently: it sees every write that was answered before
/// the call. It finds the item even if the source leaves it out of its pages.
///
/// # Errors
///
/// [`SourceError`] says whether trying again can help.
///
/// # Cancel safety
///
/// Cancel safe: it only reads.
///
/// # Wrappers
///
/// `Arc<S>` is a `Lookup` too.
pub trait Lookup: Source {
    /// Checks that the pages hold every item, so that an item in no page is gone.
    ///
    /// # Errors
    ///
    /// [`SourceError::Setup`] names what leaves some items out.
    fn holds_every_item(&self) -> Result<(), SourceError>;

    /// Reads the item as it is now.
    fn look_up(&self, item: &ItemId) -> impl Future<Output = Result<Look, SourceError>> + Send;
}

/// The result of looking an item up.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Look {
    /// The item.
    pub found: LookedUp,
    /// The cost in read units, if the source knows it.
    pub read_units: Option<f64>,
}

impl Look {
    /// What was found, and the cost in read units, if the source knows it.
    pub fn new(found: LookedUp, read_units: Option<f64>) -> Self {
        Self { found, read_units }
    }
}

impl From<LookedUp> for Look {
    /// A result whose cost is not known.
    fn from(found: LookedUp) -> Self {
        Self::new(found, None)
    }
}

/// An item as it was looked up.
#[derive(Debug, Clone, PartialEq)]
pub enum LookedUp {
    /// It is there.
    Row(Row),
    /// It is there, but cannot be read as a row.
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
