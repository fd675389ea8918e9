use std::time::Duration;

use murmur_state::{HORIZON, Timestamp};

/// The numbers of the exactly-once protocol. ARCHITECTURE.md has the argument for each.
///
/// Only the horizon is a user's to choose, by [`Deduper::horizon`](crate::Deduper::horizon).
/// Tests of Murmur's own change the others, to see that each matters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "flaws"), expect(unreachable_pub, reason = "for tests"))]
pub struct Rules {
    /// How long an id is remembered at the least, and the length of a period.
    pub horizon: Duration,
    /// From which age on an event is not applied.
    pub too_old: Duration,
    /// From which age on a composed attempt is composed anew instead of being sent.
    pub recompose: Duration,
    /// How many ids one update may carry.
    pub ids_per_update: usize,
    /// From which size in bytes on a cold row turns hot, whatever that costs.
    pub cold_bytes: usize,
    /// From how many ids on a row turns hot, whatever that costs.
    pub cold_ids: usize,
    /// How long after its last hot write a row may turn cold.
    pub cool_after: Duration,
    /// How long a marker row lives after the creation of its events, and a frozen one after the
    /// turn.
    pub marker_life: Duration,
    /// How long a ledger row outlives its last write at the least.
    pub ledger_life: Duration,
}

/// How long after the last write to a ledger row something older of its item may still be written
/// that was read before: a page of a scan or an item that was looked up is written within an hour
/// of the request, which may be under way for 15 minutes, and two clocks may be 45 minutes off each.
const LATE_READ: Duration = Duration::from_secs((60 + 15 + 2 * 45) * 60);

impl Rules {
    pub(crate) fn of(horizon: Duration) -> Self {
        Self {
            horizon,
            // 24 h 30 min of 26 h: the margin grows with the horizon.
            too_old: horizon / 52 * 49,
            recompose: Duration::from_secs(15 * 60),
            ids_per_update: 70,
            cold_bytes: 100 * 1024,
            cold_ids: usize::MAX,
            cool_after: horizon,
            marker_life: horizon / 13 * 24,
            ledger_life: (horizon / 13 * 24).max(horizon / 52 * 49 + LATE_READ),
        }
    }

    /// The period that `now` lies in.
    pub(crate) fn period(&self, now: Timestamp) -> i64 {
        let length = i64::try_from(self.horizon.as_millis()).unwrap_or(i64::MAX);
        now.as_millis().div_euclid(length.max(1))
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(HORIZON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_horizon_gives_the_documented_times() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let rules = Rules::default();
        assert_eq!(rules.horizon, minutes(26 * 60));
        assert_eq!(rules.too_old, minutes(24 * 60 + 30));
        assert_eq!(rules.cool_after, minutes(26 * 60));
        assert_eq!(rules.marker_life, minutes(48 * 60));
        assert_eq!(rules.ledger_life, minutes(48 * 60));
    }

    #[test]
    fn a_ledger_remembers_longer_than_a_page_may_take_however_short_the_horizon() {
        for minutes in [1_u64, 60, 180, 240, 26 * 60, 100 * 60] {
            let rules = Rules::of(Duration::from_secs(minutes * 60));
            assert!(rules.ledger_life >= rules.too_old + LATE_READ, "{minutes}");
            assert!(rules.ledger_life >= rules.marker_life, "{minutes}");
        }
    }

    #[test]
    fn periods_go_on_across_1970() {
        let rules = Rules::of(Duration::from_secs(10));
        assert_eq!(rules.period(Timestamp::from_secs(-1)), -1);
        assert_eq!(rules.period(Timestamp::from_secs(0)), 0);
        assert_eq!(rules.period(Timestamp::from_secs(10)), 1);
    }
}
