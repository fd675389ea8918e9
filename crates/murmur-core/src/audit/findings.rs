//! The findings of a comparison of a pipeline's state with its table.

use std::fmt;

use murmur_state::{Causes, ItemId, PipelineName, StoreError};

use super::difference::KeyDifference;

/// The findings for one pipeline.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspected {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The findings.
    pub findings: Findings,
    /// The findings for its keys, if items of its ledger have settled.
    pub settled: SettledFindings,
}

/// The findings, by the kind of comparison.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Findings {
    /// Item by item, with the ledger.
    Ledger(LedgerFindings),
    /// Key by key, with a recount.
    Recount(RecountFindings),
}

/// The findings for the keys of a pipeline whose items [settle](crate::Definition::settle).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettledFindings {
    /// Not needed: its items do not settle and none has, or it has no ledger and was recounted
    /// anyway.
    NotSettling,
    /// The recount of all its keys, after the repair if one was asked for. A key differs because of
    /// a settled item, or because of an item that the ledger findings list and that was not
    /// repaired.
    Recount(RecountFindings),
    /// Not possible: expired items keep counting, and it is unknown which of the settled items
    /// those are, so no recount can tell the correct values.
    KeepsExpired,
}

impl SettledFindings {
    /// The listed differing keys, in order.
    pub fn keys(&self) -> &[KeyDifference] {
        match self {
            Self::Recount(found) => &found.keys,
            Self::NotSettling | Self::KeepsExpired => &[],
        }
    }

    /// The number of differing keys.
    pub fn differing(&self) -> u64 {
        match self {
            Self::Recount(found) => found.differing,
            Self::NotSettling | Self::KeepsExpired => 0,
        }
    }

    /// What to do about differences that cannot be repaired, or found, here; `None` if there is
    /// nothing to do.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Recount(found) if found.differing > 0 => Some(
                "keys of settled items cannot be repaired: first repair the items that the ledger comparison lists, if any; if keys still differ after that, raise the definition's `version`, create new state and marker tables, and bootstrap into them",
            ),
            Self::KeepsExpired => Some(
                "items that Time to Live removed keep counting, so the keys of settled items cannot be recounted; if changes may have been lost, raise the definition's `version`, create new state and marker tables, and bootstrap into them",
            ),
            Self::Recount(_) | Self::NotSettling => None,
        }
    }
}

impl Inspected {
    /// The listed differing keys, in order: by the ledger if there is one.
    /// [`settled`](Self::settled) lists those of settled items.
    pub fn keys(&self) -> &[KeyDifference] {
        match &self.findings {
            Findings::Ledger(found) => &found.keys,
            Findings::Recount(found) => &found.keys,
        }
    }

    /// The number of differences that were not repaired: items for a ledger, keys for a recount.
    /// Where items settle, both are counted, also for a key that differs because of an item of the
    /// ledger.
    pub fn left(&self) -> u64 {
        let left = match &self.findings {
            Findings::Ledger(found) => found.differing - found.mended,
            Findings::Recount(found) => found.differing,
        };
        left + self.settled.differing()
    }
}

/// The findings of a comparison with the ledger.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LedgerFindings {
    /// The number of ledger rows listed.
    pub ledger_rows: u64,
    /// The number of settled items among them. They never differ here, since the ledger does not
    /// hold what they contribute.
    pub settled: u64,
    /// The number of items that differed at the first close look.
    pub suspects: u64,
    /// The number of items that differ.
    pub differing: u64,
    /// The first differing items found, up to the limit.
    pub items: Vec<ItemDifference>,
    /// The number of items repaired.
    pub mended: u64,
    /// The number of keys that the differing items change.
    pub differing_keys: u64,
    /// The first of these keys, in order of the keys, up to the limit: how far the differing items
    /// put them off, before any repair.
    pub keys: Vec<KeyDifference>,
    /// The number of items that are gone without a sign of whether Time to Live removed them (so
    /// that they keep counting) or a user. They are not repaired.
    pub untold: u64,
    /// The number of items that differed, but changed whenever they were looked at.
    pub unsettled: u64,
}

/// An item whose contribution is wrong.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ItemDifference {
    /// The item.
    pub item: ItemId,
    /// Its keys, and how far the item puts each off.
    pub keys: Vec<KeyDifference>,
    /// The outcome of its repair.
    pub mending: Mending,
}

/// The outcome of an item's repair.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Mending {
    /// No repair was asked for.
    NotAsked,
    /// The item contributes what it should.
    Mended,
    /// The stream consumer changed the item faster than it could be repaired.
    Overtaken,
    /// The item settled before it could be repaired: only a recount tells what it contributes.
    Settled,
    /// Another item of one of its keys could not be repaired.
    Blocked,
    /// The repair could not be written.
    Failed(StoreError),
}

impl fmt::Display for Mending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("differs"),
            Self::Mended => f.write_str("mended"),
            Self::Overtaken => {
                f.write_str("not mended: each attempt was overtaken by a change of the item")
            }
            Self::Settled => f.write_str(
                "not mended: it has settled meanwhile, so only a recount tells what it contributes",
            ),
            Self::Blocked => {
                f.write_str("not mended: another item of one of its keys could not be mended")
            }
            Self::Failed(error) => write!(f, "not mended: {}", Causes(error)),
        }
    }
}

/// The findings of a recount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecountFindings {
    /// The number of rows in the state.
    pub state_rows: u64,
    /// The number of keys that differed in the first recount.
    pub suspects: u64,
    /// The number of keys that differ.
    pub differing: u64,
    /// The first differing keys, in order of the keys, up to the limit.
    pub keys: Vec<KeyDifference>,
    /// The number of keys that differed in both recounts, but changed in between.
    pub unsettled: u64,
}
