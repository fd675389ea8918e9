//! The one retry layer. The crate of the schedule is named here and nowhere else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backoff::backoff::Backoff;

use crate::error::{Failure, Fault, OptionError};
use crate::outage::{Outage, Outages, Ticket};
use crate::time::{Clock, Deadline, Random};

/// How long operations are still tried again after they were told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// An operation that is past its budget by more than this was suspended: no attempt takes so long,
/// with the timeouts that clients have and the SDK's own retries.
const OVERRUN: Duration = Duration::from_secs(2 * 60);

/// How long a rest goes on before it is looked whether to stop.
const SLICE: Duration = Duration::from_secs(1);

/// How often, how fast and how long to try again.
///
/// Waits are drawn with full jitter: uniformly from zero to `min(cap, base · 2ⁿ)`
/// (AWS Architecture Blog, "Exponential Backoff And Jitter"). Transient failures (server errors,
/// timeouts) are tried `max_attempts` times in all; contention (throttles, conflicts) spends only
/// the time budget, and its waits begin at `contention_base`.
///
/// The budget is the time that one operation may go without success: a request, or a batch of
/// writes of which nothing gets done. Each success gives it back whole, so two outages shorter than
/// the budget end nothing, however close they are. It is counted by monotonic time, which may stand
/// still while a machine sleeps. Where that goes on while a process is suspended, an operation that
/// wakes up more than two minutes past its budget has it once more: nothing is given up for the time
/// in which it could not be tried.
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
    /// How long one operation may go without success, whatever its deadline. Default 60 s.
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
///
/// Clones share what they know of an [outage](Outage), so that the operations of one run tell it
/// once.
#[derive(Debug, Clone)]
pub struct Retry {
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    random: Random,
    outages: Arc<Outages>,
    grace: Duration,
}

impl Retry {
    /// Follows `policy` on `clock`, jitter from `random`. An outage is traced.
    pub fn new(policy: RetryPolicy, clock: Arc<dyn Clock>, random: Random) -> Self {
        Self {
            policy,
            clock,
            random,
            outages: Arc::default(),
            grace: GRACE,
        }
    }

    /// The same, and `tell` hears of an outage, too. It is called in between attempts, so it should
    /// return soon.
    #[must_use]
    pub fn on_outage(mut self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        self.outages = Arc::new(Outages::told_to(Box::new(tell)));
        self
    }

    /// The same by another policy; what is known of an outage stays shared.
    #[must_use]
    pub fn by(&self, policy: RetryPolicy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// The same for what has to be put in order after a [stop](Retry::stop): tried again for so
    /// long after it, instead of one second.
    #[must_use]
    pub fn with_grace(&self, grace: Duration) -> Self {
        Self {
            grace,
            ..self.clone()
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

    /// Until when an operation that begins now may take: `deadline`, or the policy's budget if that
    /// ends sooner.
    pub fn batch_deadline(&self, deadline: Deadline) -> Deadline {
        deadline.earlier(Deadline::within(&*self.clock, self.policy.budget))
    }

    /// Lets operations that fail end soon: from a second later on nothing is tried again.
    pub fn stop(&self) {
        self.outages.stop(self.clock.monotonic());
    }

    /// How long the operation had failed that was last given up because its budget was used up.
    pub fn gave_up_after(&self) -> Option<Duration> {
        self.outages.gave_up_after()
    }

    /// Whether any operation used up its attempts or its budget; what failed else had no time left
    /// before its own deadline.
    pub fn is_exhausted(&self) -> bool {
        self.outages.is_exhausted()
    }

    /// Whether nothing is tried again any more, since it was told to [stop](Retry::stop).
    pub fn is_stopped(&self) -> bool {
        self.outages.is_stopped(self.clock.monotonic(), self.grace)
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
            schedule: FullJitter::new(self),
            ticket: None,
        }
    }
}

/// The attempts of one operation: how long to wait in between, and when to give up.
#[derive(Debug)]
pub struct Attempts<'a> {
    retry: &'a Retry,
    deadline: Deadline,
    /// When it began, or last had success, or woke up past its budget.
    since: Duration,
    /// How many transient failures there were in a row.
    transient: u32,
    /// Whether it has its budget once more because it was suspended.
    resumed: bool,
    schedule: FullJitter<'a>,
    ticket: Option<Ticket>,
}

impl Attempts<'_> {
    /// Until when the next attempt may take: the deadline, or what is left of the budget.
    pub fn deadline(&self) -> Deadline {
        let left = self.retry.policy.budget.saturating_sub(self.failing_for());
        let budget = Deadline::within(&*self.retry.clock, left);
        self.deadline.earlier(budget)
    }

    /// Notes that the operation succeeded, or a part of it: from now on it has its whole budget.
    pub fn progressed(&mut self) {
        let now = self.retry.clock.monotonic();
        self.retry.outages.succeeded(&mut self.ticket, now);
        (self.since, self.resumed, self.transient) = (now, false, 0);
        self.schedule.reset();
    }

    /// How long to rest before the whole operation is tried again, after it failed; `None` if that
    /// cannot help, or attempts or time are used up.
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

