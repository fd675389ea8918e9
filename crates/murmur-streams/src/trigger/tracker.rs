//! Tracks which records of a shard are done, and up to where all are.

use std::collections::VecDeque;

use murmur_state::{SequenceNumber, Timestamp};

/// Records in the order in which they were read. Lanes may finish them in another order.
///
/// The position is the last record of the longest prefix in which all records are done. A reader
/// that continues after it reads records that were not done, or that were done out of order.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// The ordinal of the first record kept.
    first: u64,
    records: VecDeque<Tracked>,
    /// The last number passed.
    position: Option<SequenceNumber>,
    /// The creation time of the last record passed.
    passed: Option<Timestamp>,
}

#[derive(Debug)]
struct Tracked {
    number: Option<SequenceNumber>,
    created: Option<Timestamp>,
    done: bool,
}

impl Tracker {
    /// Adds the next record read, and returns its ordinal.
    pub(crate) fn push(
        &mut self,
        number: Option<SequenceNumber>,
        created: Option<Timestamp>,
    ) -> u64 {
        self.records.push_back(Tracked {
            number,
            created,
            done: false,
        });
        self.first + self.records.len() as u64 - 1
    }

    /// Records that a record is done.
    pub(crate) fn done(&mut self, ordinal: u64) {
        let place = ordinal.checked_sub(self.first);
        let place = place.and_then(|place| usize::try_from(place).ok());
        if let Some(record) = place.and_then(|place| self.records.get_mut(place)) {
            record.done = true;
        }
        while self.records.front().is_some_and(|record| record.done) {
            self.first += 1;
            let Some(Tracked {
                number, created, ..
            }) = self.records.pop_front()
            else {
                return;
            };
            self.position = number.or(self.position.take());
            self.passed = self.passed.max(created);
        }
    }

    /// The number up to which everything is done, or `None` before the first.
    pub(crate) fn position(&self) -> Option<&SequenceNumber> {
        self.position.as_ref()
    }

    /// The number of the first record that is not done.
    pub(crate) fn first(&self) -> Option<&SequenceNumber> {
        self.records
            .front()
            .and_then(|record| record.number.as_ref())
    }

    /// When the last record up to the position was created.
    pub(crate) fn passed(&self) -> Option<Timestamp> {
        self.passed
    }

    /// When the first record that is not done was created.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.records.front().and_then(|record| record.created)
    }

    /// Whether every record read is done.
    pub(crate) fn is_clear(&self) -> bool {
        self.records.is_empty()
    }

    /// How many records were read and are not passed.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(n: usize) -> SequenceNumber {
        SequenceNumber::new(n.to_string()).unwrap()
    }

    proptest! {
        #[test]
        fn the_position_is_the_longest_beginning_that_is_done(
            order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut tracker = Tracker::default();
            let ordinals: Vec<u64> = (0..40)
                .map(|n| tracker.push(Some(number(n)), Some(Timestamp::from_secs(n as i64))))
                .collect();
            let mut done = [false; 40];
            for n in order {
                tracker.done(ordinals[n]);
                done[n] = true;
                let whole = done.iter().take_while(|done| **done).count();
                prop_assert_eq!(tracker.position().cloned(), whole.checked_sub(1).map(number));
                prop_assert_eq!(tracker.len(), 40 - whole);
                let oldest = (whole < 40).then(|| Timestamp::from_secs(whole as i64));
                prop_assert_eq!(tracker.oldest(), oldest);
            }
            prop_assert!(tracker.is_clear());
        }
    }

    #[test]
    fn records_without_a_number_do_not_move_the_position() {
        let mut tracker = Tracker::default();
        for number in [Some(number(7)), None] {
            let ordinal = tracker.push(number, None);
            tracker.done(ordinal);
        }
        assert_eq!(tracker.position(), Some(&number(7)));
        tracker.done(99);
        assert!(tracker.is_clear());
    }
}
