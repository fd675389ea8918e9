use std::sync::Arc;

use super::{Bound, ExactlyOnce, LedgerEntry, ListSegment, Listed, Mend, Outcome, Replace};
use crate::error::StoreError;
use crate::ids::ItemId;
use crate::monoid::Group;
use crate::time::Deadline;

/// The largest number of keys that one item of a ledger may contribute to. An item that moves from
/// 49 keys to 49 others fits one transaction of 100 actions, including its ledger row (Amazon
/// DynamoDB API Reference, TransactWriteItems).
///
/// Stores refuse an entry with more. A pipeline takes an old image with more as contributing
/// nothing, since it was refused when it was new, and an inspection lists such an item as rejected.
pub const MAX_KEYS: usize = 49;

/// A store that knows the contributions of each source item, so that scan and stream may overlap.
///
/// # Contract
///
/// ∅ stands for "never seen", S(c) for "contributes c, seen by a scan" and T(s, c) for "contributes
/// c, seen in the stream at s". An entry with contribution n has this effect:
///
/// | known | at `Scan` | at `Stream(s)` |
/// |---|---|---|
/// | ∅ | S(n), +n | T(s, n), +n |
/// | S(c) | unchanged | T(s, n), n − c |
/// | T(s′, c), s > s′ | unchanged | T(s, n), n − c |
/// | T(s′, c), s ≤ s′ | unchanged | unchanged |
///
/// "Unchanged" is answered as [`Outcome::Duplicate`] if the same position, or another scan, was
/// there before, and as [`Outcome::Superseded`] otherwise. A row's value is always the sum of the
/// contributions that name its key, including kept ones.
///
/// Where the table says "T(s, n)", the entry's [kept](Replace::keep) contributions are added too,
/// and stay for good.
///
/// A contribution to a row whose `ttl` has passed is not taken back: the row may be gone, and would
/// be created again with a negative value.
///
/// # Settling
///
/// An item leaves the ledger by a change with [`settles`](super::ItemChange::settles) that is newer
/// than the item's known position. G(p) stands for "settled at p": the rows include the item's
/// contributions at p, the ledger no longer knows them, and changes after p count by their event
/// id, as in [`ExactlyOnce`].
///
/// | known | entry at s | effect |
/// |---|---|---|
/// | ∅, S(c), T(s′, c) with s > s′, where c = [`before`](super::ItemChange::before) | settles | G(just below s), and no row changes; then as for G |
/// | the same, where c ≠ `before` | settles | G(s), n − c |
/// | G(p), s ≤ p | | unchanged |
/// | G(p), s > p | with a [`change`](Replace::change) | `now` and `keep` minus `before`, once per key and event id |
/// | G(p), s > p | without | [`StoreError::Setup`]: the state before the change is unknown |
/// | G(p) | at `Scan` | unchanged |
///
/// A settled item is never removed from the ledger, and never repaired. Each of its changes counts
/// by itself, so a failed one blocks no others.
///
/// If a change of a settled item fails by the record's own fault for a reason that does not lie in
/// the entry alone (a sum out of range), the answer is a [`StoreError::Setup`]: the change must not
/// be passed over, because the item's next change takes back what this one should have added. A
/// change that is too late ([`TooOld`](StoreError::TooOld), [`RowEnds`](StoreError::RowEnds)) is
/// answered as such, and is lost for good if it is passed over. For this reason, an entry that may
/// soon be too old settles no item.
///
/// # Removal from the ledger
///
/// A store may remove an item (∅ again) 48 hours after its last write if the item contributes
/// nothing, kept or not, or contributes only to rows whose `ttl` has passed. No older version of
/// the item may arrive after that. A store that removes items therefore makes two demands:
///
/// - It refuses an entry from the stream as [`StoreError::TooOld`] if it meets ∅ and was
///   [created](Replace::created) more than [`EVENT_LIFE`](super::EVENT_LIFE) ago.
/// - Callers that scan a table or look items up must write what they find within an hour, or not at
///   all.
///
/// # Atomicity
///
/// An item's contribution and all rows that it affects change together or not at all.
///
/// # Errors
///
/// As for [`ExactlyOnce`], and:
///
/// - An entry with more than [`MAX_KEYS`] keys, including kept ones, fails with
///   [`StoreError::InvalidValue`].
/// - A failure that blocks later entries of a key also blocks later entries of the same item. If a
///   later entry were written first, an earlier one that [keeps](Replace::keep) something would be
///   superseded, and would keep nothing.
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
    /// Replaces the contributions of each entry's item.
    fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;

    /// The ledger's entry for each of `items`, in their order; `None` for ∅.
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

    /// Lists the items in `segment` in parts, like [`Read::list`](super::Read::list). A listing
    /// must continue with the number of segments that it began with.
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

    /// Lets items settle from now on, for good; this is written beside the rows. Processes that
    /// read it use it as a hint: every entry is handled correctly no matter whether its process has
    /// read it.
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

    /// Whether [`settle`](Ledger::settle) was called.
    ///
    /// # Errors
    ///
    /// The store's errors.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn is_settling(
        &self,
        bound: &Bound,
        deadline: Deadline,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Repairs items: replaces each item's contributions by those that were found. The position at
    /// which the item was seen stays (∅ becomes S(now)), and so do kept contributions. The answer
    /// is [`Outcome::Superseded`], and nothing changes, if the ledger has another version than
    /// [`over`](Mend::over), or if the item has settled.
    ///
    /// This is correct during stream processing if the item was looked up by a consistent read
    /// *after* that version was read: a later change of the item comes from the stream, and
    /// replaces what is written here.
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
