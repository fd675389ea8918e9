//! The progress of a scan, its time left, and whether it will take too long.

use std::time::Duration;

use murmur_state::store::SURE_LIFE;
use murmur_state::{Clock, Recorder, Timestamp};

use super::counts::Counts;
use super::progress::Progress;

/// How long a scan runs before its own speed is used.
const WARM_UP: Duration = Duration::from_secs(600);

/// The age from which a scan without an estimate of its end is late: two thirds of its time.
const LATE_AGE: Duration = Duration::from_secs(SURE_LIFE.as_secs() / 3 * 2);

/// The least time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(3600);

const LATE_WITH_LEDGERS: &str = "start the stream consumer now, from this run's token: with ledgers \
                                 it may run beside the scan; more read budget or concurrency helps \
                                 too";
const LATE: &str = "give it more read budget, concurrency or workers; if that is not enough, make new \
                    state and marker tables, scan the table while it is not written, and ask for \
                    `restart`";

/// What is known before the first page.
pub(crate) struct ScanFacts {
    /// About how many rows this process has to read, where the source knows.
    pub(crate) rows: Option<f64>,
    /// When the token was captured, if its age is limited.
    pub(crate) token_from: Option<Timestamp>,
    pub(crate) ledgers: bool,
    /// What earlier attempts did.
    pub(crate) total: Counts,
}

/// Watches a scan from its first page on.
pub(crate) struct Watch {
    facts: ScanFacts,
    begun: Duration,
    /// The share that was done at the start.
    share: f64,
    warned: Option<Duration>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) share_done: f64,
    pub(crate) time_left: Option<Duration>,
    pub(crate) elapsed: Duration,
}

impl Watch {
    pub(crate) fn new(facts: ScanFacts, done: u32, of: u32, clock: &dyn Clock) -> Self {
        Self {
            share: share(&facts, &facts.total, done, of),
            facts,
            begun: clock.monotonic(),
            warned: None,
        }
    }

    /// The outcome of all rows, earlier attempts included.
    pub(crate) fn total(&self) -> &Counts {
        &self.facts.total
    }

    /// Pages that were done will be done again.
    pub(crate) fn take_back(&mut self, counts: &Counts) {
        self.facts.total.take_back(counts);
    }

    /// A page is done, and `done` segments `of` all.
    pub(crate) fn page(&mut self, page: &Counts, done: u32, of: u32, clock: &dyn Clock) -> Figures {
        self.facts.total += *page;
        let elapsed = clock.monotonic().saturating_sub(self.begun);
        let share_done = share(&self.facts, &self.facts.total, done, of);
        let gained = share_done - self.share;
        let left = elapsed.as_secs_f64() * (1.0 - share_done) / gained;
        Figures {
            share_done,
            // No gain makes a number that is no duration.
            time_left: Duration::try_from_secs_f64(left).ok(),
            elapsed,
        }
    }

    /// Records the figures as gauges.
    pub(crate) fn gauge(&self, figures: &Figures, source_name: &str, recorder: &dyn Recorder) {
        // Floats saturate when they are cast.
        let gauge =
            |what: &str, value: u64| recorder.gauge(&format!("{source_name}:{what}"), value);
        gauge("rows", self.facts.total.rows);
        gauge("read_units", self.facts.total.read_units as u64);
        gauge("share_done_percent", (figures.share_done * 100.0) as u64);
        if let Some(left) = figures.time_left {
            gauge("seconds_left", left.as_secs());
        }
    }

    /// The warning, if the scan may take longer than the stream keeps the changes after its token.
    pub(crate) fn late(
        &mut self,
        figures: &Figures,
        clock: &dyn Clock,
    ) -> Option<Progress<'static>> {
        let age = clock.now().since(self.facts.token_from?);
        let late = match figures.time_left {
            Some(left) if figures.elapsed >= WARM_UP => age.saturating_add(left) > SURE_LIFE,
            _ => age > LATE_AGE,
        };
        let now = clock.monotonic();
        let told = |at| now.saturating_sub(at) < WARN_INTERVAL;
        if !late || self.warned.is_some_and(told) {
            return None;
        }
        self.warned = Some(now);
        Some(Progress::Late {
            age,
            life: SURE_LIFE,
            time_left: figures.time_left,
            advice: match self.facts.ledgers {
                true => LATE_WITH_LEDGERS,
                false => LATE,
            },
        })
    }
}

