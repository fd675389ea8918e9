//! The form that Lambda's runtime calls.

use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use murmur_core::{Processor, Sum};
use murmur_lambda_ddbstreams::{Event, Handler, LenientEvent, NotInLambda, run};
use murmur_state::Clock;
use murmur_state::time::ManualClock;

use crate::support::{Order, Scripted, Step, clock, event, id, insert, numbers, reported, totals};

fn invocation(event: Event, deadline: u64) -> LambdaEvent<LenientEvent> {
    let mut context = Context::default();
    context.deadline = deadline;
    LambdaEvent::new(event.into(), context)
}

fn handler(clock: &ManualClock, store: &Scripted<Sum>) -> Handler<Order> {
    Handler::new(
        Processor::builder([totals(store)])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
    )
}

fn ten() -> Event {
    event((1..=10).map(|n| insert(n, &format!("c{n}"), 1)))
}

#[tokio::test]
async fn the_deadline_is_the_invocations() {
    let clock = clock();
    let store = Scripted::taking(Duration::from_millis(500), &clock, Sum::new());
    let now = u64::try_from(clock.now().as_millis()).unwrap();
    let answer = handler(&clock, &store)
        .invoke(invocation(ten(), now + 4000))
        .await
        .unwrap();
    assert_eq!(
        reported(&answer),
        numbers(7..=10),
        "3 s to work, 1 s to answer"
    );
}

#[tokio::test]
async fn a_deadline_in_the_past_counts_as_none() {
    let now = u64::try_from(clock().now().as_millis()).unwrap();
    // 600,000 is what `cargo lambda watch` sends.
    for past in [600_000, 0, now] {
        let clock = clock();
        let store = Scripted::taking(Duration::from_millis(500), &clock, Sum::new());
        let answer = handler(&clock, &store)
            .invoke(invocation(ten(), past))
            .await;
        assert_eq!(reported(&answer.unwrap()), [""; 0], "{past}");
    }
}

#[tokio::test]
async fn outside_of_lambda_it_says_what_is_missing() {
    // No test sets the variable, and Lambda runs no tests.
    let clock = clock();
    let error = run(handler(&clock, &Scripted::new(Sum::new())))
        .await
        .unwrap_err();
    let missing: &NotInLambda = error.downcast_ref().unwrap();
    assert_eq!(missing.variable, "AWS_LAMBDA_RUNTIME_API");
    assert!(missing.to_string().contains("cargo lambda watch"));
}

#[tokio::test]
async fn an_invocation_that_fails_tells_lambda_the_event_id_and_the_cause() {
    let clock = clock();
    let store = Scripted::new(Sum::new()).script("alice", [Step::Refuse]);
    let mut event = event([insert(1, "alice", 1)]);
    event.records[0].change.sequence_number = None;
    let answer = handler(&clock, &store).invoke(invocation(event, 0)).await;
    let told = Diagnostic::from(answer.unwrap_err());
    assert_eq!(told.error_type, "NoSequenceNumber");
    assert!(
        told.error_message.contains(&id(1)),
        "{}",
        told.error_message
    );
    assert!(
        told.error_message.contains("create the table"),
        "{}",
        told.error_message
    );
}
