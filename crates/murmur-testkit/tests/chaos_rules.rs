//! Each rule of the exactly-once protocol, left out: an interleaving in which it matters goes right
//! with the rule and wrong without.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use futures::future::{BoxFuture, join};
use murmur_state::{Clock, Timestamp};
use murmur_testkit::chaos::{Aggregate, Rule, SKEW, Stage, Wrong};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A row that never turns hot.
const NEVER: usize = usize::MAX;

/// Less than half of an attempt's timeout.
const SLOW: Duration = Duration::from_secs(2);

/// Plays `script` with all rules, where all is well, and without `rule`, where an event counts
/// twice.
async fn matters(rule: Rule, script: impl AsyncFn(Option<Rule>) -> Vec<Wrong>) {
    shows(rule, script, |wrong| {
        matches!(wrong, Wrong::Total { too_high: true, .. })
    })
    .await;
}

/// The same, where without `rule` something else goes wrong.
async fn shows(
    rule: Rule,
    script: impl AsyncFn(Option<Rule>) -> Vec<Wrong>,
    as_expected: impl Fn(&Wrong) -> bool,
) {
    assert_eq!(script(None).await, [], "with all rules");
    let wrong = script(Some(rule)).await;
    assert!(wrong.iter().any(as_expected), "without {rule:?}: {wrong:?}");
}

/// Lets time pass until `at` after the start.
async fn until(stage: &Stage, at: Duration) {
    let elapsed = stage.time().elapsed();
    assert!(elapsed <= at, "{elapsed:?} is past {at:?}");
    stage.sleep(at - elapsed).await;
}

