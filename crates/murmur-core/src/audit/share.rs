use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use murmur_state::Key;

/// The keys that are held in memory at a time: those whose hash is in a range. The range only ever
/// shrinks, at its upper end, so the contributions held for a key in it are complete.
#[derive(Debug, Clone)]
pub(super) struct KeyShare {
    hasher: DefaultHashBuilder,
    from: u64,
    to: u64,
    /// The largest number of keys held.
    most: usize,
}

impl KeyShare {
    /// All keys; at most `most` of them are held.
    pub(super) fn first(most: usize) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            from: 0,
            to: u64::MAX,
            most: most.max(1),
        }
    }

    /// The keys that were left out; `None` if there are none.
    pub(super) fn next(&self) -> Option<Self> {
        Some(Self {
            hasher: self.hasher.clone(),
            from: self.to.checked_add(1)?,
            to: u64::MAX,
            most: self.most,
        })
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        (self.from..=self.to).contains(&self.hasher.hash_one(key))
    }

    /// Leaves out half of the range if `held` keys are too many; returns whether it did.
    pub(super) fn shrinks(&mut self, held: usize) -> bool {
        let shrinks = held > self.most && self.from < self.to;
        if shrinks {
            self.to = self.from + (self.to - self.from) / 2;
        }
        shrinks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn shares_hold_no_more_than_they_may_and_every_key_once() {
        let keys: Vec<Key> = (0..1_000)
            .map(|n| Key::new(format!("k{n}"), 0).unwrap())
            .collect();
        let (mut share, mut seen, mut parts) = (Some(KeyShare::first(100)), Vec::new(), 0);
        while let Some(mut now) = share {
            let mut held = BTreeSet::new();
            for key in &keys {
                if now.has(key) {
                    held.insert(key);
                }
                while now.shrinks(held.len()) {
                    held.retain(|key| now.has(key));
                }
                assert!(held.len() <= 100);
            }
            seen.extend(held);
            parts += 1;
            share = now.next();
        }
        assert!((10..40).contains(&parts), "{parts}");
        assert_eq!(seen.len(), 1_000);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1_000);
    }
}
