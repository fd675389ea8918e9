//! Claims of ids: the contract of a deduper.

use std::fmt;
use std::sync::Arc;

use crate::error::StoreError;
use crate::time::Deadline;
use crate::tokens::{NoRandomness, Tokens};

/// The holder of a claim: random, so that no process releases another's claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(String);

impl Owner {
    /// A new, unique owner.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] if the operating system provides none.
    pub fn new(tokens: &Tokens) -> Result<Self, NoRandomness> {
        tokens.text().map(Self)
    }

    /// The owner's name: 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The owner holds the id, by this claim or by an earlier one whose answer was lost.
    First,
    /// Another owner holds it.
    Duplicate,
}

/// Remembers ids, so that each is acted upon once.
///
/// # Contract
///
/// - Of any number of concurrent claims of one id by different owners, exactly one is
///   [`Claim::First`].
/// - If the same owner claims again, the answer is `First` again.
/// - An id is remembered for at least the time set at construction, and is free again after it.
///
/// # Errors
///
/// A failed claim may have been applied; claim again with the same owner to find out.
///
/// # Cancel safety
///
/// Not cancel safe: a dropped `claim` may have claimed the id, and a dropped `release` may or may
/// not have freed it. Both are safe to repeat with the same owner.
pub trait Deduper: Send + Sync + 'static {
    /// Claims `id` for `owner`.
    fn claim(
        &self,
        id: &str,
        owner: &Owner,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Releases `id` if `owner` holds it; does nothing otherwise.
    fn release(
        &self,
        id: &str,
        owner: &Owner,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

#[deny(clippy::missing_trait_methods)]
impl<D: Deduper> Deduper for Arc<D> {
    async fn claim(
        &self,
        id: &str,
        owner: &Owner,
        deadline: Deadline,
    ) -> Result<Claim, StoreError> {
        D::claim(self, id, owner, deadline).await
    }

    async fn release(&self, id: &str, owner: &Owner, deadline: Deadline) -> Result<(), StoreError> {
        D::release(self, id, owner, deadline).await
    }
}
