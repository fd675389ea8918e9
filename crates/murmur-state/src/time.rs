//! Clocks, deadlines, timestamps and randomness.

use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, negative before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// The time `secs` seconds after the epoch; saturates at the ends of the range.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down, also before the epoch.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time `by` later; saturates.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// The time `by` earlier; saturates.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// The time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// UTC with seconds, in the form of RFC 3339: `2026-11-30T06:39:18Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (
            self.as_secs().div_euclid(86_400),
            self.as_secs().rem_euclid(86_400),
        );
        // Eras of 400 years, which begin in March, so that a leap day is the last of its year
        // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let shifted = (5 * day + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let year = year + era * 400 + i64::from(month <= 2);
        let day = day - (153 * shifted + 2) / 5 + 1;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => {
                // Round down, as everywhere: half a millisecond before the epoch is −1.
                let before = before.duration();
                let whole = millis(before);
                let rest = before.subsec_nanos() % 1_000_000 != 0;
                Self(whole.saturating_neg().saturating_sub(i64::from(rest)))
            }
        }
    }
}

/// The source of time: the one place to replace it in tests and simulations.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The wall clock. It may be wrong, and it may step.
    fn now(&self) -> Timestamp;

    /// Time since a fixed point of this clock; it never goes back.
    fn monotonic(&self) -> Duration;

    /// Completes after `duration`. Cancel safe.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Completes after `duration`, to limit a wait for something else. Unlike a sleep, it never
    /// moves a clock that sleeps move. Cancel safe.
    ///
    /// Default: a sleep.
    fn passes(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep(duration)
    }
}

/// The machine's clock; it sleeps on tokio's timer.
///
/// All system clocks of a process share one monotonic time, so a [`Deadline`] made with one is
/// valid on another. Under tokio's paused time, `monotonic` and `sleep` are virtual, but `now` is
/// not.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock(());

/// The origin of monotonic time for all system clocks of the process.
static ORIGIN: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);

impl SystemClock {
    /// The machine's clock.
    pub fn new() -> Self {
        Self(())
    }

    /// The machine's clock, shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        tokio::time::Instant::now().saturating_duration_since(*ORIGIN)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until it is moved. A sleep moves it, and returns at once.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<(Timestamp, Duration)>>,
    /// Tasks that wait for time to pass; all are woken when the clock moves.
    waiting: Arc<Mutex<Vec<Waker>>>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: Arc::new(Mutex::new((now, Duration::ZERO))),
            waiting: Arc::default(),
        }
    }

    /// Moves wall and monotonic time forward by `by`.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0.plus(by), state.1.saturating_add(by));
        drop(state);
        let waiting = std::mem::take(&mut *self.waiting());
        for waker in waiting {
            waker.wake();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the wall time to `now`, forward or back, as a machine's clock may step. Monotonic time
    /// stays.
    pub fn step(&self, now: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move { clock.advance(duration) })
    }

    fn passes(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        let end = clock.monotonic().saturating_add(duration);
        Box::pin(poll_fn(move |context| {
            let mut waiting = clock.waiting();
            if clock.monotonic() >= end {
                return Poll::Ready(());
            }
            waiting.push(context.waker().clone());
            Poll::Pending
        }))
    }
}

/// The time after which an operation must not continue.
///
/// It holds a monotonic and a wall time, and has passed when either of them has. Monotonic time may
/// stand still while a machine sleeps ([`std::time::Instant`]), and wall time may be set back. If
/// wall time is set forward, the deadline passes early.
///
/// A function that takes a `Deadline` starts nothing new after it, limits its requests to the time
/// left, and reports what it could not finish. It does not rely on being interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Point>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    monotonic: Duration,
    wall: Timestamp,
}

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self(None);

    /// The deadline `within` from now, on `clock`.
    pub fn within(clock: &dyn Clock, within: Duration) -> Self {
        Self(Some(Point {
            monotonic: clock.monotonic().saturating_add(within),
            wall: clock.now().plus(within),
        }))
    }

    /// The earlier of the two.
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(Point {
                monotonic: a.monotonic.min(b.monotonic),
                wall: a.wall.min(b.wall),
            })),
            (a, b) => Self(a.or(b)),
        }
    }

    /// The time left on `clock`; `None` without a deadline, zero if it has passed.
    pub fn remaining(self, clock: &dyn Clock) -> Option<Duration> {
        self.0.map(|Point { monotonic, wall }| {
            let left = monotonic.saturating_sub(clock.monotonic());
            left.min(wall.since(clock.now()))
        })
    }

    /// Whether it has passed.
    pub fn passed(self, clock: &dyn Clock) -> bool {
        self.remaining(clock).is_some_and(|left| left.is_zero())
    }
}

