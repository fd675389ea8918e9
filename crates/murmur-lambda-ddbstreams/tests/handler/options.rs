//! Invalid options, and what the types promise.

use std::time::Duration;

use murmur_core::{Pipeline, Processor, ProcessorBuilder, Sum};
use murmur_lambda_ddbstreams::Handler;
use murmur_state::{Deadline, RetryPolicy};

use crate::support::{Order, Scripted, event, totals};

fn builder() -> ProcessorBuilder<Order> {
    Processor::builder([totals(&Scripted::new(Sum::new()))])
}

#[test]
fn options_that_cannot_be_used_are_refused_by_name() {
    let none: [Pipeline<Order>; 0] = [];
    let twice = totals(&Scripted::new(Sum::new()));
    let second = Duration::from_secs(1);
    for (builder, option) in [
        (
            builder().retry(RetryPolicy::default().max_attempts(0)),
            "max_attempts",
        ),
        (
            builder().retry(RetryPolicy::default().waits(second * 2, second)),
            "retry_backoff",
        ),
        (Processor::builder(none), "pipelines"),
        (Processor::builder([twice.clone(), twice]), "pipelines"),
    ] {
        assert_eq!(builder.build().unwrap_err().option, option);
    }
    let even = RetryPolicy::default().waits(second, second);
    assert!(builder().retry(even).build().is_ok());
}

#[tokio::test]
async fn futures_can_be_sent_and_a_call_borrows_nothing() {
    fn sent<T: Send>(future: T) -> T {
        future
    }
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}

    let handler = Handler::new(builder().build().unwrap());
    shared(&handler);
    let own = sent(handler.call(event([])));
    sent(handler.handle(event([]), Deadline::NONE))
        .await
        .unwrap();
    drop(handler);
    own.await.unwrap();
}
