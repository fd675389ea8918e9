//! The input and output of stores.

use std::num::NonZeroU32;

use crate::error::{Fault, StoreError};
use crate::ids::{EventId, ItemId, Key, SequenceNumber};
use crate::time::Timestamp;

/// A value to combine into one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Add<V> {
    /// The row.
    pub key: Key,
    /// The value to combine into it.
    pub value: V,
    /// When the row may be removed: seconds since the epoch, `None` for never. Exactly-once adds
    /// nothing in the two hours before that ([`StoreError::RowEnds`]), so that a removed row is not
    /// created again.
    pub ttl: Option<i64>,
}

/// An event that counts at most once on each of its keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Once<V> {
    /// The id that is the same on every delivery of the event.
    pub id: EventId,
    /// When it was created, if its source says.
    pub created: Option<Timestamp>,
    /// When its source handed it over. An event without a creation time may fail with
    /// [`StoreError::HeldTooLong`] an hour after that; its source still has it.
    pub handed_over: Timestamp,
    /// The values it adds, one per key. A second entry of the same key counts as a duplicate.
    pub adds: Vec<Add<V>>,
}

/// The new contribution of a source item, in place of its previous one.
#[derive(Debug, Clone, PartialEq)]
pub struct Replace<V> {
    /// The item.
    pub item: ItemId,
    /// Where this version of the item was seen.
    pub at: Position,
    /// When this version was made, if its source says.
    pub created: Option<Timestamp>,
    /// Everything the item contributes now, one entry per key; empty for an item that is gone or
    /// skipped.
    pub now: Vec<Add<V>>,
    /// Contributions that stay in the state for good, one entry per key, independent of the item's
    /// later changes: its last contributions, if Time to Live removed it and expired items keep
    /// counting. Mostly empty.
    pub keep: Vec<Add<V>>,
    /// The change itself, by which an item settles, and counts after it has settled. `None` for
    /// scanned items, and if the state before the change is unknown.
    pub change: Option<ItemChange<V>>,
}

/// A change of an item as an event, with the state before it.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemChange<V> {
    /// The id that is the same on every delivery of the event.
    pub id: EventId,
    /// When its source handed it over, as in [`Once::handed_over`].
    pub handed_over: Timestamp,
    /// Everything the item contributed before the change, one entry per key; computed from the old
    /// image by the same function as [`Replace::now`] from the new one.
    pub before: Vec<Add<V>>,
    /// Whether the item settles by this change, unless it has settled before.
    pub settles: bool,
}

/// What a ledger knows of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry<V> {
    /// The item.
    pub item: ItemId,
    /// Differs after every change, also after the item was removed from the ledger; [`Mend`]
    /// compares it.
    pub version: u64,
    /// Where its newest version was seen. For a settled item: the position up to which changes have
    /// counted.
    pub at: Position,
    /// Whether it has settled: its contributions are no longer known, and its changes after
    /// [`at`](LedgerEntry::at) count as events.
    pub settled: bool,
    /// Its contributions; empty for a settled item.
    pub now: Vec<Add<V>>,
    /// Contributions that earlier items of this name made for good, one entry per key.
    /// Contributions to rows whose `ttl` has passed may be left out.
    pub kept: Vec<Add<V>>,
}

/// A repair: the contributions of an item as a look-up in its table found it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mend<V> {
    /// The item.
    pub item: ItemId,
    /// The version that the ledger had *before* the item was looked up; `None` if it had none.
    pub over: Option<u64>,
    /// Everything the item contributes as it was found, one entry per key; empty for an item that
    /// is gone.
    pub now: Vec<Add<V>>,
}

/// One row of state.
#[derive(Debug, Clone, PartialEq)]
pub struct StateRow<V> {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: V,
    /// When it may be removed: seconds since the epoch, `None` for never.
    pub ttl: Option<i64>,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<T> {
    /// The entries. The list may be empty although more parts follow.
    pub entries: Vec<T>,
    /// Asks for the next part; `None` if this is the last.
    pub next: Option<String>,
    /// The cost of the part in read units, if the store knows it.
    pub read_units: Option<f64>,
}

/// One segment of a listing. Segments are listed concurrently, each with its own `after`; together
/// they hold every entry once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListSegment {
    number: u32,
    of: NonZeroU32,
}

impl ListSegment {
    /// The only segment of an undivided listing.
    pub const WHOLE: Self = Self {
        number: 0,
        of: NonZeroU32::MIN,
    };

    /// All segments of a listing divided into `of`; DynamoDB takes up to 1,000,000.
    pub fn all(of: NonZeroU32) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// Its number, counted from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The number of segments in the listing.
    pub fn of(&self) -> NonZeroU32 {
        self.of
    }
}

/// Where a version of an item was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In a scan of the table; its order relative to the stream is unknown.
    Scan,
    /// In the stream, at this sequence number.
    Stream(SequenceNumber),
}

/// The outcome of one entry of a batch.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It was added to the state.
    Applied,
    /// It was in the state before, on every key; nothing changed.
    Duplicate,
    /// A later version of its item is in the state; nothing changed.
    Superseded,
    /// An earlier entry of one of its keys failed, so this one was not tried.
    Blocked,
    /// It is not in the state, or only on some of its keys; the error says why.
    Failed(StoreError),
}

impl Outcome {
    /// Keeps the worse of the two, for an entry of several parts. The entry is [`Duplicate`] only
    /// if every part is, and done only if every part is done. Of two failures, one that is not the
    /// entry's own fault is worse, since the entry must be delivered again.
    ///
    /// [`Duplicate`]: Outcome::Duplicate
    pub fn worsen(&mut self, by: &Self) {
        if by.rank() > self.rank() {
            *self = by.clone();
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Duplicate | Self::Superseded => 0,
            Self::Applied => 1,
            Self::Failed(error) if error.fault() == Fault::Record => 2,
            Self::Blocked => 3,
            Self::Failed(_) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;

    #[test]
    fn a_part_that_must_come_again_is_worse_than_one_that_never_counts() {
        let place = || Place::table("test", "t");
        let never = Outcome::Failed(StoreError::Overflow { place: place() });
        let again = Outcome::Failed(StoreError::DeadlinePassed { place: place() });
        let order = [
            Outcome::Duplicate,
            Outcome::Applied,
            never,
            Outcome::Blocked,
            again,
        ];
        for (n, better) in order.iter().enumerate() {
            for worse in &order[n..] {
                let (mut one, mut other) = (better.clone(), worse.clone());
                one.worsen(worse);
                other.worsen(better);
                assert_eq!(one.rank(), worse.rank());
                assert_eq!(other.rank(), worse.rank());
            }
        }
    }
}
