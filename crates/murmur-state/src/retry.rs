//! The one retry layer. The crate that waits is named here and nowhere else.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::future::{Retry as BackoffRetry, Sleeper};
use futures::future::BoxFuture;

use crate::error::{Failure, Fault, OptionError};
use crate::time::{Clock, Deadline, Random};

/// How often, how fast and how long to try again.
///
/// Waits are drawn with full jitter: uniformly from zero to `min(cap, base · 2ⁿ)`
/// (AWS Architecture Blog, "Exponential Backoff And Jitter"). Transient failures (server errors,
/// timeouts) are tried `max_attempts` times in all; contention (throttles, conflicts) spends only
/// the time budget, and its waits begin at `contention_base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts in all for transient failures. Default 3.
    pub max_attempts: u32,
    /// Upper bound of the first wait. Default 50 ms.
    pub base: Duration,
    /// Upper bound of the first wait after a throttle or a conflict. Default 500 ms: transactions
    /// that meet on an item are cancelled, not queued, so those who come back soon only meet again.
    pub contention_base: Duration,
    /// Upper bound of every wait. Default 5 s.
    pub cap: Duration,
    /// How long one batch may go on trying, whatever its deadline. Default 60 s.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            base: Duration::from_millis(50),
            contention_base: Duration::from_millis(500),
            cap: Duration::from_secs(5),
            budget: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// For work that runs unattended, such as a bootstrap: attempts are not limited, only time is,
    /// to 30 minutes without success; waits are at most 5 s.
    #[must_use]
    pub fn patient() -> Self {
        Self {
            max_attempts: u32::MAX,
            budget: Duration::from_secs(30 * 60),
            ..Self::default()
        }
    }

    /// The same with `max_attempts`.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// The same with waits from `base`, doubling up to `cap`, after whatever failure.
    #[must_use]
    pub fn waits(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.contention_base, self.cap) = (base, base, cap);
        self
    }

    /// The same with waits after throttles and conflicts that begin at `base`.
    #[must_use]
    pub fn contention_base(mut self, base: Duration) -> Self {
        self.contention_base = base;
        self
    }

    /// The same with a time budget.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// The wait before trying again for the `round`-th time, counted from 0, after a failure of
    /// this kind: drawn uniformly from zero to `min(cap, base · 2^round)`.
    pub fn wait(&self, round: u32, after: Fault, random: &Random) -> Duration {
        let base = match after {
            Fault::Contention => self.contention_base,
            Fault::Transient | Fault::Record | Fault::Setup => self.base,
        };
        random.up_to(
            base.saturating_mul(2u32.saturating_pow(round))
                .min(self.cap),
        )
    }

    /// Checks that the policy can be followed.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for zero attempts, or a base above the cap.
    pub fn validate(&self) -> Result<(), OptionError> {
        if self.max_attempts == 0 {
            return Err(OptionError::new(
                "max_attempts",
                "must be at least 1: the first try counts",
            ));
        }
        for base in [self.base, self.contention_base] {
            if base > self.cap {
                return Err(OptionError::new(
                    "retry_backoff",
                    format!("base {base:?} is above the cap {:?}", self.cap),
                ));
            }
        }
        Ok(())
    }
}

/// Tries operations again, by a policy, on a clock.
#[derive(Debug, Clone)]
pub struct Retry {
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    random: Random,
}

impl Retry {
    /// Follows `policy` on `clock`, jitter from `random`.
    pub fn new(policy: RetryPolicy, clock: Arc<dyn Clock>, random: Random) -> Self {
        Self {
            policy,
            clock,
            random,
        }
    }

    /// The policy followed.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// The clock waited on.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The deadline of a batch that begins now: `deadline`, or the policy's budget if that ends
    /// sooner.
    pub fn batch_deadline(&self, deadline: Deadline) -> Deadline {
        deadline.earlier(Deadline::within(&*self.clock, self.policy.budget))
    }

