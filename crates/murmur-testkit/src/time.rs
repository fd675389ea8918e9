//! Virtual time: one true time per simulation, and a separate clock for every process in it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{Clock, Timestamp};
use tokio::time::Instant;

/// The time of a simulation, in which days pass in an instant.
///
/// Clones share it. There are two kinds, which differ in what advances the time.
#[derive(Clone)]
pub struct Time(Arc<Inner>);

struct Inner {
    start: Timestamp,
    source: Source,
}

enum Source {
    Paused(Instant),
    Stepped(Mutex<Duration>),
}

impl Time {
    /// Time on tokio's paused clock, which advances when every task of the runtime waits: for
    /// simulations entirely in this process. The time is now `start`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime. If the runtime's clock is not paused, it is real time.
    pub fn paused(start: Timestamp) -> Self {
        Self::new(start, Source::Paused(Instant::now()))
    }

    /// Time that advances only when a task sleeps: for simulations that use a real server, because
    /// tokio's paused clock would not wait for its answers. The time is now `start`.
    pub fn stepped(start: Timestamp) -> Self {
        Self::new(start, Source::Stepped(Mutex::default()))
    }

    fn new(start: Timestamp, source: Source) -> Self {
        Self(Arc::new(Inner { start, source }))
    }

    /// Whether it is of the [stepped](Self::stepped) kind.
    pub fn is_stepped(&self) -> bool {
        matches!(self.0.source, Source::Stepped(_))
    }

    /// How much time has passed since the start.
    pub fn elapsed(&self) -> Duration {
        match &self.0.source {
            Source::Paused(origin) => origin.elapsed(),
            Source::Stepped(elapsed) => *lock(elapsed),
        }
    }

    /// The true time, which no process of the simulation knows.
    pub fn now(&self) -> Timestamp {
        self.0.start.plus(self.elapsed())
    }

    /// The clock of a process, `skew` seconds ahead of true time, or behind it if negative. Its
    /// monotonic time is true, and shared by all clocks of this time.
    pub fn clock(&self, skew: i64) -> Arc<dyn Clock> {
        self.clock_of_machine(skew, &Suspensions::default())
    }

    /// As [`clock`](Self::clock), for a machine that is suspended at times. During a suspension its
    /// monotonic time stands still, its wall clock does not.
    pub fn clock_of_machine(&self, skew: i64, suspended: &Suspensions) -> Arc<dyn Clock> {
        Arc::new(SkewedClock {
            time: self.clone(),
            skew,
            suspended: suspended.clone(),
        })
    }

    /// Completes once `duration` has passed. The stepped kind advances the time. Cancel safe.
    pub async fn sleep(&self, duration: Duration) {
        match &self.0.source {
            Source::Paused(_) => tokio::time::sleep(duration).await,
            Source::Stepped(elapsed) => {
                add(elapsed, duration);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Completes once `elapsed` has passed since the start, without advancing the time. The stepped
    /// kind checks again whenever its task is woken. Cancel safe.
    pub async fn reached(&self, elapsed: Duration) {
        match &self.0.source {
            Source::Paused(origin) => tokio::time::sleep_until(*origin + elapsed).await,
            Source::Stepped(_) => {
                poll_fn(|_| match self.elapsed() >= elapsed {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
            }
        }
    }

    /// Awaits `work` for at most `limit`. If it takes longer, drops it and returns `None`. The
    /// stepped kind drops `work` at its first await point after the limit.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let end = self.elapsed().saturating_add(limit);
        let mut over = pin!(self.reached(end));
        let mut work = pin!(work);
        poll_fn(|context| {
            if over.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Time").field(&self.now()).finish()
    }
}

/// The suspensions of a machine, as times since the start. Clones are the same machine.
#[derive(Debug, Clone, Default)]
pub struct Suspensions(Arc<Mutex<Vec<(Duration, Duration)>>>);

impl Suspensions {
    /// Adds a suspension. Suspensions do not overlap and do not lie in the past.
    pub fn add(&self, from: Duration, until: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((from, until));
    }

    /// How long the machine was suspended until `now`.
    fn until(&self, now: Duration) -> Duration {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stood = all
            .iter()
            .map(|(from, until)| now.clamp(*from, *until).saturating_sub(*from));
        stood.sum()
    }
}

fn add(elapsed: &Mutex<Duration>, duration: Duration) {
    let mut elapsed = lock(elapsed);
    *elapsed = elapsed.saturating_add(duration);
}

fn lock(elapsed: &Mutex<Duration>) -> MutexGuard<'_, Duration> {
    elapsed.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct SkewedClock {
    time: Time,
    skew: i64,
    suspended: Suspensions,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.time.now().as_millis() + self.skew * 1000)
    }

    fn monotonic(&self) -> Duration {
        let now = self.time.elapsed();
        now.saturating_sub(self.suspended.until(now))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let time = self.time.clone();
        Box::pin(async move { time.sleep(duration).await })
    }

    fn passes(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let time = self.time.clone();
        let end = time.elapsed().saturating_add(duration);
        Box::pin(async move { time.reached(end).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join;

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn on_the_paused_clock_sleepers_share_the_time_that_passes() {
        let time = Time::paused(START);
        join(time.sleep(HOUR), time.clock(0).sleep(2 * HOUR)).await;
        assert_eq!(time.now(), START.plus(2 * HOUR));
    }

    #[tokio::test]
    async fn stepped_time_passes_by_sleeping_alone() {
        let time = Time::stepped(START);
        tokio::task::yield_now().await;
        assert_eq!(time.now(), START);
        time.clock(7).sleep(HOUR).await;
        assert_eq!(time.now(), START.plus(HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_differ_in_what_they_show_and_not_in_how_they_run() {
        for time in [Time::paused(START), Time::stepped(START)] {
            let (ahead, behind) = (time.clock(2700), time.clock(-2700));
            time.sleep(HOUR).await;
            assert_eq!(ahead.now().since(behind.now()), Duration::from_secs(5400));
            assert_eq!(ahead.monotonic(), behind.monotonic());
            assert_eq!(ahead.now(), time.now().plus(Duration::from_secs(2700)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_monotonic_time_of_a_suspended_machine_stands_still() {
        let time = Time::paused(START);
        let suspended = Suspensions::default();
        let (clock, wall) = (time.clock_of_machine(0, &suspended), time.clock(0));
        suspended.add(HOUR, 3 * HOUR);
        suspended.add(4 * HOUR, 5 * HOUR);
        for expected in [1, 1, 1, 2, 2, 3] {
            time.sleep(HOUR).await;
            assert_eq!(clock.monotonic(), expected * HOUR);
            assert_eq!(clock.now(), wall.now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_than_its_limit_is_dropped() {
        for time in [Time::paused(START), Time::stepped(START)] {
            let work = async {
                time.sleep(HOUR).await;
                time.sleep(HOUR).await;
            };
            assert_eq!(time.within(HOUR / 2, work).await, None);
            assert_eq!(time.now(), START.plus(time.elapsed()));
            assert_eq!(time.within(2 * HOUR, time.sleep(HOUR)).await, Some(()));
        }
    }
}
