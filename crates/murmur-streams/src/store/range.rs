//! The range of item key hashes that a shard holds.

/// Hashes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HashRange {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl HashRange {
    /// All hashes, in `count` adjacent ranges whose sizes differ by at most one.
    pub(super) fn cut(count: usize) -> impl Iterator<Item = Self> {
        let count = count as u128;
        // The last range ends at 2^64, which needs more than 64 bits.
        let begin = move |nth: u128| (nth << 64) / count;
        (0..count).map(move |nth| Self {
            first: begin(nth) as u64,
            last: (begin(nth + 1) - 1) as u64,
        })
    }

    /// The lower and the upper half, or `None` if it has a single hash.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