    /// Runs `operation` until it succeeds, fails for good, or attempts or time are used up; then
    /// its last error is returned. `on_retry` hears of every failure that is tried again.
    ///
    /// # Cancel safety
    ///
    /// As the operation's own: nothing is held between attempts.
    pub async fn run<T, E, Op, Fut>(
        &self,
        deadline: Deadline,
        mut on_retry: impl FnMut(&E),
        mut operation: Op,
    ) -> Result<T, E>
    where
        E: Failure,
        Op: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let transient = AtomicU32::new(0);
        let max_attempts = self.policy.max_attempts;
        let waits = self.waits(deadline);
        let contended = Arc::clone(&waits.contended);
        let judged = || {
            let attempt = operation();
            let (transient, contended) = (&transient, &contended);
            async move {
                attempt.await.map_err(|error| {
                    let fault = error.fault();
                    contended.store(fault == Fault::Contention, Ordering::Relaxed);
                    match fault {
                        Fault::Contention => backoff::Error::transient(error),
                        Fault::Transient
                            if transient.fetch_add(1, Ordering::Relaxed) + 1 < max_attempts =>
                        {
                            backoff::Error::transient(error)
                        }
                        Fault::Transient | Fault::Record | Fault::Setup => {
                            backoff::Error::permanent(error)
                        }
                    }
                })
            }
        };
        let notify = move |error, _| on_retry(&error);
        BackoffRetry::new(self.sleeper(), waits, notify, judged).await
    }

    /// Runs `round` again and again, with the same waits, until it breaks or time is used up.
    /// For work of many parts, which counts the attempts of each part itself and continues with
    /// the kind of failure to wait after.
    ///
    /// # Cancel safety
    ///
    /// As the round's own: nothing is held between rounds.
    pub async fn rounds<Round, Fut>(&self, deadline: Deadline, mut round: Round)
    where
        Round: FnMut() -> Fut,
        Fut: Future<Output = ControlFlow<(), Fault>>,
    {
        let waits = self.waits(deadline);
        let contended = Arc::clone(&waits.contended);
        let judged = || {
            let round = round();
            let contended = &contended;
            async move {
                match round.await {
                    ControlFlow::Break(()) => Ok(()),
                    ControlFlow::Continue(after) => {
                        contended.store(after == Fault::Contention, Ordering::Relaxed);
                        Err(backoff::Error::transient(()))
                    }
                }
            }
        };
        // An error here says that time is used up, which the rounds have seen for themselves.
        let _ = BackoffRetry::new(self.sleeper(), waits, |(), _| (), judged).await;
    }

    fn waits(&self, deadline: Deadline) -> FullJitter<'_> {
        FullJitter {
            retry: self,
            deadline: self.batch_deadline(deadline),
            round: 0,
            contended: Arc::default(),
        }
    }

    fn sleeper(&self) -> ClockSleeper {
        ClockSleeper(Arc::clone(&self.clock))
    }
}

struct FullJitter<'a> {
    retry: &'a Retry,
    deadline: Deadline,
    round: u32,
    /// Whether the wait to come is for others who got in the way.
    contended: Arc<AtomicBool>,
}

impl Backoff for FullJitter<'_> {
    fn reset(&mut self) {
        self.round = 0;
    }

    /// `None` once the next attempt would begin past the deadline.
    fn next_backoff(&mut self) -> Option<Duration> {
        let after = match self.contended.load(Ordering::Relaxed) {
            true => Fault::Contention,
            false => Fault::Transient,
        };
        let wait = self
            .retry
            .policy
            .wait(self.round, after, &self.retry.random);
        self.round = self.round.saturating_add(1);
        match self.deadline.remaining(&*self.retry.clock) {
            Some(left) if wait >= left => None,
            _ => Some(wait),
        }
    }
}

struct ClockSleeper(Arc<dyn Clock>);

