//! How often is tried again, how long, and what is told of it.

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
                let mut schedule = FullJitter::new(&retry.policy, &retry.random);
                schedule.round = round;
                schedule.wait_after(after).unwrap()
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
