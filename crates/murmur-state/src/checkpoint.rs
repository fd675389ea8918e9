use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::StoreError;

/// A saved checkpoint and the version to name when it is saved anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// What was saved, as its writer wrote it.
    pub data: String,
    /// 1 after the first save, and one more with every other.
    pub version: u64,
}

/// The answer to a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is saved; this is its version.
    Version(u64),
    /// Somebody else saved since: load again before deciding anything.
    Conflict,
}

/// The answer to a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone, be it by this removal or before.
    Gone,
    /// Somebody saved since, and it stays: load again before deciding anything.
    Conflict,
}

/// Small named texts that outlive the process, each saved and removed only over the version that was
/// read.
///
/// Object safe, since whoever keeps positions does not care where; it is called once per page or
/// batch, so the boxed future costs nothing that matters.
///
/// # Contract
///
/// Of any number of concurrent saves over one version, exactly one succeeds; if a removal over that
/// version comes first, none does. A removal never takes a later save with it. A load that begins
/// after a save or a removal was answered sees it. Checkpoints do not expire.
///
/// A checkpoint holds texts of some megabytes, and a load sees all of one save or none of it. What
/// fits one row of a store is one write; more may take several.
///
/// A removal forgets the version too: the next save is a first one, over `None`. Nobody may keep a
/// version from before a removal, since a name that is used anew comes to the same one again.
///
/// # Errors
///
/// A failed `save` may have been made; an implementation recognises its own save when it is
/// repeated with the same data and version, and answers it as done. A failed `remove` may have been
/// made; repeating it is harmless as long as nobody has used the name anew.
///
/// # Cancel safety
///
/// A dropped `load` did nothing; a dropped `save` or `remove` may or may not have been made.
pub trait Checkpoints: Send + Sync + 'static {
    /// The checkpoint called `name`, if there is one.
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>>;

    /// Saves `data` as `name` over version `over`; `None` if there must be none yet.
    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>>;

    /// Removes the checkpoint called `name` if its version is still `over`.
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
