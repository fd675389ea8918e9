//! What a comparison of a pipeline's state with its table finds.

use std::fmt;

use murmur_state::{Causes, ItemId, PipelineName, StoreError};

use super::difference::KeyDifference;

/// What was found of one pipeline.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspected {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// What was found.
    pub findings: Findings,
    /// What was found of its keys, where items of its ledger have settled.
    pub settled: SettledFindings,
}

/// What was found, by the way it was looked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Findings {
    /// Item by item, by the ledger.
    Ledger(LedgerFindings),
    /// Key by key, by a recount.
    Recount(RecountFindings),
}

/// What was found of the keys of a pipeline whose items [settle](crate::Definition::settle).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettledFindings {
    /// Its items do not settle, and none has; or it keeps no ledger, and its findings are of keys anyway.
    NotSettling,
    /// What a recount of all its keys found, after the repair where one was asked for. A key differs
    /// because of a settled item, or because of one that the findings by the ledger name and that was
    /// not mended.
    Recount(RecountFindings),
    /// Nothing: items that Time to Live removed go on counting, and it is not known which of the settled
    /// ones those are, so no recount can tell what the keys should be.
    KeepsExpired,
}

impl SettledFindings {
    /// The differing keys that are listed, in order.
    pub fn keys(&self) -> &[KeyDifference] {
        match self {
            Self::Recount(found) => &found.keys,
            Self::NotSettling | Self::KeepsExpired => &[],
        }
    }

    /// How many keys differ.
    pub fn differing(&self) -> u64 {
        match self {
            Self::Recount(found) => found.differing,
            Self::NotSettling | Self::KeepsExpired => 0,
        }
    }

    /// What to do about what cannot be mended, or told, here; `None` if there is nothing to be done.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Recount(found) if found.differing > 0 => Some(
                "keys of settled items are not mended: repair the items that the ledger names, if there are any; for what is named after that, raise the definition's `version`, make new state and marker tables, and bootstrap into them",
            ),
            Self::KeepsExpired => Some(
                "what Time to Live removed goes on counting, so keys of settled items cannot be recounted; if changes may have been lost, raise the definition's `version`, make new state and marker tables, and bootstrap into them",
            ),
            Self::Recount(_) | Self::NotSettling => None,
        }
    }
}

impl Inspected {
    /// The differing keys that are listed, in order: by the ledger where there is one. Those of settled
    /// items are [`settled`](Self::settled)'s.
    pub fn keys(&self) -> &[KeyDifference] {
        match &self.findings {
            Findings::Ledger(found) => &found.keys,
            Findings::Recount(found) => &found.keys,
        }
    }

    /// How many differences were not mended: items by the ledger, and keys by a recount. Where items
    /// settle both are counted, also of a key that differs because of an item of the ledger.
    pub fn left(&self) -> u64 {
        let left = match &self.findings {
            Findings::Ledger(found) => found.differing - found.mended,
            Findings::Recount(found) => found.differing,
        };
        left + self.settled.differing()
    }
}

/// What a comparison with the ledger found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LedgerFindings {
    /// How many rows of the ledger were listed.
    pub ledger_rows: u64,
    /// How many of them are of items that have settled. They do not differ here, since the ledger does
    /// not know what they contribute.
    pub settled: u64,
    /// How many items differed when they were first looked at closely.
    pub suspects: u64,
    /// How many items differ.
    pub differing: u64,
    /// The first of them that were found, up to the limit.
    pub items: Vec<ItemDifference>,
    /// How many of them were made to contribute what they should.
    pub mended: u64,
    /// How many keys these items change.
    pub differing_keys: u64,
    /// The first of them, in order of the keys, up to the limit: how far they are off by what the
    /// differing items contribute, before any repair.
    pub keys: Vec<KeyDifference>,
    /// How many items are gone of which nobody can tell whether Time to Live removed them, so that
    /// they go on counting, or a user. They are not repaired.
    pub untold: u64,
    /// How many items differed, and changed whenever they were looked at.
    pub unsettled: u64,
}

/// An item that contributes something else than it should.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ItemDifference {
    /// The item.
    pub item: ItemId,
    /// Its keys, with how far each is off because of it.
    pub keys: Vec<KeyDifference>,
    /// What became of its repair.
    pub mending: Mending,
}

/// What became of the repair of an item.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Mending {
    /// It was not asked for.
    NotAsked,
    /// The item contributes what it should.
    Mended,
    /// Live changed the item faster than it could be mended, again and again.
    Overtaken,
    /// Live settled the item before it could be mended: only a recount tells what it contributes.
    Settled,
    /// Another item of one of its keys could not be mended.
    Blocked,
    /// It could not be written.
    Failed(StoreError),
}

impl fmt::Display for Mending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("differs"),
            Self::Mended => f.write_str("mended"),
            Self::Overtaken => {
                f.write_str("not mended: the stream changed it faster, again and again")
            }
            Self::Settled => {
                f.write_str("not mended: it has settled meanwhile, and only a recount tells")
            }
            Self::Blocked => {
                f.write_str("not mended: another item of one of its keys could not be mended")
            }
            Self::Failed(error) => write!(f, "not mended: {}", Causes(error)),
        }
    }
}

/// What a recount found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecountFindings {
    /// How many rows the state has.
    pub state_rows: u64,
    /// How many keys differed in the first recount.
    pub suspects: u64,
    /// How many keys differ.
    pub differing: u64,
    /// The first of them, in order of the keys, up to the limit.
    pub keys: Vec<KeyDifference>,
    /// How many keys differed in both recounts, and changed in between.
    pub unsettled: u64,
}
