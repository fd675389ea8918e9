//! What cannot be finished in time is reported, not cut off.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use murmur_core::{Processor, Sum};
use murmur_lambda_ddbstreams::{Event, Handler};
use murmur_state::Deadline;

use crate::support::{
    Claims, Scripted, Step, claimed_totals, clock, counting_decoder, event, insert, number,
    numbers, reported, totals,
};

const MILLIS_100: Duration = Duration::from_millis(100);

/// Twenty orders of as many customers.
fn twenty() -> Event {
    event((1..=20).map(|n| insert(n, &format!("c{n}"), 1)))
}

/// How many of [`twenty`] are done, each taking 100 ms, in an invocation that lasts `time`.
async fn done_in(time: Duration, margin: Option<Duration>) -> usize {
    let clock = clock();
    let store = Scripted::taking(MILLIS_100, &clock, Sum::new());
    let processor = Processor::builder([totals(&store)]).clock(Arc::new(clock.clone()));
    let mut builder = Handler::builder(processor.build().unwrap());
    if let Some(margin) = margin {
        builder = builder.deadline_margin(margin);
    }
    let handler = builder.build().unwrap();
    let deadline = Deadline::within(&clock, time);
    let answer = handler.handle(twenty(), deadline).await.unwrap();
    assert!(!deadline.passed(&clock), "the answer is out in time");

    let left = reported(&answer);
    let done = 20 - left.len();
    assert_eq!(left, numbers(done as u32 + 1..=20), "and it is the rest");
    assert_eq!(store.writes().len(), done, "nothing else was begun");
    done
}

#[tokio::test]
async fn a_margin_is_kept_before_the_deadline() {
    let (second, millis) = (Duration::from_secs(1), Duration::from_millis);
    assert_eq!(done_in(second * 5, None).await, 20);
    assert_eq!(done_in(millis(2500), None).await, 15, "1 s is the default");
    assert_eq!(done_in(second, Some(millis(200))).await, 8);
    assert_eq!(done_in(second, Some(second * 9)).await, 5, "half at most");
    assert_eq!(done_in(second, None).await, 5, "half at most");
}

#[tokio::test]
async fn after_a_deadline_that_has_passed_nothing_is_begun() {
    let clock = clock();
    let store = Scripted::taking(MILLIS_100, &clock, Sum::new());
    let (decoder, decoded) = counting_decoder();
    let handler = Handler::new(
        Processor::with_decoder([totals(&store)], decoder)
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
    );
    let deadline = Deadline::within(&clock, Duration::ZERO);
    let answer = handler.handle(twenty(), deadline).await.unwrap();
    assert_eq!(reported(&answer), numbers(1..=20));
    assert_eq!(
        (store.writes().len(), decoded.load(Ordering::Relaxed)),
        (0, 0)
    );
}

#[tokio::test]
async fn retries_end_before_the_deadline() {
    let clock = clock();
    let store =
        Scripted::taking(MILLIS_100, &clock, Sum::new()).script("c7", vec![Step::Throttle; 1000]);
    let handler = Handler::new(
        Processor::builder([totals(&store)])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
    );
    let deadline = Deadline::within(&clock, Duration::from_secs(9));
    let answer = handler.handle(twenty(), deadline).await.unwrap();
    assert_eq!(reported(&answer), [number(7)]);
    assert!(deadline.remaining(&clock).unwrap() >= Duration::from_millis(900));
}

#[tokio::test]
async fn what_ran_out_of_time_counts_once_when_it_comes_again() {
    let clock = clock();
    let store = Scripted::taking(MILLIS_100, &clock, Sum::new());
    let handler = Handler::new(
        Processor::builder([claimed_totals(&store, &Claims::default())])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
    );
    let mut rounds = 0;
    loop {
        rounds += 1;
        let deadline = Deadline::within(&clock, Duration::from_millis(1600));
        let answer = handler.handle(twenty(), deadline).await.unwrap();
        assert!(!deadline.passed(&clock));
        if reported(&answer).is_empty() {
            break;
        }
        assert!(rounds < 20, "no progress: {:?}", reported(&answer));
    }
    assert!(rounds > 1, "one invocation had time for all");
    for n in 1..=20 {
        assert_eq!(store.total(&format!("c{n}")), Some(1), "c{n}");
    }
}
