//! Each rule of the exactly-once protocol, left out: an interleaving in which it matters goes right
//! with the rule and wrong without.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use futures::future::join;
use murmur_testkit::chaos::{Actor, Aggregate, Rule, Scenario, Stage, Wrong};
use murmur_testkit::cloud::Weather;
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

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

fn is_too_low(wrong: &Wrong) -> bool {
    matches!(
        wrong,
        Wrong::Total {
            too_high: false,
            ..
        }
    )
}

async fn sums(rule: Option<Rule>) -> Stage {
    Stage::new(Aggregate::Sum, rule).await
}

async fn with(rule: Option<Rule>, change: impl FnOnce(&mut Scenario)) -> Stage {
    Stage::with(rule, change).await
}

/// Lets time pass until `at` after the start.
async fn until(stage: &Stage, at: Duration) {
    let elapsed = stage.time().elapsed();
    assert!(elapsed <= at, "{elapsed:?} is past {at:?}");
    stage.sleep(at - elapsed).await;
}

/// Delivers an event, which succeeds.
async fn add(stage: &Stage, actor: &Actor, event: &EventRecord) {
    assert!(stage.deliver(actor, &[event]).await);
}

/// Delivers a new event that no script is about.
async fn fill(stage: &Stage, actor: &Actor) {
    add(stage, actor, &stage.event(1)).await;
}

/// How much the event adds that a script is about.
const MUCH: i64 = 1 << 40;

/// A row that began with another event than the one which is returned, and whose ids have not moved
/// on.
async fn begun(stage: &Stage) -> EventRecord {
    let (plain, event) = (stage.actor(), stage.event(MUCH));
    fill(stage, &plain).await;
    add(stage, &plain, &event).await;
    event
}

/// The same row, whose ids have then moved on twice: the event is in a page, and nowhere else.
async fn paged_out(stage: &Stage) -> EventRecord {
    let (event, mover) = (begun(stage).await, stage.mover());
    fill(stage, &mover).await;
    fill(stage, &mover).await;
    event
}

