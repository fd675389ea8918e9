//! A map that keeps recently used entries.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of two generations. When the young one is full, the old one is dropped.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    most: usize,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// A map that keeps at least the last `most` entries, and at most twice as many.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            most,
        }
    }

    /// The value under `key`.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_held_and_no_more_than_twice_as_many() {
        let mut recent = Recent::new(3);
        for key in 0..100 {
            recent.insert(key, key);
            assert!(recent.young.len() + recent.old.len() <= 6);
            for held in (key - 2).max(0)..=key {
                assert_eq!(recent.get(&held), Some(&held), "{held} of {key}");
            }
        }
        assert_eq!(recent.get(&0), None);
    }
}
