//! What an invocation leaves in the log.
#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]
#![cfg(feature = "runtime")]

use std::io;
use std::sync::{Arc, Mutex};

use lambda_runtime::{Context, LambdaEvent};
use murmur_core::{Pipeline, Processor, Sum};
use murmur_lambda_ddbstreams::{Handler, LenientEvent};
use murmur_state::MemoryStore;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Order {
    customer: String,
    amount_cents: i64,
}

#[tokio::test]
async fn each_invocation_has_a_span_and_an_impossible_deadline_is_warned_of_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let totals = Pipeline::builder("order_totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .every_change()
        .store(MemoryStore::new(Sum::new()))
        .at_least_once()
        .unwrap();
    let handler = Handler::new(Processor::new([totals]).unwrap());
    let events = [
        include_str!("events/insert.json"),
        include_str!("events/modify.json"),
        include_str!("events/insert_without_new_image.json"),
    ];
    for json in events {
        let event: LenientEvent = serde_json::from_str(json).unwrap();
        let invocation = LambdaEvent::new(event, Context::default());
        handler.invoke(invocation).await.unwrap();
    }

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("after their deadline"), 1, "{log}");
    assert_eq!(
        lines("murmur{records=1"),
        4,
        "three spans closed, one record failed: {log}"
    );
    assert_eq!(lines("failed=0"), 2, "{log}");
    assert_eq!(lines("failed=1"), 1, "{log}");
    assert_eq!(
        lines("event_id=\"c4ca4238a0b923820dcc509a6f75849b\""),
        1,
        "{log}"
    );
}
