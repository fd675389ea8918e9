//! Number, pace and duration of retries. Only this file names the crate that computes the schedule.

use std::time::Duration;

use backoff::backoff::Backoff;

use crate::error::{Fault, OptionError};
use crate::time::Random;

/// Number, pace and duration of retries.
///
/// Waits use full jitter: they are uniform between zero and `min(cap, base · 2ⁿ)` (AWS Architecture
/// Blog, "Exponential Backoff And Jitter"). Transient failures (server errors, timeouts) get
/// `max_attempts` attempts in all. Contention (throttles, conflicts) is limited by the budget only,
/// and its waits begin at `contention_base`.
///
/// The budget is the time that one operation may go without success. An operation is a request, or
/// a batch of writes of which none succeeds. Each success resets the budget, so two outages shorter
/// than the budget end nothing, however close they are.
///
/// The budget is measured in monotonic time, which may stand still while a machine sleeps. Where
/// monotonic time continues while a process is suspended, an operation that wakes up more than two
/// minutes past its budget gets a second budget: it could not try in the meantime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts in all for transient failures. Default 3.
    pub max_attempts: u32,
    /// Upper bound of the first wait. Default 50 ms.
    pub base: Duration,
    /// Upper bound of the first wait after a throttle or a conflict. Default 500 ms: transactions
    /// that meet on an item are cancelled, not queued, so early retries only meet again.
    pub contention_base: Duration,
    /// Upper bound of every wait. Default 5 s.
    pub cap: Duration,
    /// The longest time one operation may go without success, if its deadline is not earlier.
    /// Default 60 s.
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
    /// For unattended work, such as a bootstrap: unlimited attempts, 30 minutes without success,
    /// waits of at most 5 s.
    #[must_use]
    pub fn patient() -> Self {
        Self {
            max_attempts: u32::MAX,
            budget: Duration::from_secs(30 * 60),
            ..Self::default()
        }
    }

    /// Sets `max_attempts`.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Sets waits from `base`, doubling up to `cap`, after any failure.
    #[must_use]
    pub fn waits(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.contention_base, self.cap) = (base, base, cap);
        self
    }

    /// Sets the first wait after throttles and conflicts.
    #[must_use]
    pub fn contention_base(mut self, base: Duration) -> Self {
        self.contention_base = base;
        self
    }

    /// Sets the time budget.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// The wait before retry number `round`, counted from 0, after a failure of this kind: uniform
    /// between zero and `min(cap, base · 2^round)`.
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

    /// Checks that the policy can be used.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for zero attempts, or a base above the cap.
    pub fn validate(&self) -> Result<(), OptionError> {
        if self.max_attempts == 0 {
            return Err(OptionError::new(
                "max_attempts",
                "must be at least 1; the first attempt counts",
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

/// The waits of one operation.
#[derive(Debug)]
pub(super) struct FullJitter<'a> {
    policy: &'a RetryPolicy,
    random: &'a Random,
    pub(super) round: u32,
    /// The last failure.
    after: Fault,
}

impl<'a> FullJitter<'a> {
    pub(super) fn new(policy: &'a RetryPolicy, random: &'a Random) -> Self {
        Self {
            policy,
            random,
            round: 0,
            after: Fault::Transient,
        }
    }

    pub(super) fn wait_after(&mut self, fault: Fault) -> Option<Duration> {
        self.after = fault;
        self.next_backoff()
    }
}

impl Backoff for FullJitter<'_> {
    fn reset(&mut self) {
        self.round = 0;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let wait = self.policy.wait(self.round, self.after, self.random);
        self.round = self.round.saturating_add(1);
        Some(wait)
    }
}
