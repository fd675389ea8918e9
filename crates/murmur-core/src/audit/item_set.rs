use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashSet};
use murmur_state::ItemId;

/// A set of items that stores 128 bits for each. An item takes 20 to 40 bytes, no matter how long
/// its name is: up to 40 MB per million.
///
/// The bits come from two hashes that are seeded for every set. In a table of a billion items, two
/// are taken for one with a probability of 10⁻²¹.
#[derive(Debug, Default)]
pub(crate) struct ItemSet {
    hashers: [DefaultHashBuilder; 2],
    items: HashSet<[u64; 2]>,
}

impl ItemSet {
    fn bits(&self, item: &ItemId) -> [u64; 2] {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(item))
    }

    /// Adds `item`.
    pub(crate) fn insert(&mut self, item: &ItemId) {
        self.items.insert(self.bits(item));
    }

    /// Removes `item`.
    pub(crate) fn remove(&mut self, item: &ItemId) {
        let bits = self.bits(item);
        self.items.remove(&bits);
    }

    /// Whether the set holds `item`.
    pub(crate) fn contains(&self, item: &ItemId) -> bool {
        self.items.contains(&self.bits(item))
    }

    /// The number of items in the set.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}
