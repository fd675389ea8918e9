use std::sync::Arc;

use super::{Bound, ExactlyOnce, LedgerEntry, ListSegment, Listed, Mend, Outcome, Replace};
use crate::error::StoreError;
use crate::ids::ItemId;
use crate::monoid::Group;
use crate::time::Deadline;

/// The most keys that one item of a ledger may contribute to. An item that moves from as many to
/// as many others still fits one transaction of 100 actions, its ledger row included (Amazon
/// DynamoDB API Reference, TransactWriteItems).
pub const MAX_KEYS: usize = 49;

/// A store that knows what each source item contributes: scan and stream may overlap.
///
/// # Contract
///
/// With ∅ for "never seen", S(c) for "contributes c, seen by a scan" and T(s, c) for
/// "contributes c, seen in the stream at s", an entry with contribution n does this:
///
/// | known | at `Scan` | at `Stream(s)` |
/// |---|---|---|
/// | ∅ | S(n), +n | T(s, n), +n |
/// | S(c) | unchanged | T(s, n), n − c |
/// | T(s′, c), s > s′ | unchanged | T(s, n), n − c |
/// | T(s′, c), s ≤ s′ | unchanged | unchanged |
///
/// "Unchanged" is answered [`Outcome::Duplicate`] where the same position or another scan was
/// there before, else [`Outcome::Superseded`]. At all times a row's value is the sum of the
/// contributions that name its key, kept ones included.
///
/// Where the table says "T(s, n)", what the entry [keeps](Replace::keep) is added too, and goes on
/// contributing whatever becomes of the item.
///
/// What an item contributed to a row whose `ttl` has passed stays there: the row may be gone, and
/// must not come back below nothing.
///
/// # What settles
///
/// An item leaves the ledger by a change with [`settles`](super::ItemChange::settles) that its known position
/// does not have yet. G(p) stands for "settled at p": the rows hold what the item was at p, what that
/// is has been forgotten, and changes after p count by their event id, as in [`ExactlyOnce`].
///
/// | known | entry at s | what is done |
/// |---|---|---|
/// | ∅, S(c), T(s′, c) with s > s′, where c = [`before`](super::ItemChange::before) | settles | G(just below s), and no row changes; then as on G |
/// | the same, where c ≠ `before` | settles | G(s), n − c |
/// | G(p), s ≤ p | | unchanged |
/// | G(p), s > p | with a [`change`](Replace::change) | `now` and `keep` less `before`, once per key and event id |
/// | G(p), s > p | without | [`StoreError::Setup`]: nothing tells what it was before |
/// | G(p) | at `Scan` | unchanged |
///
/// A settled item is never forgotten, and never mended. Its changes count each by itself, so that one
/// which fails holds up nothing. Where a change of it fails by the record's own fault for a reason that
/// lies not in the entry alone (a sum out of range), that is answered as a [`StoreError::Setup`]: it must
/// not be passed over, because the item's next change takes back what this one should have added. What
/// comes too late ([`TooOld`](StoreError::TooOld), [`RowEnds`](StoreError::RowEnds)) is answered as such,
/// and is lost for good if it is passed over; so no item is marked by an entry that may soon be too old.
///
/// # What is forgotten
///
/// A store may forget an item (∅ again) from 48 hours after its last write on, when it contributes
/// nothing, kept or not, or only to rows whose `ttl` has passed. No older version of it may come
/// after that. So a store that forgets refuses, as [`StoreError::TooOld`], an entry from the stream
/// that meets ∅ and was [created](Replace::created) more than [`EVENT_LIFE`](super::EVENT_LIFE) ago; and whoever scans
/// a table or looks items up must write what it found within an hour, or not at all.
///
/// # Atomicity
///
/// An item's contribution and all rows it changes are changed together or not at all.
///
/// # Errors
///
/// As for [`ExactlyOnce`]; in addition, an entry with more than [`MAX_KEYS`] keys, kept ones
/// included, fails with [`StoreError::InvalidValue`], and what holds up later entries of a key
/// holds up those of the same item: one that came before an entry that [keeps](Replace::keep)
/// something would make that entry an older one, which keeps nothing.
///
/// # Cancel safety
///
/// As for [`ExactlyOnce`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot keep a ledger of `{M}`",
    label = "this store has no marker table, or keeps no ledger of `{M}`",
    note = "give the store a marker table where it is made: `.markers(\"TABLE\")`; of the DynamoDB stores \
            `Int64SumStore` keeps a ledger"
)]
pub trait Ledger<M: Group>: ExactlyOnce<M> {
    /// Makes each item contribute what its entry says.
    fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;

    /// What is known of each of `items`, in their order: `None` for ∅.
    ///
    /// # Errors
    ///
    /// The first failure; there is no partial answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: reading changes nothing.
    fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> impl Future<Output = Result<Vec<Option<LedgerEntry<M::Value>>>, StoreError>> + Send;

    /// A part of the items that are known in `segment`, as [`Read::list`](super::Read::list) lists rows. A listing goes
    /// on with the same number of segments that it began with.
    ///
    /// # Errors
    ///
    /// As for [`Read::list`](super::Read::list).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: reading changes nothing.
    fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<LedgerEntry<M::Value>>, StoreError>> + Send;

    /// Lets items settle from now on: says so beside the rows, for good. Processes that
    /// ask hear of it; it is a hint, and every entry is right whether or not its process has heard.
    ///
    /// # Errors
    ///
    /// As for [`check_binding`](ExactlyOnce::check_binding).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    fn settle(
        &self,
        bound: &Bound,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether [`settle`](Ledger::settle) was said.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn is_settling(
        &self,
        bound: &Bound,
        deadline: Deadline,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Makes each item contribute what it was found to contribute, where it was seen staying
    /// what it was (∅ becomes S(now)), and what is kept staying kept; [`Outcome::Superseded`],
    /// and no change, if the ledger knows another version than [`over`](Mend::over), or if the item
    /// has settled.
    ///
    /// Right whatever live is doing meanwhile, if the item was looked up, consistently, *after*
    /// that version was read: what changed the item later comes from the stream and replaces what
    /// is written here.
    ///
    /// # Errors, Cancel safety
    ///
    /// As for [`replace`](Ledger::replace).
    fn mend(
        &self,
        bound: &Bound,
        items: &[Mend<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

#[deny(clippy::missing_trait_methods)]
impl<M: Group, S: Ledger<M>> Ledger<M> for Arc<S> {
    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        S::replace(self, bound, items, deadline).await
    }

    async fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<M::Value>>>, StoreError> {
        S::known(self, bound, items, deadline).await
    }

    async fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<M::Value>>, StoreError> {
        S::list_known(self, bound, segment, after).await
    }

    async fn settle(&self, bound: &Bound, deadline: Deadline) -> Result<(), StoreError> {
        S::settle(self, bound, deadline).await
    }

    async fn is_settling(&self, bound: &Bound, deadline: Deadline) -> Result<bool, StoreError> {
        S::is_settling(self, bound, deadline).await
    }

    async fn mend(
        &self,
        bound: &Bound,
        items: &[Mend<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        S::mend(self, bound, items, deadline).await
    }
}
