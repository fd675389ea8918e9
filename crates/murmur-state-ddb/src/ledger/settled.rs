//! What a process remembers of settled items, so that their rows need not be read again.

use std::sync::Mutex;
use std::sync::PoisonError;

use murmur_state::{ItemId, LedgerEntry};

use crate::recent::Recent;

/// How many settled items are remembered at least; at most twice as many, of some 200 bytes each.
const REMEMBERED: usize = 16_384;

/// Settled items. What has settled stays as it is, so what is remembered is never outdated.
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
    /// Remembers what is `known`, if it has settled.
    pub(super) fn note(&self, known: &LedgerEntry<i64>) {
        if known.settled {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            items.insert(known.item.clone(), known.clone());
        }
    }

    /// What is known of `item`, if it is remembered.
    pub(super) fn known(&self, item: &ItemId) -> Option<LedgerEntry<i64>> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.get(item).cloned()
    }
}
