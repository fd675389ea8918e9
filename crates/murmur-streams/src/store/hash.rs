//! Which hashes of item keys a shard is responsible for.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::mem;

use serde_dynamo::{AttributeValue, Item};

/// Hashes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HashRange {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl HashRange {
    /// All hashes, in `count` ranges side by side whose sizes differ by one at most.
    pub(super) fn cut(count: usize) -> impl Iterator<Item = Self> {
        let count = count as u128;
        // The last range ends at 2^64, which needs more than 64 bits.
        let begin = move |nth: u128| (nth << 64) / count;
        (0..count).map(move |nth| Self {
            first: begin(nth) as u64,
            last: (begin(nth + 1) - 1) as u64,
        })
    }

    /// The lower and the upper half; `None` if it holds a single hash.
    pub(super) fn halves(self) -> Option<[Self; 2]> {
        let Self { first, last } = self;
        if first == last {
            return None;
        }
        let middle = first + (last - first) / 2;
        let lower = Self {
            first,
            last: middle,
        };
        let upper = Self {
            first: middle + 1,
            last,
        };
        Some([lower, upper])
    }
}

/// The hash of an item's primary key: the same for equal keys as long as the process lives.
pub(super) fn hash_of(keys: &Item) -> u64 {
    let mut attributes: Vec<_> = keys.iter().collect();
    attributes.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = DefaultHasher::new();
    for (name, value) in attributes {
        name.hash(&mut hasher);
        mem::discriminant(value).hash(&mut hasher);
        match value {
            AttributeValue::S(text) | AttributeValue::N(text) => text.hash(&mut hasher),
            AttributeValue::B(bytes) => bytes.hash(&mut hasher),
            // DynamoDB has no keys of other types; equal ones still hash alike.
            _ => {}
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn key(attributes: impl IntoIterator<Item = (&'static str, AttributeValue)>) -> Item {
        let attributes = attributes.into_iter();
        let attributes: HashMap<String, AttributeValue> = attributes
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        attributes.into()
    }

    #[test]
    fn ranges_leave_no_gap_and_are_of_one_size() {
        for count in [1, 2, 3, 7, 1_000, 10_000] {
            let ranges: Vec<_> = HashRange::cut(count).collect();
            assert_eq!(ranges.len(), count);
            assert_eq!(ranges.first().unwrap().first, 0);
            assert_eq!(ranges.last().unwrap().last, u64::MAX);
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].last + 1, pair[1].first);
            }
            let sizes = ranges.iter().map(|range| range.last - range.first);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }

    #[test]
    fn halves_make_up_the_whole_until_one_hash_is_left() {
        let mut range = HashRange::cut(1).next().unwrap();
        for _ in 0..64 {
            let [lower, upper] = range.halves().unwrap();
            assert_eq!((lower.first, upper.last), (range.first, range.last));
            assert_eq!(lower.last + 1, upper.first);
            assert_eq!(lower.last - lower.first, upper.last - upper.first);
            range = upper;
        }
        assert_eq!(range.first, u64::MAX);
        assert_eq!(range.halves(), None);
        let three = HashRange { first: 4, last: 6 };
        let [lower, upper] = three.halves().unwrap();
        assert_eq!(
            (lower, upper),
            (
                HashRange { first: 4, last: 5 },
                HashRange { first: 6, last: 6 }
            )
        );
    }

    #[test]
    fn a_hash_depends_on_names_types_and_values_and_on_no_order() {
        let s = |text: &str| AttributeValue::S(text.to_owned());
        let forwards = || ["a", "b", "c", "d", "e"].map(|name| (name, s(name)));
        let mut backwards = forwards();
        backwards.reverse();
        // Each map of the standard library has an order of its own.
        for _ in 0..20 {
            assert_eq!(hash_of(&key(forwards())), hash_of(&key(backwards.clone())));
        }
        let others = [
            key([("id", s("1"))]),
            key([("id", AttributeValue::N("1".to_owned()))]),
            key([("id", AttributeValue::B(b"1".to_vec()))]),
            key([("id", s("2"))]),
            key([("di", s("1"))]),
            key([("id", s("1")), ("at", s(""))]),
            key([("id", AttributeValue::Bool(true))]),
            key([("id", AttributeValue::Null(true))]),
            key([]),
        ];
        for (at, one) in others.iter().enumerate() {
            for other in &others[..at] {
                assert_ne!(hash_of(one), hash_of(other), "{one:?} {other:?}");
            }
        }
    }
}
