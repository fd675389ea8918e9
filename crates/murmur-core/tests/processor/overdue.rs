//! Changes to windows whose retention has ended are dropped and counted, and no row becomes
//! negative.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use murmur_core::{Change, Item, Pipeline, Processor, Record, RecordOutcome, Sum, Window};
use murmur_state::{
    Deadline, Key, ManualClock, MemoryDeduper, MemoryStore, Random, SequenceNumber, Timestamp,
};

use crate::outcomes;
use crate::support::{Counts, NOW, Order, change, order_at};

const DAY: i64 = 86_400;
const WINDOW: Window = Window::daily().retention_days(2);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    AtLeastOnce,
    ClaimFirst,
    ExactlyOnce,
    Ledger,
}

use Mode::{AtLeastOnce, ClaimFirst, ExactlyOnce, Ledger};

const MODES: [Mode; 4] = [AtLeastOnce, ClaimFirst, ExactlyOnce, Ledger];

/// A retracting pipeline of daily totals, and the state that tests look at.
struct Daily {
    processor: Processor<Order>,
    store: MemoryStore<Sum>,
    clock: ManualClock,
    counts: Counts,
}

impl Daily {
    fn new(mode: Mode) -> Self {
        let clock = ManualClock::new(Timestamp::from_secs(NOW));
        let store = MemoryStore::new(Sum::new());
        let markers =
            MemoryDeduper::with_ttl(Duration::from_secs(48 * 3600), Arc::new(clock.clone()));
        let definition = Pipeline::builder("daily")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .window(WINDOW, |o| Timestamp::from_secs(o.placed_at))
            .retract()
            .store(store.clone().markers(markers.clone()));
        let pipeline = match mode {
            AtLeastOnce => definition.at_least_once(),
            ClaimFirst => definition.claim_first(markers),
            ExactlyOnce => definition.exactly_once(),
            Ledger => definition.ledger(),
        };
        let counts = Counts::default();
        let processor = Processor::builder([pipeline.unwrap()])
            .clock(Arc::new(clock.clone()))
            .recorder(counts.clone())
            .build()
            .unwrap();
        Self {
            processor,
            store,
            clock,
            counts,
        }
    }

    /// The rows by days from the one that holds `NOW`.
    fn days(&self) -> Vec<(i64, i64)> {
        let rows = self.store.rows();
        let day = |key: &Key| key.bucket() - WINDOW.bucket(Timestamp::from_secs(NOW));
        rows.iter().map(|row| (day(&row.key), row.value)).collect()
    }

    async fn send(&self, records: &[Record]) -> Vec<RecordOutcome> {
        outcomes(&self.processor, records).await
    }
}

/// The `n`-th change of item `id`, made at `created`.
fn nth(n: u64, id: &str, created: i64, old: Option<Item>, new: Option<Item>) -> Record {
    Record::Changed(Change {
        created: Some(Timestamp::from_secs(created)),
        sequence_number: SequenceNumber::new((n + 1).to_string()).ok(),
        ..change(&format!("event-{n}"), id, old, new)
    })
}

fn placed(days: i64, cents: i64) -> Option<Item> {
    Some(order_at("a", cents, NOW + days * DAY))
}

#[tokio::test]
async fn a_removal_takes_nothing_from_a_window_that_is_over() {
    for mode in MODES {
        let daily = Daily::new(mode);
        daily.send(&[nth(1, "1", NOW, None, placed(0, 5))]).await;
        daily.clock.advance(Duration::from_secs(6 * DAY as u64));
        let gone = nth(2, "1", NOW + 6 * DAY, placed(0, 5), None);
        let outcome = daily.send(&[gone]).await.remove(0);
        assert!(outcome.is_done());
        assert_eq!(daily.days(), [(0, 5)], "{mode:?}: as it was");
        // A ledger does not look at the old image.
        if mode != Ledger {
            assert!(matches!(outcome, RecordOutcome::Expired), "{outcome:?}");
            assert_eq!(daily.counts.of("daily:expired"), 1);
        }
    }
}

#[tokio::test]
async fn a_row_that_is_gone_does_not_come_back() {
    for mode in [AtLeastOnce, ClaimFirst, ExactlyOnce] {
        let daily = Daily::new(mode);
        let batch = [
            nth(1, "1", NOW, placed(-4, 5), None),
            nth(2, "2", NOW, placed(-4, 5), placed(-4, 3)),
        ];
        daily.send(&batch).await;
        assert_eq!(daily.days(), [], "{mode:?}");
        assert_eq!(daily.counts.of("daily:expired"), 3);
    }
}

#[tokio::test]
async fn an_item_moves_out_of_a_window_that_is_over_and_back() {
    for mode in MODES {
        let daily = Daily::new(mode);
        let (over, live) = (|| placed(-4, 5), || placed(0, 7));
        let moves = [
            (nth(1, "1", NOW, None, over()), &[][..]),
            (nth(2, "1", NOW, over(), live()), &[(0, 7)]),
            (nth(3, "1", NOW, live(), over()), &[(0, 0)]),
            (nth(4, "1", NOW, over(), live()), &[(0, 7)]),
            (nth(5, "1", NOW, live(), None), &[(0, 0)]),
        ];
        for (record, expected) in moves {
            assert!(daily.send(&[record]).await[0].is_done());
            assert_eq!(daily.days(), expected, "{mode:?}");
        }
        // A ledger does not look at old images.
        let dropped = if mode == Ledger { 2 } else { 4 };
        assert_eq!(daily.counts.of("daily:expired"), dropped, "{mode:?}");
    }
}

