//! Checkpoints: small named texts that outlive a process.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::StoreError;

/// A saved checkpoint, and the version to name when it is saved again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The saved text, as its writer wrote it.
    pub data: String,
    /// 1 after the first save, incremented by every further one.
    pub version: u64,
}

/// The answer to a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It was saved with this version.
    Version(u64),
    /// Another process saved it meanwhile: load it again before deciding anything.
    Conflict,
}

/// The answer to a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone, by this removal or an earlier one.
    Gone,
    /// Another process saved it meanwhile, and it stays: load it again before deciding anything.
    Conflict,
}

/// Small named texts that outlive the process. A save or removal names the version that was read,
/// and only succeeds if that is still the current one.
///
/// The trait is object safe, since code that keeps positions does not depend on where they are
/// kept. It is called once per page or batch, so the cost of the boxed future does not matter.
///
/// # Contract
///
/// - Of any number of concurrent saves over one version, exactly one succeeds; none does if a
///   removal over that version comes first.
/// - A removal never removes a later save.
/// - A load that begins after a save or a removal was answered sees it.
/// - Checkpoints do not expire.
/// - A checkpoint holds texts of some megabytes. A load sees all of one save or none of it. A text
///   that fits one row of a store is one write; a longer one may take several.
/// - A removal also resets the version: the next save is a first one, over `None`. Do not keep a
///   version across a removal, since a name that is used again reaches the same version again.
///
/// # Errors
///
/// A failed `save` may have been applied. If it is repeated with the same data and version, the
/// implementation recognises it and answers it as done. A failed `remove` may have been applied;
/// repeating it is harmless as long as no process has used the name again.
///
/// # Cancel safety
///
/// A dropped `load` changed nothing. A dropped `save` or `remove` may or may not have been applied.
pub trait Checkpoints: Send + Sync + 'static {
    /// Loads the checkpoint `name`, if there is one.
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>>;

    /// Saves `data` as `name` over version `over`; `None` if there must be no checkpoint yet.
    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>>;

    /// Removes the checkpoint `name` if its version is still `over`.
    fn remove<'a>(&'a self, name: &'a str, over: u64)
    -> BoxFuture<'a, Result<Removed, StoreError>>;
}

#[deny(clippy::missing_trait_methods)]
impl<C: Checkpoints + ?Sized> Checkpoints for Arc<C> {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        C::load(self, name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        C::save(self, name, data, over)
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        C::remove(self, name, over)
    }
}
