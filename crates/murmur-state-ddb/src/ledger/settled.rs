//! The settled items that a process remembers, so that it need not read their rows again.

use std::sync::Mutex;
use std::sync::PoisonError;

use murmur_state::ItemId;
use murmur_state::store::LedgerEntry;

use crate::recent::Recent;

/// How many settled items are remembered at least. At most twice as many are, of some 200 bytes
/// each.
const REMEMBERED: usize = 16_384;

/// Settled items. A settled item never changes, so a remembered one is never outdated.
#[derive(Debug)]
pub(crate) struct Settled {
    items: Mutex<Recent<ItemId, LedgerEntry<i64>>>,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            items: Mutex::new(Recent::new(REMEMBERED)),
        }
    }
}

impl Settled {
    /// Remembers `known` if the item has settled.
    pub(super) fn note(&self, known: &LedgerEntry<i64>) {
        if known.settled {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            items.insert(known.item.clone(), known.clone());
        }
    }

    /// What is known about `item`, if it is remembered.
    pub(super) fn known(&self, item: &ItemId) -> Option<LedgerEntry<i64>> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.get(item).cloned()
    }
}