    /// Gives back the budget of an operation that was suspended: what failed before says nothing of
    /// now. Once, since an operation that takes no heed of its deadline looks the same.
    fn resume(&mut self) {
        let budget = self.retry.policy.budget;
        if !self.resumed && self.failing_for() > budget.saturating_add(OVERRUN) {
            (self.since, self.resumed) = (self.retry.clock.monotonic(), true);
        }
    }

    /// Notes that a part of the operation has used up its attempts.
    pub fn exhausted(&self) {
        self.retry.outages.exhausted();
    }

    /// How long to rest before the next attempt, after one that failed with `fault`; `None` if the
    /// time is used up. `error` is told in an [outage](Outage).
    pub fn wait_after(
        &mut self,
        fault: Fault,
        error: Option<&(dyn std::error::Error + 'static)>,
    ) -> Option<Duration> {
        if !matches!(fault, Fault::Contention | Fault::Transient) {
            return None;
        }
        self.resume();
        let Retry {
            policy,
            clock,
            outages,
            ..
        } = self.retry;
        self.schedule.after = fault;
        let wait = self.schedule.next_backoff()?;
        let left = self.deadline.remaining(&**clock);
        if left.is_some_and(|left| wait >= left) {
            return None;
        }
        let failing_for = self.failing_for();
        if failing_for.saturating_add(wait) >= policy.budget {
            outages.gave_up(failing_for.max(policy.budget));
            return None;
        }
        if let Some(error) = error {
            outages.failed(&mut self.ticket, self.since, clock.monotonic(), error);
        }
        Some(wait)
    }

    /// Rests for `wait`; `false` if nothing is to be tried again because all was told to
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
        self.retry.outages.ended(&mut self.ticket);
    }
}

/// The waits of one operation.
#[derive(Debug)]
struct FullJitter<'a> {
    retry: &'a Retry,
    round: u32,
    /// What failed last.
    after: Fault,
}

impl<'a> FullJitter<'a> {
    fn new(retry: &'a Retry) -> Self {
        Self {
            retry,
            round: 0,
            after: Fault::Transient,
        }
    }
}