#[tokio::test]
async fn the_changes_own_time_decides_whichever_clock_it_meets() {
    // The window of day -3 is over at the end of day -1, the window of day -2 is not.
    let midnight = NOW - NOW.rem_euclid(DAY);
    for mode in MODES {
        let daily = Daily::new(mode);
        // Made in time, delivered an hour too late: counts.
        daily.clock.step(Timestamp::from_secs(midnight + 3600));
        let in_time = nth(1, "1", midnight - 1, None, placed(-3, 5));
        daily.send(&[in_time]).await;
        assert_eq!(daily.days(), [(-3, 5)], "{mode:?}");

        // Made too late: dropped, and so are all later ones, also by a clock that is slow.
        daily.clock.step(Timestamp::from_secs(midnight - 1800));
        let batch = [
            nth(2, "2", midnight, None, placed(-3, 9)),
            nth(3, "2", midnight + 1, placed(-3, 9), None),
        ];
        daily.send(&batch).await;
        assert_eq!(daily.days(), [(-3, 5)], "{mode:?}");
    }
}

#[tokio::test]
async fn a_creation_time_ahead_of_all_clocks_does_not_end_a_window() {
    // Milliseconds instead of seconds; a day and an hour ahead of the clock.
    for (created, known) in [(NOW * 1000, None), (NOW + 4 * DAY, Some(NOW + 4 * DAY))] {
        for mode in MODES {
            let daily = Daily::new(mode);
            let ahead = nth(1, "1", created, None, placed(0, 5));
            assert_eq!(ahead.created(), known.map(Timestamp::from_secs));
            // The clock comes closer between deliveries, and the event keeps its time.
            for _ in 0..3 {
                daily.send(std::slice::from_ref(&ahead)).await;
                daily.clock.advance(Duration::from_secs(3600));
            }
            let sent = if mode == AtLeastOnce { 3 } else { 1 };
            assert_eq!(daily.days(), [(0, 5 * sent)], "{mode:?}");
            assert_eq!(daily.counts.of("daily:impossible_time"), 3);
            assert_eq!(daily.counts.of("daily:expired"), 0);
        }
    }
}

#[tokio::test]
async fn past_the_horizon_the_clock_decides_because_the_row_may_be_gone() {
    for mode in MODES {
        let daily = Daily::new(mode);
        let late = nth(1, "1", NOW - 4 * DAY, None, placed(-4, 5));
        daily.clock.advance(Duration::from_secs(27 * 3600));
        daily.send(&[late]).await;
        assert_eq!(daily.days(), [], "{mode:?}");
        assert_eq!(daily.counts.of("daily:expired"), 1);
    }
}

/// Items that move between days for eleven days, delivered up to a day late, in overlapping
/// batches, by invocations with different clocks.
#[tokio::test]
async fn no_row_goes_below_nothing_and_live_days_equal_a_recount() {
    for mode in [ClaimFirst, ExactlyOnce, Ledger] {
        let mut dropped = 0;
        for seed in 0..60 {
            let random = Random::seeded(seed);
            let below = |bound: u64| (random.bits() % u128::from(bound)) as u64;
            let daily = Daily::new(mode);
            let mut table: BTreeMap<String, (i64, i64)> = BTreeMap::new();
            let image = |(day, cents): (i64, i64)| placed(day, cents);
            let (mut stream, mut delivered, mut now) = (Vec::new(), 0usize, NOW);
            for n in 1..=120u64 {
                now += below(4 * 3600) as i64;
                let id = below(6).to_string();
                let today = (now - NOW).div_euclid(DAY);
                let next = (below(4) > 0).then(|| (today - below(5) as i64, 1 + below(9) as i64));
                let old = table.get(&id).copied();
                match next {
                    Some(next) => table.insert(id.clone(), next),
                    None => table.remove(&id),
                };
                if old.is_some() || next.is_some() {
                    stream.push(nth(n, &id, now, old.and_then(image), next.and_then(image)));
                }
                if below(5) == 0 || n == 120 {
                    // Between 45 minutes slow and a day late.
                    let skew = below(24 * 3600 + 2 * 2700) as i64 - 2700;
                    daily.clock.step(Timestamp::from_secs(now + skew));
                    let from = delivered.saturating_sub(below(8) as usize);
                    let records = &stream[from..];
                    let done = daily.processor.process(records, Deadline::NONE).await;
                    assert!(done.iter().all(RecordOutcome::is_done), "seed {seed}");
                    delivered = stream.len();
                    let negative = daily.days().into_iter().find(|(_, cents)| *cents < 0);
                    assert_eq!(negative, None, "{mode:?}, seed {seed}");
                }
            }
            let today = (now - NOW).div_euclid(DAY);
            let rows: BTreeMap<i64, i64> = daily.days().into_iter().collect();
            for day in today - 1..=today {
                let items = table.values().filter(|(placed, _)| *placed == day);
                let recount: i64 = items.map(|(_, cents)| cents).sum();
                let found = rows.get(&day).copied().unwrap_or(0);
                assert_eq!(found, recount, "{mode:?}, seed {seed}, day {day}");
            }
            dropped += daily.counts.of("daily:expired");
        }
        assert!(dropped > 100, "{mode:?}: {dropped} dropped only");
    }
}