#[tokio::test(start_paused = true)]
async fn ids_that_came_since_the_row_was_known_refuse() {
    matters(Rule::IdsInCur, async |rule| {
        let stage = sums(rule).await;
        let (a, b) = (stage.actor(), stage.actor());
        fill(&stage, &b).await;
        let event = stage.event(MUCH);
        add(&stage, &a, &event).await;
        add(&stage, &b, &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ids_that_came_and_moved_on_once_refuse() {
    matters(Rule::IdsInPrev, async |rule| {
        let stage = sums(rule).await;
        let b = stage.actor();
        fill(&stage, &b).await;
        let event = begun(&stage).await;
        fill(&stage, &stage.mover()).await;
        add(&stage, &b, &event).await;
        stage.judge().await
    })
    .await;
}

/// The event came after the row was known, and is in a page when it comes again.
async fn moved_on_twice_meanwhile(rule: Option<Rule>) -> Vec<Wrong> {
    let stage = sums(rule).await;
    let b = stage.actor();
    fill(&stage, &b).await;
    let event = paged_out(&stage).await;
    add(&stage, &b, &event).await;
    stage.judge().await
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_ids_moved_on_refuses() {
    matters(Rule::PerAsRead, moved_on_twice_meanwhile).await;
}

#[tokio::test(start_paused = true)]
async fn it_refuses_from_the_second_move_on() {
    matters(Rule::PerOnceAtMost, moved_on_twice_meanwhile).await;
}

#[tokio::test(start_paused = true)]
async fn what_moved_on_twice_is_looked_up_again() {
    matters(Rule::LookedUpAgain, moved_on_twice_meanwhile).await;
}

#[tokio::test(start_paused = true)]
async fn two_do_not_move_the_same_ids_on() {
    matters(Rule::MovesOnce, async |rule| {
        let stage = sums(rule).await;
        let (a, other) = (stage.mover(), stage.mover());
        fill(&stage, &other).await;
        let event = begun(&stage).await;
        fill(&stage, &a).await;
        fill(&stage, &other).await;
        add(&stage, &stage.actor(), &event).await;
        stage.judge().await
    })
    .await;
}

/// An event comes between what a process knows of the row and the move that it makes.
async fn added_before_a_move(rule: Option<Rule>) -> Vec<Wrong> {
    let stage = sums(rule).await;
    let mover = stage.mover();
    fill(&stage, &mover).await;
    let event = begun(&stage).await;
    fill(&stage, &mover).await;
    fill(&stage, &mover).await;
    add(&stage, &stage.actor(), &event).await;
    stage.judge().await
}

#[tokio::test(start_paused = true)]
async fn a_move_takes_along_what_the_row_has_and_not_what_was_known() {
    matters(Rule::MovesInPlace, added_before_a_move).await;
}

#[tokio::test(start_paused = true)]
async fn a_row_is_known_by_an_answer_and_not_by_what_was_sent() {
    matters(Rule::ImageOfOneAnswer, added_before_a_move).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_looked_for_in_prev_before_it_is_written() {
    matters(Rule::PrevChecked, async |rule| {
        let stage = sums(rule).await;
        let (mover, c) = (stage.mover(), stage.actor());
        let event = begun(&stage).await;
        fill(&stage, &mover).await;
        stage.warm_up(&c).await;
        stage.slow(SLOW);
        let meanwhile = async {
            // It has read the row after 4 s, and its write arrives 2 s later.
            stage.sleep(5 * SECOND).await;
            stage.calm();
            fill(&stage, &mover).await;
        };
        join(add(&stage, &c, &event), meanwhile).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_looked_for_there_whenever_an_answer_shows_the_row() {
    matters(Rule::PrevCheckedAgain, async |rule| {
        let stage = with(rule, |scenario| scenario.rules.ids_per_update = 1).await;
        let (a, b, mover) = (stage.actor(), stage.actor(), stage.mover());
        fill(&stage, &b).await;
        // Since others write the row, too, its own writes bring it back.
        let others = stage.event(2);
        add(&stage, &a, &others).await;
        add(&stage, &b, &others).await;
        let (event, first) = (stage.event(MUCH), stage.event(4));
        add(&stage, &a, &event).await;
        fill(&stage, &mover).await;
        stage.slow(SLOW);
        let meanwhile = async {
            // The first is answered after 4 s, the second arrives 2 s later.
            stage.sleep(5 * SECOND).await;
            stage.calm();
            fill(&stage, &mover).await;
        };
        let (done, ()) = join(stage.deliver(&b, &[&first, &event]), meanwhile).await;
        assert!(done);
        stage.judge().await
    })
    .await;
}

async fn redelivered_from_a_page(rule: Option<Rule>) -> Vec<Wrong> {
    let stage = sums(rule).await;
    let event = paged_out(&stage).await;
    add(&stage, &stage.actor(), &event).await;
    stage.judge().await
}

#[tokio::test(start_paused = true)]
async fn what_a_row_forgets_is_in_a_page() {
    matters(Rule::PagesWritten, redelivered_from_a_page).await;
}

#[tokio::test(start_paused = true)]
async fn pages_are_consulted() {
    matters(Rule::PagesConsulted, redelivered_from_a_page).await;
}

#[tokio::test(start_paused = true)]
async fn the_row_says_which_pages_it_has() {
    matters(Rule::TopsRaised, redelivered_from_a_page).await;
}

#[tokio::test(start_paused = true)]
async fn it_says_so_for_each_level() {
    matters(Rule::TopsByLevel, redelivered_from_a_page).await;
}

#[tokio::test(start_paused = true)]
async fn all_processes_name_an_event_alike() {
    matters(Rule::SameSecond, async |rule| {
        let stage = sums(rule).await;
        let (first, other) = (stage.actor(), stage.actor());
        let event = stage.event(MUCH);
        add(&stage, &first, &event).await;
        add(&stage, &other, &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ids_move_on_only_when_their_pages_are_acknowledged() {
    matters(Rule::PagesAcknowledged, async |rule| {
        let stage = sums(rule).await;
        let (event, mover) = (begun(&stage).await, stage.mover());
        fill(&stage, &mover).await;
        mover.process().rewrite(|request| {
            let update = request.body["UpdateExpression"].as_str();
            if update.is_some_and(|update| update.contains("ids :ids")) {
                request.body["TableName"] = json!("a-table-that-is-not-there");
            }
        });
        let next = stage.event(2);
        let done = stage.deliver(&mover, &[&next]).await;
        assert_eq!(done, rule.is_some());
        mover.process().rewrite(|_| {});
        add(&stage, &mover, &next).await;
        add(&stage, &stage.actor(), &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_as_they_are() {
    matters(Rule::PagesConsistent, async |rule| {
        let stage = sums(rule).await;
        let c = stage.actor();
        fill(&stage, &c).await;
        stage.weather(Weather {
            stale: 1.0,
            stale_for: SECOND..=SECOND,
            ..Weather::calm()
        });
        let (event, mover) = (begun(&stage).await, stage.mover());
        stage.sleep(MINUTE).await;
        fill(&stage, &mover).await;
        stage.sleep(MINUTE).await;
        fill(&stage, &mover).await;
        // What it knows of the row is long ago, so its write is refused and shows the row.
        add(&stage, &c, &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_after_the_row_is_known() {
    matters(Rule::PagesReadAfterRow, async |rule| {
        let stage = sums(rule).await;
        let (a, mover, c) = (stage.actor(), stage.mover(), stage.actor());
        let other = paged_out(&stage).await;
        add(&stage, &c, &other).await;
        // Into the same page, once `c` has seen it without.
        let event = stage.event(MUCH);
        add(&stage, &a, &event).await;
        fill(&stage, &mover).await;
        fill(&stage, &mover).await;
        add(&stage, &c, &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_row_says_of_its_pages_is_never_lowered() {
    matters(Rule::TopsNeverLowered, async |rule| {
        let stage = sums(rule).await;
        let (a, mover) = (stage.actor(), stage.mover());
        let old = stage.event(2);
        until(&stage, HOUR).await;
        let event = stage.event(MUCH);
        add(&stage, &a, &event).await;
        add(&stage, &mover, &old).await;
        // The event goes to a page, and then what is older.
        fill(&stage, &mover).await;
        fill(&stage, &mover).await;
        add(&stage, &stage.actor(), &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_row_says_whether_it_has_pages_of_undated_events() {
    matters(Rule::TopsUndated, async |rule| {
        let stage = with(rule, |scenario| scenario.dated = false).await;
        let event = paged_out(&stage).await;
        add(&stage, &stage.actor(), &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pages_outlive_their_events() {
    matters(Rule::PagesLive, async |rule| {
        let stage = sums(rule).await;
        let event = paged_out(&stage).await;
        until(&stage, 23 * HOUR).await;
        stage.sweep().await;
        add(&stage, &stage.actor(), &event).await;
        stage.judge().await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_page_may_be_gone_is_not_applied() {
    matters(Rule::TooOld, async |rule| {
        let stage = sums(rule).await;
        let event = paged_out(&stage).await;
        until(&stage, 60 * HOUR).await;
        stage.sweep().await;
        add(&stage, &stage.actor(), &event).await;
        stage.judge().await
    })
    .await;
}

/// Delivers `event` at `at` to a process that has read the row when its machine is suspended for
/// `length`; meanwhile Time to Live is at work.
async fn suspended(stage: &Stage, event: &EventRecord, at: Duration, length: Duration) -> bool {
    let c = stage.actor();
    stage.warm_up(&c).await;
    until(stage, at).await;
    stage.slow(SLOW);
    c.suspend(3 * SECOND, length);
    let meanwhile = async {
        stage.sleep(length).await;
        stage.calm();
        stage.sweep().await;
    };
    join(stage.deliver(&c, &[event]), meanwhile).await.0
}

/// Machines that are suspended are tasks of their own.
async fn on_machines<T>(script: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(script).await
}

#[tokio::test(start_paused = true)]
async fn the_age_is_judged_after_the_look_up() {
    on_machines(matters(Rule::TooOldAfterLookUp, async |rule| {
        let stage = sums(rule).await;
        let event = paged_out(&stage).await;
        assert!(suspended(&stage, &event, 23 * HOUR, 37 * HOUR).await);
        stage.judge().await
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_undated_event_is_given_up_an_hour_after_it_was_handed_over() {
    on_machines(matters(Rule::UndatedGivenUp, async |rule| {
        let stage = with(rule, |scenario| scenario.dated = false).await;
        let event = paged_out(&stage).await;
        let done = suspended(&stage, &event, 23 * HOUR, 37 * HOUR).await;
        assert_eq!(done, rule.is_some());
        stage.judge().await
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn state_rows_outlive_their_contributions() {
    shows(
        Rule::RowsLive,
        async |rule| {
            let stage = with(rule, |scenario| {
                scenario.window = Some(HOUR);
                scenario.sweep = Some(HOUR);
            })
            .await;
            fill(&stage, &stage.actor()).await;
            until(&stage, 30 * HOUR).await;
            stage.sweep().await;
            stage.judge().await
        },
        is_too_low,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_was_removed_is_not_made_anew() {
    shows(
        Rule::NothingBeforeTtl,
        async |rule| {
            let stage = with(rule, |scenario| {
                scenario.window = Some(HOUR);
                scenario.sweep = Some(HOUR);
                // As with a horizon so long that an event's age does not stop it before.
                scenario.rules.too_old = 1000 * HOUR;
                scenario.rules.page_life = 2000 * HOUR;
            })
            .await;
            let (writer, other) = (stage.actor(), stage.actor());
            // In the row of the hour before: the tables are the pipeline's from then on.
            add(&stage, &writer, &stage.event(4)).await;
            until(&stage, HOUR).await;
            let (late, early) = (stage.event(2), stage.event(1));
            // The end of its hour, the retention of three days, and 27 hours.
            let into = stage.time().now().as_secs().rem_euclid(3600).unsigned_abs();
            let ttl = 2 * HOUR - Duration::from_secs(into) + (72 + 27) * HOUR;
            until(&stage, ttl - 90 * MINUTE).await;
            // It finds no row, and its write is held up.
            stage.slow(SLOW);
            let held_up = async {
                stage.sleep(SLOW + SLOW / 2).await;
                stage.weather(Weather {
                    stall: 1.0,
                    stall_for: 2 * HOUR..=2 * HOUR,
                    ..Weather::calm()
                });
            };
            join(stage.deliver(&writer, &[&late]), held_up).await;
            stage.calm();
            // Without the rule these are in time, and the first comes when the row is gone.
            stage.deliver(&other, &[&early, &late]).await;
            stage.sleep(90 * MINUTE).await;
            stage.sweep().await;
            stage.judge().await
        },
        is_too_low,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_condition_names_no_more_ids_than_fit() {
    shows(
        Rule::FewIds,
        async |rule| {
            let stage = sums(rule).await;
            let a = stage.actor();
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
            let stage = sums(rule).await;
            let (a, b) = (stage.actor(), stage.actor());
            fill(&stage, &b).await;
            let (large, small) = (stage.event(i64::MAX - 10), stage.event(3));
            add(&stage, &a, &large).await;
            stage.deliver(&b, &[&large, &small]).await;
            stage.judge().await
        },
        |wrong| matches!(wrong, Wrong::Rejected(_)),
    )
    .await;
}

/// Two processes read a value at once, and the second replaces what the first has made of it.
async fn swapped_meanwhile(rule: Option<Rule>) -> Vec<Wrong> {
    let stage = Stage::new(Aggregate::Bytes, rule).await;
    let (a, b) = (stage.actor(), stage.actor());
    fill(&stage, &a).await;
    stage.warm_up(&b).await;
    let (first, second) = (stage.event(MUCH), stage.event(2));
    stage.slow(SLOW);
    let meanwhile = async {
        stage.sleep(5 * SECOND).await;
        stage.calm();
        add(&stage, &a, &first).await;
    };
    join(add(&stage, &b, &second), meanwhile).await;
    stage.judge().await
}

#[tokio::test(start_paused = true)]
async fn a_value_that_was_read_is_replaced_only_if_it_is_still_there() {
    shows(Rule::VersionAsRead, swapped_meanwhile, is_too_low).await;
}

/// What a request that is served twice does is done once: all that it adds has an id.
#[tokio::test(start_paused = true)]
async fn requests_that_arrive_twice_change_nothing() {
    let rule = Some(Rule::SentOnce);
    assert_eq!(moved_on_twice_meanwhile(rule).await, []);
    assert_eq!(redelivered_from_a_page(rule).await, []);
    assert_eq!(swapped_meanwhile(rule).await, []);
}

/// A value that is still there as it was read is of a row whose ids have not moved on either.
#[tokio::test(start_paused = true)]
async fn a_value_as_read_is_of_ids_as_read() {
    assert_eq!(swapped_meanwhile(Some(Rule::PerAsReadInSwaps)).await, []);
}
