use std::time::Duration;

use murmur_state::StoreError;
use murmur_state::error::Place;
use murmur_state::monoid::Overflow;

use crate::attribute::Item;
use crate::change::Change;

/// How a row's value takes what events add. This is where the stores differ.
pub(crate) trait Cell<V>: Sync {
    /// What the events of one write add in total.
    type Total: Send + Sync;

    /// Whether a write depends on the stored value, so that the row is read first.
    const READS: bool;

    /// What `values` add in total.
    fn total<'a>(&self, values: impl Iterator<Item = &'a V>) -> Result<Self::Total, Overflow>
    where
        V: 'a;

    /// `change` with `total` combined into the value, on the condition that this loses nothing.
    /// `row` is the row as read, if the cell reads, and empty for no row.
    fn write(
        &self,
        place: &Place,
        change: Change,
        row: &Item,
        total: &Self::Total,
    ) -> Result<Change, Unwritable>;

    /// The meaning of a refusal that is due neither to the ids nor to how often they moved on.
    fn refusal(&self, place: &Place, row: &Item) -> Refusal;

    /// The bytes of a value, if it does not fit in any row.
    fn too_large(&self, value: &V) -> Option<usize>;

    /// How often in succession a write is composed again before it fails, and the longest wait in
    /// between, at first and in the end.
    fn patience(&self) -> (u32, Duration, Duration);
}

/// Why a cell cannot be written.
pub(crate) enum Unwritable {
    /// The sum would leave its range.
    Overflow,
    /// The row has the wrong content.
    Row(StoreError),
}

/// The meaning of a refusal that is due neither to the ids nor to how often they moved on.
pub(crate) enum Refusal {
    /// The sum would leave its range.
    Overflow,
    /// The value changed since it was read.
    Swapped,
    /// The row has the wrong content.
    Row(StoreError),
}
