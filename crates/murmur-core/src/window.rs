use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use murmur_state::error::Place;
use murmur_state::monoid::Overflow;
use murmur_state::store::ROW_LIFE;
use murmur_state::{Key, Monoid, OptionError, Read, StoreError, Timestamp};

use crate::answers::all_answered;

/// Rows per request to the store when a range is read.
const RANGE_CHUNK: usize = 1_000;

/// Cuts time into buckets of one length, aligned to 1970-01-01T00:00:00Z.
///
/// Bucket `n` holds the times from `n · length` (included) to `(n + 1) · length` (excluded); times
/// before 1970 have negative buckets.
///
/// # Retention
///
/// With a retention, the rows of a bucket carry a `ttl`: the bucket's end, plus the retention, plus
/// [`ROW_LIFE`]. A change made after a bucket's retention has ended is dropped and counted, whether
/// it adds or retracts. A row that was removed therefore never comes back with a part of its value,
/// or a negative one.
///
/// A ledger adds nothing after that either. A changed item still takes back what it contributed, as
/// long as the row exists.
///
/// The time of the change decides; a change older than [`HORIZON`](murmur_state::store::HORIZON) counts as
/// one made that long ago. Scanned rows and changes without a time go by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    length: Duration,
    retention: Option<Duration>,
}

impl Window {
    /// Buckets of a minute.
    pub const fn minutely() -> Self {
        Self::of(Duration::from_secs(60))
    }

    /// Buckets of an hour.
    pub const fn hourly() -> Self {
        Self::of(Duration::from_secs(3600))
    }

    /// Buckets of a day (UTC).
    pub const fn daily() -> Self {
        Self::of(Duration::from_secs(24 * 3600))
    }

    /// Buckets of any length: whole milliseconds, at least 1.
    pub const fn of(length: Duration) -> Self {
        Self {
            length,
            retention: None,
        }
    }

    /// Rows may be removed this long after their bucket's end. Default: rows are kept forever,
    /// which costs their storage.
    #[must_use]
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// [`retention`](Window::retention) in days of 24 hours.
    #[must_use]
    pub const fn retention_days(self, days: u32) -> Self {
        self.retention(Duration::from_secs(days as u64 * 24 * 3600))
    }

    /// The bucket that `at` falls into.
    pub fn bucket(&self, at: Timestamp) -> i64 {
        at.as_millis().div_euclid(self.millis())
    }

    /// The first point in time of `bucket`; saturates at the ends of the range.
    pub fn start(&self, bucket: i64) -> Timestamp {
        Timestamp::from_millis(bucket.saturating_mul(self.millis()))
    }

    /// The first point in time after `bucket`; saturates at the ends of the range.
    pub fn end(&self, bucket: i64) -> Timestamp {
        self.start(bucket.saturating_add(1))
    }

    /// When the rows of `bucket` may be removed, in seconds since the epoch; `None` without
    /// retention.
    pub fn ttl(&self, bucket: i64) -> Option<i64> {
        let retention = self.retention?;
        Some(self.end(bucket).plus(retention).plus(ROW_LIFE).as_secs())
    }

    /// Whether the retention of `bucket` has ended at `now`.
    pub fn is_expired(&self, bucket: i64, now: Timestamp) -> bool {
        self.retention
            .is_some_and(|retention| self.end(bucket).plus(retention) <= now)
    }

    /// The buckets that hold the times from `from` to `to`, both included.
    pub fn range(&self, from: Timestamp, to: Timestamp) -> RangeInclusive<i64> {
        self.bucket(from)..=self.bucket(to)
    }

    /// The newest buckets that together cover `length`, rounded up, ending with the bucket of
    /// `now`: the last 7 days of daily buckets are today and the six days before.
    pub fn last(&self, length: Duration, now: Timestamp) -> RangeInclusive<i64> {
        let buckets = length
            .as_millis()
            .div_ceil(self.millis().unsigned_abs().into())
            .max(1);
        let newest = self.bucket(now);
        newest.saturating_sub(i64::try_from(buckets - 1).unwrap_or(i64::MAX))..=newest
    }

    /// Checks that the window can be used.
    pub(crate) fn validate(&self) -> Result<(), OptionError> {
        let millis = self.length.as_millis();
        if millis == 0
            || !self.length.subsec_nanos().is_multiple_of(1_000_000)
            || i64::try_from(millis).is_err()
        {
            return Err(OptionError::new(
                "window",
                format!(
                    "a length of {:?} is not a whole number of milliseconds from 1 on",
                    self.length
                ),
            ));
        }
        Ok(())
    }

    fn millis(&self) -> i64 {
        i64::try_from(self.length.as_millis())
            .unwrap_or(i64::MAX)
            .max(1)
    }
}

