//! The retry layer, the only one.

mod policy;

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backoff::backoff::Backoff;

use crate::error::{Failure, Fault};
use crate::outage::{Outage, Outages};
use crate::time::{Clock, Deadline, Random};

use policy::FullJitter;
pub use policy::RetryPolicy;

/// How long operations are still retried after a stop.
const GRACE: Duration = Duration::from_secs(1);

/// An operation that exceeds its budget by more than this was suspended: with the clients' timeouts
/// and the SDK's own retries, no attempt takes that long.
const OVERRUN: Duration = Duration::from_secs(2 * 60);

/// The interval at which a waiting operation checks for a stop.
const SLICE: Duration = Duration::from_secs(1);

/// Retries operations by a policy, on a clock.
///
/// Clones share the state of an [outage](Outage), so the operations of one run report it once.
#[derive(Debug, Clone)]
pub struct Retry {
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    random: Random,
    outages: Arc<Outages>,
    grace: Duration,
}

impl Retry {
    /// Uses `policy` on `clock`, with jitter from `random`. Outages are traced.
    pub fn new(policy: RetryPolicy, clock: Arc<dyn Clock>, random: Random) -> Self {
        Self {
            policy,
            clock,
            random,
            outages: Arc::default(),
            grace: GRACE,
        }
    }

    /// Reports outages to `tell` as well. It is called between attempts, so it should return soon.
    #[must_use]
    pub fn on_outage(mut self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        self.outages = Arc::new(Outages::new(tell));
        self
    }

    /// The same with another policy; the state of an outage stays shared.
    #[must_use]
    pub fn by(&self, policy: RetryPolicy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// The same, but retries for `grace` after a [stop](Retry::stop) instead of one second: for
    /// cleanup.
    #[must_use]
    pub fn with_grace(&self, grace: Duration) -> Self {
        Self {
            grace,
            ..self.clone()
        }
    }

    /// The policy.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// The clock that measures waits.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The deadline of an operation that begins now: `deadline`, or the end of the policy's budget
    /// if that is earlier.
    pub fn batch_deadline(&self, deadline: Deadline) -> Deadline {
        deadline.earlier(Deadline::within(&*self.clock, self.policy.budget))
    }

    /// Ends failing operations soon: one second later, nothing is retried any more.
    pub fn stop(&self) {
        let now = self.clock.monotonic();
        self.outages.state().stopped.get_or_insert(now);
    }

    /// How long the operation had failed that last gave up because its budget was used up.
    pub fn gave_up_after(&self) -> Option<Duration> {
        self.outages.state().gave_up_after
    }

    /// Whether any operation used up its attempts or its budget. Other failed operations had no
    /// time left before their own deadline.
    pub fn is_exhausted(&self) -> bool {
        self.outages.state().is_exhausted
    }

    /// Whether nothing is retried any more, since [`stop`](Retry::stop) was called.
    pub fn is_stopped(&self) -> bool {
        let stopped = self.outages.state().stopped;
        stopped.is_some_and(|at| self.clock.monotonic() >= at.saturating_add(self.grace))
    }

    /// Runs `operation` until it succeeds, fails permanently, or attempts or time are used up, and
    /// returns its last result. `on_retry` is called for every failure that is retried.
    ///
    /// # Cancel safety
    ///
    /// Like the operation itself: nothing is held between attempts.
    pub async fn run<T, E, Op, Fut>(
        &self,
        deadline: Deadline,
        mut on_retry: impl FnMut(&E),
        mut operation: Op,
    ) -> Result<T, E>
    where
        E: Failure + 'static,
        Op: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut attempts = self.attempts(deadline);
        loop {
            let error = match operation().await {
                Ok(answer) => {
                    attempts.progressed();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let Some(wait) = attempts.after(&error) else {
                return Err(error);
            };
            on_retry(&error);
            if !attempts.rest(wait).await {
                return Err(error);
            }
        }
    }

    /// The attempts of one operation that begins now, for work of many parts that counts the
    /// attempts of each part itself.
    pub fn attempts(&self, deadline: Deadline) -> Attempts<'_> {
        Attempts {
            retry: self,
            deadline,
            since: self.clock.monotonic(),
            transient: 0,
            resumed: false,
            schedule: FullJitter::new(&self.policy, &self.random),
            failing: None,
        }
    }
}

/// The attempts of one operation: how long to wait in between, and when to give up.
#[derive(Debug)]
pub struct Attempts<'a> {
    retry: &'a Retry,
    deadline: Deadline,
    /// When it began, last succeeded, or woke up past its budget.
    since: Duration,
    /// The number of consecutive transient failures.
    transient: u32,
    /// Whether it got a second budget because it was suspended.
    resumed: bool,
    schedule: FullJitter<'a>,
    /// Its place among the operations that fail at the moment.
    failing: Option<u64>,
}