impl Sleeper for ClockSleeper {
    type Sleep = BoxFuture<'static, ()>;

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Place, StoreError};
    use crate::time::{ManualClock, Timestamp};
    use std::sync::Mutex;

    fn throttled() -> StoreError {
        StoreError::Throttled {
            place: Place::table("test", "t"),
            source: None,
        }
    }

    fn unavailable() -> StoreError {
        StoreError::Unavailable {
            place: Place::table("test", "t"),
            may_have_applied: true,
            source: None,
        }
    }

    fn retry(policy: RetryPolicy) -> (Retry, ManualClock) {
        let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
        (
            Retry::new(policy, Arc::new(clock.clone()), Random::seeded(7)),
            clock,
        )
    }

    async fn count_attempts(
        retry: &Retry,
        deadline: Deadline,
        error: fn() -> StoreError,
    ) -> (u32, u32) {
        let (attempts, notices) = (AtomicU32::new(0), Mutex::new(0));
        let result: Result<(), _> = retry
            .run(
                deadline,
                |_| *notices.lock().unwrap() += 1,
                || async {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    Err(error())
                },
            )
            .await;
        assert!(result.is_err());
        (attempts.into_inner(), notices.into_inner().unwrap())
    }

    #[tokio::test]
    async fn transient_failures_spend_attempts() {
        let (retry, _) = retry(RetryPolicy::default());
        assert_eq!(
            count_attempts(&retry, Deadline::NONE, unavailable).await,
            (3, 2)
        );
    }

    #[tokio::test]
    async fn contention_spends_only_time() {
        let (retry, clock) = retry(RetryPolicy::default().budget(Duration::from_secs(600)));
        let start = clock.monotonic();
        let (attempts, _) = count_attempts(&retry, Deadline::NONE, throttled).await;
        assert!(attempts > 50, "{attempts}");
        assert!(clock.monotonic() - start < Duration::from_secs(600));
    }

    #[tokio::test]
    async fn nothing_is_tried_past_the_deadline() {
        let (retry, clock) = retry(RetryPolicy::default());
        let deadline = Deadline::within(&clock, Duration::from_millis(200));
        count_attempts(&retry, deadline, throttled).await;
        assert!(!deadline.passed(&clock));
    }

    #[tokio::test]
    async fn permanent_failures_are_not_tried_again() {
        let (retry, _) = retry(RetryPolicy::default());
        let wrong = || StoreError::Overflow {
            place: Place::table("test", "t"),
        };
        assert_eq!(count_attempts(&retry, Deadline::NONE, wrong).await, (1, 0));
    }

    #[test]
    fn waits_have_full_jitter_and_a_cap() {
        let (retry, _) = retry(RetryPolicy::default().budget(Duration::MAX));
        let draws = |round: u32, contended: bool| -> Vec<Duration> {
            (0..2000)
                .map(|_| {
                    FullJitter {
                        retry: &retry,
                        deadline: Deadline::NONE,
                        round,
                        contended: Arc::new(AtomicBool::new(contended)),
                    }
                    .next_backoff()
                    .unwrap()
                })
                .collect()
        };
        for (round, contended, bound_ms) in [
            (0, false, 50),
            (1, false, 100),
            (3, false, 400),
            (7, false, 5000),
            (90, false, 5000),
            (0, true, 500),
            (2, true, 2000),
            (4, true, 5000),
        ] {
            let waits = draws(round, contended);
            let bound = Duration::from_millis(bound_ms);
            let mean = waits.iter().sum::<Duration>() / 2000;
            assert!(waits.iter().all(|wait| *wait <= bound), "round {round}");
            assert!(waits.iter().any(|wait| *wait < bound / 20), "round {round}");
            assert!(
                mean > bound * 45 / 100 && mean < bound * 55 / 100,
                "round {round}: {mean:?}"
            );
        }
    }

    #[test]
    fn zero_attempts_are_refused_by_name() {
        let error = RetryPolicy::default()
            .max_attempts(0)
            .validate()
            .unwrap_err();
        assert_eq!(error.option, "max_attempts");
        let swapped = RetryPolicy::default().waits(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(swapped.validate().unwrap_err().option, "retry_backoff");
    }
}