/// Length and retention, in seconds.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "windows of {} s", self.length.as_secs_f64())?;
        match self.retention {
            Some(retention) => write!(f, " kept for {} s", retention.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// The merged value of `entity` over `buckets`; `None` if none of them has a row.
///
/// Reads the row of every bucket, 1,000 at a time, so memory stays flat; a week of minutes is
/// 10,080 rows. [`Window::last`] and [`Window::range`] give the buckets.
///
/// # Errors
///
/// The store's; [`StoreError::InvalidId`] if no row could have this entity;
/// [`StoreError::Overflow`] if the merged value does not fit.
///
/// # Cancel safety
///
/// Cancel safe: it only reads.
///
/// ```
/// # use std::time::Duration;
/// # use murmur_core::{Sum, Window, read_range};
/// # use murmur_state::{Deadline, Key, MemoryStore, Store, Timestamp};
/// # use murmur_state::store::Add;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = MemoryStore::new(Sum::new());
/// # let now = Timestamp::from_secs(1_700_000_000);
/// # let window = Window::daily();
/// # let add = |days| Add { key: Key::new("alice", window.bucket(now) - days).unwrap(), value: 5, ttl: None };
/// # store.merge(&[add(0), add(6), add(7)], Deadline::NONE).await;
/// let week = Window::daily().last(Duration::from_secs(7 * 24 * 3600), now);
/// let total = read_range(&store, &Sum::new(), "alice", week).await?;
/// # assert_eq!(total, Some(10));
/// # Ok(())
/// # }
/// ```
pub async fn read_range<M: Monoid>(
    store: &impl Read<M::Value>,
    monoid: &M,
    entity: &str,
    buckets: RangeInclusive<i64>,
) -> Result<Option<M::Value>, StoreError> {
    let mut merged: Option<M::Value> = None;
    let mut buckets = buckets.peekable();
    while buckets.peek().is_some() {
        let keys: Vec<Key> = buckets
            .by_ref()
            .take(RANGE_CHUNK)
            .map(|bucket| Key::new(entity, bucket).map_err(StoreError::InvalidId))
            .collect::<Result<_, _>>()?;
        let values = store.get_many(&keys).await?;
        let values = all_answered(|| store.place(), keys.len(), values)?;
        for value in values.into_iter().flatten() {
            match &mut merged {
                None => merged = Some(value),
                Some(merged) => {
                    monoid
                        .combine(merged, &value)
                        .map_err(|Overflow| StoreError::Overflow {
                            place: Place::table("read_range", entity),
                        })?
                }
            }
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use murmur_state::store::Add;
    use murmur_state::{Deadline, MemoryStore, Store};
    use proptest::prelude::*;

    use crate::Sum;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn times_before_1970_floor() {
        let day = Window::daily();
        assert_eq!(day.bucket(Timestamp::from_millis(-1)), -1);
        assert_eq!(day.bucket(Timestamp::from_millis(0)), 0);
        assert_eq!(day.bucket(Timestamp::from_millis(-86_400_000)), -1);
        assert_eq!(day.bucket(Timestamp::from_millis(-86_400_001)), -2);
    }

    #[test]
    fn the_last_seven_days_are_seven_buckets() {
        let now = Timestamp::from_secs(1_700_000_000);
        let week = Window::daily().last(7 * DAY, now);
        assert_eq!(week.clone().count(), 7);
        assert_eq!(*week.end(), Window::daily().bucket(now));
        assert_eq!(
            Window::hourly()
                .last(Duration::from_secs(5400), now)
                .count(),
            2
        );
        assert_eq!(Window::daily().last(Duration::ZERO, now).count(), 1);
        assert_eq!(Window::minutely().bucket(Timestamp::from_secs(61)), 1);
    }

    #[test]
    fn rows_outlive_their_retention_by_27_hours() {
        let window = Window::daily().retention_days(90);
        let end = window.end(10).as_secs();
        assert_eq!(window.ttl(10), Some(end + 90 * 86_400 + 27 * 3600));
        assert_eq!(Window::daily().ttl(10), None);
        let over = window.end(10).plus(90 * DAY);
        assert!(window.is_expired(10, over));
        assert!(!window.is_expired(10, over.minus(Duration::from_millis(1))));
    }

    #[test]
    fn lengths_that_cut_nothing_are_refused() {
        for length in [Duration::ZERO, Duration::from_micros(1500), Duration::MAX] {
            assert_eq!(Window::of(length).validate().unwrap_err().option, "window");
        }
        assert!(Window::of(Duration::from_millis(1)).validate().is_ok());
    }

    #[tokio::test]
    async fn a_range_over_many_rows_merges_all_of_them() {
        let store = MemoryStore::new(Sum::new());
        let adds: Vec<_> = (-1500..1500)
            .map(|bucket| Add {
                key: Key::new("a", bucket).unwrap(),
                value: 1,
                ttl: None,
            })
            .collect();
        store.merge(&adds, Deadline::NONE).await;
        let sum = Sum::new();
        assert_eq!(
            read_range(&store, &sum, "a", -1500..=1499).await.unwrap(),
            Some(3000)
        );
        assert_eq!(
            read_range(&store, &sum, "a", 5000..=6000).await.unwrap(),
            None
        );
        let end = read_range(&store, &sum, "a", i64::MAX - 3..=i64::MAX).await;
        assert_eq!(end.unwrap(), None);
    }

    proptest! {
        #[test]
        fn every_time_lies_in_its_bucket(millis in -4_000_000_000_000i64..4_000_000_000_000, length in 1u64..100_000_000) {
            let window = Window::of(Duration::from_millis(length));
            let (at, bucket) = (Timestamp::from_millis(millis), window.bucket(Timestamp::from_millis(millis)));
            prop_assert!(window.start(bucket) <= at && at < window.end(bucket));
        }
    }
}
