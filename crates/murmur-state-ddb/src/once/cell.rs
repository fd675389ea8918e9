use std::time::Duration;

use murmur_state::{Overflow, Place, StoreError};

use crate::attribute::Item;
use crate::change::Change;

/// How a row's value takes what events add: the part in which stores differ.
pub(crate) trait Cell<V>: Sync {
    /// What the events of one write add together.
    type Total: Send + Sync;

    /// Whether a write depends on the value that is there, so that the row is read first.
    const READS: bool;

    /// What `values` add together.
    fn total<'a>(&self, values: impl Iterator<Item = &'a V>) -> Result<Self::Total, Overflow>
    where
        V: 'a;

    /// `change` with `total` combined into the value, conditional on nothing having been lost
    /// by it. `row` is what was read, if the cell reads; empty for no row.
    fn write(
        &self,
        place: &Place,
        change: Change,
        row: &Item,
        total: &Self::Total,
    ) -> Result<Change, Unwritable>;

    /// What a refusal means whose reason is none of the ids and how often they moved on.
    fn refusal(&self, place: &Place, row: &Item) -> Refusal;

    /// The bytes of a value, if it could not be stored in any row.
    fn too_large(&self, value: &V) -> Option<usize>;

    /// How often in a row a write is composed anew before it is given up, and how long to wait
    /// in between at most, at first and in the end.
    fn patience(&self) -> (u32, Duration, Duration);
}

/// Why a cell cannot be written.
pub(crate) enum Unwritable {
    /// The sum would leave its range.
    Overflow,
    /// The row is not what it should be.
    Row(StoreError),
}

/// What a refusal means whose reason is none of the ids and how often they moved on.
pub(crate) enum Refusal {
    /// The sum would leave its range.
    Overflow,
    /// The value changed since it was read.
    Swapped,
    /// The row is not what it should be.
    Row(StoreError),
}