impl Backoff for FullJitter<'_> {
    fn reset(&mut self) {
        self.round = 0;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let Retry { policy, random, .. } = self.retry;
        let wait = policy.wait(self.round, self.after, random);
        self.round = self.round.saturating_add(1);
        Some(wait)
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
        let (attempts, notices) = (Mutex::new(0), Mutex::new(0));
        let result: Result<(), _> = retry
            .run(
                deadline,
                |_| *notices.lock().unwrap() += 1,
                || async {
                    *attempts.lock().unwrap() += 1;
                    Err(error())
                },
            )
            .await;
        assert!(result.is_err());
        (
            attempts.into_inner().unwrap(),
            notices.into_inner().unwrap(),
        )
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
            let after = match contended {
                true => Fault::Contention,
                false => Fault::Transient,
            };
            (0..2000)
                .map(|_| {
                    let mut schedule = FullJitter {
                        retry: &retry,
                        round,
                        after,
                    };
                    schedule.next_backoff().unwrap()
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

    const MINUTE: Duration = Duration::from_secs(60);

    /// What a retry told, in whole seconds of its clock.
    type Heard = Arc<Mutex<Vec<(u64, String)>>>;

    fn patient() -> (Retry, ManualClock, Heard) {
        let (retry, clock) = retry(RetryPolicy::patient());
        let heard = Heard::default();
        let (begun, of, to) = (clock.monotonic(), clock.clone(), Arc::clone(&heard));
        let retry = retry.on_outage(move |outage| {
            let at = (of.monotonic() - begun).as_secs();
            to.lock().unwrap().push((at, outage.to_string()));
        });
        (retry, clock, heard)
    }

    /// An operation that fails until `until` of the clock.
    async fn fails_until(retry: &Retry, clock: &ManualClock, until: Duration) -> bool {
        let answer = retry.run(
            Deadline::NONE,
            |_| (),
            || async {
                match clock.monotonic() < until {
                    true => Err(unavailable()),
                    false => Ok(()),
                }
            },
        );
        answer.await.is_ok()
    }

    #[tokio::test]
    async fn a_patient_operation_outlives_outages_shorter_than_its_budget_and_tells_of_them() {
        let (retry, clock, heard) = patient();
        for _ in 0..2 {
            let until = clock.monotonic() + 25 * MINUTE;
            assert!(fails_until(&retry, &clock, until).await);
        }
        assert_eq!(retry.gave_up_after(), None);
        let heard = heard.lock().unwrap();
        let (told, over): (Vec<_>, Vec<_>) = heard
            .iter()
            .partition(|(_, told)| told.contains("still trying"));
        assert_eq!(over.len(), 2, "{heard:?}");
        assert!((2 * 24..=2 * 26).contains(&told.len()), "{heard:?}");
        assert!((30..40).contains(&told[0].0), "{heard:?}");
        assert!(told[0].1.starts_with("no success for 3"), "{heard:?}");
        assert!(told[3].1.contains("for 3 min, still trying"), "{heard:?}");
        assert!(told[3].1.contains("the request failed"), "{heard:?}");
        assert_eq!(over[0].1, "it succeeds again after 25 min");
    }

    #[tokio::test]
    async fn an_outage_longer_than_the_budget_is_given_up_and_it_is_known_after_how_long() {
        let (retry, clock, _) = patient();
        let begun = clock.monotonic();
        assert!(!fails_until(&retry, &clock, begun + 31 * MINUTE).await);
        let tried = retry.gave_up_after().unwrap();
        assert_eq!(tried, 30 * MINUTE);
        assert!(clock.monotonic() - begun <= 30 * MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_many_operations_meet_is_told_once() {
        let heard = Heard::default();
        let to = Arc::clone(&heard);
        let clock = crate::time::SystemClock::shared();
        let retry = Retry::new(RetryPolicy::patient(), clock, Random::seeded(7));
        let retry = retry.on_outage(move |outage| {
            to.lock().unwrap().push((0, outage.to_string()));
        });
        let until = retry.clock().monotonic() + 4 * MINUTE + MINUTE / 6;
        let operations = (0..20).map(|_| {
            let attempt = || async {
                match retry.clock().monotonic() < until {
                    true => Err(throttled()),
                    false => Ok(()),
                }
            };
            retry.run(Deadline::NONE, |_| (), attempt)
        });
        for answer in futures::future::join_all(operations).await {
            answer.unwrap();
        }
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 4 + 1, "{heard:?}");
        assert_eq!(heard[4].1, "it succeeds again after 4 min");
    }

    #[tokio::test]
    async fn told_to_stop_it_gives_up_within_two_seconds() {
        let (retry, clock, _) = patient();
        retry.stop();
        let begun = clock.monotonic();
        assert!(!fails_until(&retry, &clock, begun + MINUTE).await);
        assert!(clock.monotonic() - begun <= Duration::from_secs(2));
        // What fails for a moment at the end is tried again all the same.
        let (retry, clock, _) = patient();
        retry.stop();
        let until = clock.monotonic() + Duration::from_millis(1);
        assert!(fails_until(&retry, &clock, until).await);
        assert_eq!(retry.gave_up_after(), None);
    }

    #[tokio::test]
    async fn success_of_a_part_gives_the_budget_back() {
        let (retry, clock, _) = patient();
        let mut attempts = retry.attempts(Deadline::NONE);
        for _ in 0..10 {
            clock.advance(25 * MINUTE);
            let wait = attempts.wait_after(Fault::Transient, Some(&unavailable()));
            assert!(attempts.rest(wait.unwrap()).await);
            attempts.progressed();
            let left = attempts.deadline().remaining(&clock);
            assert_eq!(left, Some(30 * MINUTE));
        }
        clock.advance(30 * MINUTE);
        assert_eq!(
            attempts.wait_after(Fault::Transient, Some(&unavailable())),
            None
        );
    }

    #[tokio::test]
    async fn an_operation_that_was_suspended_is_tried_after_it_woke_up() {
        for at_rest in [false, true] {
            let (retry, clock, _) = patient();
            let attempts = Mutex::new(0);
            let suspended = |now: bool| {
                if now {
                    clock.advance(120 * MINUTE);
                }
            };
            let answer = retry.run(
                Deadline::NONE,
                |_| suspended(at_rest && *attempts.lock().unwrap() == 1),
                || async {
                    let mut attempts = attempts.lock().unwrap();
                    *attempts += 1;
                    suspended(!at_rest && *attempts == 1);
                    // The network comes back later than the process.
                    match *attempts {
                        ..=2 => Err(unavailable()),
                        _ => Ok(()),
                    }
                },
            );
            assert!(answer.await.is_ok(), "{at_rest}");
            assert_eq!(retry.gave_up_after(), None);
        }
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_past_the_budget_is_no_suspension() {
        for seconds in 10..60 {
            let (retry, clock, _) = patient();
            let begun = clock.monotonic();
            let hangs = || async {
                clock.advance(Duration::from_secs(seconds));
                Err::<(), _>(unavailable())
            };
            assert!(retry.run(Deadline::NONE, |_| (), hangs).await.is_err());
            assert!(clock.monotonic() - begun < 31 * MINUTE, "{seconds} s");
        }
    }

    #[tokio::test]
    async fn what_rests_while_it_is_suspended_has_time_for_its_next_attempt() {
        let (retry, clock, _) = patient();
        let mut attempts = retry.attempts(Deadline::NONE);
        let wait = attempts.wait_after(Fault::Transient, Some(&unavailable()));
        clock.advance(120 * MINUTE);
        assert!(attempts.rest(wait.unwrap()).await);
        let left = attempts.deadline().remaining(&clock);
        assert_eq!(left, Some(30 * MINUTE));
        // Once: what takes no heed of its deadline looks the same, and would never be given up.
        clock.advance(120 * MINUTE);
        let wait = attempts.wait_after(Fault::Transient, Some(&unavailable()));
        assert_eq!((wait, retry.gave_up_after()), (None, Some(120 * MINUTE)));
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