/// An estimate of the share done; 1 only when everything is. DynamoDB's number of rows is hours
/// old, so the larger of the shares by rows and by segments is used.
fn share(facts: &ScanFacts, total: &Counts, done: u32, of: u32) -> f64 {
    if done >= of {
        return 1.0;
    }
    let by_segments = f64::from(done) / f64::from(of);
    let rows = facts.rows.filter(|rows| *rows > 0.0);
    let by_rows = rows.map_or(0.0, |rows| total.examined as f64 / rows);
    by_segments.max(by_rows).min(0.99)
}

#[cfg(test)]
mod tests {
    use super::*;
    use murmur_state::time::ManualClock;

    const HOUR: Duration = Duration::from_secs(3600);

    fn counts(rows: u64) -> Counts {
        Counts {
            examined: rows,
            rows,
            ..Counts::default()
        }
    }

    fn watch(rows: Option<f64>, earlier: u64, clock: &ManualClock) -> Watch {
        let facts = ScanFacts {
            rows,
            token_from: Some(clock.now()),
            ledgers: true,
            total: counts(earlier),
        };
        Watch::new(facts, 0, 4, clock)
    }

    fn clock() -> ManualClock {
        ManualClock::new(Timestamp::from_secs(1_700_000_000))
    }

    #[test]
    fn share_and_time_left_go_by_rows_and_count_what_was_done_before() {
        let clock = clock();
        let mut watch = watch(Some(1000.0), 500, &clock);
        clock.advance(Duration::from_secs(10));
        let figures = watch.page(&counts(100), 0, 4, &clock);
        assert!((figures.share_done - 0.6).abs() < 1e-9);
        let left = figures.time_left.unwrap();
        assert!(left.abs_diff(Duration::from_secs(40)) < Duration::from_millis(1));
        assert_eq!(watch.total().rows, 600);
        // More rows than were thought: it is not done before all is.
        let figures = watch.page(&counts(9000), 3, 4, &clock);
        assert!((figures.share_done - 0.99).abs() < 1e-9);
        let figures = watch.page(&counts(1), 4, 4, &clock);
        assert_eq!(
            (figures.share_done, figures.time_left),
            (1.0, Some(Duration::ZERO))
        );
    }

    #[test]
    fn without_an_estimate_segments_tell() {
        let clock = clock();
        for rows in [None, Some(0.0)] {
            let mut watch = watch(rows, 0, &clock);
            clock.advance(Duration::from_secs(10));
            let figures = watch.page(&counts(100), 0, 4, &clock);
            assert_eq!((figures.share_done, figures.time_left), (0.0, None));
            let figures = watch.page(&counts(100), 1, 4, &clock);
            assert!((figures.share_done - 0.25).abs() < 1e-9);
            assert!(figures.time_left.is_some());
        }
    }

    #[test]
    fn a_scan_that_will_take_too_long_is_told_of_once_an_hour() {
        let clock = clock();
        let mut watch = watch(Some(1_000_000.0), 0, &clock);
        let mut told = Vec::new();
        for minute in 1..=180 {
            clock.advance(Duration::from_secs(60));
            // A thousand minutes would be in time; two thousand are not.
            let figures = watch.page(&counts(500), 0, 4, &clock);
            if let Some(Progress::Late { time_left, .. }) = watch.late(&figures, &clock) {
                assert!(time_left.unwrap() > 20 * HOUR);
                told.push(minute);
            }
        }
        assert_eq!(told, [10, 70, 130]);
    }

    #[test]
    fn a_scan_that_is_in_time_is_not_late() {
        let clock = clock();
        let mut watch = watch(Some(1_000_000.0), 0, &clock);
        for _ in 1..1000 {
            clock.advance(Duration::from_secs(60));
            let figures = watch.page(&counts(1000), 0, 4, &clock);
            assert!(watch.late(&figures, &clock).is_none());
        }
    }

    #[test]
    fn a_scan_whose_end_nobody_knows_is_late_when_it_is_old() {
        let clock = clock();
        let mut watch = watch(None, 0, &clock);
        clock.advance(LATE_AGE);
        let figures = watch.page(&counts(1), 0, 4, &clock);
        assert!(watch.late(&figures, &clock).is_none());
        clock.advance(Duration::from_secs(1));
        let figures = watch.page(&counts(1), 0, 4, &clock);
        assert!(watch.late(&figures, &clock).is_some());
        watch.facts.token_from = None;
        watch.warned = None;
        assert!(watch.late(&figures, &clock).is_none());
    }
}