#[tokio::test(start_paused = true)]
async fn ids_of_this_period_are_checked() {
    matters(Rule::IdsInCur, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let (a, b) = (stage.actor(0), stage.actor(0));
        let event = stage.event(1);
        assert!(stage.deliver(&a, &[&event]).await);
        assert!(stage.deliver(&b, &[&event]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ids_of_the_period_before_are_checked() {
    matters(Rule::IdsInPrev, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let a = stage.actor(0);
        until(&stage, 25 * HOUR).await;
        let old = stage.event(1);
        assert!(stage.deliver(&a, &[&old]).await);
        until(&stage, 27 * HOUR).await;
        assert!(stage.deliver(&a, &[&stage.event(2)]).await);
        assert!(stage.deliver(&a, &[&old]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_period_is_not_shifted_twice() {
    matters(Rule::PeriodAsRead, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let (a, slow) = (stage.actor(0), stage.actor(-SKEW));
        until(&stage, 25 * HOUR).await;
        let old = stage.event(1);
        assert!(stage.deliver(&a, &[&old]).await);
        assert!(stage.deliver(&slow, &[&stage.event(2)]).await);
        until(&stage, 26 * HOUR + 10 * MINUTE).await;
        assert!(stage.deliver(&a, &[&stage.event(4)]).await);
        // Both have come to the new period, and this one does not know that the row has, too.
        until(&stage, 26 * HOUR + 50 * MINUTE).await;
        assert!(stage.deliver(&slow, &[&stage.event(8)]).await);
        assert!(stage.deliver(&a, &[&old]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_clock_does_not_take_a_period_back() {
    matters(Rule::PeriodOnlyGrows, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let (a, slow) = (stage.actor(0), stage.actor(-SKEW));
        until(&stage, 25 * HOUR).await;
        let old = stage.event(1);
        assert!(stage.deliver(&a, &[&old]).await);
        until(&stage, 26 * HOUR + 10 * MINUTE).await;
        assert!(stage.deliver(&a, &[&stage.event(2)]).await);
        assert!(stage.deliver(&slow, &[&stage.event(4)]).await);
        assert!(stage.deliver(&stage.actor(0), &[&old]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_shift_moves_what_is_there_and_not_what_was_read() {
    matters(Rule::ShiftInPlace, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let (a, slow) = (stage.actor(0), stage.actor(-SKEW));
        until(&stage, 25 * HOUR).await;
        assert!(stage.deliver(&a, &[&stage.event(1)]).await);
        assert!(stage.deliver(&slow, &[&stage.event(2)]).await);
        until(&stage, 26 * HOUR + 10 * MINUTE).await;
        if rule.is_some() {
            let row = stage.row().await.unwrap();
            let copy: Vec<String> = row["cur"].as_bs().unwrap().iter().map(base64).collect();
            a.process().rewrite(move |request| {
                let text = request.body["UpdateExpression"]
                    .as_str()
                    .unwrap_or_default();
                if text.contains("prev = cur") {
                    request.body["UpdateExpression"] =
                        json!(text.replace("prev = cur", "prev = :copy"));
                    request.body["ExpressionAttributeValues"][":copy"] = json!({ "BS": copy });
                }
            });
        }
        let between = stage.event(4);
        let shift = stage.event(8);
        stage.slow(SLOW);
        let meanwhile = async {
            stage.sleep(SECOND).await;
            stage.calm();
            stage.deliver(&slow, &[&between]).await
        };
        assert_eq!(
            join(stage.deliver(&a, &[&shift]), meanwhile).await,
            (true, true)
        );
        assert!(stage.deliver(&a, &[&between]).await);
        stage.judge().await
    })
    .await;
}

fn base64(bytes: &aws_sdk_dynamodb::primitives::Blob) -> String {
    aws_smithy_types::base64::encode(bytes)
}

/// A row that `a` turned hot: `first` was cold then, `second` is in a marker row.
async fn turned_hot(stage: &Stage, a: &murmur_testkit::chaos::Actor) -> (EventRecord, EventRecord) {
    let (first, second) = (stage.event(1 << 40), stage.event(1 << 41));
    assert!(stage.deliver(a, &[&first]).await);
    assert!(stage.deliver(a, &[&second]).await);
    assert!(stage.is_hot().await);
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn a_row_read_without_ids_is_not_overwritten_with_some() {
    matters(Rule::AbsentAsRead, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let (a, fast, c) = (stage.actor(0), stage.actor(SKEW), stage.actor(0));
        assert!(stage.deliver(&fast, &[&stage.event(1)]).await);
        until(&stage, MINUTE).await;
        turned_hot(&stage, &a).await;
        until(&stage, 25 * HOUR + 16 * MINUTE + 30 * SECOND).await;
        assert!(stage.deliver(&c, &[]).await);
        let (fresh, between) = (stage.event(2), stage.event(4));
        stage.slow(SLOW);
        let meanwhile = async {
            // A refused write and the turn to cold take two round trips of 4 s.
            stage.sleep(8 * SECOND + SECOND / 2).await;
            stage.calm();
            assert!(!stage.is_hot().await);
            stage.deliver(&c, &[&between]).await
        };
        assert_eq!(
            join(stage.deliver(&fast, &[&fresh]), meanwhile).await,
            (true, true)
        );
        assert!(stage.deliver(&stage.actor(0), &[&between]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_plain_write_does_not_go_to_a_hot_row() {
    matters(Rule::NoFlagInPlain, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 3).await;
        let (a, b) = (stage.actor(0), stage.actor(0));
        assert!(stage.deliver(&b, &[&stage.event(1)]).await);
        let events = [2, 4, 8].map(|amount| stage.event(amount));
        for event in &events {
            assert!(stage.deliver(&a, &[event]).await);
        }
        assert!(stage.is_hot().await);
        assert!(stage.deliver(&b, &[&events[2]]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hot_write_does_not_go_to_a_row_that_is_cold_again() {
    matters(Rule::FlagInHot, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let (slow, fast) = (stage.actor(-SKEW), stage.actor(SKEW));
        until(&stage, HOUR).await;
        turned_hot(&stage, &slow).await;
        until(&stage, 25 * HOUR + 31 * MINUTE).await;
        let event = stage.event(1);
        assert!(stage.deliver(&fast, &[&event]).await);
        assert!(!stage.is_hot().await);
        assert!(stage.deliver(&slow, &[&event]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_epoch_is_never_used_again() {
    matters(Rule::EpochNew, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let (slow, fast) = (stage.actor(-SKEW), stage.actor(SKEW));
        until(&stage, HOUR).await;
        turned_hot(&stage, &slow).await;
        until(&stage, 25 * HOUR + 31 * MINUTE).await;
        let event = stage.event(1);
        assert!(stage.deliver(&fast, &[&event]).await);
        assert!(!stage.is_hot().await);
        assert!(stage.deliver(&fast, &[&stage.event(2)]).await);
        assert!(stage.is_hot().await);
        assert!(stage.deliver(&slow, &[&event]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_takes_along_every_id_or_is_refused() {
    matters(Rule::TurnAsRead, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 2).await;
        let (a, b) = (stage.actor(0), stage.actor(0));
        assert!(stage.deliver(&a, &[&stage.event(1)]).await);
        assert!(stage.deliver(&b, &[&stage.event(2)]).await);
        let (turning, between) = (stage.event(4), stage.event(8));
        stage.slow(SLOW);
        let meanwhile = async {
            // The row is read in 4 s, then the turn takes 2 s to arrive.
            stage.sleep(5 * SECOND).await;
            stage.calm();
            stage.deliver(&a, &[&between]).await
        };
        assert_eq!(
            join(stage.deliver(&b, &[&turning]), meanwhile).await,
            (true, true)
        );
        assert!(stage.deliver(&stage.actor(0), &[&between]).await);
        stage.judge().await
    })
    .await;
}

async fn redelivered_after_the_turn(rule: Option<Rule>) -> Vec<Wrong> {
    let stage = Stage::new(Aggregate::Sum, rule, 1).await;
    let a = stage.actor(0);
    let (first, _) = turned_hot(&stage, &a).await;
    assert!(stage.deliver(&stage.actor(0), &[&first]).await);
    stage.judge().await
}

#[tokio::test(start_paused = true)]
async fn the_frozen_item_has_the_ids() {
    matters(Rule::FrozenWritten, redelivered_after_the_turn).await;
}

#[tokio::test(start_paused = true)]
async fn the_frozen_item_is_consulted() {
    matters(Rule::FrozenConsulted, redelivered_after_the_turn).await;
}

#[tokio::test(start_paused = true)]
async fn marker_rows_refuse_what_they_have() {
    matters(Rule::IdsInMarkers, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let a = stage.actor(0);
        let (_, second) = turned_hot(&stage, &a).await;
        assert!(stage.deliver(&a, &[&second]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_name_a_marker_row_alike() {
    matters(Rule::MarkerByFlooredSecond, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let (a, b) = (stage.actor(0), stage.actor(0));
        let (_, second) = turned_hot(&stage, &a).await;
        assert!(stage.deliver(&b, &[&second]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn marker_rows_outlive_their_events() {
    matters(Rule::MarkersLive, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let a = stage.actor(0);
        let (_, second) = turned_hot(&stage, &a).await;
        until(&stage, 23 * HOUR).await;
        stage.sweep().await;
        assert!(stage.deliver(&a, &[&second]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn state_rows_outlive_their_contributions() {
    shows(
        Rule::RowsLive,
        async |rule| {
            let stage = Stage::with(rule, |scenario| {
                scenario.window = Some(HOUR);
                scenario.sweep = Some(HOUR);
            })
            .await;
            let a = stage.actor(0);
            assert!(stage.deliver(&a, &[&stage.event(1)]).await);
            until(&stage, 30 * HOUR).await;
            stage.sweep().await;
            stage.judge().await
        },
        |wrong| {
            matches!(
                wrong,
                Wrong::Total {
                    too_high: false,
                    ..
                }
            )
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_row_written_hot_meanwhile_stays_hot() {
    matters(Rule::CoolAsRead, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let (a, b) = (stage.actor(0), stage.actor(0));
        turned_hot(&stage, &a).await;
        until(&stage, MINUTE).await;
        assert!(stage.deliver(&b, &[&stage.event(1)]).await);
        until(&stage, 20 * HOUR).await;
        let late = stage.event(2);
        assert!(stage.deliver(&a, &[&late]).await);
        until(&stage, 26 * HOUR + 30 * MINUTE).await;
        assert!(stage.deliver(&b, &[&stage.event(4)]).await);
        assert!(stage.deliver(&stage.actor(0), &[&late]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_row_stays_hot_as_long_as_its_markers_matter() {
    matters(Rule::CoolLate, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, 2).await;
        let a = stage.actor(0);
        let events = [1, 2, 4].map(|amount| stage.event(amount));
        for event in &events {
            assert!(stage.deliver(&a, &[event]).await);
        }
        assert!(stage.is_hot().await);
        until(&stage, 2 * MINUTE).await;
        assert!(stage.deliver(&a, &[&stage.event(8)]).await);
        assert!(stage.deliver(&a, &[&events[2]]).await);
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_id_may_be_forgotten_is_not_applied() {
    matters(Rule::TooOld, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let a = stage.actor(0);
        let old = stage.event(1);
        assert!(stage.deliver(&a, &[&old]).await);
        for hours in [27, 53] {
            until(&stage, hours * HOUR).await;
            assert!(stage.deliver(&a, &[&stage.event(2)]).await);
        }
        assert!(stage.deliver(&a, &[&old]).await);
        stage.judge().await
    })
    .await;
}

/// The clock of a process that was suspended for a day right after it had looked at the clock
/// for the n-th time.
#[derive(Debug)]
struct Suspended {
    truth: Arc<dyn Clock>,
    /// What it saw before; no more than so many looks.
    before: Timestamp,
    looks: AtomicUsize,
}

impl Clock for Suspended {
    fn now(&self) -> Timestamp {
        let left = |looks: usize| looks.checked_sub(1);
        match self
            .looks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
        {
            Ok(_) => self.before,
            Err(_) => self.truth.now(),
        }
    }

    fn monotonic(&self) -> Duration {
        self.truth.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.truth.sleep(duration)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_composed_long_ago_is_composed_anew() {
    let script = async |rule, looks| {
        let stage = Stage::new(Aggregate::Sum, rule, 1).await;
        let a = stage.actor(0);
        let clock = Arc::new(Suspended {
            truth: stage.time().clock(0),
            before: stage.time().now().plus(24 * HOUR),
            looks: AtomicUsize::new(0),
        });
        let suspended = stage.actor_with(0, clock.clone());
        let (_, second) = turned_hot(&stage, &a).await;
        for (hours, actor) in [(20, &a), (24, &suspended), (44, &a)] {
            until(&stage, hours * HOUR).await;
            assert!(stage.deliver(actor, &[&stage.event(1)]).await);
        }
        // The marker row has lived its 48 h.
        until(&stage, 49 * HOUR).await;
        stage.sweep().await;
        clock.looks.store(looks, Ordering::Relaxed);
        assert!(stage.deliver(&suspended, &[&second]).await);
        stage.judge().await
    };
    // Suspended before it looks for the last time, it sees how old the attempt is. After that look
    // it is a request that stalls, which may take 15 minutes and not a day.
    let mut noticed = 0;
    for looks in 0..6 {
        let right = script(None, looks).await.is_empty();
        let wrong = !script(Some(Rule::ComposedAnew), looks).await.is_empty();
        noticed += usize::from(right && wrong);
    }
    assert!(noticed > 0, "nobody notices");
}

#[tokio::test(start_paused = true)]
async fn a_condition_names_no_more_ids_than_fit() {
    shows(
        Rule::FewIds,
        async |rule| {
            let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
            let a = stage.actor(0);
            let events: Vec<EventRecord> = (0..100).map(|n| stage.event(n)).collect();
            let done = stage.deliver(&a, &events.iter().collect::<Vec<_>>()).await;
            // What is refused for its form is no record's fault, and comes again.
            assert_eq!(done, rule.is_none());
            stage.judge().await
        },
        |wrong| matches!(wrong, Wrong::Oversized(_)),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_no_overflow() {
    shows(
        Rule::IdsJudgedFirst,
        async |rule| {
            let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
            let a = stage.actor(0);
            let (large, small) = (stage.event(i64::MAX - 5), stage.event(3));
            assert!(stage.deliver(&a, &[&large]).await);
            stage.deliver(&stage.actor(0), &[&large, &small]).await;
            stage.judge().await
        },
        |wrong| matches!(wrong, Wrong::Rejected(_)),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_has_a_token_of_its_own() {
    shows(
        Rule::TokensRandom,
        async |rule| {
            let stage = Stage::new(Aggregate::Sum, rule, 1).await;
            let a = stage.actor(0);
            for amount in [1, 2, 4] {
                let event = stage.event(amount);
                stage.deliver(&a, &[&event]).await;
            }
            stage.judge().await
        },
        |wrong| matches!(wrong, Wrong::Lost { .. }),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn ids_are_kept_as_long_as_the_stream_keeps_records() {
    matters(Rule::HorizonSpansRetention, async |rule| {
        let stage = Stage::new(Aggregate::Sum, rule, NEVER).await;
        let a = stage.actor(0);
        let old = stage.event(1);
        assert!(stage.deliver(&a, &[&old]).await);
        for minutes in [90, 150] {
            until(&stage, minutes * MINUTE).await;
            assert!(stage.deliver(&a, &[&stage.event(2)]).await);
        }
        assert!(stage.deliver(&a, &[&old]).await);
        stage.judge().await
    })
    .await;
}

/// The longest an id can be told from a new one: taken at the end of a period by the slowest
/// clock, forgotten at the beginning of the next but one by the fastest.
async fn with_clocks_off_by(skew: i64) -> (Duration, Vec<Wrong>) {
    let stage = Stage::new(Aggregate::Sum, None, NEVER).await;
    let off = Duration::from_secs(skew.unsigned_abs());
    let (slow, fast) = (stage.actor(-skew), stage.actor(skew));
    assert!(stage.deliver(&slow, &[&stage.event(1)]).await);
    until(&stage, 26 * HOUR + off - SECOND).await;
    let event = stage.event(2);
    assert!(stage.deliver(&slow, &[&event]).await);
    until(&stage, 26 * HOUR + off).await;
    assert!(stage.deliver(&fast, &[&stage.event(4)]).await);
    let forgotten = 52 * HOUR - off;
    until(&stage, forgotten).await;
    assert!(stage.deliver(&fast, &[&stage.event(8)]).await);
    assert!(stage.deliver(&slow, &[&event]).await);
    (forgotten - (26 * HOUR + off), stage.judge().await)
}

#[tokio::test(start_paused = true)]
async fn clocks_further_off_than_promised_break_it() {
    let (age, wrong) = with_clocks_off_by(3 * 3600).await;
    assert!(age < 24 * HOUR && !wrong.is_empty(), "{age:?}: {wrong:?}");
    // With clocks as promised an id is kept longer than a record can take to come.
    let (age, _) = with_clocks_off_by(SKEW).await;
    assert!(age > 24 * HOUR + 15 * MINUTE, "{age:?}");
}