/// Randomness for jitter: a generator in memory, seeded explicitly in tests and by the system
/// otherwise.
///
/// Not for secrets, and not for unique ids: processes restored from one snapshot have the same
/// generator state. Use [`Tokens`](crate::tokens::Tokens) for those.
#[derive(Debug, Clone)]
pub struct Random(Arc<Mutex<fastrand::Rng>>);

impl Random {
    /// Seeded by the system.
    pub fn new() -> Self {
        // `RandomState` takes its keys from the system's randomness; fastrand's own seed uses the
        // uptime.
        Self::seeded(RandomState::new().hash_one(()))
    }

    /// A generator that gives the same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// 128 random bits.
    pub fn bits(&self) -> u128 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .u128(..)
    }

    /// A uniform duration between zero and `max`, both included: full jitter.
    pub fn up_to(&self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .u64(0..=nanos),
        )
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_shown_as_dates() {
        for (secs, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Timestamp::from_secs(secs).to_string(), shown);
        }
    }

    #[test]
    fn timestamps_round_down_on_both_sides_of_1970() {
        assert_eq!(Timestamp::from_millis(-1).as_secs(), -1);
        assert_eq!(Timestamp::from_millis(1999).as_secs(), 1);
        assert_eq!(
            Timestamp::from(UNIX_EPOCH - Duration::from_micros(500)).as_millis(),
            -1
        );
        assert_eq!(
            Timestamp::from(UNIX_EPOCH - Duration::from_millis(2)).as_millis(),
            -2
        );
        assert_eq!(Timestamp::from_secs(i64::MAX).as_millis(), i64::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn all_system_clocks_share_one_monotonic_time() {
        let early = SystemClock::new();
        let deadline = Deadline::within(&early, Duration::from_secs(2));
        early.sleep(Duration::from_secs(1)).await;
        assert_eq!(
            deadline.remaining(&SystemClock::new()),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn a_deadline_counts_down_and_stays_at_zero() {
        let clock = ManualClock::new(Timestamp::from_secs(0));
        let deadline = Deadline::within(&clock, Duration::from_secs(2));
        assert_eq!(deadline.remaining(&clock), Some(Duration::from_secs(2)));
        clock.advance(Duration::from_secs(3));
        assert!(deadline.passed(&clock));
        assert!(!Deadline::NONE.passed(&clock));
        assert_eq!(Deadline::NONE.earlier(deadline), deadline);
    }

    #[test]
    fn a_deadline_passes_by_either_time() {
        let now = Timestamp::from_secs(1_700_000_000);
        let minute = Duration::from_secs(60);
        let clock = ManualClock::new(now);
        let deadline = Deadline::within(&clock, minute);
        assert_eq!(deadline.remaining(&clock), Some(minute));
        // The machine slept, and monotonic time stood still.
        clock.step(now.plus(minute));
        assert!(deadline.passed(&clock));
        // The wall clock was set back.
        clock.step(now);
        assert!(!deadline.passed(&clock));
        clock.advance(minute);
        clock.step(now);
        assert!(deadline.passed(&clock));

        let other = Deadline::within(&clock, 2 * minute);
        let both = deadline.earlier(other);
        assert_eq!(both.remaining(&clock), Some(Duration::ZERO));
        assert_eq!(Deadline::NONE.earlier(other), other);
    }
}
