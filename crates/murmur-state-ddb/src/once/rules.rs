use std::time::Duration;

use murmur_state::store::HORIZON;

/// The numbers of the exactly-once protocol. ARCHITECTURE.md has the argument for each.
///
/// Users choose only the horizon, with [`Deduper::horizon`](crate::Deduper::horizon). Murmur's own
/// tests change the others, to prove that each matters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "flaws"), expect(unreachable_pub, reason = "for tests"))]
pub struct Rules {
    /// How long after its creation an event may be delivered.
    pub horizon: Duration,
    /// The age from which an event is not applied.
    pub too_old: Duration,
    /// How long after it was handed over an event without a creation time may be applied.
    pub undated: Duration,
    /// How long before its `ttl` a row stops taking additions.
    pub before_ttl: Duration,
    /// How long a page is kept after the last second that it covers.
    pub page_life: Duration,
    /// How many ids one update may write.
    pub ids_per_update: usize,
    /// How many ids a page should have in the end.
    pub page_ids: usize,
    /// The age from which a composed ledger transaction is composed again instead of being sent.
    pub recompose: Duration,
    /// How long a ledger row is kept at least after its last write.
    pub ledger_life: Duration,
}

/// How long after the last write to a ledger row an older state of its item may still be written. A
/// page of a scan, or an item that was looked up, is written within an hour of the request; the
/// request may take 15 minutes; and two clocks may be wrong by 45 minutes each.
const LATE_READ: Duration = Duration::from_secs((60 + 15 + 2 * 45) * 60);

impl Rules {
    pub(crate) fn of(horizon: Duration) -> Self {
        Self {
            horizon,
            // `EVENT_LIFE` for the default horizon. The margin grows with the horizon.
            too_old: horizon / 52 * 49,
            undated: (horizon / 26).min(Duration::from_secs(3600)),
            before_ttl: Duration::from_secs(2 * 3600),
            page_life: horizon / 13 * 24,
            ids_per_update: 70,
            page_ids: 40,
            recompose: Duration::from_secs(15 * 60),
            ledger_life: (horizon / 13 * 24).max(horizon / 52 * 49 + LATE_READ),
        }
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
        assert_eq!(rules.too_old, murmur_state::store::EVENT_LIFE);
        assert_eq!(rules.undated, minutes(60));
        assert_eq!(rules.page_life, minutes(48 * 60));
        assert_eq!(rules.ledger_life, minutes(48 * 60));
    }

    #[test]
    fn a_ledger_remembers_longer_than_a_page_may_take_however_short_the_horizon() {
        for minutes in [1_u64, 60, 180, 240, 26 * 60, 100 * 60] {
            let rules = Rules::of(Duration::from_secs(minutes * 60));
            assert!(rules.ledger_life >= rules.too_old + LATE_READ, "{minutes}");
            assert!(rules.ledger_life >= rules.page_life, "{minutes}");
        }
    }
}
