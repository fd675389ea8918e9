//! What is written to stores, and what they answer.

use std::num::NonZeroU32;

use crate::error::{Fault, StoreError};
use crate::ids::{EventId, ItemId, Key, SequenceNumber};
use crate::time::Timestamp;

/// A value to be combined into one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Add<V> {
    /// Which row.
    pub key: Key,
    /// What is combined into it.
    pub value: V,
    /// When the row may be removed: seconds since the epoch, `None` for never. Exactly-once adds nothing
    /// in the two hours before that ([`StoreError::RowEnds`]), so that the row is not made anew.
    pub ttl: Option<i64>,
}

/// An event that each of its keys takes at most once.
#[derive(Debug, Clone, PartialEq)]
pub struct Once<V> {
    /// What makes it the same event when it comes again.
    pub id: EventId,
    /// When it was created, as its source says; `None` if the source does not say.
    pub created: Option<Timestamp>,
    /// When its source handed it over. An event without creation time may be given up an hour after
    /// that, with [`StoreError::HeldTooLong`]: its source has it still.
    pub handed_over: Timestamp,
    /// What it adds, one entry per key. A second entry of the same key counts as a duplicate.
    pub adds: Vec<Add<V>>,
}

/// What one source item contributes from now on, in place of what it contributed before.
#[derive(Debug, Clone, PartialEq)]
pub struct Replace<V> {
    /// The item.
    pub item: ItemId,
    /// Where this version of it was seen.
    pub at: Position,
    /// When this version was made, as its source says; `None` if the source does not say.
    pub created: Option<Timestamp>,
    /// All it contributes now, one entry per key; nothing for an item that is gone or skipped.
    pub now: Vec<Add<V>>,
    /// What stays in the state for good, one entry per key, whatever becomes of the item: what it
    /// contributed last, where Time to Live removed it and what has expired is to go on counting.
    /// Mostly nothing.
    pub keep: Vec<Add<V>>,
    /// The change that this is, by which an item settles and counts once it has settled; `None` for
    /// what a scan found, and where nothing tells what the item was before.
    pub change: Option<ItemChange<V>>,
}

/// A change of an item as an event of its own, which says what the item was before.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemChange<V> {
    /// What makes it the same event when it comes again.
    pub id: EventId,
    /// When its source handed it over, as [`Once::handed_over`].
    pub handed_over: Timestamp,
    /// All the item contributed before the change, one entry per key, by the same function of its
    /// image as [`Replace::now`] is of the new one.
    pub before: Vec<Add<V>>,
    /// Whether the item is to settle by this change, if it has not yet.
    pub settles: bool,
}

/// What a ledger knows of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry<V> {
    /// The item.
    pub item: ItemId,
    /// Another one with every change, also after the item was forgotten: what [`Mend`] goes by.
    pub version: u64,
    /// Where its newest version was seen; of a settled item, up to where changes have counted.
    pub at: Position,
    /// Whether it has settled: what it contributes is not known here any more, and its changes after
    /// [`at`](LedgerEntry::at) count by themselves.
    pub settled: bool,
    /// What it contributes; nothing for a settled item.
    pub now: Vec<Add<V>>,
    /// What earlier items of its name contribute for good, one entry per key; what its rows no
    /// longer hold, since their `ttl` has passed, may be left out.
    pub kept: Vec<Add<V>>,
}

/// What an item is found to contribute when it is looked up in its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Mend<V> {
    /// The item.
    pub item: ItemId,
    /// The version of what the ledger knew of it *before* the item was looked up; `None` if that
    /// was nothing.
    pub over: Option<u64>,
    /// All it contributes as it was found, one entry per key; nothing for an item that is gone.
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
    /// The entries; there may be none although more follow.
    pub entries: Vec<T>,
    /// What the next part is asked for with; `None` if this is the last.
    pub next: Option<String>,
    /// What reading it cost in read units, where the store knows.
    pub read_units: Option<f64>,
}

/// One of the segments of a listing, which are listed side by side: each has its own `after`.
/// Together they hold every entry once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListSegment {
    number: u32,
    of: NonZeroU32,
}

impl ListSegment {
    /// The only segment of a listing that is not divided.
    pub const WHOLE: Self = Self {
        number: 0,
        of: NonZeroU32::MIN,
    };

    /// All segments of a listing that is divided into `of`; DynamoDB takes up to 1,000,000.
    pub fn all(of: NonZeroU32) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// Which one it is, counted from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many there are.
    pub fn of(&self) -> NonZeroU32 {
        self.of
    }
}

/// Where a version of an item was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In a scan of the table, which no sequence number orders against the stream.
    Scan,
    /// In the stream, at this sequence number.
    Stream(SequenceNumber),
}

/// What became of one entry of a batch.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is in the state now.
    Applied,
    /// It was in the state already, on every key; nothing changed.
    Duplicate,
    /// A later version of its item is in the state; nothing changed.
    Superseded,
    /// An earlier entry of one of its keys failed, so this one was not tried.
    Blocked,
    /// It is not in the state, or only on some of its keys; the error says why.
    Failed(StoreError),
}

impl Outcome {
    /// Becomes the worse of the two, for an entry of several parts: it is [`Duplicate`] only if
    /// every part is, and done only if every part is. Among failures, one that is not the
    /// entry's own fault is the worse, since the entry has to come again.
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