impl Attempts<'_> {
    /// The deadline of the next attempt: the operation's own, or the end of the budget.
    pub fn deadline(&self) -> Deadline {
        let left = self.retry.policy.budget.saturating_sub(self.failing_for());
        let budget = Deadline::within(&*self.retry.clock, left);
        self.deadline.earlier(budget)
    }

    /// Notes that the operation, or a part of it, succeeded: its budget starts over.
    pub fn progressed(&mut self) {
        let now = self.retry.clock.monotonic();
        self.retry.outages.succeeded(self.failing.take(), now);
        (self.since, self.resumed, self.transient) = (now, false, 0);
        self.schedule.reset();
    }

    /// How long to wait before the failed operation is retried as a whole; `None` if a retry cannot
    /// help, or attempts or time are used up.
    pub fn after<E: Failure + 'static>(&mut self, error: &E) -> Option<Duration> {
        let fault = error.fault();
        if fault == Fault::Transient {
            self.transient = self.transient.saturating_add(1);
            if self.transient >= self.retry.policy.max_attempts {
                self.exhausted();
                return None;
            }
        }
        self.wait_after(fault, Some(error))
    }

    /// Starts the budget of a suspended operation over, since its earlier failures say nothing
    /// about the present. This happens once, because an operation that ignores its deadline looks
    /// the same.
    fn resume(&mut self) {
        let budget = self.retry.policy.budget;
        if !self.resumed && self.failing_for() > budget.saturating_add(OVERRUN) {
            (self.since, self.resumed) = (self.retry.clock.monotonic(), true);
        }
    }

    /// Notes that a part of the operation has used up its attempts.
    pub fn exhausted(&self) {
        self.retry.outages.state().is_exhausted = true;
    }

    /// How long to wait before the next attempt, after one failed with `fault`; `None` if the time
    /// is used up. `error` is reported in an [outage](Outage).
    pub fn wait_after(
        &mut self,
        fault: Fault,
        error: Option<&(dyn Error + 'static)>,
    ) -> Option<Duration> {
        if !matches!(fault, Fault::Contention | Fault::Transient) {
            return None;
        }
        self.resume();
        let Retry { clock, outages, .. } = self.retry;
        let wait = self.schedule.wait_after(fault)?;
        let left = self.deadline.remaining(&**clock);
        if left.is_some_and(|left| wait >= left) {
            return None;
        }
        let (failing_for, budget) = (self.failing_for(), self.retry.policy.budget);
        if failing_for.saturating_add(wait) >= budget {
            let mut state = outages.state();
            (state.gave_up_after, state.is_exhausted) = (Some(failing_for.max(budget)), true);
            return None;
        }
        if let Some(error) = error {
            let place = self.failing.unwrap_or_else(|| outages.place());
            self.failing = Some(place);
            outages.failed(place, self.since, clock.monotonic(), error);
        }
        Some(wait)
    }

    /// Waits for `wait`. Returns `false` if nothing is to be retried, because of a
    /// [stop](Retry::stop).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn rest(&mut self, mut wait: Duration) -> bool {
        loop {
            if self.retry.is_stopped() {
                return false;
            }
            if wait.is_zero() {
                self.resume();
                return true;
            }
            let part = wait.min(SLICE);
            self.retry.clock.sleep(part).await;
            wait = wait.saturating_sub(part);
        }
    }

    fn failing_for(&self) -> Duration {
        self.retry.clock.monotonic().saturating_sub(self.since)
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        self.retry.outages.ended(self.failing);
    }
}

#[cfg(test)]
mod tests;
