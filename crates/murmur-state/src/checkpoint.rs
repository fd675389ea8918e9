use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::StoreError;

/// A saved checkpoint and the version to name when it is saved anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// What was saved, as its writer wrote it.
    pub data: String,
    /// Rises by one with every save.
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

/// Small named texts that outlive the process, each saved only over the version that was read.
///
/// Object safe, since whoever keeps positions does not care where; it is called once per page or
/// batch, so the boxed future costs nothing that matters.
///
/// # Contract
///
/// Of any number of concurrent saves over one version, exactly one succeeds. A load that begins
/// after a save was answered sees it. Checkpoints do not expire.
///
/// # Errors
///
/// A failed `save` may have been made; an implementation recognises its own save when it is
/// repeated with the same data and version, and answers it as done.
///
/// # Cancel safety
///
/// A dropped `load` did nothing; a dropped `save` may or may not have been made.
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
}
